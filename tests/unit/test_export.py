"""What leaves the machine: the right numbers, no small cell, no id, in forms that other tools accept."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
from pathlib import Path

import jsonschema
import polars as pl
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from fmcache.analyze.audit import audit
from fmcache.analyze.export import KINDS, export, tidy
from fmcache.analyze.export_record import schema
from fmcache.analyze.export_tables import _ranks, _text
from fmcache.analyze.report.build import build_report
from fmcache.errors import UsageError
from fmcache.store.cache import Cache, open_cache
from tests.audited import CANARY, TINY, audited, predictions


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    folder = tmp_path_factory.mktemp("export") / "cache"
    audited(folder, model="=cmd|' /C calc'!A0")
    return audited(folder, predictions(seed=1), model="a_model & 50 %")


def _written(cache: Cache, what: str, out: Path) -> str:
    assert export(cache, what, out) == out
    return out.read_text(encoding="utf-8")


@pytest.mark.parametrize(("what", "kind"), [(what, kind) for what, kinds in KINDS.items() for kind in kinds])
def test_no_id_and_no_number_of_a_tiny_group_gets_out(
    cache: Cache, tmp_path: Path, what: str, kind: str
) -> None:
    out = tmp_path / f"x{kind}"
    export(cache, what, out)
    if kind == ".parquet":
        text = pl.read_parquet(out).write_csv()
    else:
        text = out.read_text(encoding="utf-8")
    assert CANARY not in text
    assert str(cache.path) not in text
    for line in text.splitlines():
        if TINY in line and kind == ".csv":
            row = next(csv.reader([line]))
            assert "suppressed" in row[-1]


def test_tidy_results_are_the_stored_ones_but_for_what_is_suppressed(cache: Cache) -> None:
    stored, out = cache.results(), tidy(cache)
    assert out.columns == stored.columns
    suppressed = pl.col("reason").fill_null("").str.starts_with("suppressed")
    keys = ["run_id", "label", "seed", "attribute", "group", "reference", "metric", "disparity", "definition"]
    numbers = ["value", "ci_low", "ci_high", "threshold"]
    stored, measured = (t.filter(pl.col("metric") != "finding") for t in (stored, out))
    assert stored.select(keys).is_duplicated().sum() == 0
    assert measured.select(keys).equals(stored.select(keys))
    kept = ~measured["reason"].fill_null("").str.starts_with("suppressed")
    assert kept.sum() > 0.5 * len(kept)
    assert measured.filter(kept).select(numbers).equals(stored.filter(kept).select(numbers))
    hidden = out.filter(suppressed)
    assert hidden.height
    assert not hidden["value"].is_finite().any()
    assert hidden["n"].null_count() == hidden.height


def test_an_exported_auc_is_that_of_scikit_learn(cache: Cache) -> None:
    table = predictions(seed=1)
    out = tidy(cache).filter(model="a_model & 50 %", metric="auc", disparity="", attribute="sex")
    for row in out.iter_rows(named=True):
        mine = table.filter(pl.col("sex") == row["group"])
        assert row["value"] == pytest.approx(roc_auc_score(mine["y"], mine["p"]), abs=1e-12)
        assert row["n"] == mine.height


def test_the_tiny_group_cannot_be_found_by_subtraction(cache: Cache) -> None:
    """The attack: for every count and attribute, the overall count less all that is shown."""
    out = tidy(cache).filter(pl.col("model") == "a_model & 50 %")
    whole = out.filter(attribute="", metric="auc", disparity="")
    for attribute in ("race", "sex*race"):
        shown = out.filter(attribute=attribute, metric="auc", disparity="").filter(pl.col("n").is_not_null())
        for count in ("n", "n_pos", "n_patients"):
            rest = whole[count][0] - shown[count].sum()
            assert rest == 0 or rest >= 11
        spreads = out.filter(
            pl.col("attribute") == attribute, pl.col("group") == "", pl.col("disparity") != ""
        )
        assert spreads["n"].null_count() == spreads.height
    everything = tidy(cache, min_cell=1).filter(attribute="race", metric="auc", disparity="")
    assert 7 in everything["n"]  # the attack has something to find


def test_a_spreadsheet_runs_nothing(cache: Cache, tmp_path: Path) -> None:
    text = _written(cache, "results", tmp_path / "r.csv")
    rows = list(csv.reader(io.StringIO(text)))
    assert {row[1] for row in rows[1:]} == {"'=cmd|' /C calc'!A0", "a_model & 50 %"}
    for row in rows[1:]:
        assert not [cell for cell in row if cell[:1] in "=+@\t" and cell]


def test_the_audit_record_keeps_its_schema(cache: Cache, tmp_path: Path) -> None:
    record = json.loads(_written(cache, "record", tmp_path / "a.json"))
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(record, schema(), cls=jsonschema.Draft202012Validator)
    assert len(record["evaluations"]) == 2
    one = next(e for e in record["evaluations"] if e["model"] == "a_model & 50 %")
    race = next(a for a in one["attributes"] if a["name"] == "race")
    tiny = next(g for g in race["groups"] if g["name"] == TINY)
    assert tiny == {
        "name": TINY, "suppressed": "small", "n": None, "n_pos": None, "n_patients": None, "metrics": {},
    }  # fmt: skip
    table = predictions(seed=1)
    assert one["overall"]["n"] == table.height
    assert one["overall"]["metrics"]["auc"]["value"] == pytest.approx(roc_auc_score(table["y"], table["p"]))
    broken = {**record, "min_cell": 0}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema(), cls=jsonschema.Draft202012Validator)
    leaking = json.loads(json.dumps(record))
    leaking["evaluations"][0]["overall"].update(suppressed="small")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(leaking, schema(), cls=jsonschema.Draft202012Validator)


def test_the_model_index_is_what_the_hub_reads(cache: Cache, tmp_path: Path) -> None:
    text = _written(cache, "model-index", tmp_path / "m.yaml")
    (block,) = [part for part in text.split("---\n") if part.strip()]
    index = yaml.safe_load(block)["model-index"]
    assert {entry["name"] for entry in index} == {"=cmd|' /C calc'!A0", "a_model & 50 %"}
    mine = next(entry for entry in index if entry["name"].startswith("a_model"))
    metrics = {m["name"]: m["value"] for m in mine["results"][0]["metrics"]}
    table = predictions(seed=1)
    assert metrics["AUC"] == pytest.approx(roc_auc_score(table["y"], table["p"]))
    assert "AUC, sex = female" in metrics
    assert "AUC gap by sex" in metrics
    assert TINY not in text
    hub = pytest.importorskip("huggingface_hub.repocard_data", reason="huggingface_hub is not installed")
    name, results = hub.model_index_to_eval_results([mine])
    assert name == "a_model & 50 %"
    assert {result.metric_type for result in results} >= {"roc_auc", "auc_gap", "eqodds_gap"}


def test_the_paper_table_in_markdown(cache: Cache) -> None:
    text = export(cache, "table")
    assert isinstance(text, str)
    assert text.startswith("**clinic, y: fairness by sex, in percent**\n\n| Model |")
    head = [cell.strip() for cell in text.splitlines()[2].strip("|").split("|")]
    assert head == [
        "Model", "Usage", "Method", "AUC overall ↑", "AUC female ↑", "AUC male ↑", "AUC Δ ↓", "EqOdds ↑", "ECE Δ ↓",
        "AUC ES ↑",
    ]  # fmt: skip
    auc = roc_auc_score(predictions(seed=1)["y"], predictions(seed=1)["p"])
    row = next(line for line in text.splitlines() if "a\\_model" in line)
    assert f"{100 * auc:.2f}" in row.split("|")[4]
    assert "a\\_model & 50 %" in text


def test_the_paper_table_compiles_as_latex(cache: Cache, tmp_path: Path) -> None:
    text = _written(cache, "table", tmp_path / "t.tex")
    assert r"a\_model \& 50 \%" in text
    assert r"AUC$_{\text{female}}$ $\uparrow$" in text
    for line in text.splitlines():
        if line.endswith(r" \\"):
            assert line.replace(r"\&", "").count("&") in (9, 10, 11, 12, 13, 14, 15, 16, 17)
    if shutil.which("pdflatex"):
        (tmp_path / "doc.tex").write_text(
            r"\documentclass{article}\usepackage{booktabs,amsmath}\begin{document}" + text + r"\end{document}"
        )
        subprocess.run(
            ["pdflatex", "-halt-on-error", "doc.tex"], cwd=tmp_path, check=True, capture_output=True
        )


def test_best_and_second_best_as_they_are_printed() -> None:
    assert _ranks([0.9, 0.8, 0.90001, float("nan")], more=True) == [1, 2, 1, 0]
    assert _ranks([0.1, 0.3, 0.2], more=False) == [1, 0, 2]
    assert _ranks([0.5], more=True) == [0]


def test_a_wrong_ending_is_refused_before_anything_is_written(cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"table cannot be written as t.doc") as refused:
        export(cache, "table", tmp_path / "t.doc")
    assert "fmcache export table --out t.md" in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("reference", [TINY, "Black"])
def test_nothing_is_told_of_differences_to_a_hidden_reference(tmp_path: Path, reference: str) -> None:
    """TINY is small and Black would give it away: a shown group and its difference to one of them would, too."""
    cache = open_cache(tmp_path / "cache", create=True)
    table = predictions(1500)
    audit(
        table, label="y", score="p", by=["sex", "race"], patient="pid", draws=50, cache=cache, tolerance=0.02,
        reference={"race": reference},
    )  # fmt: skip
    stored, out = (
        t.filter(pl.col("disparity").str.starts_with("difference")) for t in (cache.results(), tidy(cache))
    )
    assert stored.filter(attribute="race", reference=reference)["value"].is_finite().any() == (
        reference == "Black"
    )
    assert out.height == stored.height
    race = out.filter(attribute="race")
    assert race.height
    assert not race["value"].is_finite().any()
    assert race.select("ci_low", "ci_high").fill_nan(None).null_count().row(0) == (race.height,) * 2
    assert race["reason"].str.starts_with("suppressed").all()
    assert out.filter(attribute="sex")["value"].is_finite().any()
    record = json.loads(export(cache, "record"))  # type: ignore[arg-type]
    (of,) = [one for one in record["evaluations"][0]["attributes"] if one["name"] == "race"]
    assert (of["reference"], of["differences"]) == (None, [])
    page = build_report(cache, tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Differences to the reference group, by sex" in page
    assert "Differences to the reference group, by race" not in page


@pytest.mark.parametrize(
    ("name", "markdown", "latex"),
    [
        ("a|b_c*d", r"a\|b\_c\*d", r"a\textbar{}b\_c*d"),
        ("<b>x</b>", r"\<b\>x\</b\>", r"\textless{}b\textgreater{}x\textless{}/b\textgreater{}"),
        ("R&D 5 % #1 $x$ {y}", "R&D 5 % #1 $x$ {y}", r"R\&D 5 \% \#1 \$x\$ \{y\}"),
        ("&lt;b&gt; &#60; [a](b)", r"\&lt;b\&gt; \&#60; \[a\](b)", r"\&lt;b\&gt; \&\#60; [a](b)"),
        ("back\\slash~^", r"back\\slash~^", r"back\textbackslash{}slash\textasciitilde{}\textasciicircum{}"),
    ],
)  # fmt: skip
def test_names_stay_text_in_tables(name: str, markdown: str, latex: str) -> None:
    assert (_text(name, "markdown"), _text(name, "latex")) == (markdown, latex)


def test_a_suppressed_row_of_one_label_hides_under_all_seeds(tmp_path: Path) -> None:
    from fmcache.analyze.export_results import protected

    rows = []
    for seed, sizes in enumerate(({"a": 500, "b": 5, "c": 300}, {"a": 480, "b": 30, "c": 295})):
        for group, n in {"overall": sum(sizes.values()), **sizes}.items():
            rows.append(
                {
                    "run_id": "r", "label": "y", "split": "test", "seed": seed,
                    "attribute": "" if group == "overall" else "race", "group": group,
                    "reference": "", "metric": "auc", "disparity": "", "definition": "fmcache",
                    "value": 0.8, "ci_low": 0.7, "ci_high": 0.9, "n": n, "n_pos": n // 2, "n_patients": n,
                    "threshold": None, "reason": "",
                }
            )  # fmt: skip
    out = protected(pl.DataFrame(rows), 11)
    assert out.filter(group="b")["n"].null_count() == 2
    assert out.filter(group="a")["n"].to_list() == [500, 480]
    assert out.filter(group="b")["value"].is_nan().all()
