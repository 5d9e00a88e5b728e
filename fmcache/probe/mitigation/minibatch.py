"""AdamW on minibatches, for the methods whose published form is a sequence of steps (group-dro, laftr).

Each column draws its own rows (those that have its label), so that columns do not influence each other; coefficients
(q) share their column's batches. The rows are gathered on the device inside one compiled loop an epoch. Features are
standardised by the mean and deviation of the column's own training rows.

The step is that of Loshchilov & Hutter, "Decoupled weight decay regularization", ICLR 2019, algorithm 2::

    p ← p - r_t (m̂ / (√v̂ + 1e-8) + decay · p)          r_t = rate · ½ (1 + cos(π t / T)),  t = 0 … T-1
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmcache.probe.problem import Rows
from fmcache.shapes import Float, Int

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8

Gradient = Callable[[Any, Any, Any, Any], tuple[Any, Any]]
"""(params, state, (x [c, B, d], y [c, B], group [c, B]), fixed) → (gradient, state); a module-level function."""
Draw = Callable[[int, np.random.Generator, int], np.ndarray]
"""(column, rng, count) → the rows of the next `count` places."""


@dataclass(frozen=True)
class Recipe:
    """FairMedFM's: AdamW, cosine over all steps, 100 epochs, batch 128, weight decay 0.05."""

    rate: float
    decay: float = 0.05
    epochs: int = 100
    batch: int = 128

    def words(self) -> str:
        """For the run's record."""
        return (
            f"AdamW, rate {self.rate:g}, decay {self.decay:g}, cosine, {self.epochs} epochs, batch {self.batch}, "
            "features standardised"
        )


def standardise(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n c"]
) -> tuple[Float[np.ndarray, "c d"], Float[np.ndarray, "c d"]]:
    """Mean and standard deviation of the rows that have each column's label; a constant feature has deviation 1."""
    known = (~np.isnan(y)).astype(np.float64)
    share = (known / known.sum(axis=0)).T
    near = x.mean(axis=0, dtype=np.float64)
    moved = x - near
    mean = share @ moved
    deviation = np.sqrt(np.maximum(share @ moved**2 - mean**2, 0))
    return mean + near, np.where(deviation > 1e-12, deviation, 1.0)


def draw_equal_groups(
    group: Int[np.ndarray, " n"], rng: np.random.Generator, count: int
) -> Int[np.ndarray, " count"]:
    """A group at random, then one of its rows at random; rows of group -1 are never drawn."""
    members = [np.flatnonzero(group == g) for g in np.unique(group[group >= 0])]
    which = rng.integers(len(members), size=count)
    out = np.empty(count, np.int64)
    for g, rows in enumerate(members):
        here = which == g
        out[here] = rng.choice(rows, int(here.sum()))
    return out


def draw_shuffled(
    rows: Int[np.ndarray, " n"], rng: np.random.Generator, count: int
) -> Int[np.ndarray, " count"]:
    """One random order after another."""
    rounds = -(-count // len(rows))
    return np.concatenate([rng.permutation(rows) for _ in range(rounds)])[:count]


def train(
    gradient: Gradient,
    start: Any,
    state: Any,
    fixed: Any,
    rows: Rows,
    shift: Float[np.ndarray, "c d"],
    width: Float[np.ndarray, "c d"],
    recipe: Recipe,
    draw: Draw,
    seeds: list[int],
) -> tuple[Any, Any]:
    """Run the recipe; returns params and state as NumPy arrays.

    An epoch of a column has as many steps as its rows make whole batches (at least one); a column that has done them
    rests until the epoch's end.
    """
    batch = recipe.batch
    steps = np.maximum((~np.isnan(rows.y)).sum(axis=0) // batch, 1)
    most = int(steps.max())
    rngs = [np.random.default_rng([seed, 11]) for seed in seeds]
    data = (
        jnp.asarray(rows.x, jnp.float32),
        jnp.asarray(np.nan_to_num(rows.y), jnp.float32),
        jnp.asarray(rows.group, jnp.int32),
        jnp.asarray(shift, jnp.float32),
        jnp.asarray(width, jnp.float32),
    )
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), start)
    zero = jax.tree.map(jnp.zeros_like, params)
    carry = (params, zero, zero, jax.tree.map(jnp.asarray, state), jnp.zeros(len(seeds), jnp.float32))
    speed = (
        steps.astype(np.int32),
        np.float32(recipe.epochs),
        np.float32(recipe.rate),
        np.float32(recipe.decay),
    )
    for _ in range(recipe.epochs):
        index = np.zeros((most, len(seeds), batch), np.int64)
        for column, rng in enumerate(rngs):
            count = int(steps[column])
            index[:count, column] = draw(column, rng, count * batch).reshape(count, batch)
        carry = _epoch(gradient, data, jnp.asarray(index, jnp.int32), fixed, speed, carry)
    return jax.tree.map(np.asarray, (carry[0], carry[3]))


@partial(jax.jit, static_argnames="gradient")
def _epoch(gradient: Gradient, data: Any, index: Any, fixed: Any, speed: Any, carry: Any) -> Any:
    """One compiled loop over index [steps, c, B]."""
    x, y, group, shift, width = data
    steps, epochs, rate, decay = speed
    total = epochs * steps.astype(jnp.float32)
    column = jnp.arange(y.shape[1], dtype=jnp.int32)[:, None]

    def step(carry: Any, now: Any) -> tuple[Any, None]:
        params, first, second, state, t = carry
        number, rows = now
        moves = number < steps  # [c]
        batch = ((x[rows] - shift[:, None, :]) / width[:, None, :], y[rows, column], group[rows])
        g, after = gradient(params, state, batch, fixed)
        t_1 = t + 1
        m_1 = jax.tree.map(lambda m, g: _BETA_1 * m + (1 - _BETA_1) * g, first, g)
        v_1 = jax.tree.map(lambda v, g: _BETA_2 * v + (1 - _BETA_2) * g**2, second, g)
        speed = rate / 2 * (1 + jnp.cos(jnp.pi * t / total))

        def by_column(value: Any, like: Any) -> Any:
            return value.reshape(1, -1, *(1,) * (like.ndim - 2))

        def move(p: Any, m: Any, v: Any) -> Any:
            one, two = by_column(1 - _BETA_1**t_1, p), by_column(1 - _BETA_2**t_1, p)
            return p - by_column(speed, p) * ((m / one) / (jnp.sqrt(v / two) + _EPSILON) + decay * p)

        def kept(new: Any, old: Any) -> Any:
            return jnp.where(by_column(moves, old), new, old)

        fresh = (jax.tree.map(move, params, m_1, v_1), m_1, v_1, after)
        return (*jax.tree.map(kept, fresh, (params, first, second, state)), jnp.where(moves, t_1, t)), None

    numbers = jnp.arange(index.shape[0], dtype=jnp.int32)
    return jax.lax.scan(step, carry, (numbers, index))[0]
