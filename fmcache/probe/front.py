"""The utility–fairness front: what each coefficient of a method reaches, and which coefficients no other one beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fmcache.probe.penalties import auc, group_aucs
from fmcache.probe.problem import Column
from fmcache.shapes import Bool, Float, Int

Scored = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Logits [n, m, c], y [n, c] with NaN, group [n] with -1."""


def front_of(
    hyper: Sequence[Mapping[str, float]], columns: Sequence[Column], val: Scored, test: Scored
) -> list[dict[str, Any]]:
    """A row a column and coefficient: AUC, AUC gap, worst AUC, demographic-parity and equalised-odds gaps.

    Of each coefficient the penalty with the best validation AUC is taken. Rates are at the threshold of Youden's index
    on validation. ``pareto`` is told on validation: no other coefficient of the column is at least as good in AUC and
    in every gap, and better in one. Test figures stand beside and choose nothing.
    """
    coefficient = np.array([float(one["coefficient"]) for one in hyper])
    rows = []
    for c, column in enumerate(columns):
        known = ~np.isnan(val[1][:, c])
        z, y, group = val[0][known, :, c], val[1][known, c], val[2][known]
        if not 0 < y.sum() < len(y):
            continue
        utility = auc(z, y)
        picks = [
            max(np.flatnonzero(coefficient == value).tolist(), key=lambda j: (utility[j], j))
            for value in np.unique(coefficient)
        ]
        mine: list[dict[str, Any]] = []
        for j in picks:
            cut = youden(z[:, j], y)
            seen = ~np.isnan(test[1][:, c])
            mine.append(
                {
                    "label": column.label,
                    "seed": column.seed,
                    "coefficient": float(coefficient[j]),
                    "penalty": float(hyper[j].get("penalty", np.nan)),
                    **{f"val_{name}": value for name, value in figures(z[:, j], y, group, cut).items()},
                    **{
                        f"test_{name}": value
                        for name, value in figures(
                            test[0][seen, j, c], test[1][seen, c], test[2][seen], cut
                        ).items()
                    },
                }
            )
        wanted = np.array([[row["val_auc"], *(-row[f"val_{gap}"] for gap in GAPS)] for row in mine])
        for row, best in zip(mine, pareto(wanted), strict=True):
            rows.append(
                {
                    name: None if isinstance(value, float) and np.isnan(value) else value
                    for name, value in row.items()
                }
                | {"pareto": bool(best)}
            )
    return rows


GAPS = ("auc_gap", "dp_gap", "eqodds_gap")


def figures(
    z: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], group: Int[np.ndarray, " n"], cut: float
) -> dict[str, float]:
    """AUC, its gap and its worst over groups; the gaps of positive rate, and of TPR and FPR (their mean)."""
    each = [float(value[0]) for value in group_aucs(z[:, None], y, group).values()]
    hit = z > cut
    rates, true, false = [], [], []
    for g in np.unique(group[group >= 0]):
        mine = group == g
        rates.append(hit[mine].mean())
        true.append(hit[mine & (y == 1)].mean() if (mine & (y == 1)).any() else np.nan)
        false.append(hit[mine & (y == 0)].mean() if (mine & (y == 0)).any() else np.nan)
    ranked = len(y) and 0 < y.sum() < len(y)
    return {
        "auc": float(auc(z[:, None], y)[0]) if ranked else np.nan,
        "auc_gap": max(each) - min(each) if len(each) > 1 else np.nan,
        "worst_auc": min(each) if each else np.nan,
        "dp_gap": _range(rates),
        "eqodds_gap": (_range(true) + _range(false)) / 2,
    }


def _range(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(max(known) - min(known)) if len(known) > 1 else float("nan")


def youden(z: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """The cut (scores above it are positive) with the largest TPR - FPR; between two scores where it can be."""
    order = np.argsort(-z, kind="stable")
    truth = y[order] > 0
    gain = np.cumsum(truth) / truth.sum() - np.cumsum(~truth) / (~truth).sum()
    last = np.append(np.diff(z[order]) != 0, True)
    at = int(np.argmax(np.where(last, gain, -np.inf)))
    here = z[order][at]
    below = z[order][at + 1] if at + 1 < len(z) else here - 1
    return float((here + below) / 2)


def pareto(values: Float[np.ndarray, "r q"]) -> Bool[np.ndarray, " r"]:
    """Rows that no other row beats: at least as large everywhere and larger somewhere. NaN compares as the worst."""
    filled = np.where(np.isnan(values), -np.inf, values)
    no_less = np.all(filled[None, :, :] >= filled[:, None, :], axis=2)
    more = np.any(filled[None, :, :] > filled[:, None, :], axis=2)
    beaten: np.ndarray = np.logical_and(no_less, more).any(axis=1)
    return ~beaten
