"""Tallies of all groups under many weightings of the patients at once.

Areas under curves come from `areas.py`, counts and binned residuals from `binned.py`, the rest from `sums.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from fmcache.analyze.areas import Areas, Bools, Floats, Ints, areas_of
from fmcache.analyze.binned import COUNTS, Binned, binned_of
from fmcache.analyze.calibration import (
    BINS,
    SMALLEST,
    bin_of,
    binned_error,
    debiased_error,
    equal_mass_bin_of,
    logit,
    one_step,
    recalibrate,
    recalibration_columns,
)
from fmcache.analyze.influence import auc_influence, auprc_influence
from fmcache.analyze.metrics import Tally, ratio
from fmcache.analyze.metrics import auprc as average_precision
from fmcache.analyze.partitions import Partition, finest
from fmcache.analyze.sums import Sums, sums_of

AREAS = 2  # columns of the first-order engine: influence on the AUC, on the AUPRC
ERRORS = 2  # columns of every sample: squared error, log loss
RECALIBRATION = 7


@dataclass(frozen=True)
class _Part:
    """One partition: its areas, exact or to first order; which cells make up its groups; where recalibration starts."""

    areas: Areas | None
    area: Floats  # [groups, 2] AUC and AUPRC, of the first-order engine
    cells: Floats  # [groups, cells], 1 where the cell is of the group
    start: Floats  # [groups, 3] large, intercept, slope
    limit: Floats  # [groups] threshold, NaN where there is none


@dataclass(frozen=True)
class Plan:
    """One label's predictions, prepared for any number of weightings.

    Build it with `plan`. `cells` groups in all: the partitions' groups, one partition after another.

    Attributes
    ----------
    binned : counts and binned residuals. sums : of the other columns in every finest cell; the columns are `ERRORS`,
    then of every partition `RECALIBRATION` (both of probabilities only), then `AREAS` (unless exact).
    """

    parts: tuple[_Part, ...]
    binned: Binned
    sums: Sums | None
    units: int
    probability: bool
    auprc: bool

    @property
    def cells(self) -> int:
        return sum(self.binned.groups)

    def tally(self, weights: npt.NDArray[np.floating]) -> Tally:
        """The tallies under weights [units, b], fields [cells, b]."""
        if weights.shape[0] != self.units:
            raise ValueError(f"{weights.shape[0]} weights for {self.units} units")
        binned = self.binned.under(weights)
        sums = self.sums.under(weights) if self.sums is not None else np.zeros((0, 0, 0))
        found = []
        for k, (part, mine) in enumerate(zip(self.parts, binned, strict=True)):
            own = _columns_of(k, self.probability, part.areas is None)
            dense = np.tensordot(part.cells, sums[:, own], 1) if len(own) else sums
            found.append(self._tally(part, mine.astype(np.float64), dense, weights))
        return concatenate(found, axis=0)

    def _tally(self, part: _Part, s: Floats, dense: Floats, weights: npt.NDArray[np.floating]) -> Tally:
        n, positives, called, tp = (s[:, k] for k in range(COUNTS))
        negatives, fp = n - positives, called - tp
        if part.areas is not None:
            _, _, auc, auprc = part.areas.under(weights, self.auprc)
        else:
            both = (positives > 0) & (negatives > 0)
            moved = dense[:, -AREAS:]
            auc, auprc = (
                np.where(both, np.clip(part.area[:, k, None] + moved[:, k], 0, 1), np.nan) for k in (0, 1)
            )
        nothing = np.full(n.shape, np.nan)
        brier = log_loss = ece = adaptive = debiased = large = slope = nothing
        if self.probability:
            brier, log_loss = ratio(dense[:, 0], n), ratio(dense[:, 1], n)
            off, *mass = (s[:, COUNTS + BINS * k : COUNTS + BINS * (k + 1)] for k in range(4))
            ece = ratio(np.abs(off).sum(axis=1), n)
            adaptive, debiased = binned_error(mass[0], mass[2]), debiased_error(*mass)
            large, slope = one_step(part.start, dense[:, ERRORS : ERRORS + RECALIBRATION])
        without = np.isnan(part.limit)
        if without.any():
            tp, fp = tp.copy(), fp.copy()
            tp[without] = fp[without] = np.nan
        return Tally(
            tp=tp, fp=fp, fn=positives - tp, tn=negatives - fp, positives=positives, negatives=negatives, auc=auc,
            auprc=auprc, brier=brier, log_loss=log_loss, ece=ece, ece_adaptive=adaptive, ece_debiased=debiased,
            calibration_large=large, calibration_slope=slope,
        )  # fmt: skip


def _columns_of(k: int, probability: bool, first_order: bool) -> list[int]:
    """The columns of `Plan.sums` that partition k uses."""
    shared = ERRORS if probability else 0
    own = (RECALIBRATION if probability else 0) + (AREAS if first_order else 0)
    return [*range(shared), *range(shared + k * own, shared + (k + 1) * own)]


def concatenate(tallies: list[Tally], axis: int) -> Tally:
    """Tallies joined along an axis: 0 = cells, 1 = replicates."""
    return Tally(*(np.concatenate([getattr(t, f.name) for t in tallies], axis=axis) for f in fields(Tally)))


def select(tallies: Tally, cells: slice | Ints) -> Tally:
    """Some cells of a Tally."""
    return Tally(*(getattr(tallies, f.name)[cells] for f in fields(Tally)))


def plan(
    y: Bools,
    score: Floats,
    unit: Ints,
    units: int,
    partitions: list[Partition],
    *,
    threshold: float | Sequence[Floats] = float("nan"),
    probability: bool = False,
    auprc: bool = True,
    exact: bool = True,
    starts: Sequence[Floats] | None = None,
) -> Plan:
    """Sort once, cut into groups, and lay out what the weightings are multiplied with.

    Parameters
    ----------
    y, score : [n]. unit : [n], what the weights are for (a patient), in 0 … units − 1.
    threshold : decision = score >= threshold; NaN leaves the rates out (NaN in the Tally). A sequence gives every
    partition the thresholds [groups] of its groups; a group whose threshold is NaN has no rates.
    probability : whether to prepare the calibration errors. auprc : whether to compute the average precision.
    exact : areas are recomputed in every replicate; otherwise they are first-order (`influence.py`).
    starts : the `recalibrate` of every group of every partition [groups, 3], if known already.
    """
    score = score.astype(np.float64, copy=False)
    if (score[1:] < score[:-1]).any():
        order = np.argsort(score, kind="stable")
        y, score, unit = y[order], score[order], unit[order]
        partitions = [Partition(part.codes[order], part.size) for part in partitions]
    areas = areas_of(y, score, unit, units, partitions) if exact else [None] * len(partitions)
    single = isinstance(threshold, float)
    limits = [np.full(part.size, threshold) for part in partitions] if single else list(threshold)  # type: ignore[arg-type]
    cells = finest(partitions)
    called = [
        score >= limit[part.codes] for part, limit in zip(partitions, limits, strict=True)
    ]  # NaN: no call
    columns, parts, mass = [], [], []
    if probability:
        x = logit(score)
        columns.append(_errors(y, score))
    for k, (part, area, limit) in enumerate(zip(partitions, areas, limits, strict=True)):
        members = part.members()
        if probability:
            start = starts[k] if starts is not None else _starts(y, score, members)
            columns.append(recalibration_columns(y, x, start[part.codes]))
            bins = np.empty(len(y), np.int64)
            for mine in members:
                bins[mine] = equal_mass_bin_of(score[mine])
            mass.append(bins)
        else:
            start = np.full((part.size, 3), np.nan)
        value = np.full((part.size, AREAS), np.nan)
        if area is None:
            value, influence = _first_order(y, score, members)
            columns.append(influence)
        inside = np.zeros((part.size, cells.size))
        inside[part.codes, cells.codes] = 1
        parts.append(_Part(area, value, inside, start, limit))
    bins_of = (bin_of(score), mass) if probability else None
    binned = binned_of(y, score - y, unit, units, cells, partitions, called, bins_of)
    sums = sums_of(np.concatenate(columns, axis=1, dtype=np.float32), unit, units, cells) if columns else None
    return Plan(tuple(parts), binned, sums, units, probability, auprc)


def _errors(y: Bools, p: Floats) -> Floats:
    return np.stack([(p - y) ** 2, -np.log(np.clip(np.where(y, p, 1 - p), SMALLEST, 1))], axis=1)


def _starts(y: Bools, p: Floats, members: Sequence[Ints]) -> Floats:
    return np.array([recalibrate(y[mine], p[mine]) for mine in members]).reshape(-1, 3)


def _first_order(y: Bools, score: Floats, members: Sequence[Ints]) -> tuple[Floats, Floats]:
    """AUC and AUPRC [groups, 2], and the influence of every sample on both in its group [n, 2]."""
    value, influence = np.full((len(members), AREAS), np.nan), np.zeros((len(y), AREAS))
    for g, mine in enumerate(members):
        if len(mine):
            value[g, 0], influence[mine, 0] = auc_influence(y[mine], score[mine])
            influence[mine, 1] = auprc_influence(y[mine], score[mine])
            value[g, 1] = average_precision(y[mine], score[mine])
    return value, influence
