"""Compiled programs that commands keep: where, for whom, and that the next command finds them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_WORK = """
import jax
from fmcache.probe import programs
programs._SECONDS = 0.0
print(programs.keep_programs())
print(jax.jit(lambda x: (x @ x.T).sum())(jax.numpy.ones((3, 3))))
"""


def _run(**environment: str) -> str:
    own = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    told = subprocess.run(
        [sys.executable, "-W", "error", "-c", _WORK], env=own | environment, capture_output=True, text=True, check=True
    )  # fmt: skip
    folder, result = told.stdout.split()
    assert result == "27.0"
    assert told.stderr == ""
    return folder


def test_a_second_process_finds_the_programs_of_the_first(tmp_path: Path) -> None:
    folder = Path(_run(FMCACHE_PROGRAMS=str(tmp_path / "kept")))
    assert folder.parent == tmp_path / "kept"
    assert folder.stat().st_mode & 0o777 == 0o700
    first = {path.name: path.stat().st_mtime_ns for path in folder.glob("*-cache")}
    assert any("lambda" in name for name in first)
    assert Path(_run(FMCACHE_PROGRAMS=str(tmp_path / "kept"))) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*-cache")} == first


@pytest.mark.parametrize(
    "environment", [{"FMCACHE_PROGRAMS": "off"}, {"JAX_COMPILATION_CACHE_DIR": "{}/jax"}]
)
def test_nothing_is_kept_where_that_was_said(environment: dict[str, str], tmp_path: Path) -> None:
    asked = {name: value.format(tmp_path) for name, value in environment.items()}
    assert _run(**asked, HOME=str(tmp_path / "home"), XDG_CACHE_HOME=str(tmp_path / "home")) == "None"
    assert not (tmp_path / "home").exists()


def test_a_place_that_cannot_be_written_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert _run(FMCACHE_PROGRAMS=str(tmp_path / "file")) == "None"
