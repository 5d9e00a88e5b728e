"""L-BFGS on many independent columns at once: one call of the objective serves all, each takes its own steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

HISTORY = 10
PATIENCE = 25  # passes without a better gradient: the dtype can do no more


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


def _norm(g: Any) -> Any:
    return jnp.sqrt((g**2).sum(axis=1))


def _begin(start: Any, f: Any, g: Any, tolerance: Any) -> _State:
    k, width = start.shape
    pairs = jnp.zeros((HISTORY, k, width), start.dtype)
    ones = jnp.ones(k, start.dtype)
    return _State(
        v=start,
        f=f,
        g=g,
        direction=-g,
        step=ones,
        slope=-(g**2).sum(axis=1),
        s=pairs,
        y=pairs,
        rho=jnp.zeros((HISTORY, k), start.dtype),
        gamma=ones,
        best=_norm(g),
        waited=jnp.zeros(k, jnp.int32),
        done=_norm(g) <= tolerance,
        passes=jnp.int32(0),
    )


def _trial(state: _State) -> Any:
    return state.v + state.step[:, None] * state.direction


def _advance(state: _State, f: Any, g: Any, tolerance: Any) -> _State:
    """What the objective said at `_trial(state)`: a column accepts its step, or shortens it."""
    noise = 16 * float(np.finfo(f.dtype).eps) * jnp.abs(state.f)
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
    v = jnp.where(moved[:, None], state.v + change, state.v)
    g = jnp.where(moved[:, None], g, state.g)
    fresh = _direction(g, s, y, rho, gamma, slot)
    fresh_slope = (fresh * g).sum(axis=1)
    downhill = fresh_slope < 0
    fresh = jnp.where(downhill[:, None], fresh, -g)
    fresh_slope = jnp.where(downhill, fresh_slope, -(g**2).sum(axis=1))
    rise = f - state.f - state.step * state.slope
    parabola = -state.slope * state.step / (2 * jnp.where(rise > 0, rise, 1))
    shrink = jnp.where(jnp.isfinite(parabola) & (rise > 0), jnp.clip(parabola, 0.1, 0.5), 0.1)
    size = _norm(g)
    waited = jnp.where(size < 0.9 * state.best, 0, state.waited + 1)
    shorter = state.step * shrink
    return _State(
        v=v,
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


@partial(jax.jit, static_argnames=("evaluate", "max_passes"))
def minimise(
    evaluate: Callable[[Any, Any], tuple[Any, Any]], problem: Any, start: Any, tolerance: Any, max_passes: int
) -> tuple[Any, Any, Any]:
    """L-BFGS by column: each pass, a column accepts its step and takes a new direction, or shortens the step.

    Parameters
    ----------
    evaluate : a plain function (problem, v) → (F [K], its gradient [K, width]); a column's F depends on its v alone.
    problem : what `evaluate` reads, a tree of arrays. An argument, so that the program holds no copy of the data.
    start : [K, width]. tolerance : of the gradient's norm in each column. max_passes : calls of `evaluate`, at most.

    Returns
    -------
    v [K, width], the norm of its gradient [K], and how often `evaluate` was called.
    """

    def step(state: _State) -> _State:
        return _advance(state, *evaluate(problem, _trial(state)), tolerance)

    first = _begin(start, *evaluate(problem, start), tolerance)
    last = jax.lax.while_loop(lambda s: ~s.done.all() & (s.passes < max_passes), step, first)
    return last.v, _norm(last.g), last.passes + 1


_BEGIN, _ADVANCE, _TRIAL = jax.jit(_begin), jax.jit(_advance), jax.jit(_trial)


def minimise_streamed(
    evaluate: Callable[[Any], tuple[Any, Any]], start: Any, tolerance: Any, max_passes: int
) -> tuple[Any, Any, int]:
    """`minimise`, step for step, where `evaluate` v → (F, gradient) cannot be compiled: it reads the data from disk."""
    state = _BEGIN(start, *evaluate(start), tolerance)
    while not bool(state.done.all()) and int(state.passes) < max_passes:
        state = _ADVANCE(state, *evaluate(_TRIAL(state)), tolerance)
    return state.v, _norm(state.g), int(state.passes) + 1
