"""Are differences between groups what one gets by hand, and never invented where groups are undefined?"""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from fmcache.analyze.disparities import (
    DISPARITIES,
    equity_scaled,
    gap,
    mean_gap,
    smallest_ratio,
    std,
    worst,
)
from fmcache.analyze.evaluate import evaluate
from fmcache.analyze.metrics import METRICS
from fmcache.analyze.permutation import chance, permuted

VALUES = np.array([[0.70], [0.90], [0.80]])


def grouped(
    sizes: dict[str, tuple[int, int]], shift: dict[str, float] | None = None, seed: int = 0
) -> pl.DataFrame:
    """group → (positives, negatives); positives score 1 (or `shift`) higher on average."""
    random = np.random.default_rng(seed)
    rows = [
        {"race": race, "y": float(y),
         "score": 1 / (1 + math.exp(0.5 - y * (shift or {}).get(race, 1.0) - random.normal()))}
        for race, counts in sizes.items()
        for y, count in ((1, counts[0]), (0, counts[1]))
        for _ in range(count)
    ]  # fmt: skip
    return pl.DataFrame(rows).with_row_index("k").select(
        sample_id="s" + pl.col("k").cast(pl.String), patient_id="p" + pl.col("k").cast(pl.String),
        split=pl.lit("test"), label=pl.lit("finding"), seed=pl.lit(0), y="y", score="score",
        logit=pl.lit(None, pl.Float64), **{"attribute.race": "race"},
    )  # fmt: skip


def run(table: pl.DataFrame, **options: object) -> pl.DataFrame:
    chosen = {"by": ["race"], "threshold_policy": "0.5", "draws": 50, "permutations": 20} | options
    return evaluate(table, **chosen).results  # type: ignore[arg-type]


def row(results: pl.DataFrame, metric: str, disparity: str) -> dict[str, object]:
    rows = results.filter(metric=metric, disparity=disparity)
    assert len(rows) == 1
    return rows.row(0, named=True)


def test_kernels_by_hand() -> None:
    spread = math.sqrt(0.02 / 3)
    assert gap(VALUES) == pytest.approx([0.2])
    assert smallest_ratio(VALUES) == pytest.approx([7 / 9])
    assert worst(VALUES, "higher") == [0.7]
    assert worst(VALUES, "lower") == [0.9]
    assert std(VALUES) == pytest.approx([spread])
    assert equity_scaled(VALUES, np.array([0.85])) == pytest.approx([0.85 / (1 + spread)])
    assert mean_gap([VALUES, np.array([[0.1], [0.1], [0.4]])]) == pytest.approx([(0.2 + 0.3) / 2])
    assert np.isnan(smallest_ratio(np.zeros((2, 1)))).all()


def test_a_replicate_with_an_undefined_group_is_undefined() -> None:
    replicates = np.array([[0.7, np.nan], [0.9, 0.9]])
    for name, disparity in DISPARITIES.items():
        found = disparity.of(replicates, np.array([0.8, 0.8]), "higher")
        assert np.isnan(found).tolist() == [False, True], name


def test_rows_agree_with_the_groups_they_are_made_of() -> None:
    results = run(grouped({"a": (40, 60), "b": (30, 80), "c": (20, 20)}))
    overall = results.filter(group="overall", metric="auc", disparity="")["value"][0]
    groups = {
        metric: results.filter(attribute="race", metric=metric, disparity="")["value"].to_numpy()
        for metric in METRICS
    }
    assert row(results, "auc", "gap")["value"] == pytest.approx(np.ptp(groups["auc"]))
    assert row(results, "auc", "ratio")["value"] == pytest.approx(groups["auc"].min() / groups["auc"].max())
    assert row(results, "auc", "worst")["value"] == groups["auc"].min()
    assert row(results, "ece", "worst")["value"] == groups["ece"].max()
    assert row(results, "auc", "std")["value"] == pytest.approx(groups["auc"].std())
    assert row(results, "auc", "es")["value"] == pytest.approx(overall / (1 + groups["auc"].std()))
    eqodds = (np.ptp(groups["tpr"]) + np.ptp(groups["fpr"])) / 2
    assert row(results, "eqodds", "gap")["value"] == pytest.approx(eqodds)
    assert row(results, "eqopp", "gap")["value"] == pytest.approx(np.ptp(groups["tpr"]))
    assert row(results, "dp", "gap")["value"] == pytest.approx(np.ptp(groups["selection_rate"]))
    assert results.filter(metric="prevalence", disparity="worst").is_empty()
    assert results.filter(metric="ece", disparity="es").is_empty()


def test_a_group_without_positives_is_not_perfectly_unfair_nor_fair() -> None:
    results = run(grouped({"a": (40, 60), "b": (30, 80), "c": (0, 60)}))
    undefined = results.filter(attribute="race", group="c", metric="auc", disparity="").row(0, named=True)
    assert math.isnan(undefined["value"])
    assert undefined["reason"] == "one class only"
    found = row(results, "auc", "gap")
    without = row(run(grouped({"a": (40, 60), "b": (30, 80)})), "auc", "gap")
    assert found["value"] == pytest.approx(without["value"])
    assert found["reason"] == "1 of 3 groups are undefined and left out"
    assert row(results, "fpr", "gap")["reason"] == ""  # c has negatives, so it counts here


@pytest.mark.parametrize(
    "sizes", [{"a": (40, 60)}, {"a": (40, 60), "b": (9, 80)}, {"a": (40, 60), "b": (80, 0)}]
)
def test_fewer_than_two_defined_groups_leave_every_disparity_undefined(
    sizes: dict[str, tuple[int, int]],
) -> None:
    results = run(grouped(sizes))
    for metric, disparity in (("auc", "gap"), ("auc", "es"), ("auc", "ratio"), ("eqodds", "gap")):
        found = row(results, metric, disparity)
        assert math.isnan(found["value"])  # type: ignore[arg-type]
        assert math.isnan(found["ci_low"])  # type: ignore[arg-type]
        assert found["reason"] == "fewer than two groups are defined"


def test_the_unknown_group_is_shown_and_counted_but_makes_no_gap() -> None:
    table = grouped({"a": (40, 60), "b": (30, 80), "Unknown": (50, 50)}, shift={"Unknown": -3.0})
    results = run(table)
    unknown = results.filter(attribute="race", group="unknown", metric="auc", disparity="").row(0, named=True)
    assert unknown["value"] < 0.3
    assert unknown["n"] == 100
    found = row(results, "auc", "gap")
    assert found["value"] < 0.2
    assert found["n"] == 210
    assert row(results, "auc", "worst")["value"] > 0.5  # type: ignore[operator]
    assert results.filter(metric="auc", group="overall", disparity="")["n"][0] == 310


def test_the_null_gap_is_near_the_gap_without_disparity_and_far_below_a_real_one() -> None:
    sizes = {"a": (150, 450), "b": (50, 150), "c": (30, 90)}
    fair = [run(grouped(sizes, seed=k)) for k in range(12)]
    nulls = [row(one, "auc", "gap_null")["value"] for one in fair]
    gaps = [row(one, "auc", "gap")["value"] for one in fair]
    assert np.mean(nulls) == pytest.approx(np.mean(gaps), rel=0.35)  # type: ignore[arg-type]
    assert np.mean(nulls) > 0.03  # type: ignore[arg-type]  # max − min is not 0 without a disparity
    assert np.mean([row(one, "auc", "gap_p")["value"] > 0.1 for one in fair]) > 0.5  # type: ignore[operator]
    unfair = run(grouped(sizes, shift={"c": -1.0}))
    found, null = row(unfair, "auc", "gap"), row(unfair, "auc", "gap_null")
    assert found["value"] > null["ci_high"]  # type: ignore[operator]
    assert row(unfair, "auc", "gap_p")["value"] < 1 / 21  # type: ignore[operator]
    assert unfair.filter(metric="prevalence", disparity="gap_null").is_empty()


def test_permuted_groups_keep_patients_together_and_every_groups_positives() -> None:
    random = np.random.default_rng(0)
    patient = np.repeat(np.arange(60), 3)
    codes = np.repeat(random.integers(0, 3, 60), 3)
    y = np.repeat(random.random(60) < 0.5, 3)  # all images of a patient alike, so counts are exact
    dealt = permuted(
        y, random.random(180), patient, codes, 3, threshold=0.5, probability=True, permutations=30, seed=1
    )
    for group in range(3):
        assert (dealt.positives[group] == y[codes == group].sum()).all()
        assert (dealt.negatives[group] == (~y[codes == group]).sum()).all()
    assert len(np.unique(dealt.auc[0].round(9))) > 10
    again = permuted(
        y, random.random(180), patient, codes, 3, threshold=0.5, probability=True, permutations=3, seed=1
    )
    assert again.auc.shape == (3, 3)


def test_a_permutation_is_the_same_alone_and_among_others() -> None:
    random = np.random.default_rng(0)
    y, score, codes = random.random(200) < 0.4, random.random(200), random.integers(0, 40, 200)
    options = {"threshold": 0.5, "probability": True, "seed": 5}
    few, many = (
        permuted(y, score, np.arange(200), codes, 40, permutations=b, **options)
        for b in (3, 20)  # type: ignore[arg-type]
    )
    assert np.array_equal(few.auc, many.auc[:, :3], equal_nan=True)


def test_a_p_value_is_a_share_where_enough_permutations_reach_the_gap() -> None:
    null = np.linspace(0.01, 1, 100)
    assert chance(0.505, null) == 51 / 101
    assert chance(0.0, null) == 1.0
    assert 1e-4 <= chance(50.0, null) < 0.01


def test_a_p_value_of_a_coarse_rate_is_a_share() -> None:
    """One case missed: the null gaps are 1/19, 1/20 and 1/21, and a gamma fitted to them calls 1/18 impossible."""
    null = np.repeat([1 / 19, 1 / 20, 1 / 21], [20, 60, 20])
    assert chance(1 / 18, null) == 1 / 101
    assert chance(1 / 18, np.append(null[:-3], [1 / 18] * 3)) == 4 / 101


def test_a_p_value_does_not_depend_on_the_number_of_permutations() -> None:
    random = np.random.default_rng(0)
    null = np.ptp(random.normal(size=(3, 5000)), axis=0)
    for observed, exact in ((4.0, 0.0126), (5.0, 0.0011)):  # the studentised range of 3 normals
        few, many = chance(observed, null[:100]), chance(observed, null)
        assert exact / 3 < few / 2
        assert few < 6 * exact
        assert 0.3 < few / many < 3
