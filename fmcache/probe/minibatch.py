"""The published recipes: a linear head trained by minibatches for 100 epochs. They stop short of the optimum.

``paper`` is FairMedFM as its paper says (appendix D.2.1): AdamW, cosine, batch 128, weight decay 0.05, rate 2.5e-4.
``fairmedfm`` is that repository's code at its defaults: SGD without momentum, batch 1024, weight decay 1e-4, rate 1e-4,
five epochs of warm-up and a cosine down to 1e-5. Biases are not decayed in either.

Both train two logits under cross-entropy. Only their difference u = w₁ - w₀ matters, and it can be trained alone::

    dL/dw₁ = -dL/dw₀ = g     so     u ← u - r (2 step(g) + decay · u)          step: Adam's, or g itself (both are odd)

which is what is done here, one column a label. A *stream* is a sequence of minibatches: columns of one seed that train
on the same rows with the same weights share it. Rows are gathered on the device, in one compiled loop an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmcache.probe.problem import Problem, Solution
from fmcache.shapes import Float, Int

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8
_WRITTEN_OUT = 32
EVERY = 5  # epochs between two heads that validation may choose


@dataclass(frozen=True)
class Recipe:
    """How to take steps; `adam` is AdamW, else plain SGD. Rates are of one of the two logits."""

    adam: bool
    rate: float
    least: float
    decay: float
    batch: int
    warmup: int = 0
    epochs: int = 100

    def rate_of(self, epoch: int) -> float:
        """Of an epoch (0 …): linear warm-up, then a half cosine down to `least`."""
        if self.warmup and epoch + 1 < self.warmup:
            return self.rate * (epoch + 1) / self.warmup
        first = self.warmup - 1 if self.warmup else 0
        share = (epoch - first) / (self.epochs - self.warmup) if self.warmup else epoch / self.epochs
        return self.least + (self.rate - self.least) / 2 * (1 + math.cos(math.pi * share))


RECIPES = {
    "paper": Recipe(adam=True, rate=2.5e-4, least=0.0, decay=0.05, batch=128),
    "fairmedfm": Recipe(adam=False, rate=1e-4, least=1e-5, decay=1e-4, batch=1024, warmup=5),
}


@dataclass(frozen=True)
class Stream:
    """Columns that see the same minibatches.

    Attributes
    ----------
    columns : their numbers. rows : [r], that can be drawn. weights : [r], chances; None: each row once an epoch.
    """

    columns: Int[np.ndarray, " l"]
    seed: int
    rows: Int[np.ndarray, " r"]
    weights: Float[np.ndarray, " r"] | None

    def orders(self, epochs: int) -> Iterator[Int[np.ndarray, " r"]]:
        """The rows in the order of their use, an epoch at a time."""
        rng = np.random.default_rng([self.seed, 7])
        for _ in range(epochs):
            if self.weights is None:
                yield rng.permutation(self.rows)
            else:
                chances = self.weights / self.weights.sum()
                yield rng.choice(self.rows, len(self.rows), p=chances)


def streams_of(problem: Problem, weights: Float[np.ndarray, "n c"]) -> list[Stream]:
    """The columns by seed, known rows and weights."""
    found: dict[tuple[int, bytes], list[int]] = {}
    known = ~np.isnan(problem.train.y)
    chance = np.where(known, weights, 0).astype(np.float32)
    for number, column in enumerate(problem.columns):
        found.setdefault((column.seed, chance[:, number].tobytes()), []).append(number)
    streams = []
    for (seed, _), numbers in found.items():
        own = chance[:, numbers[0]]
        rows = np.flatnonzero(own > 0)
        level = bool(np.all(own[rows] == own[rows[0]]))
        streams.append(Stream(np.array(numbers), seed, rows, None if level else own[rows].astype(np.float64)))
    return streams


def fit_minibatches(problem: Problem, weights: Float[np.ndarray, "n c"], recipe: Recipe) -> Solution:
    """Train every column by the recipe; hyper-parameters are the epochs that validation may choose."""
    streams = streams_of(problem, weights)
    d = problem.train.x.shape[1]
    widest = max(len(stream.columns) for stream in streams)
    batch = recipe.batch
    y = np.zeros((len(streams), len(problem.train.y), widest), np.float32)
    w = np.zeros((len(streams), widest, d), np.float32)
    b = np.zeros((len(streams), widest), np.float32)
    for t, stream in enumerate(streams):
        y[t, :, : len(stream.columns)] = np.nan_to_num(problem.train.y[:, stream.columns])
        for l, column in enumerate(stream.columns):
            w[t, l], b[t, l] = start(d, stream.seed, problem.columns[column].label)
    steps = max(-(-len(stream.rows) // batch) for stream in streams)
    head = _Head(jnp.asarray(w), jnp.asarray(b))
    zero = jax.tree.map(jnp.zeros_like, head)
    carry = (head, zero, zero, jnp.zeros(len(streams)))
    data = (jnp.asarray(np.asarray(problem.train.x, np.float32)), jnp.asarray(y))
    kept = []
    orders = [stream.orders(recipe.epochs) for stream in streams]
    for epoch in range(recipe.epochs):
        index = np.full((len(streams), steps * batch), -1, np.int32)
        for t, order in enumerate(orders):
            rows = next(order)
            index[t, : len(rows)] = rows
        turns = index.reshape(len(streams), steps, batch).swapaxes(0, 1)
        rate = np.float32(recipe.rate_of(epoch))
        carry = epoch_of(data, jnp.asarray(turns), rate, np.float32(recipe.decay), carry, adam=recipe.adam)
        if (epoch + 1) % EVERY == 0 or epoch + 1 == recipe.epochs:
            kept.append((epoch + 1, np.asarray(carry[0].w, np.float64), np.asarray(carry[0].b, np.float64)))
    c = len(problem.columns)
    out_w, out_b = np.empty((len(kept), c, d)), np.empty((len(kept), c))
    for m, (_, head_w, head_b) in enumerate(kept):
        for t, stream in enumerate(streams):
            out_w[m, stream.columns] = head_w[t, : len(stream.columns)]
            out_b[m, stream.columns] = head_b[t, : len(stream.columns)]
    return Solution(tuple({"epoch": float(epoch)} for epoch, _, _ in kept), out_w, out_b)


def start(d: int, seed: int, label: str) -> tuple[Float[np.ndarray, " d"], float]:
    """The difference of two logits' coefficients as a linear layer begins: each uniform in ±1/√d."""
    rng = np.random.default_rng([seed, *label.encode()])
    bound = 1 / math.sqrt(d)
    w, b = rng.uniform(-bound, bound, (2, d)), rng.uniform(-bound, bound, 2)
    return (w[1] - w[0]).astype(np.float32), float(b[1] - b[0])


class _Head(NamedTuple):
    """w [t, l, d], b [t, l]."""

    w: Any
    b: Any


def _each(product: Any, left: Any, right: Any) -> Any:
    """A product for each stream; a few are written out, because XLA on CPU has no fast batched product."""
    if left.shape[0] > _WRITTEN_OUT:
        return jax.vmap(product)(left, right)
    return jnp.stack([product(left[t], right[t]) for t in range(left.shape[0])])


@partial(jax.jit, static_argnames="adam")
def epoch_of(data: Any, index: Any, rate: Any, decay: Any, carry: Any, *, adam: bool) -> Any:
    """One compiled loop over index [steps, t, B]; -1 stands for no row. data: x [n, d], y [t, n, l]."""
    x, y = data

    def step(carry: Any, rows: Any) -> tuple[Any, None]:
        head, first, second, count = carry
        real = (rows >= 0).astype(x.dtype)  # [t, B]
        size = real.sum(axis=1)
        at = jnp.maximum(rows, 0)
        batch = x[at]  # [t, B, d]
        truth = jax.vmap(lambda y, at: y[at])(y, at)  # [t, B, l]
        z = _each(lambda x, w: x @ w.T, batch, head.w) + head.b[:, None, :]
        share = real / jnp.maximum(size, 1)[:, None]
        residual = (jax.nn.sigmoid(z) - truth) * share[:, :, None]
        gradient = _Head(_each(lambda r, x: r.T @ x, residual, batch), residual.sum(axis=1))
        moves = size > 0  # a shorter stream rests at the end of an epoch
        count = count + moves
        if adam:
            first = jax.tree.map(lambda m, g: _BETA_1 * m + (1 - _BETA_1) * g, first, gradient)
            second = jax.tree.map(lambda v, g: _BETA_2 * v + (1 - _BETA_2) * g**2, second, gradient)
            one = 1 - _BETA_1 ** jnp.maximum(count, 1)
            two = 1 - _BETA_2 ** jnp.maximum(count, 1)

            def stepped(m: Any, v: Any) -> Any:
                shape = (-1,) + (1,) * (m.ndim - 1)
                return (m / one.reshape(shape)) / (jnp.sqrt(v / two.reshape(shape)) + _EPSILON)

            gradient = jax.tree.map(stepped, first, second)
        w = head.w - rate * (2 * gradient.w + decay * head.w)
        b = head.b - 2 * rate * gradient.b
        fresh = (_Head(w, b), first, second)

        def kept(new: Any, old: Any) -> Any:
            return jnp.where(moves.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)

        return (*jax.tree.map(kept, fresh, (head, carry[1], carry[2])), count), None

    return jax.lax.scan(step, carry, index)[0]
