"""The last digits in float64: columns that a fixed change of variables cannot bring to the optimum get their own.

`fmcache.probe.logistic` preconditions with the curvature at w = 0. Where rows are few and a penalty is small, classes
come apart, σ(1-σ) falls by orders of magnitude, and that preconditioner misleads: L-BFGS needs a thousand passes, and
its gradient no longer tells the distance from the optimum. Here each column is preconditioned where it stands::

    H = X₁ᵀ diag(h) X₁ + λ I    h [n] ≥ 0: curvature of the loss in the logits     X₁ [n, r+1]: rows and a one
    H = L Lᵀ,  u = u₀ + L⁻ᵀ v    the Hessian in v is the identity                   u [r+1]: w in the rows' span, and b

so that F - F* ≈ |g|²/2 holds; a few passes of L-BFGS, then H anew, until the gradient *at the new H* is small. That is
Newton's method with L-BFGS as its globalisation, which also takes what h leaves out (penalties on means, a maximum).
The optimum lies in the span of the rows: with fewer rows than features r = n.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import lapack

from fmcache.parallel import side_by_side
from fmcache.probe.centred import Centred, Streamed
from fmcache.probe.lbfgs import minimise
from fmcache.shapes import Float, Int

ROUNDS = 8
PASSES = 30  # of each round
_WORK = 5e11  # multiplications of one round's Hessians, at most: half a minute
_TOGETHER = 64  # columns of one program
_FACTORS = 1 << 28  # bytes of their factors

Loss = Callable[[Any, Any], tuple[Any, Any, Any]]
"""(tree of arrays, logits [n, K]) → loss [K], its gradient [n, K] and curvature h [n, K] in the logits."""


class _Columns(NamedTuple):
    """rows [n, r+1], turn [K, r+1, r+1], start [K, r+1], lam [K], and what the loss reads."""

    rows: Any
    turn: Any
    start: Any
    lam: Any
    told: Any


def affordable(data: Centred, columns: int) -> bool:
    """Whether so many columns of these rows can be refined in about a minute, and in memory."""
    if isinstance(data.blocks, Streamed):
        return False
    d = data.mean.size
    return columns * data.n * float(min(data.n, d)) ** 2 <= _WORK


def flatness(
    data: Centred, weight: Float[np.ndarray, "n c"], spread: Float[np.ndarray, " c"], w: Any, b: Any
) -> Float[np.ndarray, "... c"]:
    """Mean of σ(1-σ) over the rows, in units of p(1-p), of w [..., c, d] and b [..., c] on centred rows; in (0, 1].

    Where the loss has curvature 1 at w = 0 it has about this here: F - F* ≈ |g|² / (2 flatness).
    """
    x = data.blocks.reshape(-1, data.mean.size)[: data.n]  # type: ignore[union-attr]
    flat = np.empty(b.shape)
    for index in np.ndindex(b.shape[:-1]):
        z = x @ w[index].T.astype(np.float32) + b[index]
        flat[index] = (weight / (2 + 2 * np.cosh(np.clip(z, -300, 300)))).sum(axis=0) / spread
    return np.clip(flat, 1e-12, 1)


def refine(
    loss: Loss,
    data: Centred,
    told: Callable[[Int[np.ndarray, " k"]], Any],
    w: Float[np.ndarray, "k d"],
    b: Float[np.ndarray, " k"],
    lam: Float[np.ndarray, " k"],
    tolerance: float,
) -> tuple[Float[np.ndarray, "k d"], Float[np.ndarray, " k"], Float[np.ndarray, " k"], int]:
    """Minimise loss + λ/2 |w|² of every column, from w and b.

    Parameters
    ----------
    loss : a module-level function (it is compiled once). told : columns (their numbers) → the tree that it is given.
    w, b : logits are ``x @ w + b`` of *centred* rows.
    tolerance : of the gradient's norm in v.

    Returns
    -------
    w, b, the norm of the gradient, and the passes.
    """
    d = data.mean.size
    x = data.blocks.reshape(-1, d)[: data.n].astype(np.float64)  # type: ignore[union-attr]
    basis = np.linalg.qr(x.T)[0] if data.n < d else np.eye(d)
    rows = np.concatenate([x @ basis, np.ones((data.n, 1))], axis=1)
    u = np.concatenate([w @ basis, b[:, None]], axis=1)
    norm, passes = np.empty(len(u)), 0
    together = max(1, min(_TOGETHER, _FACTORS // (8 * rows.shape[1] ** 2)))
    together = min(together, 1 << (len(u) - 1).bit_length())
    with jax.enable_x64(True):
        for start in range(0, len(u), together):
            which = np.arange(start, min(start + together, len(u)))
            padded = np.resize(which, together)  # one shape, one compiled program
            u[which], norm[which], more = _together(
                loss,
                rows,
                jax.tree.map(jnp.asarray, told(padded)),
                u[padded],
                lam[padded],
                tolerance,
                len(which),
            )
            passes += more
    return u[:, :-1] @ basis.T, u[:, -1], norm, passes


def _together(
    loss: Loss, rows: np.ndarray, told: Any, u: np.ndarray, lam: np.ndarray, tolerance: float, count: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """`refine`, of columns that share a program; the first `count` are wanted."""
    there, zero, passes = jnp.asarray(rows), jnp.zeros(u.shape), 0
    evaluate, slope, curvature = _compiled(loss)
    for left in reversed(range(ROUNDS + 1)):
        h = np.asarray(curvature(there, told, jnp.asarray(u)))
        factors = side_by_side(partial(_factor, rows, h, lam), range(count))
        turn = np.stack([factors[column % count] for column in range(len(u))])
        problem = _Columns(there, jnp.asarray(turn), jnp.asarray(u), jnp.asarray(lam), told)
        norm = np.linalg.norm(np.asarray(slope(problem, zero)), axis=1)
        passes += 2
        if not left or (norm <= tolerance).all():
            break
        v, _, more = minimise(evaluate, problem, zero, jnp.asarray(tolerance / 3), PASSES)
        passes += int(more)
        u = u + np.einsum("kij,kj->ki", turn, np.asarray(v))
    return u[:count], norm[:count], passes


def _factor(rows: np.ndarray, curvatures: np.ndarray, lams: np.ndarray, column: int) -> np.ndarray:
    """L⁻ᵀ of a column's Hessian; rows whose curvature is nothing beside the largest are left out."""
    h, lam = curvatures[:, column], lams[column]
    some = h > 1e-14 * h.max(initial=0.0)
    weighed = rows[some] * np.sqrt(h[some])[:, None]
    hessian = weighed.T @ weighed
    hessian[np.diag_indices(len(hessian) - 1)] += lam
    hessian[-1, -1] += 1e-12
    inverse: np.ndarray = lapack.dtrtri(np.linalg.cholesky(hessian), lower=1)[0]
    return inverse.T


@cache
def _compiled(loss: Loss) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """Of each loss once: what `minimise` evaluates, its gradient alone, and the curvature."""

    def evaluate(p: _Columns, v: Any) -> tuple[Any, Any]:
        u = p.start + jnp.einsum("kij,kj->ki", p.turn, v)
        value, slope, _ = loss(p.told, p.rows @ u.T)
        shrunk = p.lam[:, None] * u.at[:, -1].set(0)
        gradient = slope.T @ p.rows + shrunk
        return value + (shrunk * u).sum(axis=1) / 2, jnp.einsum("kij,ki->kj", p.turn, gradient)

    slope = jax.jit(lambda p, v: evaluate(p, v)[1])
    return evaluate, slope, jax.jit(lambda rows, told, u: loss(told, rows @ u.T)[2])
