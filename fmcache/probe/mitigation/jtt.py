"""Just train twice (jtt): train, then train again with the rows that were wrong counted more.

Source: Liu et al., "Just train twice: improving group robustness without training group information", ICML 2021,
algorithm 1. The first model is held back on purpose (here by its penalty; the paper stops it early), so that its errors
are the rows that the easy rule gets wrong; the second counts each of them λ_up times::

    E = {i : 1[σ(z_i) ≥ ½] ≠ y_i}         s_i = λ_up if i ∈ E else 1

λ_up is the grid's ``coefficient``. No attribute is used in training; groups enter only where λ_up is chosen on
validation rows, and if no attribute is given the AUC of all of them chooses.
"""

from __future__ import annotations

import numpy as np

from fmcache.probe.centred import Centred
from fmcache.probe.logistic import fit_logistic
from fmcache.probe.problem import Method, Problem, Solution
from fmcache.shapes import Bool, Float

FIRST_PENALTY = 1.0
"""Of the first model, in units of the mean variance of a feature."""


def errors(
    data: Centred,
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "n c"],
    weights: Float[np.ndarray, "n c"],
    first_penalty: float = FIRST_PENALTY,
) -> Bool[np.ndarray, "n c"]:
    """Rows that the first model gets wrong; False where the label is unknown."""
    first = fit_logistic(data, y, [first_penalty * (data.scale or 1.0)], weights=weights)
    z = x @ first.w[0].T.astype(np.float32) + first.b[0]
    return ~np.isnan(y) & ((z >= 0) != (y > 0))


def _fit(problem: Problem) -> Solution:
    """All factors, penalties and columns in one program; m = factors × penalties, penalties fastest."""
    factors, y = problem.grid["coefficient"], problem.train.y
    (first,) = problem.grid["first_penalty"]
    wrong = errors(problem.data, problem.train.x, y, problem.weights, first)
    weights = np.concatenate([np.where(wrong, factor, 1.0) * problem.weights for factor in factors], axis=1)
    fit = fit_logistic(problem.data, np.tile(y, len(factors)), problem.penalties.tolist(), weights=weights)
    m, c = len(problem.penalties), y.shape[1]

    def by_factor(values: np.ndarray) -> np.ndarray:
        """[m, factors · c, …] → [factors · m, c, …]."""
        rest = values.shape[2:]
        return values.reshape(m, len(factors), c, *rest).swapaxes(0, 1).reshape(-1, c, *rest)

    hyper = tuple(
        {"penalty": float(penalty), "coefficient": float(factor)}
        for factor in factors
        for penalty in problem.penalties
    )
    facts = {"first_model_errors": wrong.sum(axis=0).tolist(), "passes": fit.passes}
    return Solution(
        hyper, by_factor(fit.w), by_factor(fit.b), converged=by_factor(fit.converged), facts=facts
    )


JTT = Method(
    name="jtt",
    fit=_fit,
    summary="Train, then train again with the first model's errors counted more; no attribute in training.",
    source="Liu et al., ICML 2021, algorithm 1",
    needs_attribute=False,
    criterion="auc_worst",
    grid={"coefficient": (2.0, 5.0, 20.0, 50.0, 100.0), "first_penalty": (FIRST_PENALTY,)},
)
