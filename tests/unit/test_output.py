"""What commands print, above all what they must not print."""

from __future__ import annotations

import csv
import io
import json

import pytest

from fmcache.output import Bar, Format, emit, say

ROWS = [
    {"group": "=cmd|' /C calc'!A0", "auc": float("nan"), "n": 3},
    {"group": "a\x1b]0;owned\x07b", "auc": 0.875, "n": 4, "extra": ["x", 1]},
]


def test_json_is_the_default_in_a_pipe_and_nan_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    emit(ROWS)
    rows = json.loads(capsys.readouterr().out)
    assert rows[0] == {"group": "=cmd|' /C calc'!A0", "auc": None, "n": 3, "extra": None}
    assert rows[1]["auc"] == 0.875
    assert rows[1]["extra"] == ["x", 1]


def test_csv_disarms_formulas_and_keeps_full_precision(capsys: pytest.CaptureFixture[str]) -> None:
    emit([*ROWS, {"group": "-x", "auc": 1 / 3, "n": -1}], form=Format.csv)
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert rows[0]["group"] == "'=cmd|' /C calc'!A0"
    assert rows[0]["auc"] == ""
    assert rows[2]["group"] == "'-x"
    assert rows[2]["n"] == "-1"
    assert float(rows[2]["auc"]) == 1 / 3


@pytest.mark.parametrize("form", [Format.table, Format.csv])
def test_no_terminal_escape_survives(capsys: pytest.CaptureFixture[str], form: Format) -> None:
    emit(ROWS, form=form)
    out = capsys.readouterr().out
    assert "\x1b]" not in out
    assert "\x07" not in out
    assert "a]0;ownedb" in out


def test_table_does_not_fold_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    emit([{"text": "word " * 100, "[bold]x": 1}], form=Format.table)
    out = capsys.readouterr().out
    assert ("word " * 100).strip() in out
    assert "[bold]x" in out


def test_no_rows_is_valid_output_in_every_form(capsys: pytest.CaptureFixture[str]) -> None:
    emit([], ["a", "b"], Format.csv)
    assert capsys.readouterr().out == "a,b\n"
    emit([], ["a", "b"], Format.json)
    assert json.loads(capsys.readouterr().out) == []


def test_progress_and_notes_leave_stdout_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 11.0, 12.0])
    monkeypatch.setattr("fmcache.output.time.monotonic", lambda: next(clock))
    with Bar() as bar:
        bar.start("embed", 220, "images")
        bar.advance(110, "decode 61 %")
        bar.advance(10)
        bar.note("one line")
    say("done\x1b[2J")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "embed: 110 of 220 images, 10/s, 11 s left  decode 61 %",
        "one line",
        "done[2J",
    ]
