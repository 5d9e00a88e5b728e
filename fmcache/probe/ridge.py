"""Ridge regression on 0 and 1 as a fast screening probe: every penalty from one eigendecomposition.

For a column with known rows i (n_c of them, weights s_i with mean 1), centred x and y::

    minimise 1/(2 n_c) Σ s_i (x_i·w - y_i)² + λ/2 |w|²        w = Q diag(1 / (e + λ)) Qᵀ Xᵀ S y / n_c
    Cov(X) = Q diag(e) Qᵀ                                     over the known rows of the column

Columns with the same known rows and weights share the decomposition. A regression is no probability: its output becomes
a logit by two numbers a column, fitted on validation (Platt 1999), which change no ranking.
"""

from __future__ import annotations

import numpy as np

from fmcache.probe.matrix import linear
from fmcache.probe.pooling import pool
from fmcache.probe.problem import Problem, Solution
from fmcache.shapes import Float

_ROWS = 8192
_NEWTON, _DAMPING = 30, 1e-6


def fit_ridge(problem: Problem, weights: Float[np.ndarray, "n c"]) -> Solution:
    """All penalties of all columns."""
    x, y, lam = problem.train.x, problem.train.y, problem.penalties
    d, c = x.shape[1], y.shape[1]
    w, b = np.empty((len(lam), c, d)), np.empty((len(lam), c))
    share = np.where(np.isnan(y), 0, weights).astype(np.float64)
    share /= share.sum(axis=0)
    patterns, which = np.unique(share, axis=1, return_inverse=True)
    for at in range(patterns.shape[1]):
        columns = np.flatnonzero(which.ravel() == at)
        s = patterns[:, at]
        mean, gram, cross, level = _moments(x, s, np.nan_to_num(y[:, columns]))
        e, q = np.linalg.eigh(gram)
        turned = q.T @ cross  # [d, l]
        for m, value in enumerate(lam):
            w[m, columns] = (q @ (turned / (np.maximum(e, 0) + value)[:, None])).T
            b[m, columns] = level - w[m, columns] @ mean
    return _calibrated(problem, w, b)


def _moments(
    x: Float[np.ndarray, "n d"], s: Float[np.ndarray, " n"], y: Float[np.ndarray, "n l"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Weighted mean of x, covariance of x, covariance of x and y, mean of y; s sums to 1."""
    rows = np.flatnonzero(s)
    near = x[rows[0]].astype(np.float64)
    d = x.shape[1]
    mean, gram, cross = np.zeros(d), np.zeros((d, d)), np.zeros((d, y.shape[1]))
    level = s @ y
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        moved = x[part] - near
        mean += s[part] @ moved
        half = np.sqrt(s[part])[:, None] * moved
        gram += half.T @ half
        cross += moved.T @ (s[part][:, None] * (y[part] - level))
    return mean + near, gram - np.outer(mean, mean), cross, level


def _calibrated(problem: Problem, w: Float[np.ndarray, "m c d"], b: Float[np.ndarray, "m c"]) -> Solution:
    m, c, d = w.shape
    val = problem.val
    _, first, of = np.unique(val.sample, return_index=True, return_inverse=True)
    rows = np.arange(len(val.sample))
    out = pool(linear(val.x, rows, w.reshape(m * c, d), b.reshape(m * c)), of, problem.volume)
    out = out.reshape(-1, m, c)
    truth = val.y[first]
    slope, shift = np.full((m, c), 4.0), np.full((m, c), -2.0)  # the tangent of the logit at one half
    prevalence = np.full(c, 0.5)
    for column in range(c):
        known = ~np.isnan(truth[:, column])
        y = truth[known, column]
        if not 0 < y.sum() < len(y):
            continue
        prevalence[column] = y.mean()
        a, b0 = platt(out[known, :, column], y)
        slope[:, column] = np.where(a > 0, a, slope[:, column])  # a probe that ranks backwards stays as it is
        shift[:, column] = np.where(a > 0, b0, shift[:, column])
    hyper = tuple({"penalty": float(value)} for value in problem.penalties)
    return Solution(
        hyper, w * slope[:, :, None], b * slope + shift,
        prevalence=prevalence, parameters={"slope": slope, "shift": shift},
    )  # fmt: skip


def platt(
    z: Float[np.ndarray, "n m"], y: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Slope a and shift b of each column, so that 1 / (1 + exp(-(a z + b))) has the least log loss; Newton's method.

    y is drawn in by Platt's (n + 1) / (n + 2), so that separable columns have an optimum.
    """
    positive = y.sum()
    target = np.where(y > 0, (positive + 1) / (positive + 2), 1 / (len(y) - positive + 2))[:, None]
    centre, width = z.mean(axis=0), z.std(axis=0)
    width = np.where(width > 0, width, 1)
    unit = (z - centre) / width
    a, b = np.zeros(z.shape[1]), np.full(z.shape[1], np.log(positive / (len(y) - positive)))
    for _ in range(_NEWTON):
        p = 1 / (1 + np.exp(-np.clip(a * unit + b, -500, 500)))
        residual, bend = p - target, p * (1 - p)
        g_a, g_b = (residual * unit).mean(axis=0), residual.mean(axis=0)
        h_aa = (bend * unit**2).mean(axis=0) + _DAMPING
        h_bb, h_ab = bend.mean(axis=0) + _DAMPING, (bend * unit).mean(axis=0)
        volume = h_aa * h_bb - h_ab**2
        step_a, step_b = (h_bb * g_a - h_ab * g_b) / volume, (h_aa * g_b - h_ab * g_a) / volume
        longest = np.maximum(1, np.maximum(np.abs(step_a), np.abs(step_b)) / 2)  # no leap out of the bowl
        a, b = a - step_a / longest, b - step_b / longest
    return a / width, b - a * centre / width
