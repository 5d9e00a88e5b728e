"""Columns that fewer rows train than there are features: Newton's method in the span of those rows, in float64.

A small fraction of the labels, a balanced draw or a rare seed leaves a column a few dozen rows of a matrix that may
have many. What of w lies outside their span costs penalty and moves no logit, so that nothing of it is at the optimum::

    X = R Qᵀ                                Q [d, r] orthonormal, r ≤ n: a basis of the span      R [n, r]
    w = Q u,  H = R₁ᵀ diag(h) R₁ + λ I      R₁: R and a one for the intercept, h: weight · σ(1-σ)

Each step solves with H itself, for all penalties of the column at once; its length |L⁻¹ g| (H = L Lᵀ), the Newton
decrement, is the gradient's norm where the Hessian is the identity: F - F* ≈ decrement² / 2 (Boyd & Vandenberghe,
Convex Optimization, 9.5.1). Steps are halved until the objective falls.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from fmcache.shapes import Float

AT_ONCE = 128  # rows; a column of so few is solved here from the start, which takes milliseconds
_STEPS = 100
_HALVINGS = 40


def newton(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, " n"],
    weight: Float[np.ndarray, " n"],
    lam: Float[np.ndarray, " m"],
    w: Float[np.ndarray, "m d"],
    b: Float[np.ndarray, " m"],
    tolerance: float,
) -> tuple[Float[np.ndarray, "m d"], Float[np.ndarray, " m"], Float[np.ndarray, " m"], int]:
    """One label under every penalty, from w and b.

    Parameters
    ----------
    x : the label's rows (logits are ``x @ w + b``), n ≤ d for the best of it. y : 0 or 1. weight : > 0, its sum is 1.
    tolerance : of the decrement.

    Returns
    -------
    w, b, the decrement [m] at them, and how many steps were taken.
    """
    x = np.asarray(x, np.float64)
    basis = np.linalg.qr(x.T)[0]
    rows = np.concatenate([x @ basis, np.ones((len(x), 1))], axis=1)
    u = np.concatenate([w @ basis, b[:, None]], axis=1)
    ridge = np.repeat(lam[:, None], u.shape[1], axis=1)
    ridge[:, -1] = 0
    decrement = np.full(len(u), np.inf)
    left, steps = np.arange(len(u)), 0
    while True:
        z = u[left] @ rows.T
        score = expit(z)
        slope = (weight * (score - y)) @ rows + ridge[left] * u[left]
        hessian = (rows.T * (weight * score * (1 - score))[:, None, :]) @ rows
        at = np.arange(rows.shape[1])
        hessian[:, at, at] += ridge[left] + 1e-14
        step = np.linalg.solve(hessian, slope[:, :, None])[:, :, 0]
        decrement[left] = np.sqrt(np.maximum((slope * step).sum(axis=1), 0))
        going = decrement[left] > tolerance
        if not going.any() or steps == _STEPS:
            break
        left, z, step = left[going], z[going], step[going]
        u[left] -= _length(z, step @ rows.T, u[left], step, y, weight, ridge[left])[:, None] * step
        steps += 1
    return u[:, :-1] @ basis.T, u[:, -1], decrement, steps


def _length(
    z: np.ndarray,
    along: np.ndarray,
    u: np.ndarray,
    step: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray,
    ridge: np.ndarray,
) -> Float[np.ndarray, " m"]:
    """1, or the first half of a half of it that lowers each column's objective; rounding is no rise."""

    def objective(t: np.ndarray) -> np.ndarray:
        moved, there = z - t[:, None] * along, u - t[:, None] * step
        return (weight * (np.logaddexp(0, moved) - y * moved)).sum(axis=1) + (ridge * there**2).sum(
            axis=1
        ) / 2

    t = np.ones(len(z))
    before = objective(np.zeros(len(z)))
    for _ in range(_HALVINGS):
        worse = objective(t) > before + 1e-14 * np.abs(before)
        if not worse.any():
            break
        t[worse] /= 2
    return t
