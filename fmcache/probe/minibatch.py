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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmcache.probe.problem import Problem, Solution
from fmcache.probe.prototypes import Loss, adapted
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

    def reach(self, rows: int) -> float:
        """How far AdamW moves a coefficient at most, about: the sum of the rates of all steps over `rows` rows."""
        return -(-rows // self.batch) * sum(self.rate_of(epoch) for epoch in range(self.epochs))


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
    """Train every column by the recipe; hyper-parameters are the epochs that validation may choose.

    Trained are linear heads, or the problem's prototypes (clip-adapt) where it has some.
    """
    streams = streams_of(problem, weights)
    widest = max(len(stream.columns) for stream in streams)
    y = np.zeros((len(streams), len(problem.train.y), widest), np.float32)
    for t, stream in enumerate(streams):
        y[t, :, : len(stream.columns)] = np.nan_to_num(problem.train.y[:, stream.columns])
    texts = problem.prototypes
    loss = None if texts is None else Loss(texts.scale, texts.tokens)
    first = _heads(problem) if texts is None else (texts.start[0].astype(np.float32),)
    params = tuple(jnp.asarray(_by_stream(part, streams, widest)) for part in first)
    data = (jnp.asarray(np.asarray(problem.train.x, np.float32)), jnp.asarray(y))
    kept = []
    for epoch, head in train(data, params, streams, recipe, loss):
        kept.append((epoch, tuple(_by_column(part, streams, len(problem.columns)) for part in head)))
    if texts is not None:
        return adapted([(epoch, head[0]) for epoch, head in kept], problem)
    w, b = (np.stack([head[at] for _, head in kept]).astype(np.float64) for at in (0, 1))
    return Solution(tuple({"epoch": float(epoch)} for epoch, _ in kept), w, b)


def train(
    data: tuple[Any, Any],
    params: tuple[Any, ...],
    streams: Sequence[Stream],
    recipe: Recipe,
    loss: Loss | None,
) -> Iterator[tuple[int, tuple[np.ndarray, ...]]]:
    """The parameters after every few epochs; data: x [n, d] and y [t, n, l], params: [t, l, …] each."""
    steps = max(-(-len(stream.rows) // recipe.batch) for stream in streams)
    zero = tuple(jnp.zeros_like(part) for part in params)
    carry = (params, zero, zero, jnp.zeros(len(streams)))
    orders = [stream.orders(recipe.epochs) for stream in streams]
    for epoch in range(recipe.epochs):
        index = np.full((len(streams), steps * recipe.batch), -1, np.int32)
        for t, order in enumerate(orders):
            rows = next(order)
            index[t, : len(rows)] = rows
        turns = index.reshape(len(streams), steps, recipe.batch).swapaxes(0, 1)
        rate, decay = np.float32(recipe.rate_of(epoch)), np.float32(recipe.decay)
        carry = epoch_of(data, jnp.asarray(turns), rate, decay, carry, adam=recipe.adam, loss=loss)
        if (epoch + 1) % EVERY == 0 or epoch + 1 == recipe.epochs:
            yield epoch + 1, tuple(np.asarray(part) for part in carry[0])


def _heads(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    d = problem.train.x.shape[1]
    each = [start(d, column.seed, column.label) for column in problem.columns]
    return np.stack([w for w, _ in each]), np.array([b for _, b in each], np.float32)


def _by_stream(values: np.ndarray, streams: Sequence[Stream], widest: int) -> np.ndarray:
    """[c, …] → [t, l, …]; what a narrow stream lacks repeats its first column, and is not kept."""
    out = np.empty((len(streams), widest, *values.shape[1:]), np.float32)
    for t, stream in enumerate(streams):
        out[t] = values[stream.columns[0]]
        out[t, : len(stream.columns)] = values[stream.columns]
    return out


def _by_column(values: np.ndarray, streams: Sequence[Stream], count: int) -> np.ndarray:
    out = np.empty((count, *values.shape[2:]), values.dtype)
    for t, stream in enumerate(streams):
        out[stream.columns] = values[t, : len(stream.columns)]
    return out


def start(d: int, seed: int, label: str) -> tuple[Float[np.ndarray, " d"], float]:
    """The difference of two logits' coefficients as a linear layer begins: each uniform in ±1/√d."""
    rng = np.random.default_rng([seed, *label.encode()])
    bound = 1 / math.sqrt(d)
    w, b = rng.uniform(-bound, bound, (2, d)), rng.uniform(-bound, bound, 2)
    return (w[1] - w[0]).astype(np.float32), float(b[1] - b[0])


def _each(product: Any, left: Any, right: Any) -> Any:
    """A product for each stream; a few are written out, because XLA on CPU has no fast batched product."""
    if left.shape[0] > _WRITTEN_OUT:
        return jax.vmap(product)(left, right)
    return jnp.stack([product(left[t], right[t]) for t in range(left.shape[0])])


@partial(jax.jit, static_argnames=("adam", "loss"))
def epoch_of(
    data: Any, index: Any, rate: Any, decay: Any, carry: Any, *, adam: bool, loss: Loss | None = None
) -> Any:
    """One compiled loop over index [steps, t, B]; -1 stands for no row. Without `loss`: linear heads (w, b)."""
    x, y = data

    def step(carry: Any, rows: Any) -> tuple[Any, None]:
        params, first, second, count = carry
        real = (rows >= 0).astype(x.dtype)  # [t, B]
        size = real.sum(axis=1)
        at = jnp.maximum(rows, 0)
        share = real / jnp.maximum(size, 1)[:, None]
        # mode="clip" spares the compiled loop a test of every index: 314 instead of 442 µs a step, 128 x 768
        truth = jax.vmap(lambda y, at: jnp.take(y, at, axis=0, mode="clip"))(y, at)  # [t, B, l]
        gradient = _gradient(loss, params, jnp.take(x, at, axis=0, mode="clip"), truth, share)
        moves = size > 0  # a shorter stream rests at the end of an epoch
        count = count + moves
        fresh_first, fresh_second = first, second
        if adam:
            fresh_first = tuple(_BETA_1 * m + (1 - _BETA_1) * g for m, g in zip(first, gradient, strict=True))
            fresh_second = tuple(
                _BETA_2 * v + (1 - _BETA_2) * g**2 for v, g in zip(second, gradient, strict=True)
            )
            one, two = (1 - beta ** jnp.maximum(count, 1) for beta in (_BETA_1, _BETA_2))
            gradient = tuple(
                (m / _wide(one, m)) / (jnp.sqrt(v / _wide(two, v)) + _EPSILON)
                for m, v in zip(fresh_first, fresh_second, strict=True)
            )
        twice = 2 if loss is None else 1  # the difference of two logits moves by both steps
        fresh = tuple(
            p - rate * (twice * g + (decay * p if p.ndim > 2 else 0))  # [t, l] are biases
            for p, g in zip(params, gradient, strict=True)
        )
        new, old = (fresh, fresh_first, fresh_second), (params, first, second)
        return (*jax.tree.map(lambda a, b: jnp.where(_wide(moves, a), a, b), new, old), count), None

    return jax.lax.scan(step, carry, index)[0]


def _wide(values: Any, like: Any) -> Any:
    return values.reshape((-1,) + (1,) * (like.ndim - 1))


def _gradient(loss: Loss | None, params: Any, batch: Any, truth: Any, share: Any) -> Any:
    if loss is not None:
        return (jax.grad(loss)(params[0], batch, truth, share),)
    w, b = params
    z = _each(lambda x, w: x @ w.T, batch, w) + b[:, None, :]
    residual = (jax.nn.sigmoid(z) - truth) * share[:, :, None]
    return _each(lambda r, x: r.T @ x, residual, batch), residual.sum(axis=1)
