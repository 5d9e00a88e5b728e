"""Are standard errors and first-order replicates of areas what the definitions say?"""

from __future__ import annotations

import math

import numpy as np
import pytest

from fmcache.analyze.bootstrap import Resamples
from fmcache.analyze.influence import (
    auc_influence,
    auprc_influence,
    clustered_variance,
    independent_variance,
    logit_interval,
    separated_interval,
)
from fmcache.analyze.metrics import auc, auprc
from fmcache.analyze.partitions import Partition
from fmcache.analyze.weighted import plan


def study(
    n: int, images: int = 1, seed: int = 0, decimals: int = 2
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y, score with ties, patient; `images` a patient."""
    random = np.random.default_rng(seed)
    patient = np.arange(n) // images
    y = random.random(n) < 0.35
    score = np.round(1 / (1 + np.exp(-(1.2 * y - 0.5 + random.normal(size=n)))), decimals)
    return y, score, patient


@pytest.mark.parametrize("kind", ["auc", "auprc"])
def test_the_influence_is_the_derivative_to_the_weight_of_a_sample(kind: str) -> None:
    y, score, _ = study(60)
    influence = auc_influence(y, score)[1] if kind == "auc" else auprc_influence(y, score)
    h = 1e-5
    weights = np.ones((60, 60)) + h * np.eye(60)
    everyone = [Partition(np.zeros(60, np.int64), 1)]
    tally = plan(y, score, np.arange(60), 60, everyone).tally(weights)
    at = auc(y, score) if kind == "auc" else auprc(y, score)
    numerical = (getattr(tally, kind)[0] - at) / h
    assert influence == pytest.approx(numerical, abs=2e-4)
    assert influence.sum() == pytest.approx(0, abs=1e-12)


def test_the_independent_variance_is_delongs_by_hand() -> None:
    y = np.array([True, True, True, False, False])
    score = np.array([0.9, 0.5, 0.5, 0.5, 0.1])
    # placements of the positives: 1, 3/4, 3/4; of the negatives: 2/3 (one above, two ties), 1
    area = 5 / 6
    s10 = np.var([1, 0.75, 0.75], ddof=1) / 3
    s01 = np.var([2 / 3, 1], ddof=1) / 2
    found, influence = auc_influence(y, score)
    assert found == pytest.approx(area)
    assert independent_variance(y, influence) == pytest.approx(s10 + s01)


def test_repeated_images_leave_the_clustered_variance_and_shrink_the_independent_one() -> None:
    y, score, patient = study(300)
    one = clustered_variance(auc_influence(y, score)[1], patient)
    many = [np.repeat(x, 8) for x in (y, score, patient)]
    eight = auc_influence(many[0], many[1])[1]
    assert clustered_variance(eight, many[2]) == pytest.approx(one)
    assert independent_variance(many[0], eight) < one / 7


def test_delong_agrees_with_the_exact_bootstrap() -> None:
    y, score, patient = study(2000, images=4)
    everyone = [Partition(np.zeros(2000, np.int64), 1)]
    replicates = Resamples(500, 1000, 0).tally(plan(y, score, patient, 500, everyone)).auc[0]
    se = math.sqrt(clustered_variance(auc_influence(y, score)[1], patient))
    assert se == pytest.approx(replicates.std(ddof=1), rel=0.08)
    low, high = logit_interval(auc(y, score), se**2, 1.96)
    assert low == pytest.approx(np.quantile(replicates, 0.025), abs=0.1 * (high - low))
    assert high == pytest.approx(np.quantile(replicates, 0.975), abs=0.1 * (high - low))


def test_first_order_replicates_follow_the_exact_ones() -> None:
    y, score, patient = study(2000, images=4)
    codes = (patient % 2).astype(np.int64)
    parts = [Partition(np.zeros(2000, np.int64), 1), Partition(codes, 2)]
    exact, fast = (
        Resamples(500, 200, 0).tally(plan(y, score, patient, 500, parts, exact=kind))
        for kind in (True, False)
    )
    for name in ("auc", "auprc"):
        a, b = getattr(exact, name), getattr(fast, name)
        assert np.sqrt(np.mean((a - b) ** 2)) < 0.12 * a.std(axis=1).min(), name
        assert np.corrcoef(a[1] - a[2], b[1] - b[2])[0, 1] > 0.99, name


def test_perfect_separation_has_an_interval_that_is_not_a_point() -> None:
    assert separated_interval(1.0, 20, 0.95) == (pytest.approx(0.025 ** (1 / 20)), 1.0)
    assert separated_interval(0.0, 20, 0.95) == (0.0, pytest.approx(1 - 0.025 ** (1 / 20)))
    assert all(math.isnan(end) for end in logit_interval(1.0, 0.0, 1.96))
