"""Two models on the same patients, and a whole cache of runs: paired, complete, with what differs refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from fmcache.analyze.metrics import auc
from fmcache.analyze.run import run_metrics
from fmcache.analyze.versus import run_versus, versus
from fmcache.cli import app
from fmcache.errors import MissingEntry, UsageError
from fmcache.progress import Silent
from fmcache.store.cache import open_cache


@dataclass
class Notes(Silent):
    texts: list[str]

    def note(self, text: str) -> None:
        self.texts.append(text)


def study(noise: float, n: int = 800, seed: int = 0, who: int = 0) -> pl.DataFrame:
    """Predictions of one model; patients, labels and the common part of the scores depend on `seed` alone."""
    random = np.random.default_rng(seed)
    patient = np.arange(n) // 2
    sex = random.choice(["female", "male"], n // 2)[patient]
    y = random.random(n) < 0.4
    common = random.normal(size=n)
    own = np.random.default_rng([who, 9]).normal(size=n)
    score = 1 / (1 + np.exp(-(1.3 * y - 0.7 + common + noise * own)))
    return pl.DataFrame(
        {
            "sample_id": [f"s{k:04d}" for k in range(n)],
            "patient_id": [f"p{k:04d}" for k in patient],
            "split": ["val" if k % 4 == 0 else "test" for k in patient],
            "label": ["finding"] * n,
            "seed": pl.Series([0] * n, dtype=pl.Int32),
            "y": y.astype(np.float32),
            "score": score,
            "logit": pl.Series([None] * n, dtype=pl.Float64),
            "attribute.sex": sex,
        }
    )


def one(results: pl.DataFrame, metric: str, disparity: str, **where: object) -> dict[str, object]:
    rows = results.filter(metric=metric, disparity=disparity, **where)
    assert len(rows) == 1
    return rows.row(0, named=True)


def test_paired_differences_are_far_narrower_than_two_intervals() -> None:
    a, b = study(0.3, who=1), study(0.3, who=2)
    found = versus(a, b, by=["sex"], draws=300, permutations=0)
    row = one(found, "auc", "difference", group="overall")
    test = [t.filter(split="test") for t in (a, b)]
    areas = [auc(t["y"].to_numpy() == 1, t["score"].to_numpy()) for t in test]
    assert row["value"] == pytest.approx(areas[0] - areas[1])
    assert row["reference"] == "baseline"
    from fmcache.analyze.evaluate import evaluate

    alone = one(evaluate(a, by=[], draws=300).results, "auc", "", group="overall")
    width = [r["ci_high"] - r["ci_low"] for r in (row, alone)]  # type: ignore[operator]
    assert width[0] < 0.6 * width[1]


def test_a_better_model_is_shown_to_be_and_an_equal_one_is_not() -> None:
    good, bad = study(0.0), study(3.0, who=1)
    found = versus(good, bad, by=["sex"], draws=200)
    assert one(found, "auc", "difference_p", group="overall")["value"] < 1e-6  # type: ignore[operator]
    assert one(found, "auc", "difference_p_holm", group="female")["value"] < 1e-3  # type: ignore[operator]
    same = versus(good, good, by=["sex"], draws=50)
    assert one(same, "auc", "difference", group="overall")["value"] == 0
    gap = one(found, "auc", "gap_difference", attribute="sex")
    assert gap["ci_low"] <= gap["value"] <= gap["ci_high"]  # type: ignore[operator]


def test_samples_without_counterpart_are_left_out_and_said_and_other_labels_refused() -> None:
    a, b = study(0.3, who=1), study(0.3, who=2)
    found = versus(a, b.head(700), by=["sex"], draws=50)
    assert found["reason"][0] == "warning: 100 and 0 predictions have no counterpart; left out."
    assert one(found, "auc", "difference", group="overall")["n"] == a.head(700).filter(split="test").height
    with pytest.raises(UsageError, match="labels differ"):
        versus(a, b.with_columns(y=1 - pl.col("y")), by=["sex"], draws=50)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    store = open_cache(tmp_path / "cache", create=True)
    for model, noise in (("alpha", 0.0), ("beta", 1.0), ("gamma", 3.0)):
        for dataset, seed in (("d1", 0), ("d2", 1), ("d3", 2)):
            info = {"model": model, "dataset": dataset, "usage": "lp", "method": "erm", "seeds": [0]}
            info |= {"labels": ["finding"], "attributes": ["sex"]}
            store.publish_run(info, study(noise, 300, seed, who=len(model) + seed))
    return tmp_path / "cache"


def test_metrics_rank_and_versus_from_a_cache(cache: Path, tmp_path: Path) -> None:
    store = open_cache(cache)
    curves = tmp_path / "curves.csv"
    options = {"definition": ["fmcache", "fairmedfm"], "reference": {"sex": "male"}, "tolerance": 0.5}
    found = run_metrics(store, by=["sex"], draws=30, permutations=10, curves=curves, **options)  # type: ignore[arg-type]
    assert found["run_id"].n_unique() == 9
    assert store.results().height == found.height
    assert len(list(tmp_path.glob("curves-*.csv"))) == 9
    assert set(found.filter(metric="finding")["model"]) == {"alpha", "beta", "gamma"}
    runner = CliRunner()
    ranked = runner.invoke(app, ["rank", "--metric", "auc", "--cache", str(cache), "--format", "csv"])
    assert ranked.exit_code == 0, ranked.output
    lines = [line.split(",") for line in ranked.stdout.splitlines() if "," in line]
    order = [line[0] for line in lines if line[0] in ("alpha", "beta", "gamma")]
    assert order == ["alpha", "beta", "gamma"]
    apart = run_versus(store, "gamma", by=["sex"], draws=30)
    assert set(apart["model"]) == {"alpha", "beta"}
    assert set(apart["dataset"]) == {"d1", "d2", "d3"}
    assert apart.filter(metric="auc", disparity="difference", group="overall")["value"].min() > 0  # type: ignore[operator]
    with pytest.raises(MissingEntry, match="No run is of the model delta"):
        run_versus(store, "delta")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"by": ["sex", "aeg"]}, "No run has the attribute aeg.\nAttributes of the runs: age, age_group, sex.\n"
                                 "Did you mean age?"),
        ({"by": ["sex*agegroup"]}, "No run has the attribute agegroup.\nAttributes of the runs: age, age_group, sex.\n"
                                   "Did you mean age_group?"),
        ({"by": ["sex"], "reference": {"sexx": "male"}}, "No run has the attribute sexx.\nAttributes of the runs: "
                                                         "age, age_group, sex.\nDid you mean sex?"),
        ({"bins": {"zz": None}}, "No run has the attribute zz.\nAttributes of the runs: age, age_group, sex.\n"
                                 "Type: --bins with some of these."),
    ],
)  # fmt: skip
def test_an_attribute_that_no_run_has_is_refused_before_anything_is_computed(
    cache: Path, asked: dict[str, Any], said: str
) -> None:
    """The run of d4, published without a list of its attributes, has an age and no sex."""
    store = open_cache(cache)
    table = study(1.0, 300).rename({"attribute.sex": "attribute.age"})
    table = table.with_columns(pl.lit(30).alias("attribute.age"))
    store.publish_run(
        {"model": "alpha", "dataset": "d4", "usage": "lp", "method": "erm", "seeds": [0]}, table
    )
    with pytest.raises(UsageError) as error:
        run_metrics(store, **asked)
    assert str(error.value) == said
    assert not store.results().height


def test_an_intersection_of_attributes_of_different_runs_is_refused(cache: Path) -> None:
    store = open_cache(cache)
    table = study(1.0, 300).rename({"attribute.sex": "attribute.race"})
    store.publish_run({"model": "alpha", "dataset": "d4", "usage": "lp", "method": "erm"}, table)
    with pytest.raises(UsageError) as error:
        run_metrics(store, models=["alpha"], datasets=["d1", "d4"], by=["sex*race"], draws=5)
    assert str(error.value) == (
        "No run has all of sex*race.\nAttributes of the runs, not all in one: race, sex.\n"
        "Type: --by with one of these."
    )


def test_versus_refuses_it_too(cache: Path) -> None:
    with pytest.raises(UsageError) as error:
        run_versus(open_cache(cache), "gamma", by=["sxe"])
    assert (
        str(error.value) == "No run has the attribute sxe.\nAttributes of the runs: sex.\nDid you mean sex?"
    )


def test_an_attribute_that_some_runs_lack_is_left_out_for_those(cache: Path) -> None:
    store = open_cache(cache)
    table = study(1.0, 300).rename({"attribute.sex": "attribute.race"})
    info = {
        "model": "alpha",
        "dataset": "d4",
        "usage": "lp",
        "method": "erm",
        "seeds": [0],
        "attributes": ["race"],
    }
    store.publish_run(info, table)
    notes = Notes([])
    found = run_metrics(
        store, models=["alpha"], datasets=["d1", "d4"], by=["sex", "race"], draws=5, progress=notes
    )
    assert {(row["dataset"], row["attribute"]) for row in found.iter_rows(named=True) if row["attribute"]} == {
        ("d1", "sex"), ("d4", "race")}  # fmt: skip
    assert sorted(text for text in notes.texts if " has no " in text) == [
        "alpha / d1 has no race.",
        "alpha / d4 has no sex.",
    ]


def test_where_measures_a_part_as_by_measures_it_and_stores_nothing(tmp_path: Path) -> None:
    """The women chosen by SQL have the numbers of the group female: thresholds come from all validation rows."""
    store = open_cache(tmp_path / "cache", create=True)
    table = study(1.0).with_columns(split=pl.Series(["val", "test", "test", "test"] * 200))
    store.publish_run({"model": "alpha", "dataset": "d1", "usage": "lp", "method": "erm"}, table)
    known = table.unique("sample_id").select("sample_id", "patient_id", "split", "attribute.sex")
    known = known.with_columns(
        path=pl.lit(""), slices=pl.lit(1), input_digest=pl.col("sample_id"), input_error=pl.lit(None, pl.String),
        view=pl.when(pl.col("attribute.sex") == "female").then(pl.lit("PA")).otherwise(pl.lit("AP")),
    )  # fmt: skip
    store.publish_dataset("d1", {}, known)
    whole = run_metrics(store, by=["sex"], draws=5)
    stored = store.results()
    for condition in ("sex = 'female'", "view = 'PA' -- a raw column", "false OR sex = 'female'"):
        part = run_metrics(store, by=["sex"], draws=5, where=condition)
        for metric in ("auc", "tpr", "fpr", "ece"):
            (mine,) = part.filter(metric=metric, group="overall", disparity="")["value"]
            (theirs,) = whole.filter(metric=metric, group="female", disparity="")["value"]
            assert mine == pytest.approx(theirs, abs=1e-12), metric
    assert store.results().equals(stored)
    with pytest.raises(UsageError, match="No measured sample fulfils: sex = 'other'"):
        run_metrics(store, where="sex = 'other'")
    with pytest.raises(UsageError, match="sexx"):
        run_metrics(store, where="sexx = 'female'")
    with pytest.raises(UsageError):
        run_metrics(store, where="true) AND (SELECT count(*) FROM read_csv('/etc/passwd')) > (0")


def test_structures_of_a_table_of_dice_are_measured_apart(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    n = 120
    table = pl.DataFrame(
        {"pid": random.integers(0, 60, n), "class": ["liver", "spleen"] * (n // 2),
         "sex": ["f", "f", "m", "m"] * (n // 4), "dice": random.beta(8, 2, n)}
    )  # fmt: skip
    path = tmp_path / "dice.csv"
    table.write_csv(path)
    outcome = CliRunner().invoke(app, ["audit", str(path), "--value", "dice", "--label", "class", "--by", "sex",
                                       "--patient", "pid", "--draws", "50", "--format", "csv"])  # fmt: skip
    assert outcome.exit_code == 0, outcome.output
    assert ",liver,sex,f,,dice,,fmcache," in outcome.stdout
    assert ",spleen,sex,,,dice,gap,fmcache," in outcome.stdout
