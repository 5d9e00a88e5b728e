"""The command tree: help everywhere, typos answered, nothing heavy imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer
import typer.main
from typer.testing import CliRunner

from fmcache import errors
from fmcache.cli import app

HEAVY = (
    "torch",
    "jax",
    "zarr",
    "polars",
    "duckdb",
    "pyarrow",
    "matplotlib",
    "numpy",
    "scipy",
    "timm",
    "transformers",
)


def commands(
    command: typer.core.TyperCommand | typer.core.TyperGroup, path: str = "fmcache"
) -> Iterator[tuple[str, object]]:
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, f"{path} {name}")


TREE = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", TREE)
def test_every_command_says_what_it_does_and_ends_with_an_example(path: str) -> None:
    command = TREE[path]
    assert command.help, path
    assert (command.epilog or "").startswith("Example: "), path
    assert command.epilog.removeprefix("Example: ").split()[0] in ("fmcache", "cd"), path


@pytest.mark.parametrize("path", TREE)
def test_every_option_is_explained(path: str) -> None:
    unexplained = [p.name for p in TREE[path].params if not getattr(p, "help", None) and p.name != "help"]
    assert not unexplained, path


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
sys.argv = ["fmcache", "--help"]
from fmcache.cli import main
try:
    main()
except SystemExit as stop:
    assert stop.code == 0, stop.code
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_typo_is_answered_with_the_nearest_command() -> None:
    result = CliRunner().invoke(app, ["extrct"])
    assert result.exit_code == 2
    assert "Did you mean 'extract'" in result.output


def test_an_error_is_three_lines_without_a_traceback(tmp_path: object) -> None:
    command = [sys.executable, "-m", "fmcache.cli", "cache", "ls", "--cache", f"{tmp_path}/nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 6
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 3
    assert "Traceback" not in done.stderr
    debug = subprocess.run([*command, "--debug"], capture_output=True, text=True, check=False)
    assert "Traceback" in debug.stderr


@pytest.mark.parametrize("arguments", [["models", "--format", "csv"], ["models"], ["--help"], ["--version"]])
def test_output_that_cannot_be_written_is_an_error_of_storage(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fmcache.cli", *arguments], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == errors.DiskFull.exit_code == 4, done.stderr
    first, second, third = done.stderr.splitlines()
    assert first == "The output cannot be written: No space left on device."
    assert "is cut short" in second
    assert "run the command again" in third


@pytest.mark.parametrize(
    "arguments", [["models", "--format", "csv"], ["models", "--format", "table"], ["--help"]]
)
def test_a_reader_that_has_enough_ends_it_quietly(arguments: list[str]) -> None:
    """As `fmcache models | head -1`, with a pipe that nobody reads from the first byte on."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "fmcache.cli", *arguments], stdout=pipe, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_error_tree_is_the_one_in_the_docstring() -> None:
    classes = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
    kinds = {name: kind for name, kind in classes.items() if issubclass(kind, Exception)}
    assert [name for name in kinds if issubclass(kinds[name], Warning)] == ["ForeignCache"]
    del kinds["ForeignCache"]
    for name, kind in kinds.items():
        line = next(text for text in errors.__doc__.splitlines() if f" {name} " in f" {text} ")
        if name != "Interrupted":
            assert str(kind.exit_code) in line.split(), line
    assert errors.Interrupted("x", signal=15).exit_code == 143
    assert str(errors.FmcacheError("what", "found", "do")) == "what\nfound\ndo"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_is_one_that_nobody_reads(closed: str) -> None:
    command = f"exec {sys.executable} -m fmcache.cli models {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("dinov2" in done.stdout) == (closed == "2>&-")


@pytest.mark.parametrize("differ", [(), ("method",), ("model", "seed")])
def test_a_table_of_results_names_what_its_rows_differ_in(
    differ: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import polars as pl

    from fmcache.cli.analyze import RUN, show
    from fmcache.output import Format
    from fmcache.store.schema import RESULT_COLUMNS

    same: dict[str, object] = {
        "metric": "auc",
        "disparity": "",
        "value": 0.5,
        "seed": 0,
        "model": "net",
        "method": "erm",
    }
    rows = [same, same | {name: 1 if name == "seed" else "other" for name in differ}]
    table = pl.DataFrame(
        [{name: row.get(name) for name in RESULT_COLUMNS} for row in rows], schema=RESULT_COLUMNS
    )
    monkeypatch.setenv("COLUMNS", "200")
    show(table, Format.table, None)
    head = capsys.readouterr().out.split("label")[0]
    assert [name for name in RUN if name in head] == list(differ)
