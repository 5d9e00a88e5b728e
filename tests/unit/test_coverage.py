"""On planted data, do intervals cover the truth as often as they say, and tests reject as often as they may?

Normal scores with a shift d have AUC = Φ(d/√2). Scores of a patient's images share a patient effect; rounding makes
ties, whose population AUC is that of the rounded scores. Bounds are 4 Monte Carlo standard errors wide, so a right
method fails once in 10,000 runs; the trials are seeded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
from scipy.stats import norm

from fmcache.analyze.bootstrap import Resamples
from fmcache.analyze.influence import auc_influence, clustered_variance, independent_variance, logit_interval
from fmcache.analyze.intervals import percentiles, wilson
from fmcache.analyze.partitions import Partition
from fmcache.analyze.weighted import plan

SHIFT = 1.0


def draw(n: int, images: int, share: float, decimals: int | None, seed: int) -> tuple[np.ndarray, ...]:
    """y, score, patient. share : part of the variance that images of a patient have in common; labels are a
    patient's, so that the patient is the unit."""
    random = np.random.default_rng(seed)
    patients = n // images
    patient = np.repeat(np.arange(patients), images)
    y = np.repeat(random.random(patients) < 0.3, images)
    common = np.repeat(random.normal(size=patients), images)
    score = SHIFT * y + math.sqrt(share) * common + math.sqrt(1 - share) * random.normal(size=n)
    return y, score if decimals is None else np.round(score, decimals), patient


def truth(decimals: int | None) -> float:
    """The population AUC; of rounded scores by summing over the steps."""
    if decimals is None:
        return float(norm.cdf(SHIFT / math.sqrt(2)))
    step = 10.0**-decimals
    edges = np.arange(-12, 12, step) - step / 2
    below, above = (np.diff(norm.cdf(edges - shift)) for shift in (0, SHIFT))
    return float(above @ (np.cumsum(below) - below / 2))


@lru_cache(maxsize=8)
def shared(patients: int, seed: int) -> Resamples:
    """Eight sets of resamples for all trials: drawing them takes longer than anything else here."""
    return Resamples(patients, 300, seed)


def bootstrap(y: np.ndarray, score: np.ndarray, patient: np.ndarray) -> tuple[float, float]:
    everyone = [Partition(np.zeros(len(y), np.int64), 1)]
    patients = int(patient.max()) + 1
    tally = shared(patients, int(y.sum()) % 8).tally(plan(y, score, patient, patients, everyone, auprc=False))
    low, high, _ = percentiles(tally.auc, 0.95)
    return float(low[0]), float(high[0])


def delong(y: np.ndarray, score: np.ndarray, patient: np.ndarray) -> tuple[float, float]:
    area, influence = auc_influence(y, score)
    return logit_interval(area, clustered_variance(influence, patient), 1.959964)


def ignoring_patients(y: np.ndarray, score: np.ndarray, patient: np.ndarray) -> tuple[float, float]:
    area, influence = auc_influence(y, score)
    return logit_interval(area, independent_variance(y, influence), 1.959964)


def coverage(interval: Callable[..., tuple[float, float]], trials: int, **how: object) -> float:
    at = truth(how.get("decimals"))  # type: ignore[arg-type]
    found = []
    for seed in range(trials):
        y, score, patient = draw(seed=seed, **how)  # type: ignore[arg-type]
        low, high = interval(y, score, patient)
        found.append(low <= at <= high)
    return float(np.mean(found))


def bounds(trials: int, level: float = 0.95, slack: float = 0.0) -> tuple[float, float]:
    """4 standard errors around the level; `slack` is what theory grants a small sample."""
    se = math.sqrt(level * (1 - level) / trials)
    return level - 4 * se - slack, min(level + 4 * se, 1.0)


@pytest.mark.parametrize(
    ("n", "images", "share", "decimals", "trials", "slack"),
    [
        (60, 1, 0.0, None, 500, 0.02),  # percentile intervals of 18 positives are a little short
        (60, 1, 0.0, 0, 500, 0.02),
        (600, 1, 0.0, 1, 400, 0.0),
        (600, 4, 0.6, None, 400, 0.01),
        (600, 4, 0.6, 0, 400, 0.01),
    ],
)
def test_bootstrap_intervals_cover(
    n: int, images: int, share: float, decimals: int | None, trials: int, slack: float
) -> None:
    low, high = bounds(trials, slack=slack)
    found = coverage(bootstrap, trials, n=n, images=images, share=share, decimals=decimals)
    assert low <= found <= high


@pytest.mark.parametrize(
    ("n", "images", "share", "decimals", "trials"),
    [
        (60, 1, 0.0, None, 2000),
        (60, 1, 0.0, 0, 2000),
        (600, 4, 0.6, None, 1000),
        (600, 4, 0.6, 0, 1000),
        (50_001, 3, 0.5, 1, 120),
    ],
)
def test_clustered_delong_intervals_cover(
    n: int, images: int, share: float, decimals: int | None, trials: int
) -> None:
    low, high = bounds(trials, slack=0.01)
    found = coverage(delong, trials, n=n, images=images, share=share, decimals=decimals)
    assert low <= found <= high


def test_intervals_that_ignore_patients_do_not_cover() -> None:
    found = coverage(ignoring_patients, 400, n=600, images=4, share=0.6, decimals=None)
    assert found < 0.85


def test_wilson_covers_rare_and_common_rates() -> None:
    random = np.random.default_rng(0)
    for rate in (0.02, 0.2, 0.5, 0.9):
        hits = random.binomial(60, rate, 2000)
        covered = np.mean([low <= rate <= high for k in hits for low, high in [wilson(int(k), 60, 0.95)]])
        assert 0.91 <= covered <= 0.985, rate
