"""Utility against fairness: what each coefficient reaches on validation and test, and which of them nothing beats.

For methods with a ``coefficient``. In each column (label and seed) every coefficient first gets the penalty with the
highest AUC on validation; then the method's criterion chooses the coefficient, again on validation::

    auc          the highest AUC of all rows
    auc_worst    the highest AUC of the worst group (groups with both classes)
    dp_gap       the smallest selection-rate gap, among coefficients that lose at most `UTILITY` of the best AUC
    eqodds_gap   the smallest ½ (TPR gap + FPR gap), among the same

Among equals the larger coefficient wins. Where a criterion is undefined (one group) the AUC of all rows decides; where
validation holds one class only, the lowest log loss, for the penalty and then for the coefficient (a gap of zero would
else be had from scores that say nothing); where it holds no known label, the penalty in the middle and the first
coefficient. What decided is told in each column's choice.

Decisions are logit ≥ t with one t for all groups, the largest TPR - FPR on validation. The test rows never choose;
their numbers are stored beside those of validation, so that the report can draw the front.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fmcache.probe.penalties import auc, choose, log_loss
from fmcache.probe.problem import Column
from fmcache.shapes import Bool, Float, Int

CRITERIA = ("auc", "auc_worst", "dp_gap", "eqodds_gap")
UTILITY = 0.01
_TIE = 1e-9


@dataclass(frozen=True)
class Reached:
    """What q coefficients reach on some rows: all [q], NaN where undefined. n: rows with a known label.

    auc of all rows; auc_worst, auc_gap over groups with both classes; eqodds_gap, dp_gap at the threshold.
    """

    n: int
    auc: Float[np.ndarray, " q"]
    auc_worst: Float[np.ndarray, " q"]
    auc_gap: Float[np.ndarray, " q"]
    eqodds_gap: Float[np.ndarray, " q"]
    dp_gap: Float[np.ndarray, " q"]


@dataclass(frozen=True)
class Front:
    """The coefficients (q) of every column (c).

    Attributes
    ----------
    kept : [q, c], into the m settings: each coefficient with its best penalty.
    chosen : [c], into the m settings. threshold : [q, c], on logits. val : what validation says, one a column.
    criterion, value : [c], what decided (of `CRITERIA`, or ``log_loss`` or ``none``), and what the chosen setting has
        of it (NaN for ``none``).
    """

    kept: Int[np.ndarray, "q c"]
    chosen: Int[np.ndarray, " c"]
    threshold: Float[np.ndarray, "q c"]
    val: tuple[Reached, ...]
    value: Float[np.ndarray, " c"]
    criterion: tuple[str, ...]


def reached(
    z: Float[np.ndarray, "n q"],
    y: Float[np.ndarray, " n"],
    group: Int[np.ndarray, " n"],
    groups: int,
    threshold: Float[np.ndarray, " q"],
) -> Reached:
    """Measure logits of one column; rows with y NaN are left out, rows of group -1 count in `auc` alone."""
    known = ~np.isnan(y)
    z, positive, group = z[known], y[known] > 0, group[known]
    undefined = np.full(z.shape[1], np.nan)
    whole = auc(z, y[known]) if 0 < positive.sum() < positive.size else undefined
    aucs, rates, selected = [], ([], []), []  # type: ignore[var-annotated]
    yes = z >= threshold
    for g in range(groups):
        rows = group == g
        if 0 < positive[rows].sum() < rows.sum():
            aucs.append(auc(z[rows], y[known][rows]))
        for truth in (0, 1):
            if (cell := rows & (positive == truth)).any():
                rates[truth].append(yes[cell].mean(axis=0))
        if rows.any():
            selected.append(yes[rows].mean(axis=0))
    fpr, tpr = (_gap(rate, undefined) for rate in rates)
    worst = np.min(aucs, axis=0) if aucs else undefined
    return Reached(len(z), whole, worst, _gap(aucs, undefined), (fpr + tpr) / 2, _gap(selected, undefined))


def _gap(values: list[np.ndarray], undefined: np.ndarray) -> np.ndarray:
    return np.ptp(np.array(values), axis=0) if len(values) > 1 else undefined


def youden(z: Float[np.ndarray, "n q"], y: Float[np.ndarray, " n"]) -> Float[np.ndarray, " q"]:
    """The highest t with the largest TPR - FPR of z >= t, of each column; 0 where one class is missing."""
    known = ~np.isnan(y)
    z, positive = z[known], y[known] > 0
    if not 0 < positive.sum() < positive.size:
        return np.zeros(z.shape[1])
    order = np.argsort(-z, axis=0, kind="stable")
    high = np.take_along_axis(z, order, axis=0)
    hit = positive[order]
    gain = np.cumsum(hit, axis=0) / positive.sum() - np.cumsum(~hit, axis=0) / (~positive).sum()
    tied = np.concatenate([high[1:] == high[:-1], np.zeros((1, z.shape[1]), bool)])
    best = np.argmax(np.where(tied, -np.inf, np.around(gain, 12)), axis=0)
    return high[best, np.arange(z.shape[1])]


def choose_front(
    z: Float[np.ndarray, "n m c"],
    y: Float[np.ndarray, "n c"],
    group: Int[np.ndarray, " n"],
    groups: int,
    hyper: Sequence[Mapping[str, float]],
    criterion: str,
) -> Front:
    """Choose on validation samples (z: logits of every setting and column)."""
    coefficients = np.array([each["coefficient"] for each in hyper])
    distinct = np.unique(coefficients)
    kept = np.empty((distinct.size, y.shape[1]), np.int64)
    chosen = np.empty(y.shape[1], np.int64)
    threshold, val = np.empty(kept.shape), []
    value, decided = np.empty(y.shape[1]), []
    for column in range(y.shape[1]):
        own_y = y[:, column]
        for at, coefficient in enumerate(distinct):
            settings = np.flatnonzero(coefficients == coefficient)
            kept[at, column] = settings[choose(z[:, settings, column, None], own_y[:, None]).index[0]]
        own = z[:, kept[:, column], column]
        threshold[:, column] = youden(own, own_y)
        val.append(reached(own, own_y, group, groups, threshold[:, column]))
        known = ~np.isnan(own_y)
        loss = log_loss(own[known], own_y[known]) if known.any() else np.full(distinct.size, np.nan)
        best, by = _choose(val[-1], loss, criterion)
        told = {"log_loss": loss, "none": np.full(distinct.size, np.nan)}
        value[column] = (told[by] if by in told else getattr(val[-1], by))[best]
        chosen[column] = kept[best, column]
        decided.append(by)
    return Front(kept, chosen, threshold, tuple(val), value, tuple(decided))


def _choose(of: Reached, loss: Float[np.ndarray, " q"], criterion: str) -> tuple[int, str]:
    """The coefficient (0 … q - 1), and what decided."""
    if not np.isfinite(of.auc).all():
        criterion, quality = "log_loss", -loss
        if not np.isfinite(loss).all():
            return 0, "none"
    else:
        quality = getattr(of, criterion)
        if not np.isfinite(quality).all():
            criterion, quality = "auc", of.auc
    if criterion in ("dp_gap", "eqodds_gap"):
        quality = np.where(of.auc >= of.auc.max() - UTILITY - _TIE, -quality, -np.inf)
    return int(np.flatnonzero(quality >= quality.max() - _TIE)[-1]), criterion


def pareto(utility: Float[np.ndarray, " q"], gap: Float[np.ndarray, " q"]) -> Bool[np.ndarray, " q"]:
    """Which points no other beats: none has at least the utility and at most the gap, and one of them better."""
    better = (utility[None, :] >= utility[:, None]) & (gap[None, :] <= gap[:, None])
    strictly = (utility[None, :] > utility[:, None]) | (gap[None, :] < gap[:, None])
    return np.isfinite(utility) & np.isfinite(gap) & ~(better & strictly).any(axis=1)


def front_rows(
    front: Front,
    columns: Sequence[Column],
    hyper: Sequence[Mapping[str, float]],
    z: Float[np.ndarray, "n q c"],
    y: Float[np.ndarray, "n c"],
    group: Int[np.ndarray, " n"],
    groups: int,
) -> list[dict[str, Any]]:
    """``run.info["front"]``: one row for each column, coefficient and split (``val``, ``test``).

    Parameters
    ----------
    z, y, group : of the test samples; z holds the logits of the settings `front.kept`.

    Returns
    -------
    Rows of label, seed, split, coefficient, penalty (None if the method has none), n, auc, auc_worst, auc_gap,
    eqodds_gap, dp_gap, threshold (on logits, chosen on validation), pareto (no coefficient of the same split has at
    least this auc and at most this auc_gap) and chosen. Undefined numbers are None.
    """
    rows: list[dict[str, Any]] = []
    for at, column in enumerate(columns):
        test = reached(z[:, :, at], y[:, at], group, groups, front.threshold[:, at])
        for split, of in (("val", front.val[at]), ("test", test)):
            unbeaten = pareto(of.auc, of.auc_gap)
            for k, setting in enumerate(front.kept[:, at]):
                rows.append(
                    {
                        "label": column.label,
                        "seed": column.seed,
                        "split": split,
                        "coefficient": float(hyper[setting]["coefficient"]),
                        "penalty": hyper[setting].get("penalty"),
                        "n": of.n,
                        **{name: _number(getattr(of, name)[k]) for name in _NUMBERS},
                        "threshold": float(front.threshold[k, at]),
                        "pareto": bool(unbeaten[k]),
                        "chosen": bool(setting == front.chosen[at]),
                    }
                )
    return rows


_NUMBERS = ("auc", "auc_worst", "auc_gap", "eqodds_gap", "dp_gap")


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
