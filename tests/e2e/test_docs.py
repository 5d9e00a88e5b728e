"""The tutorial is run: every command, in order, in one folder; what it shows is compared but for numbers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from tests.e2e.command import environment
from tests.e2e.study import make_study

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial.md"
FAILS = {
    "fmcache extract --model dinov2-smal --dataset phantom --root study": 2,
    'fmcache sql "DROP TABLE predictions"': 2,
}


def commands(page: str) -> list[tuple[str, list[str]]]:
    """(command, the lines that the page shows of its output) of every console block."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```", page, flags=re.M | re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:].partition("   #")[0].strip(), []))
            elif line.strip():
                found[-1][1].append(line)
    return found


def shape(text: str) -> str:
    """Numbers and spaces made equal."""
    return re.sub(r"\s+", " ", re.sub(r"\d[\d,.]*", "0", text)).strip()


@pytest.mark.slow
def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    own = make_study(tmp_path / "own", 40)
    own.rename(tmp_path / "own.csv")
    (tmp_path / "own" / "images").rename(tmp_path / "images")
    pl.DataFrame(
        {
            "y": [i % 3 % 2 for i in range(200)],
            "p": [(i % 3 % 2 + i % 7) / 8 for i in range(200)],
            "sex": ["FM"[i // 2 % 2] for i in range(200)],
            "pid": [f"{i // 2:03d}" for i in range(200)],
        }
    ).write_csv(tmp_path / "preds.csv")
    folder = str(Path(sys.executable).parent)
    variables = environment(PATH=f"{folder}{os.pathsep}{os.environ['PATH']}")
    for command, expected in commands(TUTORIAL.read_text(encoding="utf-8")):
        done = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        told = done.stdout + done.stderr
        assert done.returncode == FAILS.get(command, 0), f"{command}\n{told[-3000:]}"
        for line in expected:
            assert shape(line) in shape(told), f"{command}\nshows: {line}\nprinted: {told[-3000:]}"
    assert (tmp_path / "report.html").stat().st_size > 20_000


def test_every_link_and_command_of_the_readme_is_there() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 120
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", readme):
        assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:^ {4}(?:\$ )?|`)make ([a-z-]+)", readme, flags=re.M):
        assert f"\n{target}:" in makefile, target
