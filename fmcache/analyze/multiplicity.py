"""Many tests at once: adjusted p-values, and bands that hold together."""

from __future__ import annotations

import numpy as np
from scipy.stats import false_discovery_control

from fmcache.analyze.areas import Floats


def holm(p: Floats) -> Floats:
    """Holm's adjusted p-values [k] (step-down, any dependence): the chance of one or more false claims stays below α.

    NaN stays NaN and counts for nothing. Source: Holm 1979.

    >>> holm(np.array([0.01, 0.04, 0.03])).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    out = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = len(order) - np.arange(len(order))
    out[order] = np.minimum(np.maximum.accumulate(p[order] * steps), 1.0)
    return out


def benjamini_hochberg(p: Floats) -> Floats:
    """Benjamini and Hochberg's adjusted p-values [k]: the expected share of false claims stays below α."""
    out = np.full(len(p), np.nan)
    known = ~np.isnan(p)
    if known.any():
        out[known] = false_discovery_control(p[known], method="bh")
    return out


def simultaneous(values: Floats, replicates: Floats, level: float) -> tuple[Floats, Floats]:
    """Intervals of k numbers that cover all of them together with the chance `level`.

    value ± c · se, where c is the `level` quantile over replicates of the largest |replicate − value| / se. Since all
    numbers share the replicates, the correlation between them is used (Westfall and Young 1993).

    Parameters
    ----------
    values : [k]. replicates : [k, b]; undefined ones are left out of the largest.

    Returns
    -------
    low, high : [k]; NaN for a number whose replicates do not vary.
    """
    low, high = np.full(len(values), np.nan), np.full(len(values), np.nan)
    known = ~np.isnan(replicates)
    enough = np.isfinite(values) & (known.sum(axis=1) > 1)
    se = np.zeros(len(values))
    se[enough] = np.nanstd(replicates[enough], axis=1, ddof=1)
    usable = enough & (se > 0)
    if usable.any():
        t = np.abs(replicates[usable] - values[usable, None]) / se[usable, None]
        largest = np.where(known[usable], t, -np.inf).max(axis=0)
        c = float(np.quantile(largest[np.isfinite(largest)], level))
        low[usable], high[usable] = values[usable] - c * se[usable], values[usable] + c * se[usable]
    return low, high
