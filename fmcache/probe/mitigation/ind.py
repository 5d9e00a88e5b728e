"""Domain-independent training (ind): one head for each group, their logits summed.

Source: Wang et al., "Towards fairness in visual recognition", CVPR 2020, section 4.4: a shared representation, one head
a group, trained on that group; at test, where the group is not known, ``z(x) = Σ_g z_g(x)``. With a frozen embedding
the heads are independent logistic regressions and their sum is again one linear head::

    w = Σ_g w_g,    b = Σ_g b_g

A group without both classes of a label has no head for it. Rows whose group is unknown train no head. The sum is
about G times as confident as one head: it ranks, and its threshold is chosen on validation, but it is not calibrated.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fmcache.errors import UsageError
from fmcache.probe.erm import fit_weighted
from fmcache.probe.mitigation.cells import cells_of
from fmcache.probe.problem import Method, Problem, Rows, Solution


def _fit(problem: Problem) -> Solution:
    """All heads of all columns in one program; `parameters` holds head_w [m, c, g, d] and head_b [m, c, g]."""
    size = cells_of(problem.train.y, problem.train.group, len(problem.groups)).size
    whole = (size > 0).all(axis=2)  # [c, g]
    if lacking := [at.label for at, ok in zip(problem.columns, np.any(whole, axis=1), strict=True) if not ok]:
        raise UsageError(
            f"No group of {problem.attribute} has both classes of {lacking[0]}: there is no head to train.",
            f"Groups: {', '.join(problem.groups)}.",
            "Leave that label out, or choose another attribute.",
        )
    column, group = np.nonzero(whole)

    def own(rows: Rows) -> Rows:
        y = np.where(rows.group[:, None] == group, rows.y[:, column], np.nan)
        return replace(rows, y=y.astype(np.float32))

    heads = replace(
        problem,
        train=own(problem.train),
        val=own(problem.val),
        weights=problem.weights[:, column],
        columns=tuple(problem.columns[at] for at in column),
    )
    fit = fit_weighted(heads, heads.weights)
    assert fit.w is not None
    assert fit.b is not None
    m, _, d = fit.w.shape
    head_w, head_b = np.full((m, *whole.shape, d), np.nan), np.full((m, *whole.shape), np.nan)
    head_w[:, column, group], head_b[:, column, group] = fit.w, fit.b
    converged = np.ones((m, *whole.shape), bool)
    if fit.converged is not None:
        converged[:, column, group] = fit.converged
    return Solution(
        fit.hyper,
        np.nansum(head_w, axis=2),
        np.nansum(head_b, axis=2),
        converged=np.all(converged, axis=2),
        facts={**fit.facts, "heads": whole.sum(axis=1).tolist()},
        parameters={"head_w": head_w, "head_b": head_b},
    )


IND = Method(
    name="ind",
    fit=_fit,
    summary="One head for each group; their logits are summed, so nobody's group is needed at test.",
    source="Wang et al., CVPR 2020, section 4.4",
    protocols=("convex", "paper", "fairmedfm"),
    streams=True,
)
