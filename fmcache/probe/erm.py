"""Empirical risk minimisation, plain or with weights: what every method is measured against."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from fmcache.probe.logistic import fit_logistic
from fmcache.probe.minibatch import RECIPES, fit_minibatches
from fmcache.probe.problem import Method, Problem, Solution
from fmcache.probe.ridge import fit_ridge
from fmcache.shapes import Float


def fit_weighted(problem: Problem, weights: Float[np.ndarray, "n c"]) -> Solution:
    """The protocol's probe of every penalty and column, each row weighed.

    Parameters
    ----------
    weights : ≥ 0, on the scale of any; under ``convex`` a column's loss is ``Σ weights·loss / Σ weights``, under the
        minibatch protocols rows are drawn with these probabilities (the same expected loss).
    """
    if problem.protocol == "convex" and problem.prototypes is None:
        fit = fit_logistic(
            problem.data,
            problem.train.y,
            problem.penalties.tolist(),
            weights=weights,
            precision=problem.precision,
        )
        hyper = tuple({"penalty": float(value)} for value in problem.penalties)
        facts: dict[str, Any] = {"passes": fit.passes}
        if problem.precision != "float32":
            facts["excess"] = float(fit.excess.max())  # of the objective, over its float32 optimum, in nats
        share = prevalence_of(problem.train.y, weights)
        return Solution(hyper, fit.w, fit.b, converged=fit.converged, prevalence=share, facts=facts)
    if problem.protocol == "ridge":
        return fit_ridge(problem, weights)
    solution = fit_minibatches(problem, weights, RECIPES[problem.protocol])
    return replace(solution, prevalence=prevalence_of(problem.train.y, weights))


def prevalence_of(
    y: Float[np.ndarray, "n c"], weights: Float[np.ndarray, "n c"] | None = None
) -> Float[np.ndarray, " c"]:
    """The weighed share of positives among the rows that train each column."""
    weight = ~np.isnan(y) * (np.ones(y.shape) if weights is None else weights.astype(np.float64))
    share: np.ndarray = (weight * np.nan_to_num(y)).sum(axis=0) / weight.sum(axis=0)
    return share


ERM = Method(
    name="erm",
    fit=lambda problem: fit_weighted(problem, problem.weights),
    summary="Empirical risk minimisation: the mean loss over all training rows, blind to groups.",
    needs_attribute=False,
    streams=True,
    protocols=("convex", "paper", "fairmedfm"),
    adapts=("paper", "fairmedfm"),
    has_prior=True,
)
