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
Rows are centred first; that changes b, not w. The work is done in float32. Columns that are not at the optimum by then
(more features than rows and a small λ) are finished in float64: in the span of their rows if those are fewer than the
features (`fmcache.probe.newton`, which also takes columns of a handful of rows from the start), else with a Hessian of
their own (`fmcache.probe.refine`) if that is cheap, else by more passes, if the rows are not too many for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmcache.parallel import side_by_side
from fmcache.probe.centred import Centred, Matrix, Streamed, centre
from fmcache.probe.lbfgs import minimise, minimise_streamed
from fmcache.probe.newton import AT_ONCE, newton
from fmcache.probe.refine import affordable, flatness, refine
from fmcache.shapes import Bool, Float

TOLERANCE = 2e-6
PASSES = (60, 400)  # at most, in float32 and then in float64
COARSE = 1e-3  # the tolerance with bfloat16 rows, whose products are good to three digits
_GROUP = 4  # penalties that are fitted together
PRECISIONS = ("float32", "bfloat16")
_STREAMED_VALUES = 1 << 27  # rows of so many values are read again for passes in float64


@dataclass(frozen=True)
class Fit:
    """Coefficients of every penalty (m) and label (c); logits are ``x @ w[j, l] + b[j, l]``.

    Attributes
    ----------
    w : [m, c, d] float64. b : [m, c] float64.
    gradient : [m, c], norm of the gradient in the preconditioned variables at the end.
    converged : [m, c], whether that is below the tolerance.
    passes : how often the data were read.
    excess : [m, c], with bfloat16 rows: an estimate of F - F* in float32, |g|²/2; else zeros.
    """

    w: Float[np.ndarray, "m c d"]
    b: Float[np.ndarray, "m c"]
    gradient: Float[np.ndarray, "m c"]
    converged: Bool[np.ndarray, "m c"]
    passes: int
    excess: Float[np.ndarray, "m c"]


def fit_logistic(
    x: Matrix | Centred,
    y: Float[np.ndarray, "n c"],
    penalties: Sequence[float],
    *,
    weights: Float[np.ndarray, "n c"] | None = None,
    tolerance: float = TOLERANCE,
    precision: str = "float32",
) -> Fit:
    """Fit all labels under all penalties.

    Parameters
    ----------
    x : rows, or what `centre` made of them (to fit more labels on the same rows).
    y : 0, 1, or NaN where the label is unknown; each label needs both classes.
    penalties : λ > 0, per sample, on the scale of x.
    weights : of each row in each label's mean loss, ≥ 0 (a row that counts twice has twice the weight); None: all 1.
    tolerance : of the gradient's norm in the preconditioned variables.
    precision : of the rows in the products, ``float32`` or ``bfloat16`` (half the memory; sums stay in float32). The
        price of the latter is measured in one more pass and returned as `Fit.excess`.

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
    if precision not in PRECISIONS:
        raise ValueError(f"precision is one of {', '.join(PRECISIONS)}")
    prevalence = positive / weighed
    weight /= weighed
    coarse = precision == "bfloat16"
    count = (weight > 0).sum(axis=0)
    few = (count <= min(AT_ONCE, data.mean.size)) & (not coarse and not isinstance(data.blocks, Streamed))
    found = _empty(lam.size, y.shape[1], data.mean.size)
    for columns, solve in ((few, _few), (~few, _many)):
        if columns.any():
            asked = _Ask(data, truth[:, columns], weight[:, columns], prevalence[columns], lam)
            part = solve(asked, tolerance, coarse)
            for whole, piece in zip(found[:-1], part[:-1], strict=True):
                whole[:, columns] = piece
            found = found._replace(passes=found.passes + part.passes)
    w, b = found.w, found.b - found.w @ data.mean
    aim = COARSE * 10 if coarse else tolerance
    return Fit(w, b, found.gradient, found.gradient <= aim, found.passes, found.excess)


class _Found(NamedTuple):
    """w [m, c, d] and b of *centred* rows, gradient and excess [m, c], passes."""

    w: np.ndarray
    b: np.ndarray
    gradient: np.ndarray
    excess: np.ndarray
    passes: int


def _empty(m: int, c: int, d: int) -> _Found:
    return _Found(np.empty((m, c, d)), np.empty((m, c)), np.empty((m, c)), np.zeros((m, c)), 0)


def _few(ask: _Ask, tolerance: float, coarse: bool) -> _Found:
    """Columns that a handful of rows train: no pass over the others' rows, and nothing to compile."""
    m, c, d = len(ask.lam), len(ask.prevalence), ask.data.mean.size
    found = _empty(m, c, d)

    def solved(l: int) -> int:
        start = np.zeros((m, d)), np.full(m, np.log(ask.prevalence[l] / (1 - ask.prevalence[l])))
        w, b, gradient, steps = _newton(ask, l, ask.lam, *start, tolerance)
        found.w[:, l], found.b[:, l], found.gradient[:, l] = w, b, gradient
        return steps

    return found._replace(passes=max(side_by_side(solved, range(c))))


def _newton(
    ask: _Ask, l: int, lam: np.ndarray, w: np.ndarray, b: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    rows = np.flatnonzero(ask.weight[:, l] > 0)
    x = ask.data.blocks.reshape(-1, ask.data.mean.size)[rows]  # type: ignore[union-attr]
    return newton(x, ask.truth[rows, l], ask.weight[rows, l], lam, w, b, tolerance)


def _many(ask: _Ask, tolerance: float, coarse: bool) -> _Found:
    """The eigenbasis, float32, and whatever the last digits need."""
    data, weight, prevalence, lam = ask.data, ask.weight, ask.prevalence, ask.lam
    m, c, d = len(lam), len(prevalence), data.mean.size
    v = np.zeros((m, c, d + 1))
    v[..., -1] = np.log(prevalence / (1 - prevalence)) * np.sqrt(prevalence * (1 - prevalence))
    v, gradient, passes = _path(ask, v, max(tolerance, COARSE) if coarse else tolerance, coarse)
    excess = np.zeros_like(gradient)
    scale, scale_b = _scales(data, prevalence, lam)
    w, b = (v[..., :-1] * scale) @ data.basis.T, v[..., -1] * scale_b
    if coarse:
        _, gradient, more = _solve(ask, v, np.inf, jnp.float32, _place(ask, jnp.float32))
        return _Found(w, b, gradient, gradient**2 / 2, passes + more)
    if affordable(data, gradient.size):
        gradient = gradient / np.sqrt(flatness(data, weight, prevalence * (1 - prevalence), w, b))
    late = np.nonzero(gradient > tolerance)
    if len(late[0]) and not affordable(data, len(late[0])) and in_float64(data):
        j, l = (np.unique(each) for each in late)
        grid = np.ix_(j, l)
        some = _Ask(data, ask.truth[:, l], weight[:, l], prevalence[l], lam[j])
        with jax.enable_x64(True):
            v[grid], gradient[grid], more = _solve(
                some, v[grid], tolerance / 10, jnp.float64, _place(some, jnp.float64)
            )
        passes += more
        w, b = (v[..., :-1] * scale) @ data.basis.T, v[..., -1] * scale_b
    elif len(late[0]) and affordable(data, len(late[0])):
        passes += _finish_late(ask, late, w, b, gradient, tolerance)
    return _Found(w, b, gradient, excess, passes)


def _finish_late(
    ask: _Ask,
    late: tuple[np.ndarray, ...],
    w: np.ndarray,
    b: np.ndarray,
    gradient: np.ndarray,
    tolerance: float,
) -> int:
    """In float64 and in place: in the span of a column's rows if features are more, else by `refine`; the passes."""
    count = (ask.weight > 0).sum(axis=0)
    inside = count[late[1]] <= ask.data.mean.size

    def solved(l: int) -> int:
        j = late[0][late[1] == l]
        w[j, l], b[j, l], gradient[j, l], steps = _newton(ask, l, ask.lam[j], w[j, l], b[j, l], tolerance)
        return steps

    passes = max(side_by_side(solved, np.unique(late[1][inside]).tolist()), default=0)
    rest = tuple(each[~inside] for each in late)

    def told(columns: Any) -> tuple[np.ndarray, np.ndarray]:
        l = rest[1][columns]
        return ask.truth[:, l].astype(np.float64), ask.weight[:, l]

    if len(rest[0]):
        w[rest], b[rest], gradient[rest], more = refine(
            _loss, ask.data, told, w[rest], b[rest], ask.lam[rest[0]], tolerance
        )
        passes += more
    return passes


def in_float64(data: Centred) -> bool:
    """Whether passes in float64 may follow those in float32."""
    return not isinstance(data.blocks, Streamed) or data.blocks.size <= _STREAMED_VALUES


def _loss(told: tuple[Any, Any], z: Any) -> tuple[Any, Any, Any]:
    """Mean cross-entropy of each column with its derivatives in the logits [n, K]; told: truth and weight [n, K]."""
    y, weight = told
    score = jax.nn.sigmoid(z)
    loss = (weight * (jnp.logaddexp(0, z) - y * z)).sum(axis=0)
    return loss, weight * (score - y), weight * score * (1 - score)


class _Ask(NamedTuple):
    """What is to be fitted: truth and weight [n, c] (weight sums to 1 in each column), prevalence [c], lam [m]."""

    data: Centred
    truth: np.ndarray
    weight: np.ndarray
    prevalence: np.ndarray
    lam: np.ndarray


def _scales(data: Centred, prevalence: np.ndarray, lam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """w = basis (scale * v), b = scale_b * v: [m, c, d] and [c]."""
    spread = prevalence * (1 - prevalence)
    scale = 1 / np.sqrt(spread[None, :, None] * data.variances[None, None, :] + lam[:, None, None])
    return scale, 1 / np.sqrt(spread)


def _path(ask: _Ask, start: np.ndarray, tolerance: float, coarse: bool) -> tuple[np.ndarray, np.ndarray, int]:
    """`_solve` in float32, a few penalties at a time from the largest on, each group from where the last one ended.

    A column that is done waits for the slowest of its group, and neighbours on the path are near each other: 16
    penalties take half the work that they take in one group. Rows that are read again in each pass have one group.
    """
    order = np.argsort(-ask.lam, kind="stable")
    groups = 1 if isinstance(ask.data.blocks, Streamed) else -(-len(order) // _GROUP)
    scale, _ = _scales(ask.data, ask.prevalence, ask.lam)
    placed = _place(ask, jnp.float32, coarse)
    v, gradient, passes, ended = start.copy(), np.empty(start.shape[:2]), 0, 0
    for group in np.array_split(order, groups):
        v[group], gradient[group], more = _solve(
            ask._replace(lam=ask.lam[group]), v[group], tolerance, jnp.float32, placed
        )
        passes += more
        ended += len(group)
        last, rest = group[-1], order[ended:]
        v[rest] = v[last]
        v[rest, :, :-1] *= scale[last] / scale[rest]  # the same w
    return v, gradient, passes


class _Placed(NamedTuple):
    """What is read in each pass: x [B, r, d] on the device or `Streamed`, its dtype, y and weight [B, c, r]."""

    x: Any
    kind: Any
    y: Any
    weight: Any


def _place(ask: _Ask, dtype: Any, coarse: bool = False) -> _Placed:
    blocks = ask.data.blocks
    count, rows, _ = blocks.shape
    y, weight = (_blocked(values, count, rows, dtype) for values in (ask.truth, ask.weight))
    kind = jnp.bfloat16 if coarse else jnp.float32  # and float64 in `_add`, block by block
    if isinstance(blocks, Streamed):
        return _Placed(blocks, kind, y, weight)
    return _Placed(ask.data.on_device(kind), kind, jnp.asarray(y), jnp.asarray(weight))


def _solve(
    ask: _Ask, start: np.ndarray, tolerance: float, dtype: Any, placed: _Placed
) -> tuple[np.ndarray, np.ndarray, int]:
    """Minimise from `start` [m, c, d+1] in one dtype; returns v, the gradient's norms [m, c] and the passes."""
    m, c, width = start.shape
    scale, scale_b = _scales(ask.data, ask.prevalence, ask.lam)
    columns = _Columns(
        basis=jnp.asarray(ask.data.basis, dtype),
        scale=jnp.asarray(scale.reshape(m * c, width - 1), dtype),
        scale_b=jnp.asarray(np.tile(scale_b, m), dtype),
        lam=jnp.asarray(np.repeat(ask.lam, c), dtype),
    )
    v0 = jnp.asarray(start.reshape(m * c, width), dtype)
    aim = jnp.asarray(tolerance, dtype)
    limit = PASSES[dtype == jnp.float64]
    if isinstance(placed.x, Streamed):

        def evaluate(v: Any) -> tuple[Any, Any]:
            w, b = _UNPACK(columns, v)
            sums = _zeros(w)
            for index, x in enumerate(placed.x):
                block = (jnp.asarray(x, placed.kind), placed.y[index], placed.weight[index])
                sums = _ADD(sums, block, w, b)
            return _FINISH(columns, w, sums)

        v, gradient, passes = minimise_streamed(evaluate, v0, aim / 2, limit)  # no refinement will follow
    else:
        problem = _Problem(placed.x, placed.y, placed.weight, columns)
        v, gradient, passes = minimise(_evaluate, problem, v0, aim, limit)
    return (
        np.asarray(v, np.float64).reshape(m, c, width),
        np.asarray(gradient, np.float64).reshape(m, c),
        int(passes),
    )


def _blocked(values: np.ndarray, count: int, rows: int, dtype: Any) -> np.ndarray:
    """[n, c] → [B, c, r]."""
    padded = np.zeros((count * rows, values.shape[1]), dtype)
    padded[: len(values)] = values
    return np.ascontiguousarray(padded.reshape(count, rows, -1).swapaxes(1, 2))


class _Columns(NamedTuple):
    """basis [d, d], scale [K, d], scale_b [K], lam [K]; column k = penalty * c + label."""

    basis: Any
    scale: Any
    scale_b: Any
    lam: Any


class _Problem(NamedTuple):
    """What a pass needs; passed to the compiled program as arguments, never closed over.

    x [B, r, d], y and weight [B, c, r] (weight 1/n_c where known, else 0).
    """

    x: Any
    y: Any
    weight: Any
    columns: _Columns


_exact = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def _unpack(p: _Columns, v: Any) -> tuple[Any, Any]:
    """w [K, d] and b [K] of the centred rows."""
    return _exact(p.scale * v[:, :-1], p.basis.T), p.scale_b * v[:, -1]


def _zeros(w: Any) -> tuple[Any, Any, Any]:
    k = w.shape[0]
    return jnp.zeros(k, w.dtype), jnp.zeros_like(w), jnp.zeros(k, w.dtype)


def _add(sums: tuple[Any, Any, Any], rows: tuple[Any, Any, Any], w: Any, b: Any) -> tuple[Any, Any, Any]:
    """Loss [K] and its gradients in w [K, d] and b [K], with one more block's rows."""
    loss, grad_w, grad_b = sums
    x, y, weight = rows
    x = x if x.dtype == jnp.bfloat16 else x.astype(w.dtype)
    k, c = w.shape[0], y.shape[0]
    product = partial(_exact, preferred_element_type=w.dtype)
    # logits by columns: as XLA on CPU has it, the passes of 14 to 224 columns take a quarter less than with z [r, k]
    z = (product(w.astype(x.dtype), x.T) + b[:, None]).reshape(k // c, c, x.shape[0])
    y, weight = y[None], weight[None]
    small = jnp.exp(-jnp.abs(z))
    softplus = jnp.maximum(z, 0) + jnp.log1p(small)
    sigmoid = jnp.where(z >= 0, 1 / (1 + small), small / (1 + small))
    residual = (weight * (sigmoid - y)).reshape(k, x.shape[0])
    loss = loss + (weight * (softplus - y * z)).sum(axis=2).reshape(k)
    return loss, grad_w + product(residual.astype(x.dtype), x), grad_b + residual.sum(axis=1)


def _finish(p: _Columns, w: Any, sums: tuple[Any, Any, Any]) -> tuple[Any, Any]:
    """F [K] and its gradient in v [K, d+1]."""
    loss, grad_w, grad_b = sums
    loss = loss + p.lam / 2 * (w**2).sum(axis=1)
    grad_v = p.scale * _exact(grad_w + p.lam[:, None] * w, p.basis)
    return loss, jnp.concatenate([grad_v, (p.scale_b * grad_b)[:, None]], axis=1)


_UNPACK, _ADD, _FINISH = jax.jit(_unpack), jax.jit(_add), jax.jit(_finish)


def _evaluate(p: _Problem, v: Any) -> tuple[Any, Any]:
    """F [K] and its gradient in v [K, d+1], in one pass over the blocks."""
    w, b = _unpack(p.columns, v)
    sums, _ = jax.lax.scan(lambda sums, rows: (_add(sums, rows, w, b), None), _zeros(w), (p.x, p.y, p.weight))
    return _finish(p.columns, w, sums)
