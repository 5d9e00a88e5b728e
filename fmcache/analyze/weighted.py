"""Tallies of all groups under many weightings of the patients at once: areas (`areas.py`) and sums (`sums.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from fmcache.analyze.areas import Areas, Bools, Floats, Ints, Partition, areas_of
from fmcache.analyze.calibration import (
    BINS,
    SMALLEST,
    bin_of,
    binned_error,
    debiased_error,
    equal_mass_bin_of,
    one_step,
    recalibrate,
    recalibration_columns,
)
from fmcache.analyze.influence import auc_influence, auprc_influence
from fmcache.analyze.metrics import Tally, ratio
from fmcache.analyze.metrics import auprc as average_precision
from fmcache.analyze.sums import Sums, sums_of

COUNTS = 4  # columns: positives, negatives, true calls, false calls
AREAS = 2  # columns of the first-order engine: influence on the AUC, on the AUPRC
ERRORS = 2  # columns: squared error, log loss
RECALIBRATION = 7


@dataclass(frozen=True)
class _Part:
    """One partition: exact areas, or their values for the first-order engine; sums; where recalibration starts."""

    areas: Areas | None
    area: Floats  # [groups, 2] AUC and AUPRC, of the first-order engine
    sums: Sums
    start: Floats  # [groups, 3] large, intercept, slope
    limit: Floats  # [groups] threshold, NaN where there is none


@dataclass(frozen=True)
class Plan:
    """One label's predictions, prepared for any number of weightings.

    Build it with `plan`. `cells` groups in all: the partitions' groups, one partition after another.
    """

    parts: tuple[_Part, ...]
    units: int
    probability: bool
    auprc: bool

    @property
    def cells(self) -> int:
        return sum(len(part.sums.blocks) for part in self.parts)

    def tally(self, weights: npt.NDArray[np.floating]) -> Tally:
        """The tallies under weights [units, b], fields [cells, b]."""
        if weights.shape[0] != self.units:
            raise ValueError(f"{weights.shape[0]} weights for {self.units} units")
        return concatenate([self._tally(part, weights) for part in self.parts], axis=0)

    def _tally(self, part: _Part, weights: npt.NDArray[np.floating]) -> Tally:
        s = part.sums.under(weights)
        positives, negatives, tp, fp = (s[:, k] for k in range(COUNTS))
        nothing = np.full(positives.shape, np.nan)
        at = COUNTS
        if part.areas is not None:
            _, _, auc, auprc = part.areas.under(weights, self.auprc)
        else:
            both = (positives > 0) & (negatives > 0)
            auc, auprc = (
                np.where(both, np.clip(part.area[:, k, None] + s[:, at + k], 0, 1), np.nan) for k in (0, 1)
            )
            at += AREAS
        brier = log_loss = ece = adaptive = debiased = large = slope = nothing
        if self.probability:
            n = positives + negatives
            brier, log_loss = ratio(s[:, at], n), ratio(s[:, at + 1], n)
            at += ERRORS
            ece = ratio(np.abs(s[:, at : at + BINS]).sum(axis=1), n)
            mass = [
                s[:, at + BINS * k : at + BINS * (k + 1)] for k in (1, 2, 3)
            ]  # n, positives, residuals a bin
            adaptive, debiased = binned_error(mass[0], mass[2]), debiased_error(*mass)
            large, slope = one_step(part.start, s[:, at + 4 * BINS :])
        without = np.isnan(part.limit)
        if without.any():
            tp, fp = tp.copy(), fp.copy()
            tp[without] = fp[without] = np.nan
        return Tally(
            tp=tp, fp=fp, fn=positives - tp, tn=negatives - fp, positives=positives, negatives=negatives, auc=auc,
            auprc=auprc, brier=brier, log_loss=log_loss, ece=ece, ece_adaptive=adaptive, ece_debiased=debiased,
            calibration_large=large, calibration_slope=slope,
        )  # fmt: skip


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
) -> Plan:
    """Sort once, cut into groups, and lay out what the weightings are multiplied with.

    Parameters
    ----------
    y, score : [n]. unit : [n], what the weights are for (a patient), in 0 … units − 1.
    threshold : decision = score >= threshold; NaN leaves the rates out (NaN in the Tally). A sequence gives every
    partition the thresholds [groups] of its groups; a group whose threshold is NaN has no rates.
    probability : whether to prepare the calibration errors. auprc : whether to compute the average precision.
    exact : areas are recomputed in every replicate; otherwise they are first-order (`influence.py`).
    """
    score = score.astype(np.float64, copy=False)
    areas = areas_of(y, score, unit, units, partitions) if exact else [None] * len(partitions)
    single = isinstance(threshold, float)
    limits = [np.full(part.size, threshold) for part in partitions] if single else list(threshold)  # type: ignore[arg-type]
    width = COUNTS + (0 if exact else AREAS) + (ERRORS + 4 * BINS + RECALIBRATION if probability else 0)
    shared = np.zeros((len(y), width), np.float32)
    rows = np.arange(len(y))
    shared[:, 0], shared[:, 1] = y, ~y
    at = COUNTS + (0 if exact else AREAS)
    if probability:
        shared[:, at] = (score - y) ** 2
        shared[:, at + 1] = -np.log(np.clip(np.where(y, score, 1 - score), SMALLEST, 1))
        shared[rows, at + ERRORS + bin_of(score)] = score - y
    parts = []
    for part, area, limit in zip(partitions, areas, limits, strict=True):
        columns = shared.copy() if len(partitions) > 1 else shared
        called = score >= limit[part.codes]  # NaN: no call
        columns[:, 2], columns[:, 3] = y & called, ~y & called
        value, start = np.full((part.size, AREAS), np.nan), np.full((part.size, 3), np.nan)
        for g in range(part.size):
            mine = np.flatnonzero(part.codes == g) if part.size > 1 else rows
            if area is None and len(mine):
                value[g, 0], columns[mine, COUNTS] = auc_influence(y[mine], score[mine])
                columns[mine, COUNTS + 1] = auprc_influence(y[mine], score[mine])
                value[g, 1] = average_precision(y[mine], score[mine])
            if probability and len(mine):
                start[g] = recalibrate(y[mine], score[mine])
                base = at + ERRORS + BINS
                b = equal_mass_bin_of(score[mine])
                columns[mine, base + b] = 1
                columns[mine, base + BINS + b] = y[mine]
                columns[mine, base + 2 * BINS + b] = score[mine] - y[mine]
        if probability:
            columns[:, at + ERRORS + 4 * BINS :] = recalibration_columns(y, score, start[part.codes])
        parts.append(_Part(area, value, sums_of(columns, unit, units, part), start, limit))
    return Plan(tuple(parts), units, probability, auprc)
