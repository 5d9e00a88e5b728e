"""LAFTR: a representation from which an adversary cannot tell the group, and a classifier on it.

Source: Madras et al., "Learning adversarially fair and transferable representations", ICML 2018, equation (1)::

    encoder f, classifier g     minimise   L_y(g(f(x)), y) - γ L_a(h(f(x)), a)
    adversary h                 minimises  L_a

L_y is the mean cross-entropy; L_a the cross-entropy of the group, each group of the batch with the same weight (the
paper's normalisation by group). **The signs matter**: the adversary gets better at telling the group and the encoder
gets worse for it. One widely used code base lets both minimise L_a, which makes the group *more* readable.

f is linear, d → `WIDTH`, on standardised features; g is linear; h has one hidden layer of ReLU. g ∘ f is one linear
head, so nobody's group is needed at test. The gradient passes from L_a to f through a layer that multiplies it by -γ.
Trained as the benchmark trains it (AdamW, rate 3e-4; its γ is 0.1), whatever the protocol: a game has no optimum.
γ is the grid's ``coefficient``. Rows whose group is unknown are in L_y and not in L_a.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmcache.probe.mitigation.minibatch import Recipe, draw_shuffled, standardise, train
from fmcache.probe.problem import Method, Problem, Solution

WIDTH, HIDDEN = 8, 32


def losses(params: Any, reversal: Any, batch: Any) -> tuple[Any, Any]:
    """L_y and L_a, [q, c] each; `reversal` [q] is γ.

    params: encoder [q, c, h, d], shift [q, c, h], head [q, c, h], bias [q, c]; the adversary's in [q, c, k, h],
    in_bias [q, c, k], out [q, c, g, k], out_bias [q, c, g].
    """
    x, y, group = batch
    z = jnp.einsum("cbd,qchd->qcbh", x, params["encoder"]) + params["shift"][:, :, None, :]
    logit = jnp.einsum("qcbh,qch->qcb", z, params["head"]) + params["bias"][:, :, None]
    of_label = (jnp.logaddexp(0, logit) - y[None] * logit).mean(axis=2)
    scale = reversal[:, None, None, None]
    turned = jax.lax.stop_gradient((1 + scale) * z) - scale * z  # value z, gradient -γ
    hidden = jnp.einsum("qcbh,qckh->qcbk", turned, params["in"]) + params["in_bias"][:, :, None, :]
    told = jnp.einsum("qcbk,qcgk->qcbg", jnp.maximum(hidden, 0), params["out"])
    told = jax.nn.log_softmax(told + params["out_bias"][:, :, None, :], axis=3)
    member = jax.nn.one_hot(group, told.shape[3], dtype=x.dtype)  # [c, B, g]; zeros for -1
    count = member.sum(axis=1)
    present = jnp.maximum((count > 0).sum(axis=1), 1).astype(x.dtype)
    each = member / (jnp.maximum(count, 1)[:, None, :] * present[:, None, None])
    return of_label, -(told * each[None]).sum(axis=(2, 3))


def step_gradient(params: Any, state: Any, batch: Any, reversal: Any) -> tuple[Any, Any]:
    """Of one step: the classifier and the adversary go down, the encoder goes down L_y and up γ L_a."""
    return jax.grad(lambda params: sum(each.sum() for each in losses(params, reversal, batch)))(params), state


def initial(d: int, groups: int, coefficients: int, seeds: list[int]) -> dict[str, np.ndarray]:
    """Random weights, the same for every coefficient and for every column of a seed."""
    shapes = {
        "encoder": (WIDTH, d), "shift": (WIDTH,), "head": (WIDTH,), "bias": (),
        "in": (HIDDEN, WIDTH), "in_bias": (HIDDEN,), "out": (groups, HIDDEN), "out_bias": (groups,),
    }  # fmt: skip
    out = {}
    for number, (name, shape) in enumerate(shapes.items()):
        weights = name in ("encoder", "head", "in", "out")
        columns = [
            np.random.default_rng([seed, 13, number]).normal(size=shape) / np.sqrt(shape[-1])
            if weights
            else np.zeros(shape)
            for seed in seeds
        ]
        out[name] = np.broadcast_to(np.stack(columns), (coefficients, len(seeds), *shape)).astype(np.float32)
    return out


def _fit(problem: Problem) -> Solution:
    """All coefficients and columns in one program; m = coefficients. Penalties do not enter.

    `parameters` holds the encoder: laftr_encoder [m, c, h, d] and laftr_shift [m, c, h], of rows as stored.
    """
    rows, recipe = problem.train, Recipe(rate=3e-4)
    coefficients = np.asarray(problem.grid["coefficient"], np.float32)
    shift, width = standardise(rows.x, rows.y)
    seeds = [at.seed for at in problem.columns]
    known = [np.flatnonzero(~np.isnan(column)) for column in rows.y.T]
    start = initial(rows.x.shape[1], len(problem.groups), len(coefficients), seeds)
    params, _ = train(
        step_gradient, start, (), jnp.asarray(coefficients), rows, shift, width, recipe,
        lambda column, rng, count: draw_shuffled(known[column], rng, count), seeds,
    )  # fmt: skip
    wide = {name: value.astype(np.float64) for name, value in params.items()}
    encoder = wide["encoder"] / width[:, None, :]
    moved = wide["shift"] - np.einsum("qchd,cd->qch", encoder, shift)
    return Solution(
        tuple({"coefficient": float(value)} for value in coefficients),
        np.einsum("qchd,qch->qcd", encoder, wide["head"]),
        np.einsum("qch,qch->qc", moved, wide["head"]) + wide["bias"],
        facts={"recipe": recipe.words(), "width": WIDTH, "hidden": HIDDEN},
        parameters={"laftr_encoder": encoder, "laftr_shift": moved},
    )


LAFTR = Method(
    name="laftr",
    fit=_fit,
    summary="A representation from which an adversary cannot tell the group, and a classifier on it.",
    source="Madras et al., ICML 2018, equation (1); recipe of FairMedFM, NeurIPS 2024",
    grid={"coefficient": (0.0, 0.1, 0.3, 1.0, 3.0)},
    protocols=("convex", "paper"),
    criterion="auc_worst",
    stochastic=True,
    class_weights=False,
)
