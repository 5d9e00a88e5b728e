"""L2-regularised logistic regression of many labels under many penalties at once.

For every label c and penalty λ, over the rows i whose label is known (n_c of them)::

    F(w, b) = 1/n_c Σ_i [ log(1 + exp(z_i)) - y_i z_i ]  +  λ/2 |w|²,      z_i = x_i·w + b

The intercept is free. In scikit-learn's terms ``C = 1 / (λ n_c)``.

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

from fmcache.shapes import Bool, Float

TOLERANCE = 2e-6
PASSES = (60, 400)  # at most, in float32 and then in float64
HISTORY = 10
PATIENCE = 25  # passes without a better gradient: float32 can do no more
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
    tolerance: float = TOLERANCE,
) -> Fit:
    """Fit all labels under all penalties.

    Parameters
    ----------
    x : rows, or what `centre` made of them (to fit more labels on the same rows).
    y : 0, 1, or NaN where the label is unknown; each label needs both classes.
    penalties : λ > 0, per sample, on the scale of x.
    tolerance : of the gradient's norm in the preconditioned variables.

    Raises
    ------
    ValueError : a label without both classes, a value of y that is none of 0, 1, NaN, or a λ that is not positive.
    """
    data = x if isinstance(x, Centred) else centre(x)
    y = np.asarray(y, np.float32)
    known = ~np.isnan(y)
    truth = np.where(known, y, np.float32(0))
    if y.shape[0] != data.n:
        raise ValueError(f"{y.shape[0]} rows of labels for {data.n} rows of data")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("labels are 0, 1 or NaN")
    n_known, n_positive = known.sum(axis=0), truth.sum(axis=0, dtype=np.float64)
    if ((n_positive == 0) | (n_positive == n_known)).any():
        raise ValueError("each label needs both classes")
    lam = np.asarray(penalties, np.float64)
    if not (lam > 0).all():
        raise ValueError("penalties are positive")
    prevalence = n_positive / n_known
    v = np.zeros((lam.size, y.shape[1], data.mean.size + 1))
    v[..., -1] = np.log(prevalence / (1 - prevalence)) * np.sqrt(prevalence * (1 - prevalence))
    weight = known / n_known
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
    v, gradient, passes = _minimise(problem, v0, jnp.asarray(tolerance, dtype), limit)
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


class _State(NamedTuple):
    """v, gradient g, direction, pairs s and y (histories [h, K, d+1]); F, step, slope, … [K]."""

    v: Any
    f: Any
    g: Any
    direction: Any
    step: Any
    slope: Any
    s: Any
    y: Any
    rho: Any
    gamma: Any
    best: Any
    waited: Any
    done: Any
    passes: Any


def _direction(g: Any, s: Any, y: Any, rho: Any, gamma: Any, newest: Any) -> Any:
    """-H g by the two-loop recursion (Nocedal & Wright, algorithm 7.4); an unused pair has rho = 0."""

    def back(q: Any, age: Any) -> tuple[Any, Any]:
        j = (newest - age) % HISTORY
        alpha = rho[j] * (s[j] * q).sum(axis=1)
        return q - alpha[:, None] * y[j], alpha

    def forth(q: Any, item: tuple[Any, Any]) -> tuple[Any, None]:
        age, alpha = item
        j = (newest - age) % HISTORY
        beta = rho[j] * (y[j] * q).sum(axis=1)
        return q + s[j] * (alpha - beta)[:, None], None

    ages = jnp.arange(HISTORY, dtype=jnp.int32)
    q, alphas = jax.lax.scan(back, g, ages)
    q, _ = jax.lax.scan(forth, gamma[:, None] * q, (ages[::-1], alphas[::-1]))
    return -q


@partial(jax.jit, static_argnames="max_passes")
def _minimise(p: _Problem, start: Any, tolerance: Any, max_passes: int) -> tuple[Any, Any, Any]:
    """L-BFGS by column: each pass, a column accepts its step and takes a new direction, or shortens the step."""
    k, width = start.shape
    dtype = start.dtype

    def norm(g: Any) -> Any:
        return jnp.sqrt((g**2).sum(axis=1))

    def step(state: _State) -> _State:
        v = state.v + state.step[:, None] * state.direction
        f, g = _evaluate(p, v)
        noise = 16 * float(np.finfo(dtype).eps) * jnp.abs(state.f)
        slope = (g * state.direction).sum(axis=1)
        lower = f <= state.f + 1e-4 * state.step * state.slope
        flat = (f <= state.f + noise) & (jnp.abs(slope) <= 0.98 * jnp.abs(state.slope))
        moved = (lower | flat) & jnp.isfinite(f) & ~state.done
        change, bend = state.step[:, None] * state.direction, g - state.g
        curvature = (change * bend).sum(axis=1)
        length = (bend**2).sum(axis=1)
        usable = moved & (curvature > 1e-10 * length) & (length > 0)
        slot = state.passes % HISTORY
        s = state.s.at[slot].set(jnp.where(usable[:, None], change, 0))
        y = state.y.at[slot].set(jnp.where(usable[:, None], bend, 0))
        rho = state.rho.at[slot].set(jnp.where(usable, 1 / jnp.where(usable, curvature, 1), 0))
        gamma = jnp.where(usable, curvature / jnp.where(usable, length, 1), state.gamma)
        g = jnp.where(moved[:, None], g, state.g)
        fresh = _direction(g, s, y, rho, gamma, slot)
        fresh_slope = (fresh * g).sum(axis=1)
        downhill = fresh_slope < 0
        fresh = jnp.where(downhill[:, None], fresh, -g)
        fresh_slope = jnp.where(downhill, fresh_slope, -(g**2).sum(axis=1))
        rise = f - state.f - state.step * state.slope
        parabola = -state.slope * state.step / (2 * jnp.where(rise > 0, rise, 1))
        shrink = jnp.where(jnp.isfinite(parabola) & (rise > 0), jnp.clip(parabola, 0.1, 0.5), 0.1)
        size = norm(g)
        better = size < 0.9 * state.best
        waited = jnp.where(better, 0, state.waited + 1)
        shorter = state.step * shrink
        return _State(
            v=jnp.where(moved[:, None], v, state.v),
            f=jnp.where(moved, f, state.f),
            g=g,
            direction=jnp.where(moved[:, None], fresh, state.direction),
            step=jnp.where(moved, jnp.ones_like(shorter), shorter),
            slope=jnp.where(moved, fresh_slope, state.slope),
            s=s,
            y=y,
            rho=rho,
            gamma=gamma,
            best=jnp.minimum(state.best, size),
            waited=waited,
            done=state.done | (size <= tolerance) | (waited >= PATIENCE) | (~moved & (shorter < 1e-7)),
            passes=state.passes + 1,
        )

    f, g = _evaluate(p, start)
    pairs = jnp.zeros((HISTORY, k, width), dtype)
    ones = jnp.ones(k, dtype)
    first = _State(
        v=start,
        f=f,
        g=g,
        direction=-g,
        step=ones,
        slope=-(g**2).sum(axis=1),
        s=pairs,
        y=pairs,
        rho=jnp.zeros((HISTORY, k), dtype),
        gamma=ones,
        best=norm(g),
        waited=jnp.zeros(k, jnp.int32),
        done=norm(g) <= tolerance,
        passes=jnp.int32(0),
    )
    last = jax.lax.while_loop(lambda s: ~s.done.all() & (s.passes < max_passes), step, first)
    return last.v, norm(last.g), last.passes + 1
