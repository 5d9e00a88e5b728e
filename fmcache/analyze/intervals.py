"""Intervals: percentiles of the replicates, and Wilson's for shares of independent images."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from fmcache.analyze.areas import Floats

MOST_UNDEFINED = 0.05  # share of replicates in which a number may be undefined before its interval is


def percentiles(replicates: Floats, level: float) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """Percentile intervals of k numbers over their replicates [k, b].

    Returns
    -------
    low, high, undefined : [k]; the ends of the interval of the defined replicates, NaN if more than 5 % of them are
    undefined, and how many are. An undefined replicate is left out, never counted as 0.
    """
    draws = replicates.shape[1]
    order = np.sort(replicates, axis=1)  # NaN last
    undefined = np.isnan(replicates).sum(axis=1)
    tail = (1 - level) / 2
    ends = [_quantile(order, draws - undefined, share) for share in (tail, 1 - tail)]
    few = undefined > MOST_UNDEFINED * draws
    low, high = (np.where(few, np.nan, end) for end in ends)
    return low, high, undefined


def _quantile(order: Floats, known: npt.NDArray[np.int64], share: float) -> Floats:
    """The quantile of the first `known` values of every row, linear between neighbours (NumPy's default)."""
    at = share * np.maximum(known - 1, 0)
    left = np.floor(at).astype(np.int64)
    right = np.minimum(left + 1, np.maximum(known - 1, 0))
    rows = np.arange(len(order))
    a, b = order[rows, left], order[rows, right]
    return np.asarray(a + (b - a) * (at - left))


def remark(undefined: int, draws: int) -> str:
    """What is said of undefined replicates.

    >>> remark(30, 1000), remark(60, 1000)
    ('undefined in 3 % of the resamples', 'no interval: undefined in 6 % of the resamples')
    """
    if not undefined:
        return ""
    text = f"undefined in {100 * undefined / draws:.2g} % of the resamples"
    return text if undefined <= MOST_UNDEFINED * draws else f"no interval: {text}"


def interval(replicates: Floats, level: float) -> tuple[float, float, str]:
    """Percentile interval of one number over its replicates [b], and a remark; see `percentiles`."""
    low, high, undefined = percentiles(replicates[None], level)
    return float(low[0]), float(high[0]), remark(int(undefined[0]), len(replicates))


def wilson(successes: float, trials: float, level: float) -> tuple[float, float]:
    """Wilson's score interval of a share of independent trials, without continuity correction (Wilson 1927).

    >>> tuple(round(end, 4) for end in wilson(0, 20, 0.95))
    (0.0, 0.1611)
    """
    if not trials > 0:
        return math.nan, math.nan
    z2 = float(ndtri((1 + level) / 2)) ** 2
    share = successes / trials
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = math.sqrt(z2 * (share * (1 - share) / trials + z2 / (4 * trials**2))) / (1 + z2 / trials)
    return max(middle - half, 0.0), min(middle + half, 1.0)
