"""What the ROC and calibration figures draw, from stored predictions. Pure NumPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from fmcache.shapes import Float, Int

GRID = 61  # points of a drawn ROC curve: no vertex belongs to one patient
BINS = 10


@dataclass(frozen=True)
class Bin:
    """Scores in [low, high): how many images, their mean score and their share of positives."""

    low: float
    high: float
    n: int
    predicted: float
    observed: float


def roc(y: Float[ndarray, " n"], score: Float[ndarray, " n"]) -> Float[ndarray, "2 k"]:
    """ROC curve (false-positive rate, true-positive rate) at GRID false-positive rates, ties drawn as diagonals.

    Returns an array with k = 0 when a class is absent. A score of few distinct values keeps its own corners.
    """
    positives = int((y == 1).sum())
    negatives = len(y) - positives
    if not positives or not negatives:
        return np.zeros((2, 0))
    order = np.argsort(-score, kind="stable")
    ranked, truth = score[order], y[order]
    last = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True])  # last index of each run of equal scores
    tpr = np.r_[0.0, np.cumsum(truth)[last] / positives]
    fpr = np.r_[0.0, np.cumsum(1 - truth)[last] / negatives]
    if len(fpr) <= GRID // 4:
        return np.stack([fpr, tpr])
    grid = np.linspace(0, 1, GRID)
    # from above: where the curve rises at one false-positive rate, its upper end is the curve there
    return np.stack([np.r_[0.0, grid], np.r_[0.0, np.interp(np.nextafter(grid, 2), fpr, tpr)]])


def precision_recall(y: Float[ndarray, " n"], score: Float[ndarray, " n"]) -> Float[ndarray, "2 k"]:
    """Precision-recall curve (recall, precision) at GRID recalls above 0.

    Between two thresholds true and false positives grow in proportion, so precision is not interpolated itself
    (Davis & Goadrich, ICML 2006). Returns an array with k = 0 when a class is absent.
    """
    positives = int((y == 1).sum())
    negatives = len(y) - positives
    if not positives or not negatives:
        return np.zeros((2, 0))
    order = np.argsort(-score, kind="stable")
    ranked, truth = score[order], y[order]
    last = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True])
    tp = np.r_[0.0, np.cumsum(truth)[last]]
    fp = np.r_[0.0, np.cumsum(1 - truth)[last]]
    recall = np.linspace(0, 1, GRID)[1:] if len(tp) > GRID // 4 else np.unique(tp)[1:] / positives
    found = np.round(recall * positives, 9)  # 0.55 * 100 is a little more than 55
    false = np.interp(
        np.nextafter(found, 0), tp, fp
    )  # from below: a recall is reached with its fewest false alarms
    return np.stack([recall, found / (found + false)])


def calibration(
    y: Float[ndarray, " n"], score: Float[ndarray, " n"], patient: Int[ndarray, " n"], floor: int
) -> list[Bin]:
    """Reliability bins: BINS equal widths on [0, 1], neighbours merged until each holds `floor` patients.

    Parameters
    ----------
    patient : one number a person, the same for all images of a person.
    """
    which = np.minimum((score * BINS).astype(int), BINS - 1)
    groups: list[list[int]] = [[]]
    for b in range(BINS):
        groups[-1].append(b)
        if len(np.unique(patient[np.isin(which, groups[-1])])) >= floor:
            groups.append([])
    if len(groups) > 1 and len(np.unique(patient[np.isin(which, groups[-1])])) < floor:
        rest = groups.pop()  # the tail is too small to stand alone
        groups[-1] += rest
    bins = []
    for group in groups:
        inside = np.isin(which, group)
        if group and inside.any():
            low, high = group[0] / BINS, (group[-1] + 1) / BINS
            bins.append(
                Bin(low, high, int(inside.sum()), float(score[inside].mean()), float(y[inside].mean()))
            )
    return bins
