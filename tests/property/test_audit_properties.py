"""What must hold for any table: order, names and repetition of rows change nothing; gaps are never negative."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fmcache.analyze.bootstrap import Resamples, patient_weights
from fmcache.analyze.evaluate import evaluate
from fmcache.analyze.metrics import METRICS, RATES, tally
from fmcache.analyze.partitions import Partition
from fmcache.analyze.weighted import plan
from fmcache.store.schema import RESULT_COLUMNS

FEW = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
NUMBERS = ["value", "ci_low", "ci_high", "n", "n_pos", "n_patients", "threshold"]


@st.composite
def tables(draw: st.DrawFn) -> pl.DataFrame:
    """Small tables with ties, several images a patient, empty and one-class groups, missing attributes."""
    n = draw(st.integers(30, 120))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    patient = random.integers(0, max(n // draw(st.integers(1, 4)), 2), n)
    names = ["b", "a", "unknown", "c"][: draw(st.integers(1, 4))]
    group = random.choice(names, patient.max() + 1)[patient]
    y = (random.random(n) < draw(st.sampled_from([0.1, 0.4, 0.9]))).astype(float)
    score = np.clip(0.3 * y + random.random(n) * 0.7, 0, 1).round(draw(st.sampled_from([1, 3])))
    return pl.DataFrame(
        {
            "sample_id": [f"s{k:04d}" for k in range(n)],
            "patient_id": [f"p{k:04d}" for k in patient],
            "split": ["test"] * n,
            "label": ["finding"] * n,
            "seed": [0] * n,
            "y": y,
            "score": score,
            "logit": pl.Series([None] * n, dtype=pl.Float64),
            "attribute.g": group,
        }
    )


def run(table: pl.DataFrame, **options: object) -> pl.DataFrame:
    chosen = {"threshold_policy": "0.5", "draws": 20, "permutations": 10, "floor": 3} | options
    return evaluate(table, **chosen).results.filter(pl.col("metric") != "finding")  # type: ignore[arg-type]


def same(a: pl.DataFrame, b: pl.DataFrame, skip: tuple[str, ...] = ()) -> None:
    """All names, counts, reasons and numbers, to 1e-5: sums are taken in float32 and in another order."""
    keys = [name for name in RESULT_COLUMNS if name not in NUMBERS]
    assert a.select(keys).equals(b.select(keys))
    for name in (one for one in NUMBERS if one not in skip):
        left, right = (t[name].cast(pl.Float64).fill_null(-9).to_numpy() for t in (a, b))
        worst = np.nanmax(np.abs(left - right) / np.maximum(1, np.abs(left)), initial=0)
        assert np.array_equal(np.isnan(left), np.isnan(right)), name
        assert worst < 1e-5, name


@FEW
@given(tables(), st.integers(0, 1000))
def test_the_order_of_the_rows_does_not_matter(table: pl.DataFrame, seed: int) -> None:
    same(run(table), run(table.sample(fraction=1, shuffle=True, seed=seed)))


@FEW
@given(tables())
def test_the_names_of_the_groups_do_not_matter(table: pl.DataFrame) -> None:
    # an order-keeping renaming, so that rows stay where they are
    renamed = table.with_columns(pl.col("attribute.g").replace({"a": "Alpha", "b": "Beta", "c": "Gamma"}))
    a, b = run(table), run(renamed)
    back = {"Alpha": "a", "Beta": "b", "Gamma": "c"}
    same(a, b.with_columns(pl.col("group").replace(back), pl.col("reference").replace(back),
                           pl.col("reason").str.replace("Alpha", "a").str.replace("Beta", "b")
                           .str.replace("Gamma", "c")))  # fmt: skip


@FEW
@given(tables())
def test_repeating_every_row_changes_no_number_of_a_definition(table: pl.DataFrame) -> None:
    again = table.with_columns(sample_id=pl.col("sample_id") + "-again")
    a, b = run(table, floor=1), run(pl.concat([table, again]), floor=1)
    # what divides by n − 1, tests independence, draws labels or counts images does change
    # (and a one-step slope of some 60 rows may be ill-conditioned)
    keep = ~pl.col("disparity").is_in(["design_effect", "null", "null_p"]) & ~pl.col("metric").is_in(
        ["ece_debiased", "calibration_slope"]
    )
    a, b = a.filter(keep), b.filter(keep)
    images = pl.col("metric").is_in(list(RATES)) & (pl.col("disparity") == "")
    same(a.filter(~images), b.filter(~images), skip=("n", "n_pos"))
    same(a.filter(images), b.filter(images), skip=("n", "n_pos", "ci_low", "ci_high"))


@FEW
@given(tables())
def test_gaps_are_not_negative_and_values_are_in_their_range(table: pl.DataFrame) -> None:
    results = run(table)
    gaps = results.filter(
        pl.col("disparity").is_in(["gap", "std", "gap_null"]) & pl.col("value").is_not_nan()
    )
    assert (gaps["value"] >= 0).all()
    assert (gaps["ci_low"].fill_nan(0).fill_null(0) >= 0).all()
    for name, metric in METRICS.items():
        values = results.filter((pl.col("metric") == name) & (pl.col("disparity") == ""))["value"].drop_nans()
        assert ((values >= metric.low - 1e-12) & (values <= metric.high + 1e-12)).all(), name
    p = results.filter(pl.col("disparity").str.contains("_p"))["value"].drop_nans()
    assert ((p >= 0) & (p <= 1)).all()
    assert results.filter(pl.col("value").is_nan())["reason"].str.len_chars().min() != 0


@FEW
@given(tables())
def test_complement_labels_mirror_the_numbers(table: pl.DataFrame) -> None:
    # scores of 0.5 would change sides: the decision is >=
    table = table.filter(pl.col("score") != 0.5)
    mirrored = table.with_columns(y=1 - pl.col("y"), score=1 - pl.col("score"))
    a, b = (
        run(t, floor=1).filter((pl.col("disparity") == "") & (pl.col("group") != ""))
        for t in (table, mirrored)
    )
    pairs = {"auc": "auc", "brier": "brier", "log_loss": "log_loss", "tpr": "tnr", "fpr": "fnr", "ppv": "npv",
             "accuracy": "accuracy", "balanced_accuracy": "balanced_accuracy"}  # fmt: skip
    for left, right in pairs.items():
        x, y = (t.filter(metric=m)["value"].to_numpy() for t, m in ((a, left), (b, right)))
        assert x == pytest.approx(y, nan_ok=True, abs=1e-9), left


@FEW
@given(tables(), st.integers(0, 19))
def test_a_replicate_is_the_metric_of_the_repeated_rows(table: pl.DataFrame, replicate: int) -> None:
    y, score = table["y"].to_numpy() == 1, table["score"].to_numpy()
    _, patient = np.unique(table["patient_id"].to_numpy(), return_inverse=True)
    names, codes = np.unique(table["attribute.g"].to_numpy(), return_inverse=True)
    patients = int(patient.max()) + 1
    part = Partition(codes, len(names))
    found = Resamples(patients, 20, 7).tally(
        plan(y, score, patient, patients, [part], threshold=0.5, probability=True)
    )
    times = patient_weights(patients, range(replicate, replicate + 1), 7)[:, 0].astype(int)[patient]
    for g in range(len(names)):
        rows = np.repeat(np.flatnonzero(codes == g), times[codes == g])
        alone = tally(y[rows], score[rows], 0.5, probability=True)
        for name in (
            "tp",
            "fp",
            "fn",
            "tn",
            "positives",
            "negatives",
            "auc",
            "auprc",
            "brier",
            "log_loss",
            "ece",
        ):
            x, expected = getattr(found, name)[g, replicate], float(getattr(alone, name))
            assert x == pytest.approx(expected, rel=1e-5, abs=1e-6, nan_ok=True), name
