"""Deep feature reweighting (dfr): the last layer trained again on rows in which every group × label is equally common.

Source: Kirichenko, Izmailov & Wilson, "Last layer re-training is sufficient for robustness to spurious correlations",
ICLR 2023. From held-out rows, each cell of group × label gives as many rows, drawn without replacement, as the smallest
cell has; a head is fitted; the mean of the heads of several draws is the result. Held out are validation rows, as in
the paper's DFR^Val: half of the validation patients for this, the other half for choosing the penalty. The paper's
penalty is ℓ1, ours is ℓ2, so that path, eigenbasis and optimum are those of every other method.

Rows whose group is unknown are never drawn. The number of draws is the grid's ``draws``.
"""

from __future__ import annotations

from hashlib import sha256

import numpy as np

from fmcache.errors import UsageError
from fmcache.probe.centred import centre
from fmcache.probe.logistic import fit_logistic
from fmcache.probe.mitigation.cells import Cells, cells_of
from fmcache.probe.problem import Method, Problem, Solution
from fmcache.shapes import Bool, Int


def half_of(patient: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """True for the rows of every second patient, in the order of a hash; a patient is never on both sides."""
    names, of_row = np.unique(patient, return_inverse=True)
    order = sorted(range(len(names)), key=lambda at: sha256(f"dfr\0{names[at]}".encode()).digest())
    chosen = np.zeros(len(names), bool)
    chosen[order[::2]] = True
    return chosen[of_row]


def balanced(cells: Cells, seeds: list[int], draw: int) -> Bool[np.ndarray, "n c"]:
    """One draw: the rows that are in, for every column."""
    chosen = np.zeros(cells.code.shape, bool)
    for column, size in enumerate(cells.size):
        rng = np.random.default_rng([seeds[column], draw])
        present = np.flatnonzero(size.sum(axis=1) > 0)
        for code in (2 * present[:, None] + [0, 1]).ravel():
            rows = np.flatnonzero(cells.code[:, column] == code)
            chosen[rng.choice(rows, int(size[present].min()), replace=False), column] = True
    return chosen


def _fit(problem: Problem) -> Solution:
    """All draws, penalties and columns in one program; m = penalties."""
    val, used = problem.val, half_of(problem.val.patient)
    x, y = val.x[used], val.y[used]
    cells = cells_of(y, val.group[used], len(problem.groups))
    for at, size in zip(problem.columns, cells.size, strict=True):
        here = size.sum(axis=1) > 0
        if not here.any() or size[here].min() == 0:
            counts = ", ".join(
                f"{name} {low}+{high}" for name, (low, high) in zip(problem.groups, size, strict=True)
            )
            raise UsageError(
                f"dfr needs validation rows with and without {at.label} in every group of {problem.attribute}.",
                f"Half of the validation patients have (negative+positive): {counts}.",
                "Leave that label out, merge groups, or use resampling-label, which balances the training rows.",
            )
    draws = int(problem.grid["draws"][0])
    seeds = [at.seed for at in problem.columns]
    parts = np.stack([balanced(cells, seeds, draw) for draw in range(draws)], axis=1)  # [n, draws, c]
    own = np.where(parts, y[:, None, :], np.nan).reshape(len(y), -1).astype(np.float32)
    fit = fit_logistic(centre(x), own, problem.penalties.tolist())
    m, c = len(problem.penalties), y.shape[1]
    return Solution(
        tuple({"penalty": float(value)} for value in problem.penalties),
        fit.w.reshape(m, draws, c, -1).mean(axis=1),
        fit.b.reshape(m, draws, c).mean(axis=1),
        converged=np.all(fit.converged.reshape(m, draws, c), axis=1),
        val_used=used,
        prevalence=np.full(c, 0.5),  # as many rows of either class
        facts={"rows_in_a_draw": parts[:, 0].sum(axis=0).tolist(), "passes": fit.passes},
    )


DFR = Method(
    name="dfr",
    fit=_fit,
    summary="The head is trained on group-balanced halves of the validation patients.",
    source="Kirichenko et al., ICLR 2023 (DFR-Val; penalty l2 instead of l1)",
    grid={"draws": (10.0,)},
    stochastic=True,
    has_prior=True,
    class_weights=False,
)
