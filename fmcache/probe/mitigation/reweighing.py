"""Reweighing: weights under which label and group are independent.

Source: Kamiran & Calders, "Data preprocessing techniques for classification without discrimination", KAIS 2012,
section 5.3::

    s_i = P(g) P(y) / P(g, y) = n_g n_y / (N n_{g,y})

Unlike resampling, each group keeps its share of the rows and each label its prevalence. Rows whose group is unknown
keep weight 1; the counts are of rows whose label and group are known.
"""

from __future__ import annotations

import numpy as np

from fmcache.probe.erm import fit_weighted
from fmcache.probe.mitigation.cells import Cells, cells_of
from fmcache.probe.problem import Method, Problem, Solution
from fmcache.shapes import Float


def weights(cells: Cells) -> Float[np.ndarray, "n c"]:
    """P(g) P(y) / P(g, y) of each row."""
    size = cells.size.astype(np.float64)
    of_group, of_label = size.sum(axis=2, keepdims=True), size.sum(axis=1, keepdims=True)
    total = size.sum(axis=(1, 2), keepdims=True)
    value = np.divide(of_group * of_label, total * size, out=np.zeros_like(size), where=size > 0)
    return cells.spread(value, otherwise=1.0)


def _fit(problem: Problem) -> Solution:
    cells = cells_of(problem.train.y, problem.train.group, len(problem.groups))
    return fit_weighted(problem, weights(cells) * problem.weights)


REWEIGHING = Method(
    name="reweighing",
    fit=_fit,
    summary="Weights under which label and group are independent.",
    source="Kamiran & Calders, KAIS 2012, section 5.3",
    protocols=("convex", "paper", "fairmedfm"),
    adapts=("paper", "fairmedfm"),
    streams=True,
    has_prior=True,
)
