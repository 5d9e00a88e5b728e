"""L2-regularised logistic regression of many labels under many penalties at once.

For every label c and penalty λ, over the rows i whose label is known (n_c of them)::

    F(w, b) = 1/n_c Σ_i [ log(1 + exp(z_i)) - y_i z_i ]  +  λ/2 |w|²,      z_i = x_i·w + b

The intercept is free. In scikit-learn's terms ``C = 1 / (λ n_c)``. With weights, 1/n_c becomes s_i / Σ s.

Labels × penalties are K columns of one program; each has its own L-BFGS history and step, and all share each product
with the data. What makes few passes enough is the change of variables, shared by all columns::

    Cov(X) = Q diag(e) Qᵀ                         one Gram matrix and one eigendecomposition        Q [d, d], e [d]
    w = Q (v / sqrt(p(1-p) e + λ))                p: the label's prevalence                         v [d]
    Hessian in v ≈ identity                       exact at w = 0, where p(1-p) weighs each row

so the norm of the gradient in v tells the distance from the optimum whatever the embedding's scale: F - F* ≈ |g|²/2.
Rows are centred first; that changes b, not w. The work is done in float32; columns that float32 cannot bring to the
optimum (more features than rows and a small λ) are finished in float64, if the rows are not too many for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmcache.probe.lbfgs import minimise
from fmcache.shapes import Bool, Float

TOLERANCE = 2e-6
PASSES = (60, 400)  # at most, in float32 and then in float64
_BLOCK_ROWS = {"cpu": 2048}  # a block's logits stay in cache; accelerators take larger ones
_BLOCK_ROWS_ACCELERATOR = 32768
_DOUBLE_VALUES = 1 << 27  # values of x; a float64 copy takes at most 1 GiB


@dataclass(frozen=True)
class Fit:
    """Coefficients of every penalty (m) and label (c); logits are ``x @ w[j, l] + b[j, l]``.

    Attributes
    ----------
    w : [m, c, d] float64. b : [m, c] float64.
    gradient : [m, c], norm of the gradient in the preconditioned variables at the end.
    converged : [m, c], whether that is below the tolerance.
    passes : how often the data were read.
    """

    w: Float[np.ndarray, "m c d"]
    b: Float[np.ndarray, "m c"]
    gradient: Float[np.ndarray, "m c"]
    converged: Bool[np.ndarray, "m c"]
    passes: int


@dataclass(frozen=True)
class Centred:
    """Training rows, centred and cut into blocks (the last one padded with zeros), and their eigenbasis.

    Attributes
    ----------
    blocks : [B, r, d] float32. n : rows that are real.
    mean : [d] float64. basis : [d, d] float64, eigenvectors in columns. variances : [d] float64, their eigenvalues.
    """

    blocks: Float[np.ndarray, "B r d"]
    n: int
    mean: Float[np.ndarray, " d"]
    basis: Float[np.ndarray, "d d"]
    variances: Float[np.ndarray, " d"]

    @property
    def scale(self) -> float:
        """The mean variance of a feature; penalties in its unit do not depend on the embedding's scale."""
        return float(self.variances.mean())


def centre(x: Float[np.ndarray, "n d"]) -> Centred:
    """Centre rows (any float dtype; not changed) and find the eigenbasis of their covariance.

    The Gram matrix is BLAS syrk by blocks, summed in float64; it needs only be good enough to precondition.
    """
    n, d = x.shape
    if n == 0:
        raise ValueError("no rows to fit")
    rows = min(_BLOCK_ROWS.get(jax.default_backend(), _BLOCK_ROWS_ACCELERATOR), n)
    count = -(-n // rows)
    mean = np.zeros(d)
    for start in range(0, n, rows):
        mean += x[start : start + rows].sum(axis=0, dtype=np.float64)
    mean /= n
    blocks = np.zeros((count, rows, d), np.float32)
    gram = np.zeros((d, d))
    for index in range(count):
        part = x[index * rows : (index + 1) * rows]
        block = blocks[index, : len(part)]
        np.subtract(part, mean, out=block, casting="unsafe")
        gram += block.T @ block
    variances, basis = np.linalg.eigh(gram / n)
    return Centred(blocks, n, mean, basis, np.maximum(variances, 0))


def fit_logistic(
    x: Float[np.ndarray, "n d"] | Centred,
    y: Float[np.ndarray, "n c"],
    penalties: Sequence[float],
    *,
    weights: Float[np.ndarray, "n c"] | None = None,
    tolerance: float = TOLERANCE,
) -> Fit:
    """Fit all labels under all penalties.

    Parameters
    ----------
    x : rows, or what `centre` made of them (to fit more labels on the same rows).
    y : 0, 1, or NaN where the label is unknown; each label needs both classes.
    penalties : λ > 0, per sample, on the scale of x.
    weights : of each row in each label's mean loss, ≥ 0 (a row that counts twice has twice the weight); None: all 1.
    tolerance : of the gradient's norm in the preconditioned variables.

    Raises
    ------
    ValueError : a label without both classes, a value of y that is none of 0, 1, NaN, a λ that is not positive, or a
    weight that is negative or not a number.
    """
    data = x if isinstance(x, Centred) else centre(x)
    y = np.asarray(y, np.float32)
    known = ~np.isnan(y)
    truth = np.where(known, y, np.float32(0))
    if y.shape[0] != data.n:
        raise ValueError(f"{y.shape[0]} rows of labels for {data.n} rows of data")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("labels are 0, 1 or NaN")
    weight = known.astype(np.float64)
    if weights is not None:
        if weights.shape != y.shape or not (np.isfinite(weights) & (weights >= 0)).all():
            raise ValueError("weights have the shape of y and are not negative")
        weight *= weights
    weighed, positive = weight.sum(axis=0), (weight * truth).sum(axis=0)
    if not ((positive > 0) & (positive < weighed)).all():
        raise ValueError("each label needs both classes")
    lam = np.asarray(penalties, np.float64)
    if not (lam > 0).all():
        raise ValueError("penalties are positive")
    prevalence = positive / weighed
    v = np.zeros((lam.size, y.shape[1], data.mean.size + 1))
    v[..., -1] = np.log(prevalence / (1 - prevalence)) * np.sqrt(prevalence * (1 - prevalence))
    weight /= weighed
    v, gradient, passes = _solve(data, truth, weight, prevalence, lam, v, tolerance, np.float32)
    if (gradient > tolerance).any() and data.blocks.size <= _DOUBLE_VALUES:
        j, l = (np.flatnonzero((gradient > tolerance).any(axis=axis)) for axis in (1, 0))
        grid = np.ix_(j, l)
        with jax.enable_x64(True):
            v[grid], gradient[grid], more = _solve(
                data, truth[:, l], weight[:, l], prevalence[l], lam[j], v[grid], tolerance / 10, np.float64
            )
        passes += more
    scale, scale_b = _scales(data, prevalence, lam)
    w = (v[..., :-1] * scale) @ data.basis.T
    b = v[..., -1] * scale_b - w @ data.mean
    return Fit(w, b, gradient, gradient <= tolerance, passes)


def _scales(data: Centred, prevalence: np.ndarray, lam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """w = basis (scale * v), b = scale_b * v: [m, c, d] and [c]."""
    spread = prevalence * (1 - prevalence)
    scale = 1 / np.sqrt(spread[None, :, None] * data.variances[None, None, :] + lam[:, None, None])
    return scale, 1 / np.sqrt(spread)


def _solve(
    data: Centred,
    truth: np.ndarray,
    weight: np.ndarray,
    prevalence: np.ndarray,
    lam: np.ndarray,
    start: np.ndarray,
    tolerance: float,
    dtype: Any,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Minimise from `start` [m, c, d+1] in one dtype; returns v, the gradient's norms [m, c] and the passes."""
    m, c, width = start.shape
    count, rows, _ = data.blocks.shape
    scale, scale_b = _scales(data, prevalence, lam)
    problem = _Problem(
        x=jnp.asarray(data.blocks, dtype),
        y=jnp.asarray(_blocked(truth, count, rows), dtype),
        weight=jnp.asarray(_blocked(weight, count, rows), dtype),
        basis=jnp.asarray(data.basis, dtype),
        scale=jnp.asarray(scale.reshape(m * c, width - 1), dtype),
        scale_b=jnp.asarray(np.tile(scale_b, m), dtype),
        lam=jnp.asarray(np.repeat(lam, c), dtype),
    )
    v0 = jnp.asarray(start.reshape(m * c, width), dtype)
    limit = PASSES[dtype is np.float64]
    v, gradient, passes = minimise(_evaluate, problem, v0, jnp.asarray(tolerance, dtype), limit)
    return (
        np.asarray(v, np.float64).reshape(m, c, width),
        np.asarray(gradient, np.float64).reshape(m, c),
        int(passes),
    )


def _blocked(values: np.ndarray, count: int, rows: int) -> np.ndarray:
    padded = np.zeros((count * rows, values.shape[1]))
    padded[: len(values)] = values
    return padded.reshape(count, rows, -1)


class _Problem(NamedTuple):
    """What a pass needs; passed to the compiled program as arguments, never closed over.

    x [B, r, d], y and weight [B, r, c] (weight 1/n_c where known, else 0), basis [d, d], scale [K, d],
    scale_b [K], lam [K]; column k = penalty * c + label.
    """

    x: Any
    y: Any
    weight: Any
    basis: Any
    scale: Any
    scale_b: Any
    lam: Any


def _evaluate(p: _Problem, v: Any) -> tuple[Any, Any]:
    """F [K] and its gradient in v [K, d+1], in one pass over the blocks."""
    k, c = v.shape[0], p.y.shape[2]
    exact = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    w = exact(p.scale * v[:, :-1], p.basis.T)
    b = p.scale_b * v[:, -1]
    w_t = w.T

    def block(carry: tuple[Any, Any, Any], xs: tuple[Any, Any, Any]) -> tuple[tuple[Any, Any, Any], None]:
        loss, grad_w, grad_b = carry
        x, y, weight = xs
        z = (exact(x, w_t) + b[None, :]).reshape(x.shape[0], k // c, c)
        y, weight = y[:, None, :], weight[:, None, :]
        small = jnp.exp(-jnp.abs(z))
        softplus = jnp.maximum(z, 0) + jnp.log1p(small)
        sigmoid = jnp.where(z >= 0, 1 / (1 + small), small / (1 + small))
        residual = (weight * (sigmoid - y)).reshape(x.shape[0], k)
        loss = loss + (weight * (softplus - y * z)).sum(axis=0).reshape(k)
        # (residual.T @ x) reads x by rows; XLA on CPU runs x.T @ residual at half the speed
        return (loss, grad_w + exact(residual.T, x), grad_b + residual.sum(axis=0)), None

    zero = (jnp.zeros(k, w.dtype), jnp.zeros_like(w), jnp.zeros(k, w.dtype))
    (loss, grad_w, grad_b), _ = jax.lax.scan(block, zero, (p.x, p.y, p.weight))
    loss = loss + p.lam / 2 * (w**2).sum(axis=1)
    grad_v = p.scale * exact(grad_w + p.lam[:, None] * w, p.basis)
    return loss, jnp.concatenate([grad_v, (p.scale_b * grad_b)[:, None]], axis=1)
