"""``fmcache audit --report``, ``report`` and ``export`` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl

from tests.audited import CANARY, TINY, predictions
from tests.e2e.command import fmcache


def test_from_a_table_to_a_report_and_every_export(tmp_path: Path) -> None:
    predictions(1500).write_csv(tmp_path / "preds.csv")
    audit = ["audit", "preds.csv", "--label", "y", "--score", "p", "--by", "sex,race", "--patient", "pid"]
    fmcache(*audit, "--cache", "cache", "--report", "first.html", "--draws", "50", cwd=tmp_path)
    assert fmcache("report", "--cache", "cache", "--title", "Our audit", cwd=tmp_path).out == "report.html\n"
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<title>Our audit</title>" in page
    assert (tmp_path / "first.html").read_text(encoding="utf-8").replace(
        "Fairness report", "Our audit"
    ) == page
    rows = fmcache("export", "--cache", "cache", cwd=tmp_path).rows
    assert {row["group"] for row in rows if row["attribute"] == "sex"} == {"", "female", "male"}
    for what, out in (
        ("results", "r.csv"), ("results", "r.parquet"), ("results", "r.json"), ("table", "t.md"), ("table", "t.tex"),
        ("model-index", "card.yaml"), ("record", "audit.json"),
    ):  # fmt: skip
        assert fmcache("export", what, "--cache", "cache", "--out", out, cwd=tmp_path).out == f"{out}\n"
        assert CANARY.encode() not in (tmp_path / out).read_bytes()
    tidy = pl.read_parquet(tmp_path / "r.parquet")
    assert tidy.filter(group=TINY)["n"].null_count() == tidy.filter(group=TINY).height > 0
    assert len(json.loads((tmp_path / "r.json").read_text())) == tidy.height == len(rows)
    assert "| Model |" in fmcache("export", "table", "--cache", "cache", cwd=tmp_path).out


def test_what_cannot_be_done_is_three_lines(tmp_path: Path) -> None:
    gone = fmcache("report", "--cache", "nowhere", cwd=tmp_path, code=6)
    assert gone.err.startswith("There is no cache at ")
    wrong = fmcache("export", "tabel", cwd=tmp_path, code=2)
    assert "'results', 'table', 'model-index', 'record'" in " ".join(wrong.err.replace("│", " ").split())
    assert not (tmp_path / "report.html").exists()
