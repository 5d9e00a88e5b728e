"""Empirical risk minimisation, plain or with weights: what every method is measured against."""

from __future__ import annotations

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
        return Solution(hyper, fit.w, fit.b, converged=fit.converged, facts=facts)
    if problem.protocol == "ridge":
        return fit_ridge(problem, weights)
    return fit_minibatches(problem, weights, RECIPES[problem.protocol])


ERM = Method(
    name="erm",
    fit=lambda problem: fit_weighted(problem, problem.weights),
    summary="Empirical risk minimisation: the mean loss over all training rows, blind to groups.",
    needs_attribute=False,
    streams=True,
    protocols=("convex", "paper", "fairmedfm"),
    adapts=("paper", "fairmedfm"),
)
