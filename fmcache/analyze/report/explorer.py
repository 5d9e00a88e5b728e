"""The threshold explorer: what a reader sees of each group when the threshold moves, worked out beforehand.

The page holds counts at a few dozen thresholds, never scores. Two neighbouring thresholds are so far apart that in
every group either nobody or at least `floor` patients lie between them, so no step of the slider is about one person.
The page's script only looks the counts up and divides; at every stop the rates are those of the metrics, to the last
bit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy import ndarray

from fmcache.analyze.report.views import Group
from fmcache.shapes import Bool, Float, Int
from fmcache.store.groups import UNKNOWN

STOPS = 100  # steps of the slider before neighbours are joined
LEAST = 5  # a group takes part from LEAST × floor patients on: with fewer the slider would have no stops
FEWEST = 4  # an explorer with fewer stops shows nothing


@dataclass(frozen=True)
class Scores:
    """The rows of one group in rising order of score: truth, score, one number a patient, most images of a patient."""

    y: Bool[ndarray, " n"]
    score: Float[ndarray, " n"]
    patient: Int[ndarray, " n"]
    most: int

    def patients(self, low: float, high: float, enough: int) -> int:
        """Patients with an image whose score is in [low, high); `enough` stands for that many or more."""
        first, last = np.searchsorted(self.score, (low, high), side="left")
        if last - first > (enough - 1) * self.most:
            return enough
        return min(enough, len(np.unique(self.patient[first:last])))


@dataclass(frozen=True)
class Moves:
    """Of one group: positives and negatives, and how many of them lie at or above each threshold."""

    slot: int
    group: Group
    positives: int
    negatives: int
    tp: Sequence[int]
    fp: Sequence[int]

    @property
    def known(self) -> bool:
        """Whether the group counts for differences."""
        return self.group.name != UNKNOWN

    def net(self, stop: int, threshold: float) -> float:
        """The net benefit TP/n − FP/n · t/(1 − t) of acting at a threshold t that is a probability; NaN at 1."""
        if threshold >= 1:
            return math.nan
        odds = threshold / (1 - threshold)
        return (self.tp[stop] - self.fp[stop] * odds) / (self.positives + self.negatives)

    def rates(self, stop: int) -> tuple[float, float, float, float]:
        """Flagged share, sensitivity, false alarms and precision at a stop; NaN where nobody is flagged."""
        tp, fp = self.tp[stop], self.fp[stop]
        flagged = tp + fp
        return (
            flagged / (self.positives + self.negatives),
            tp / self.positives,
            fp / self.negatives,
            tp / flagged if flagged else math.nan,
        )


@dataclass(frozen=True)
class Explorer:
    """Thresholds in rising order, the index of the one in use, and the groups that take part."""

    thresholds: Sequence[float]
    start: int
    groups: Sequence[Moves]
    left_out: Sequence[str]
    probability: bool = False  # whether the scores can be read as probabilities

    @property
    def spreads(self) -> tuple[float, float]:
        """Largest differences of sensitivity and false alarms at the threshold in use; NaN without two groups."""
        rates = np.array([g.rates(self.start)[1:3] for g in self.groups if g.known])
        if len(rates) < 2:
            return math.nan, math.nan
        tpr, fpr = np.ptp(rates, axis=0).tolist()
        return tpr, fpr

    def data(self) -> str:
        """As JSON for a ``<script type="application/json">``: no character of it can end the element."""
        body = {
            "thresholds": list(self.thresholds),
            "start": self.start,
            "probability": self.probability,
            "groups": [
                {
                    "positives": g.positives,
                    "negatives": g.negatives,
                    "known": g.known,
                    "tp": list(g.tp),
                    "fp": list(g.fp),
                }
                for g in self.groups
            ],
        }
        text = json.dumps(body, separators=(",", ":"), allow_nan=False)
        return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def explore(
    groups: Sequence[tuple[int, Group, pl.DataFrame]], threshold: float, floor: int
) -> Explorer | None:
    """The explorer of an attribute, or None where there is nothing to move.

    Parameters
    ----------
    groups : (slot, group, its rows with ``y``, ``score``, ``person`` and ``probability``), shown groups only.
    threshold : the one in use (decision: score >= threshold); it is always a stop.
    floor : fewest patients of a group between two stops; see the module.
    """
    if not np.isfinite(threshold):
        return None
    taking, left_out = [], []
    for slot, group, rows in groups:
        scores = _sorted(rows)
        patients = scores.patients(-np.inf, np.inf, LEAST * floor)
        if patients < LEAST * floor or len(np.unique(scores.y)) < 2:
            left_out.append(group.name)
        else:
            taking.append((slot, group, scores))
    if len(taking) < 2:
        return None
    stops = _stops([scores for _, _, scores in taking], threshold, floor)
    if len(stops) < FEWEST:
        return None
    return Explorer(
        thresholds=stops,
        start=stops.index(threshold),
        groups=[_moves(slot, group, scores, stops) for slot, group, scores in taking],
        left_out=left_out,
        probability=all(
            "probability" in rows.columns and bool(rows["probability"].all()) for *_, rows in groups
        ),
    )


def _sorted(rows: pl.DataFrame) -> Scores:
    rows = rows.sort("score")
    patient = rows["person"].to_numpy()
    return Scores(
        rows["y"].to_numpy() == 1, rows["score"].to_numpy(), patient, int(np.bincount(patient).max())
    )


def candidates(low: float, high: float, score: Float[ndarray, " n"]) -> list[float]:
    """Round thresholds between the ends: hundredths for probabilities, else quantiles at three significant digits."""
    if low >= 0 and high <= 1:
        return [k / STOPS for k in range(STOPS + 1)]
    levels = np.quantile(score, np.linspace(0, 1, STOPS + 1))
    return sorted({float(f"{level:.3g}") for level in levels})


def _stops(groups: Sequence[Scores], threshold: float, floor: int) -> list[float]:
    """Candidates outward from the threshold in use, each only if in no group 1 to floor - 1 patients lie between it
    and the stop before, or beyond it."""
    score = np.concatenate([one.score for one in groups])
    grid = candidates(float(score.min()), float(score.max()), score)
    above = _walk(groups, threshold, [t for t in grid if t > threshold], floor)
    below = _walk(groups, threshold, [t for t in reversed(grid) if t < threshold], floor)
    return [*reversed(below), threshold, *above]


def _walk(groups: Sequence[Scores], start: float, grid: Sequence[float], floor: int) -> list[float]:
    kept: list[float] = []
    at = start
    for stop in grid:
        low, high = min(at, stop), max(at, stop)
        passed = [one.patients(low, high, floor) for one in groups]
        ends = (stop, np.inf) if stop > start else (-np.inf, stop)
        beyond = [one.patients(*ends, floor) for one in groups]
        if any(passed) and not any(0 < n < floor for n in (*passed, *beyond)):
            kept.append(stop)
            at = stop
    return kept


def _moves(slot: int, group: Group, scores: Scores, stops: Sequence[float]) -> Moves:
    def at_or_above(score: Float[ndarray, " n"]) -> list[int]:
        return (len(score) - np.searchsorted(score, stops, side="left")).tolist()

    positive, negative = scores.score[scores.y], scores.score[~scores.y]
    return Moves(slot, group, len(positive), len(negative), at_or_above(positive), at_or_above(negative))
