"""Resampling: every group, or every group × label, is seen equally often.

Source: the benchmark's code draws rows with probability 1/n_g or 1/n_{g,y}, with replacement; Idrissi et al., "Simple
data balancing achieves competitive worst-group accuracy", CLeaR 2022 (RWG). At the optimum of a convex loss the draws
are what they are on average, weights; under the minibatch protocols the engine draws with these probabilities::

    s_i = N / (G · n_{g(i)})            resampling              n_g rows of the group, G groups that have rows
    s_i = N / (K · n_{g(i), y(i)})      resampling-label        K cells of group × label that have rows

Rows whose group is unknown keep weight 1, the mean of the others.
"""

from __future__ import annotations

import numpy as np

from fmcache.probe.erm import fit_weighted
from fmcache.probe.mitigation.cells import Cells, cells_of, equal_weights
from fmcache.probe.problem import Method, Problem, Solution
from fmcache.shapes import Float


def group_weights(cells: Cells) -> Float[np.ndarray, "n c"]:
    """Every group counts the same."""
    each = equal_weights(cells.size.sum(axis=2))[:, :, None]
    return cells.spread(np.repeat(each, 2, axis=2), otherwise=1.0)


def cell_weights(cells: Cells) -> Float[np.ndarray, "n c"]:
    """Every group × label counts the same."""
    return cells.spread(equal_weights(cells.size), otherwise=1.0)


def _by_group(problem: Problem) -> Solution:
    cells = cells_of(problem.train.y, problem.train.group, len(problem.groups))
    return fit_weighted(problem, group_weights(cells) * problem.weights)


def _by_cell(problem: Problem) -> Solution:
    cells = cells_of(problem.train.y, problem.train.group, len(problem.groups))
    return fit_weighted(problem, cell_weights(cells) * problem.weights)


_SOURCE = "Idrissi et al., CLeaR 2022; FairMedFM, NeurIPS 2024"
BY_GROUP = Method(
    name="resampling",
    fit=_by_group,
    summary="Every group is seen equally often.",
    source=_SOURCE,
    protocols=("convex", "paper", "fairmedfm"),
    adapts=("paper", "fairmedfm"),
    streams=True,
    has_prior=True,
)
BY_CELL = Method(
    name="resampling-label",
    fit=_by_cell,
    summary="Every group with and without the finding is seen equally often.",
    source=_SOURCE,
    protocols=("convex", "paper", "fairmedfm"),
    adapts=("paper", "fairmedfm"),
    streams=True,
    has_prior=True,
)
