"""Fairness constraints as differentiable penalties: demographic parity (dp) and equalised odds (eqodds).

Source: the soft scores of Bechavod & Ligett, "Penalizing unfairness in binary classification", 2017, with the square of
the differences; for G groups, the variance over groups instead of a difference of two::

    L + γ/2 · 1/G Σ_g (P_g - P̄)² + λ/2 |w|²                           dp:     P_g  = mean σ(z) of the group
    L + γ/2 · Σ_{y=0,1} 1/G Σ_g (P_{g,y} - P̄_y)² + λ/2 |w|²           eqodds: P_gy = … of its rows with label y

P̄ is the plain mean over groups, so that a small group weighs as much as a large one. γ is the grid's ``coefficient``;
all γ, penalties and columns are one program. σ makes the penalty non-convex: each column goes downhill from the
unconstrained optimum (γ = 0). Rows whose group is unknown are in L and in no P_g.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from fmcache.probe.mitigation.adapt import adapt_penalised
from fmcache.probe.mitigation.cells import cells_of
from fmcache.probe.mitigation.grouped import Means, Phi, fit_grouped
from fmcache.probe.problem import Method, Problem, Solution

COEFFICIENTS = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


def _variance(value: Any, there: Any) -> Any:
    """Mean squared distance from the mean over the groups (first axis) that are there; 0 for fewer than two."""
    count = jnp.maximum(there.sum(axis=0), 1)
    mean = jnp.where(there, value, 0).sum(axis=0) / count
    return jnp.where(there, (value - mean[None]) ** 2, 0).sum(axis=0) / count


def dp_penalty(means: Means) -> Any:
    """Variance over groups of the mean score, [K]."""
    size = means.size.reshape(-1, 2, means.size.shape[1])
    n = size.sum(axis=1)
    score = (size * means.cell_score.reshape(size.shape)).sum(axis=1) / jnp.where(n > 0, n, 1)
    return _variance(score, n > 0)


def eqodds_penalty(means: Means) -> Any:
    """Variance over groups of the mean score of the negatives, plus that of the positives, [K]."""
    size = means.size.reshape(-1, 2, means.size.shape[1])
    score = means.cell_score.reshape(size.shape)
    return sum(_variance(score[:, y], size[:, y] > 0) for y in (0, 1))


def _dp_phi(means: Means, settings: Any) -> Any:
    return means.loss + settings[:, 0] / 2 * dp_penalty(means)


def _eqodds_phi(means: Means, settings: Any) -> Any:
    return means.loss + settings[:, 0] / 2 * eqodds_penalty(means)


def _fit(phi: Phi, problem: Problem) -> Solution:
    if problem.prototypes is not None:
        return adapt_penalised(problem, problem.prototypes, by_label=phi is _eqodds_phi)
    coefficients = np.asarray(problem.grid["coefficient"], np.float64)
    cells = cells_of(problem.train.y, problem.train.group, len(problem.groups))
    fit = fit_grouped(phi, problem, cells, [coefficients[:, None]])
    q, m, c, d = fit.w.shape
    return Solution(
        tuple(
            {"penalty": float(penalty), "coefficient": float(coefficient)}
            for coefficient in coefficients
            for penalty in problem.penalties
        ),
        fit.w.reshape(q * m, c, d),
        fit.b.reshape(q * m, c),
        converged=fit.converged.reshape(q * m, c),
        facts={"passes": fit.passes},
    )


DP = Method(
    name="dp",
    fit=lambda problem: _fit(_dp_phi, problem),
    summary="A penalty on the differences between groups of the mean score (demographic parity).",
    source="after Bechavod & Ligett 2017; variance over groups",
    grid={"coefficient": COEFFICIENTS},
    adapts=("paper",),
    criterion="dp_gap",
)
EQODDS = Method(
    name="eqodds",
    fit=lambda problem: _fit(_eqodds_phi, problem),
    summary="The same penalty within the positives and within the negatives (equalised odds).",
    source="after Bechavod & Ligett 2017; variance over groups",
    grid={"coefficient": COEFFICIENTS},
    adapts=("paper",),
    criterion="eqodds_gap",
)
