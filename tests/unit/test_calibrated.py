"""The null band of a group's calibration error: what a calibrated model with the same scores would show."""

import numpy as np
import polars as pl
import pytest

from fmcache.analyze.calibrated import ERRORS, calibrated_errors
from fmcache.analyze.evaluate import evaluate
from fmcache.analyze.metrics import ece, equal_mass_errors
from fmcache.analyze.partitions import Partition


def test_it_is_the_error_of_labels_drawn_from_the_scores() -> None:
    """Against labels drawn here, group by group, measured by the kernels of the point estimates."""
    random = np.random.default_rng(0)
    p = np.sort(random.beta(0.7, 2, 400).round(2))
    groups = Partition(random.integers(0, 2, 400) + (p > 0.4), 3)
    found = calibrated_errors(p, [Partition(np.zeros(400, int), 1), groups], 400, 0)
    for cell, mine in enumerate([np.arange(400), *(np.flatnonzero(groups.codes == g) for g in range(3))]):
        drawn = [random.random(len(mine)) < p[mine] for _ in range(400)]
        ours = {"ece": [ece(y, p[mine]) for y in drawn]}
        ours["ece_adaptive"], ours["ece_debiased"] = zip(
            *(equal_mass_errors(y, p[mine]) for y in drawn), strict=True
        )
        for name in ERRORS:
            expected, got = np.array(ours[name]), found[name][cell]
            noise = 4 * expected.std() * np.sqrt(2 / 400)
            assert got.mean() == pytest.approx(expected.mean(), abs=noise), (name, cell)
            assert got.std() == pytest.approx(expected.std(), rel=0.25), (name, cell)


def test_an_empty_group_has_none() -> None:
    found = calibrated_errors(np.array([0.2, 0.7]), [Partition(np.array([0, 2]), 3)], 5, 0)
    assert np.isnan(found["ece"][1]).all()
    assert np.isfinite(found["ece"][[0, 2]]).all()


def study(seed: int, off: float) -> pl.DataFrame:
    """600 calibrated scores of two groups; those of group b are `off` too high."""
    random = np.random.default_rng(seed)
    p = random.uniform(0.05, 0.8, 600)
    group = random.choice(["a", "b"], 600, p=[0.8, 0.2])
    y = (random.random(600) < p - off * (group == "b")).astype(np.float32)
    ids = pl.Series(range(600)).cast(pl.String)
    return pl.DataFrame(
        {"sample_id": ids, "patient_id": ids, "y": y, "score": p, "attribute.group": group}
    ).with_columns(
        split=pl.lit("test"), label=pl.lit("y"), seed=pl.lit(0, pl.Int32), logit=pl.lit(np.nan)
    )  # fmt: skip


def numbers(data: pl.DataFrame, group: str, kind: str) -> dict[str, float]:
    found = evaluate(data, threshold_policy="0.5", draws=20, permutations=60).results
    return dict(found.filter(group=group, disparity=kind).select("metric", "value").iter_rows())


def test_a_calibrated_group_is_within_its_band_and_another_is_not() -> None:
    p = [numbers(study(seed, 0.0), "b", "null_p")["ece"] for seed in range(12)]
    assert min(p) > 0.005
    assert 0.2 < np.mean(p) < 0.8
    off = study(0, 0.25)
    assert numbers(off, "b", "null_p")["ece"] < 0.01
    assert numbers(off, "a", "null_p")["ece"] > 0.01
    assert set(numbers(off, "b", "null")) == set(ERRORS)
    assert numbers(off, "b", "null")["ece"] > numbers(off, "a", "null")["ece"]  # the smaller group
    row = evaluate(off, threshold_policy="0.5", draws=20, permutations=60).results.filter(
        group="b", metric="ece", disparity="null"
    ).row(0, named=True)  # fmt: skip
    assert row["ci_low"] < row["value"] < row["ci_high"] < numbers(off, "b", "")["ece"]
