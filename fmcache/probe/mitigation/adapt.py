"""Prototypes trained under a method that needs to know groups in every step: clip-adapt with group-dro, dp, eqodds.

Logits, start and unit norm are those of `fmcache.probe.prototypes`, the steps those of protocol ``paper``
(`fmcache.probe.mitigation.minibatch`: AdamW, cosine, 100 epochs, batch 128), on embeddings as stored; the last epoch
counts. group-dro is its algorithm 1, with batches of equal shares of the groups. dp and eqodds add their penalty on
means of σ(z) *over the batch*::

    L + γ/2 · 1/G Σ_g (P_g - P̄)²        G: groups (and for eqodds cells of one label) that the batch holds

A mean of b rows carries a variance of about 1/b whatever the prototypes are: small groups make the penalty noisy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmcache.probe.mitigation.cells import Cells
from fmcache.probe.mitigation.minibatch import Recipe, draw_equal_groups, draw_shuffled, train
from fmcache.probe.problem import Problem, Prototypes, Solution
from fmcache.probe.prototypes import solution_of

RECIPE = Recipe(rate=2.5e-4)


@dataclass(frozen=True)
class Logits:
    """Of prototypes p [q, c, 2, d] for rows x [c, B, tokens · d]: [q, c, B]; hashable, so that it compiles once."""

    scale: float
    tokens: int

    def __call__(self, params: Any, x: Any) -> Any:
        u = params["p"]
        u = u / jnp.maximum(jnp.linalg.norm(u, axis=-1, keepdims=True), 1e-12)
        rows = x.reshape(*x.shape[:2], self.tokens, -1)
        rows = rows / jnp.maximum(jnp.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
        cosine = jnp.einsum("cbkd,qctd->qcbkt", rows, u).max(axis=3)
        return self.scale * (cosine[..., 1] - cosine[..., 0])


@dataclass(frozen=True)
class Penalised:
    """Gradient of the batch's mean loss plus γ/2 times the variance over groups of its mean scores."""

    logits: Logits
    groups: int
    by_label: bool

    def __call__(self, params: Any, state: Any, batch: Any, coefficient: Any) -> tuple[Any, Any]:
        return jax.grad(lambda p: self.losses(p, batch, coefficient).sum())(params), state

    def losses(self, params: Any, batch: Any, coefficient: Any) -> Any:
        """[q, c]; batch: x [c, B, d], y [c, B], group [c, B], -1 unknown; coefficient [q]."""
        x, y, group = batch
        z = self.logits(params, x)
        loss = (jnp.logaddexp(0, z) - y[None] * z).mean(axis=2)
        member = jax.nn.one_hot(group, self.groups, dtype=z.dtype)  # [c, B, g]
        parts = [member * (y == truth)[:, :, None] for truth in (0, 1)] if self.by_label else [member]
        penalty = sum(_variance(jax.nn.sigmoid(z), part) for part in parts)
        return loss + coefficient[:, None] / 2 * penalty


def _variance(score: Any, member: Any) -> Any:
    """Over the groups that are there, of the mean score [q, c]; 0 for fewer than two. score [q, c, B]."""
    count = member.sum(axis=1)  # [c, g]
    there = (count > 0).astype(score.dtype)[None]
    mean = jnp.einsum("qcb,cbg->qcg", score, member) / jnp.maximum(count, 1)[None]
    groups = jnp.maximum(there.sum(axis=2, keepdims=True), 1)
    middle = (mean * there).sum(axis=2, keepdims=True) / groups
    return ((mean - middle) ** 2 * there).sum(axis=2) / groups[:, :, 0]


def adapt_penalised(problem: Problem, of: Prototypes, by_label: bool) -> Solution:
    """dp, or with `by_label` eqodds."""
    coefficients = np.asarray(problem.grid["coefficient"], np.float32)
    step = Penalised(Logits(of.scale, of.tokens), len(problem.groups), by_label)
    known = [np.flatnonzero(~np.isnan(y)) for y in problem.train.y.T]
    return _train(
        problem, of, step, (), jnp.asarray(coefficients),
        lambda column, rng, count: draw_shuffled(known[column], rng, count),
    )  # fmt: skip


def adapt_worst(
    problem: Problem,
    of: Prototypes,
    step: Callable[[Logits], Callable[..., Any]],
    cells: Cells,
    by_label: bool,
) -> Solution:
    """group-dro, or with `by_label` group-dro-label; `step` gives the method's step for some logits."""
    adjustments, (rate,) = np.asarray(problem.grid["coefficient"], np.float32), problem.grid["step"]
    size = cells.size.reshape(len(cells.size), -1) if by_label else cells.size.sum(axis=2)  # [c, g]
    code = cells.code if by_label else cells.code // 2
    there = size > 0
    q = np.broadcast_to(there / there.sum(axis=1, keepdims=True), (len(adjustments), *there.shape))
    adjustment = (adjustments[:, None, None] / np.sqrt(np.maximum(size, 1))[None]).astype(np.float32)
    return _train(
        problem, of, step(Logits(of.scale, of.tokens)), q.astype(np.float32), (adjustment, np.float32(rate)),
        lambda column, rng, count: draw_equal_groups(code[:, column], rng, count),
    )  # fmt: skip


def _train(problem: Problem, of: Prototypes, step: Any, state: Any, fixed: Any, draw: Any) -> Solution:
    coefficients = problem.grid["coefficient"]
    c, d = problem.train.y.shape[1], problem.train.x.shape[1]
    as_stored = np.zeros((c, d)), np.ones((c, d))
    start = {"p": np.broadcast_to(of.start[0], (len(coefficients), *of.start[0].shape)).astype(np.float32)}
    params, _ = train(
        step,
        start,
        state,
        fixed,
        problem.train,
        *as_stored,
        RECIPE,
        draw,
        [at.seed for at in problem.columns],
    )
    hyper = tuple({"coefficient": float(value)} for value in coefficients)
    facts = {"recipe": RECIPE.words().replace("features standardised", "embeddings as stored")}
    return solution_of(params["p"].astype(np.float64), of, hyper, facts)
