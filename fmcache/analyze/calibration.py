"""How far probabilities are from the truth they announce: binned errors, and the two-parameter recalibration.

Binned errors are biased upward in small groups (a perfectly calibrated model has an `ece` of 0.11 at n = 50), so
equal-mass bins, a debiased error, and slope and intercept, which have no bins, stand beside it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

BINS = 10  # of every binned calibration error
CLIP = 1e-6  # scores are held this far from 0 and 1 before a logit is taken
SMALLEST = float(np.finfo(np.float64).eps)  # … and this far before a log loss is, as in scikit-learn
STEPS, ENOUGH = 50, 1e-10  # of Newton's method


def bin_of(p: Floats) -> Ints:
    """The equal-width bin on [0, 1], 0 to 9, closed below; 1.0 falls into the last one."""
    return np.clip((p * BINS).astype(np.int64), 0, BINS - 1)


def equal_mass_bin_of(p: Floats) -> Ints:
    """The equal-mass bin, 0 to 9: ⌊10 · mean rank / n⌋. Equal scores share a bin, so some may be empty.

    The mean rank counts from ½, and is that of a tie block, so neither the order nor a duplication of all rows matters.

    >>> equal_mass_bin_of(np.array([0.1, 0.2, 0.3, 0.3])).tolist()
    [1, 3, 7, 7]
    """
    if (p[1:] < p[:-1]).any():
        order = np.argsort(p, kind="stable")
        out = np.empty(len(p), np.int64)
        out[order] = equal_mass_bin_of(p[order])
        return out
    edges = np.concatenate([[0], np.flatnonzero(p[1:] != p[:-1]) + 1, [len(p)]])  # of the tie blocks
    bins = np.minimum(BINS * (edges[:-1] + edges[1:]) // max(2 * len(p), 1), BINS - 1)
    return np.repeat(bins, np.diff(edges))


def binned_error(counts: Floats, residuals: Floats) -> Floats:
    """Σ_bins |Σ (p − y)| / n from n a bin and Σ (p − y) a bin, [..., bins, b] → [..., b]; NaN where n is 0."""
    n = counts.sum(axis=-2)
    off = np.abs(residuals).sum(axis=-2)
    return np.divide(off, n, out=np.full(n.shape, np.nan), where=n > 0)


def debiased_error(counts: Floats, positives: Floats, residuals: Floats) -> Floats:
    """√max(0, Σ_bins n_b/n · [(mean p − mean y)² − ȳ(1 − ȳ)/(n_b − 1)]), [..., bins, b] → [..., b].

    The second term is what chance adds to the first in a calibrated bin. Bins with fewer than two samples do not
    count. Source: Kumar, Liang and Ma 2019, equation 4 (the L2 error), floored at 0.
    """
    two = counts > 1.5
    n_b = np.where(two, counts, 2.0)
    rate = positives / n_b
    square = (residuals / n_b) ** 2 - rate * (1 - rate) / (n_b - 1)
    n = np.where(two, counts, 0).sum(axis=-2)
    total = np.where(two, counts * square, 0).sum(axis=-2)
    mean = np.divide(total, n, out=np.full(n.shape, np.nan), where=n > 0)
    return np.sqrt(np.maximum(mean, 0))


def logit(p: Floats) -> Floats:
    """log(p / (1 − p)) of p held to [1e-6, 1 − 1e-6]."""
    held = np.clip(p, CLIP, 1 - CLIP)
    return np.asarray(np.log(held) - np.log1p(-held))


def expit(x: Floats) -> Floats:
    """1 / (1 + e^−x)."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def recalibrate(y: Bools, p: Floats) -> tuple[float, float, float]:
    """The recalibration that fits best.

    Returns
    -------
    large, intercept, slope : `large` maximises the likelihood of y under logit(p) + large (calibration in the
    large, 0 = as many positives as announced, above = more); intercept and slope that of intercept +
    slope · logit(p) (slope 1 = right spread, below 1 = too extreme). NaN where a class is absent, where all scores
    are equal, or where the score separates the classes. Source: Cox 1958; Van Calster et al. 2016.
    """
    nan = float("nan")
    if not y.any() or y.all():
        return nan, nan, nan
    if (p[1:] < p[:-1]).any():
        order = np.argsort(p, kind="stable")
        return recalibrate(y[order], p[order])
    first = np.concatenate([[0], np.flatnonzero(p[1:] != p[:-1]) + 1])
    x, n = logit(p[first]), np.diff(first, append=len(p)).astype(np.float64)
    k = np.add.reduceat(y, first, dtype=np.float64)
    large = _large(x, n, k)
    if len(x) == 1 or p[y].min() > p[~y].max() or p[y].max() < p[~y].min():
        return large, nan, nan
    intercept, slope = _line(x, n, k)
    return large, intercept, slope


def _large(x: Floats, n: Floats, k: Floats) -> float:
    """Newton's method in one dimension, in which the likelihood is concave; steps are held to 2."""
    a = 0.0
    for _ in range(STEPS):
        mu = expit(x + a)
        step = float((k - n * mu).sum() / max(float((n * mu * (1 - mu)).sum()), 1e-300))
        a += min(max(step, -2.0), 2.0)
        if abs(step) < ENOUGH:
            return a
    return float("nan")


def _line(x: Floats, n: Floats, k: Floats) -> tuple[float, float]:
    """Newton's method from the flat line, halving steps that lower the likelihood; NaN if it does not settle."""
    middle = float(n @ x) / float(n.sum())
    u = x - middle  # centred, so that the two parameters hardly depend on each other
    rate = float(k.sum()) / float(n.sum())
    a, b = float(np.log(rate) - np.log1p(-rate)), 0.0
    loss = _loss(n, k, a + b * u)
    for _ in range(STEPS):
        mu = expit(a + b * u)
        off, w = k - n * mu, n * mu * (1 - mu)
        g0, g1 = float(off.sum()), float(off @ u)
        h00, h01, h11 = float(w.sum()), float(w @ u), float(w @ (u * u))
        det = h00 * h11 - h01 * h01
        if not det > 1e-300:
            break
        da, db = (h11 * g0 - h01 * g1) / det, (h00 * g1 - h01 * g0) / det
        size = 1.0
        while size > 1e-8 and (new := _loss(n, k, a + size * da + (b + size * db) * u)) > loss + 1e-9 * abs(
            loss
        ):
            size /= 2
        a, b, loss = a + size * da, b + size * db, new
        if max(abs(da), abs(db)) < ENOUGH * max(1.0, abs(a), abs(b)):
            return a - b * middle, b
    return float("nan"), float("nan")


def _loss(n: Floats, k: Floats, x: Floats) -> float:
    return float(n @ np.logaddexp(0, x) - k @ x)


def one_step(start: Floats, sums: Floats) -> tuple[Floats, Floats]:
    """`large` and slope under other weights: one Newton step from the fit to all rows.

    Parameters
    ----------
    start : [..., 3], (large, intercept, slope) of `recalibrate`. sums : [..., 7, b], weighted sums of the columns of
    `recalibration_columns`.

    Returns
    -------
    large, slope : [..., b]. The error is of second order in the change of the weights.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        large = start[..., 0, None] + sums[..., 0, :] / sums[..., 1, :]
        g0, g1, h00, h01, h11 = (sums[..., k, :] for k in range(2, 7))
        slope = start[..., 2, None] + (h00 * g1 - h01 * g0) / (h00 * h11 - h01 * h01)
    return (np.where(np.isfinite(large), large, np.nan), np.where(np.isfinite(slope), slope, np.nan))


def recalibration_columns(y: Bools, x: Floats, start: Floats) -> Floats:
    """[n, 7]: residual and weight of `large`; gradient (2) and curvature (3) of (intercept, slope) at `start` [n, 3].

    x : `logit` of the scores. Where a parameter of `start` is NaN, its columns are 0.
    """
    out = np.empty((7, len(y)))  # in columns, which are written one at a time
    mu = expit(x + start[:, 0])
    out[0], out[1] = y - mu, mu * (1 - mu)
    mu = expit(start[:, 1] + start[:, 2] * x)
    out[2], out[4] = y - mu, mu * (1 - mu)
    out[3], out[5] = out[2] * x, out[4] * x
    out[6] = out[5] * x
    if (unfit := np.isnan(start).any(axis=1)).any():
        out[:, unfit] = np.nan_to_num(out[:, unfit])
    return out.T
