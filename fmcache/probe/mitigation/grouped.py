"""Minimise any smooth function of group means, for all columns and coefficients in one program.

For column l and coefficient γ, over cells s of group × label::

    F(w, b) = Φ(L, L_s, P_s; γ) + λ/2 |w|²        L   mean cross-entropy of all rows with a known label
                                                  L_s mean cross-entropy of the cell's rows
                                                  P_s mean of σ(z) over the cell's rows

Φ couples the rows, so that dF/dz_i needs the means first: a pass reads the data twice, once for the means and, with
Φ's derivatives, once for the gradient::

    dF/dz_i = (Φ_L u_i + Φ_{L_s} u_i^s) (σ(z_i) - y_i) + Φ_{P_s} u_i^s σ(z_i)(1 - σ(z_i))     s: the cell of row i

(u: the row's share of its mean). The change of variables and the L-BFGS are those of `fmcache.probe.logistic`, where
the curvature of L alone is the identity. Columns start from the unconstrained optimum; those that are not at their own
in float32 are finished in float64, with the curvature (Φ_L u_i + Φ_{L_s} u_i^s) σ(1 - σ) for `fmcache.probe.refine`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmcache.probe.lbfgs import minimise
from fmcache.probe.logistic import fit_logistic, in_float64
from fmcache.probe.mitigation.cells import Cells
from fmcache.probe.problem import Problem
from fmcache.probe.refine import affordable, flatness, refine
from fmcache.shapes import Bool, Float, Int

TOLERANCE = 1e-5
PASSES = (150, 600)  # in float32 and then in float64


class Means(NamedTuple):
    """What Φ is given: loss [K], and of each cell (s = 2 · group + y) loss, score and size [s, K].

    A cell without rows has size 0 and means of 0.
    """

    loss: Any
    cell_loss: Any
    cell_score: Any
    size: Any


Phi = Callable[[Means, Any], Any]
"""(means, settings [K, p]) → [K]; a plain function of JAX arrays, one column at a time."""


class Objective(NamedTuple):
    """Arrays of the compiled program: x [B, r, d]; y, share, inside [B, c, r]; code [B, c, r] int32; size [s, K]; …

    share is the row's share of its column's mean loss; inside, of its cell's means.
    """

    x: Any
    y: Any
    share: Any
    inside: Any
    code: Any
    size: Any
    basis: Any
    scale: Any
    scale_b: Any
    lam: Any
    settings: Any


@dataclass(frozen=True)
class Grouped:
    """w [q, m, c, d], b [q, m, c], converged [q, m, c] for settings (q), penalties (m), columns (c)."""

    w: Float[np.ndarray, "q m c d"]
    b: Float[np.ndarray, "q m c"]
    converged: Bool[np.ndarray, "q m c"]
    passes: int


def evaluate(phi: Phi, p: Objective, v: Any) -> tuple[Any, Any]:
    """F [K] and its gradient in v [K, d+1]; column k = (setting · m + penalty) · c + label."""
    k, c = v.shape[0], p.y.shape[1]
    cells = p.size.shape[0]
    exact = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    w = exact(p.scale * v[:, :-1], p.basis.T)
    b = p.scale_b * v[:, -1]

    def logits(x: Any) -> Any:
        return (exact(w, x.astype(w.dtype).T) + b[:, None]).reshape(k // c, c, x.shape[0])

    def means(carry: tuple[Any, Any, Any], xs: tuple[Any, ...]) -> tuple[tuple[Any, Any, Any], None]:
        x, y, share, inside, code = xs
        z = logits(x)
        small = jnp.exp(-jnp.abs(z))
        loss = jnp.maximum(z, 0) + jnp.log1p(small) - y[None] * z
        score = jnp.where(z >= 0, 1 / (1 + small), small / (1 + small))
        masks = [jnp.where(code == s, inside, 0)[None] for s in range(cells)]
        of_cell = jnp.stack([(mask * loss).sum(axis=2).reshape(k) for mask in masks])
        scores = jnp.stack([(mask * score).sum(axis=2).reshape(k) for mask in masks])
        whole = (share[None] * loss).sum(axis=2).reshape(k)
        return (carry[0] + whole, carry[1] + of_cell, carry[2] + scores), None

    data = (p.x, p.y, p.share, p.inside, p.code)
    zero = jnp.zeros((cells, k), w.dtype)
    (loss, cell_loss, cell_score), _ = jax.lax.scan(means, (jnp.zeros(k, w.dtype), zero, zero), data)

    def outer(loss: Any, cell_loss: Any, cell_score: Any) -> Any:
        return phi(Means(loss, cell_loss, cell_score, p.size), p.settings)

    value, pull = jax.vjp(outer, loss, cell_loss, cell_score)
    d_loss, d_cell_loss, d_cell_score = (
        each.reshape(*each.shape[:-1], k // c, c, 1) for each in pull(jnp.ones_like(value))
    )

    def gradient(carry: tuple[Any, Any], xs: tuple[Any, ...]) -> tuple[tuple[Any, Any], None]:
        x, y, share, inside, code = xs
        z = logits(x)
        small = jnp.exp(-jnp.abs(z))
        score = jnp.where(z >= 0, 1 / (1 + small), small / (1 + small))
        on_loss = share[None] * d_loss
        on_score = jnp.zeros_like(on_loss)
        for s in range(cells):
            mask = jnp.where(code == s, inside, 0)[None]
            on_loss = on_loss + mask * d_cell_loss[s]
            on_score = on_score + mask * d_cell_score[s]
        residual = (on_loss * (score - y[None]) + on_score * score * (1 - score)).reshape(k, x.shape[0])
        return (carry[0] + exact(residual, x.astype(w.dtype)), carry[1] + residual.sum(axis=1)), None

    (grad_w, grad_b), _ = jax.lax.scan(gradient, (jnp.zeros_like(w), jnp.zeros(k, w.dtype)), data)
    value = value + p.lam / 2 * (w**2).sum(axis=1)
    grad_v = p.scale * exact(grad_w + p.lam[:, None] * w, p.basis)
    return value, jnp.concatenate([grad_v, (p.scale_b * grad_b)[:, None]], axis=1)


class _Told(NamedTuple):
    """What the loss of refined columns reads: y, share, inside, code [n, K], size [s, K], settings [K, p]."""

    y: Any
    share: Any
    inside: Any
    code: Any
    size: Any
    settings: Any


@cache
def _objective(phi: Phi) -> Callable[[Objective, Any], tuple[Any, Any]]:
    return lambda p, v: evaluate(phi, p, v)


@cache
def _loss(phi: Phi) -> Callable[[_Told, Any], tuple[Any, Any, Any]]:
    """Φ of all rows at once, its gradient in the logits [n, K], and the curvature that is never negative."""

    def loss(told: _Told, z: Any) -> tuple[Any, Any, Any]:
        score = jax.nn.sigmoid(z)
        each = jnp.logaddexp(0, z) - told.y * z
        cells = range(told.size.shape[0])
        masks = [jnp.where(told.code == s, told.inside, 0) for s in cells]

        def outer(whole: Any, of_cell: Any, scores: Any) -> Any:
            return phi(Means(whole, of_cell, scores, told.size), told.settings)

        value, pull = jax.vjp(
            outer,
            (told.share * each).sum(axis=0),
            jnp.stack([(mask * each).sum(axis=0) for mask in masks]),
            jnp.stack([(mask * score).sum(axis=0) for mask in masks]),
        )
        d_whole, d_cell, d_score = pull(jnp.ones_like(value))
        on_loss = told.share * d_whole[None] + sum(masks[s] * d_cell[s][None] for s in cells)
        on_score = sum(masks[s] * d_score[s][None] for s in cells)
        slope = score * (1 - score)
        return value, on_loss * (score - told.y) + on_score * slope, on_loss * slope

    return loss


def fit_grouped(
    phi: Phi,
    problem: Problem,
    cells: Cells,
    stages: Sequence[Float[np.ndarray, "q p"]],
) -> Grouped:
    """Minimise under every setting and penalty, from the plain optimum, through the stages one after another.

    Parameters
    ----------
    phi : a module-level function; its program is compiled once.
    stages : the settings; each stage starts where the one before ended (for a smoothing that becomes sharper).
    """
    plain = fit_logistic(problem.data, problem.train.y, problem.penalties.tolist(), weights=problem.weights)
    task = _Task.of(problem, cells)
    v = np.tile(task.inward(plain.w, plain.b), (len(stages[0]), 1, 1, 1))
    every, passes = np.arange(len(problem.columns)), 0
    for settings in stages:
        v, norm, n = task.solve(_objective(phi), v, settings, every, np.float32)
        passes += n
    w, b = task.outward(v)
    if affordable(problem.data, norm.size):
        norm = norm / np.sqrt(
            flatness(problem.data, task.share, task.scale_b**-2.0, w, b + w @ problem.data.mean)
        )
    late = np.nonzero(norm > TOLERANCE)
    if len(late[0]) and affordable(problem.data, len(late[0])):

        def told(columns: Int[np.ndarray, " k"]) -> _Told:
            j, _, l = (each[columns] for each in late)
            return task.told(stages[-1][j], l)

        mean = problem.data.mean
        some, at, norm[late], n = refine(
            _loss(phi),
            problem.data,
            told,
            w[late],
            b[late] + w[late] @ mean,
            problem.penalties[late[1]],
            TOLERANCE,
        )
        w[late], b[late] = some, at - some @ mean
        passes += n
    elif len(late[0]) and in_float64(problem.data):
        l = np.unique(late[2])
        with jax.enable_x64(True):
            v[:, :, l], norm[:, :, l], n = task.solve(_objective(phi), v[:, :, l], stages[-1], l, np.float64)
        w, b = task.outward(v)
        passes += n
    return Grouped(w, b, norm <= TOLERANCE, passes)


@dataclass(frozen=True)
class _Task:
    """The arrays of a problem in float64, and the change of variables w = basis (scale v), b = scale_b v."""

    problem: Problem
    share: np.ndarray  # [n, c]
    inside: np.ndarray  # [n, c]
    cells: Cells
    scale: np.ndarray  # [m, c, d]
    scale_b: np.ndarray  # [c]

    @classmethod
    def of(cls, problem: Problem, cells: Cells) -> _Task:
        y = problem.train.y
        weight = np.where(np.isnan(y), 0.0, problem.weights)
        share = weight / weight.sum(axis=0)
        count = 2 * cells.size.shape[1]
        total = np.stack([(weight * (cells.code == s)).sum(axis=0) for s in range(count)])  # [s, c]
        own = np.take_along_axis(total, np.maximum(cells.code, 0), axis=0)
        inside = np.where(cells.code >= 0, weight / np.where(own > 0, own, 1), 0)
        prevalence = (share * np.nan_to_num(y)).sum(axis=0)
        spread = prevalence * (1 - prevalence)
        curvature = spread[None, :, None] * problem.data.variances + problem.penalties[:, None, None]
        return cls(problem, share, inside, cells, 1 / np.sqrt(curvature), 1 / np.sqrt(spread))

    def inward(self, w: np.ndarray, b: np.ndarray) -> np.ndarray:
        """w [m, c, d], b [m, c] → v [m, c, d+1]."""
        data = self.problem.data
        return np.concatenate(
            [w @ data.basis / self.scale, ((b + w @ data.mean) / self.scale_b)[..., None]], axis=2
        )

    def outward(self, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """v [q, m, c, d+1] → w [q, m, c, d], b [q, m, c]."""
        data = self.problem.data
        w = (v[..., :-1] * self.scale) @ data.basis.T
        return w, v[..., -1] * self.scale_b - w @ data.mean

    def told(self, settings: np.ndarray, l: np.ndarray) -> _Told:
        """Of the columns l, each under its own settings [K, p]."""
        y = np.nan_to_num(self.problem.train.y[:, l]).astype(np.float64)
        size = self.cells.size.reshape(len(self.cells.size), -1)[l].T.astype(np.float64)
        code = self.cells.code[:, l].astype(np.int32)
        return _Told(y, self.share[:, l], self.inside[:, l], code, size, settings.astype(np.float64))

    def solve(
        self, objective: Any, v: np.ndarray, settings: np.ndarray, l: np.ndarray, dtype: Any
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """From v [q, m, len(l), d+1] for the columns l: v, norm of the gradient, passes."""
        data, (q, m, c, width) = self.problem.data, v.shape
        count, rows, _ = data.blocks.shape

        def blocked(values: np.ndarray, fill: float, dtype: Any) -> Any:
            padded = np.full((count * rows, c), float(fill))
            padded[: len(values)] = values[:, l]
            return jnp.asarray(padded.reshape(count, rows, c).swapaxes(1, 2), dtype)

        p = Objective(
            x=data.on_device(np.float32),
            y=blocked(np.nan_to_num(self.problem.train.y), 0, dtype),
            share=blocked(self.share, 0, dtype),
            inside=blocked(self.inside, 0, dtype),
            code=blocked(self.cells.code, -1, jnp.int32),
            size=jnp.asarray(np.tile(self.cells.size.reshape(len(self.share.T), -1)[l].T, q * m), dtype),
            basis=jnp.asarray(data.basis, dtype),
            scale=jnp.asarray(np.tile(self.scale[:, l], (q, 1, 1)).reshape(-1, width - 1), dtype),
            scale_b=jnp.asarray(np.tile(self.scale_b[l], q * m), dtype),
            lam=jnp.asarray(np.tile(np.repeat(self.problem.penalties, c), q), dtype),
            settings=jnp.asarray(np.repeat(settings, m * c, axis=0), dtype),
        )
        limit = PASSES[dtype is np.float64]
        start = jnp.asarray(v.reshape(-1, width), dtype)
        out, norm, passes = minimise(objective, p, start, jnp.asarray(TOLERANCE, dtype), limit)
        shape = (q, m, c)
        return (
            np.array(out, np.float64).reshape(*shape, width),
            np.array(norm, np.float64).reshape(shape),
            int(passes),
        )
