"""Group DRO: the loss of the worst group is minimised.

Source: Sagawa et al., "Distributionally robust neural networks for group shifts", ICLR 2020, equation (4) with the
group adjustment of equation (5)::

    min_w max_g  L_g(w) + C / √n_g         L_g: mean loss of the group, n_g its rows

Protocol ``convex`` minimises the maximum itself, smoothed (log-sum-exp) with a temperature τ that is lowered in steps::

    τ log 1/G Σ_g exp((L_g + C/√n_g) / τ)  +  λ/2 |w|²         at most τ log G below the maximum

so that, at the end, the group weights are q_g ∝ exp((L_g + C/√n_g)/τ). Protocol ``paper`` is the paper's algorithm 1
with AdamW for SGD (`fmcache.probe.mitigation.minibatch`): rows are drawn with equal shares of the groups, and at each
step q_g ← q_g exp(η (L_g + C/√n_g)), renormalised, for the groups in the batch; the loss is Σ_g q_g (L_g + C/√n_g).

C is the grid's ``coefficient``, η its ``step``. Groups are those of the attribute (``group-dro``, as FairMedFM does) or
the cells of group × label (``group-dro-label``, as the paper does). Rows whose group is unknown are in no L_g: they are
not trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmcache.errors import UsageError
from fmcache.probe.mitigation.adapt import adapt_worst
from fmcache.probe.mitigation.cells import Cells, cells_of
from fmcache.probe.mitigation.grouped import Means, fit_grouped
from fmcache.probe.mitigation.minibatch import Recipe, draw_equal_groups, standardise, train
from fmcache.probe.problem import Method, Problem, Solution

TEMPERATURES = (0.1, 0.02, 0.004)


def _of_groups(means: Means, adjustment: Any) -> tuple[Any, Any]:
    """L_g + C/√n_g [g, K], and which groups have rows."""
    size = means.size.reshape(-1, 2, means.size.shape[1])
    loss = means.cell_loss.reshape(size.shape)
    n = size.sum(axis=1)
    safe = jnp.where(n > 0, n, 1)
    return (size * loss).sum(axis=1) / safe + adjustment[None, :] / jnp.sqrt(safe), n > 0


def _of_cells(means: Means, adjustment: Any) -> tuple[Any, Any]:
    """The same of the cells of group × label [s, K]."""
    there = means.size > 0
    return means.cell_loss + adjustment[None, :] / jnp.sqrt(jnp.where(there, means.size, 1)), there


def _smoothed(loss: Any, there: Any, settings: Any) -> Any:
    """Φ: the smoothed largest loss [K]; settings [K, 2] hold C and τ."""
    tau = settings[:, 1][None, :]
    scaled = jnp.where(there, loss / tau, -jnp.inf)
    return tau[0] * (jax.nn.logsumexp(scaled, axis=0) - jnp.log(there.sum(axis=0).astype(loss.dtype)))


def worst_group(means: Means, settings: Any) -> Any:
    """Φ of group-dro."""
    return _smoothed(*_of_groups(means, settings[:, 0]), settings)


def worst_cell(means: Means, settings: Any) -> Any:
    """Φ of group-dro-label."""
    return _smoothed(*_of_cells(means, settings[:, 0]), settings)


def _hyper(problem: Problem) -> tuple[dict[str, float], ...]:
    return tuple(
        {"penalty": float(penalty), "coefficient": float(adjustment)}
        for adjustment in problem.grid["coefficient"]
        for penalty in problem.penalties
    )


def _fit(problem: Problem, by_label: bool) -> Solution:
    cells = cells_of(problem.train.y, problem.train.group, len(problem.groups))
    for at, size in zip(problem.columns, cells.size, strict=True):
        if not (size.sum(axis=0) > 0).all():
            raise UsageError(
                f"group-dro needs rows with and without {at.label} whose {problem.attribute} is known.",
                f"There are {size[:, 0].sum()} without and {size[:, 1].sum()} with it.",
                "Leave that label out, or choose another attribute.",
            )
    if problem.prototypes is not None:
        return adapt_worst(
            problem, problem.prototypes, Step if not by_label else StepByLabel, cells, by_label
        )
    make = _optimum if problem.protocol == "convex" else _online
    return make(problem, cells, by_label)


def _optimum(problem: Problem, cells: Cells, by_label: bool) -> Solution:
    adjustments = np.asarray(problem.grid["coefficient"])
    stages = [np.stack([adjustments, np.full_like(adjustments, tau)], axis=1) for tau in TEMPERATURES]
    fit = fit_grouped(worst_cell if by_label else worst_group, problem, cells, stages)
    q, m, c, d = fit.w.shape
    return Solution(
        _hyper(problem),
        fit.w.reshape(q * m, c, d),
        fit.b.reshape(q * m, c),
        converged=fit.converged.reshape(q * m, c),
        facts={"temperature": TEMPERATURES[-1], "passes": fit.passes},
    )


# ------------------------------------------------------------------------------------------- the paper's algorithm 1


def linear_logits(params: Any, x: Any) -> Any:
    """Of heads w [q, c, d], b [q, c] for x [c, B, d]: [q, c, B]."""
    return jnp.einsum("cbd,qcd->qcb", x, params["w"]) + params["b"][:, :, None]


@dataclass(frozen=True)
class Step:
    """Gradient of one step, and q [q, c, g] after it; hashable, so that it compiles once.

    batch: x [c, B, d], y [c, B], group [c, B]; fixed: adjustment [q, c, g] = C/√n_g, step.
    """

    logits: Callable[[Any, Any], Any] = linear_logits

    def __call__(self, params: Any, q: Any, batch: Any, fixed: Any) -> tuple[Any, Any]:
        x, y, group = batch
        adjustment, step = fixed
        member = jax.nn.one_hot(group, q.shape[2], dtype=x.dtype)  # [c, B, g]
        count = member.sum(axis=1)  # [c, g]
        there = (count > 0)[None]

        def group_loss(params: Any) -> Any:
            z = self.logits(params, x)
            loss = jnp.logaddexp(0, z) - y[None] * z
            return jnp.einsum("qcb,cbg->qcg", loss, member) / jnp.maximum(count, 1)[None]

        raised = q * jnp.where(there, jnp.exp(step * (group_loss(params) + adjustment)), 1)
        q = raised / raised.sum(axis=2, keepdims=True)
        gradient = jax.grad(lambda params: (q * jnp.where(there, group_loss(params), 0)).sum())(params)
        return gradient, q


@dataclass(frozen=True)
class StepByLabel(Step):
    """The same, for groups that are cells of group × label."""

    def __call__(self, params: Any, q: Any, batch: Any, fixed: Any) -> tuple[Any, Any]:
        x, y, group = batch
        cell = jnp.where(group >= 0, 2 * group + y.astype(group.dtype), -1)
        return super().__call__(params, q, (x, y, cell), fixed)


def _online(problem: Problem, cells: Cells, by_label: bool) -> Solution:
    """Penalties do not enter: the recipe's weight decay is the only one. m = coefficients."""
    adjustments, (step,) = np.asarray(problem.grid["coefficient"], np.float32), problem.grid["step"]
    recipe = Recipe(rate=2.5e-4)
    size = cells.size.reshape(len(cells.size), -1) if by_label else cells.size.sum(axis=2)  # [c, g]
    code = cells.code if by_label else cells.code // 2
    there = size > 0
    shift, width = standardise(problem.train.x, problem.train.y)
    c, d = shift.shape
    start = {
        "w": np.zeros((len(adjustments), c, d), np.float32),
        "b": np.zeros((len(adjustments), c), np.float32),
    }
    q = np.broadcast_to(there / there.sum(axis=1, keepdims=True), (len(adjustments), *there.shape))
    fixed = (
        (adjustments[:, None, None] / np.sqrt(np.maximum(size, 1))[None]).astype(np.float32),
        np.float32(step),
    )
    params, q = train(
        StepByLabel() if by_label else Step(),
        start, q.astype(np.float32), fixed, problem.train, shift, width, recipe,
        lambda column, rng, count: draw_equal_groups(code[:, column], rng, count),
        [at.seed for at in problem.columns],
    )  # fmt: skip
    w = params["w"].astype(np.float64) / width
    return Solution(
        tuple({"coefficient": float(value)} for value in adjustments),
        w,
        params["b"] - (w * shift).sum(axis=2),
        facts={"recipe": recipe.words(), "step": float(step), "group_weights": np.round(q, 4).tolist()},
    )


_SOURCE = "Sagawa et al., ICLR 2020, equations (4) and (5), algorithm 1"
_GRID = {"coefficient": (0.0, 1.0, 3.0), "step": (0.01,)}
GROUP_DRO = Method(
    name="group-dro",
    fit=lambda problem: _fit(problem, by_label=False),
    summary="The loss of the worst group is minimised.",
    source=_SOURCE,
    grid=_GRID,
    protocols=("convex", "paper"),
    adapts=("paper",),
    criterion="auc_worst",
    class_weights=False,
)
GROUP_DRO_LABEL = Method(
    name="group-dro-label",
    fit=lambda problem: _fit(problem, by_label=True),
    summary="The loss of the worst group × label is minimised.",
    source=_SOURCE,
    grid=_GRID,
    protocols=("convex", "paper"),
    adapts=("paper",),
    criterion="auc_worst",
    class_weights=False,
)
