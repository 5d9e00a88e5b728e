"""What fmcache measures in one group: kernels on labels and scores, and the table METRICS.

Every metric is a function of a Tally, the handful of sums that a group's predictions come down to. The point
estimate takes the Tally of the predictions themselves (`tally`), a bootstrap replicate the Tally of the reweighted
ones (`weighted.py`), so both go through the same formula.

Definition ``fmcache``: decision = score >= threshold; one threshold for all groups. A number that is not defined is
NaN, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fmcache.analyze.areas import Bools, Floats
from fmcache.analyze.calibration import (
    BINS,
    SMALLEST,
    bin_of,
    binned_error,
    debiased_error,
    equal_mass_bin_of,
    recalibrate,
)

Better = Literal["higher", "lower", "neither"]
Denominator = Literal["samples", "positives", "negatives", "both classes", "positive calls", "negative calls"]

DEFINITION = "fmcache"


@dataclass(frozen=True)
class Tally:
    """The sums a group's predictions come down to; all fields have one shape (cells × replicates, or a scalar's).

    Attributes
    ----------
    tp, fp, fn, tn : (weighted) number of samples by truth and decision; NaN without a threshold.
    positives, negatives : (weighted) number of samples by truth.
    auc, auprc : areas, in [0, 1]; NaN where a class is absent.
    brier, log_loss, ece, ece_adaptive, ece_debiased, calibration_large, calibration_slope : NaN where the scores
    are no probabilities or the group is empty; the last two also where no recalibration fits.
    """

    tp: Floats
    fp: Floats
    fn: Floats
    tn: Floats
    positives: Floats
    negatives: Floats
    auc: Floats
    auprc: Floats
    brier: Floats
    log_loss: Floats
    ece: Floats
    ece_adaptive: Floats
    ece_debiased: Floats
    calibration_large: Floats
    calibration_slope: Floats


def ratio(part: Floats, whole: Floats) -> Floats:
    """part / whole, NaN where whole is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, np.nan), where=whole != 0)


def auc(y: Bools, score: Floats) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    Parameters
    ----------
    y : [n], the truth. score : [n], any finite numbers.

    Returns
    -------
    float in [0, 1], 0.5 = chance; NaN if a class is absent. Source: Mann and Whitney 1947.

    >>> auc(np.array([False, False, True, True]), np.array([0.1, 0.4, 0.4, 0.8]))
    0.875
    """
    below = np.sort(score[~y])
    above = score[y]
    if not len(below) or not len(above):
        return float("nan")
    wins = np.searchsorted(below, above, "left") + np.searchsorted(below, above, "right")
    return float(wins.sum() / (2 * len(below) * len(above)))


def auprc(y: Bools, score: Floats) -> float:
    """Average precision: the sum over distinct scores, from the top, of (gain in recall) × precision.

    Returns
    -------
    float in [0, 1], the prevalence = chance; NaN if a class is absent. No interpolation, as in scikit-learn.

    >>> round(auprc(np.array([False, True, False, True]), np.array([0.1, 0.4, 0.35, 0.8])), 4)
    1.0
    """
    positives = int(y.sum())
    if not positives or positives == len(y):
        return float("nan")
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(y) - 1)
    hits = np.cumsum(y[order])[last]
    return float(np.sum(np.diff(hits, prepend=0) * hits / (last + 1)) / positives)


def brier(y: Bools, p: Floats) -> float:
    """Mean squared difference of probability and truth, in [0, 1]; 0 = perfect; NaN for an empty group.

    >>> brier(np.array([True, False]), np.array([0.5, 0.5]))
    0.25
    """
    return float(np.mean((p - y) ** 2)) if len(y) else float("nan")


def ece(y: Bools, p: Floats) -> float:
    """Expected calibration error: Σ_bins (n_bin / n) · |mean p − mean y| over 10 equal-width bins of [0, 1].

    The bins are the same for every group. A small group has a larger value even when perfectly calibrated (0.11 at
    n = 50), so compare groups with `gap_null` beside the gap.

    Returns
    -------
    float in [0, 1]; 0 = calibrated; NaN for an empty group. Source: Naeini et al. 2015, on fixed bins.

    >>> round(ece(np.array([True, False]), np.array([0.9, 0.3])), 3)
    0.2
    """
    if not len(y):
        return float("nan")
    return float(np.abs(np.bincount(bin_of(p), p - y, BINS)).sum() / len(y))


def log_loss(y: Bools, p: Floats) -> float:
    """Mean of −log(probability of the truth), in nats, at least 0; 0 = perfect; NaN for an empty group.

    Probabilities are held above 2.2e-16, as in scikit-learn, so one certain error costs 36 nats and not infinity.

    >>> round(log_loss(np.array([True, False]), np.array([0.5, 0.5])), 4)
    0.6931
    """
    if not len(y):
        return float("nan")
    return float(-np.mean(np.log(np.clip(np.where(y, p, 1 - p), SMALLEST, 1))))


def equal_mass_errors(y: Bools, p: Floats) -> tuple[float, float]:
    """`ece_adaptive` and `ece_debiased`: L1 and debiased L2 error over 10 bins of equally many samples of the group.

    Source: Nguyen and O'Connor 2015 (equal-mass bins); Kumar et al. 2019 (debiased).
    """
    if not len(y):
        return float("nan"), float("nan")
    b = equal_mass_bin_of(p)
    n = np.bincount(b, minlength=BINS).astype(np.float64)[:, None]
    positives, residuals = (np.bincount(b, w, BINS).astype(np.float64)[:, None] for w in (y, p - y))
    return float(binned_error(n, residuals)[0]), float(debiased_error(n, positives, residuals)[0])


def is_probability(score: Floats) -> bool:
    """Whether all scores lie in [0, 1]."""
    return bool(len(score) == 0 or (score.min() >= 0 and score.max() <= 1))


def tally(
    y: Bools, score: Floats, threshold: float, *, probability: bool, fit: Sequence[float] | None = None
) -> Tally:
    """The sums of one group.

    Parameters
    ----------
    y : [n]; score : [n]; threshold : decision = score >= threshold, NaN if there is none.
    probability : whether brier and ece are defined for these scores. fit : `recalibrate` of them, if known already.
    """
    known = not np.isnan(threshold)
    called = score >= threshold

    def count(mask: Bools) -> Floats:
        return np.array(mask.sum() if known else np.nan, np.float64)

    adaptive, debiased = equal_mass_errors(y, score) if probability else (np.nan, np.nan)
    large, _, slope = (fit or recalibrate(y, score)) if probability else (np.nan, np.nan, np.nan)
    return Tally(
        tp=count(y & called),
        fp=count(~y & called),
        fn=count(y & ~called),
        tn=count(~y & ~called),
        positives=np.array(y.sum(), np.float64),
        negatives=np.array((~y).sum(), np.float64),
        auc=np.array(auc(y, score)),
        auprc=np.array(auprc(y, score)),
        brier=np.array(brier(y, score) if probability else np.nan),
        log_loss=np.array(log_loss(y, score) if probability else np.nan),
        ece=np.array(ece(y, score) if probability else np.nan),
        ece_adaptive=np.array(adaptive),
        ece_debiased=np.array(debiased),
        calibration_large=np.array(large),
        calibration_slope=np.array(slope),
    )


@dataclass(frozen=True)
class Metric:
    """One row of the table of metrics.

    Attributes
    ----------
    title, formula : for people. low, high : the range. better : which direction is good.
    over : what the number is a mean over; below the floor of that many, the number is undefined.
    threshold, probability : whether it needs a decision threshold; whether scores must lie in [0, 1].
    of : Tally → values.
    """

    title: str
    formula: str
    better: Better
    over: Denominator
    of: Callable[[Tally], Floats]
    threshold: bool = False
    probability: bool = False
    low: float = 0.0
    high: float = 1.0


def _samples(t: Tally) -> Floats:
    return t.positives + t.negatives


def _tpr(t: Tally) -> Floats:
    return ratio(t.tp, t.tp + t.fn)


def _tnr(t: Tally) -> Floats:
    return ratio(t.tn, t.tn + t.fp)


METRICS: dict[str, Metric] = {
    "prevalence": Metric("share of positives", "positives / n", "neither", "samples",
                         lambda t: ratio(t.positives, _samples(t))),
    "auc": Metric("area under the ROC curve", "P(score of a positive > score of a negative) + ½ P(equal)", "higher",
                  "both classes", lambda t: t.auc),
    "auprc": Metric("average precision", "Σ over distinct scores of (recall gained) · precision", "higher",
                    "both classes", lambda t: t.auprc),
    "brier": Metric("Brier score", "mean of (p − y)²", "lower", "samples", lambda t: t.brier, probability=True),
    "ece": Metric("expected calibration error", "Σ over 10 equal-width bins on [0, 1] of n_bin/n · |mean p − mean y|",
                  "lower", "samples", lambda t: t.ece, probability=True),
    "log_loss": Metric("log loss", "mean of −log(p of the truth), in nats; p held above 2.2e-16", "lower", "samples",
                       lambda t: t.log_loss, probability=True, high=36.05),
    "ece_adaptive": Metric("calibration error, equal-mass bins",
                           "Σ over 10 bins of equally many samples of the group of n_bin/n · |mean p − mean y|",
                           "lower", "samples", lambda t: t.ece_adaptive, probability=True),
    "ece_debiased": Metric("calibration error, debiased",
                           "√max(0, Σ over the same bins of n_bin/n · [(mean p − mean y)² − ȳ(1 − ȳ)/(n_bin − 1)])",
                           "lower", "samples", lambda t: t.ece_debiased, probability=True),
    "calibration_large": Metric("calibration in the large (intercept)",
                                "a of logit P(y) = a + logit p; 0 = right, above = risk is underestimated", "neither",
                                "both classes", lambda t: t.calibration_large, probability=True, low=-np.inf,
                                high=np.inf),
    "calibration_slope": Metric("calibration slope",
                                "b of logit P(y) = a + b · logit p; 1 = right, below = too extreme",
                                "neither", "both classes", lambda t: t.calibration_slope, probability=True,
                                low=-np.inf, high=np.inf),
    "tpr": Metric("sensitivity", "TP / (TP + FN)", "higher", "positives", _tpr, threshold=True),
    "fpr": Metric("false positive rate", "FP / (FP + TN)", "lower", "negatives",
                  lambda t: ratio(t.fp, t.fp + t.tn), threshold=True),
    "tnr": Metric("specificity", "TN / (TN + FP)", "higher", "negatives", _tnr, threshold=True),
    "fnr": Metric("miss rate (underdiagnosis, for a disease label)", "FN / (FN + TP)", "lower", "positives",
                  lambda t: ratio(t.fn, t.fn + t.tp), threshold=True),
    "ppv": Metric("positive predictive value", "TP / (TP + FP)", "higher", "positive calls",
                  lambda t: ratio(t.tp, t.tp + t.fp), threshold=True),
    "npv": Metric("negative predictive value", "TN / (TN + FN)", "higher", "negative calls",
                  lambda t: ratio(t.tn, t.tn + t.fn), threshold=True),
    "accuracy": Metric("accuracy", "(TP + TN) / n", "higher", "samples",
                       lambda t: ratio(t.tp + t.tn, _samples(t)), threshold=True),
    "balanced_accuracy": Metric("balanced accuracy", "½ (TPR + TNR)", "higher", "both classes",
                                lambda t: (_tpr(t) + _tnr(t)) / 2, threshold=True),
    "f1": Metric("F1", "2 TP / (2 TP + FP + FN)", "higher", "positives",
                 lambda t: ratio(2 * t.tp, 2 * t.tp + t.fp + t.fn), threshold=True),
    "selection_rate": Metric("share called positive", "(TP + FP) / n", "neither", "samples",
                             lambda t: ratio(t.tp + t.fp, _samples(t)), threshold=True),
}  # fmt: skip


# the metrics that are shares of samples: Tally → (hits, trials)
RATES: dict[str, Callable[[Tally], tuple[Floats, Floats]]] = {
    "prevalence": lambda t: (t.positives, _samples(t)),
    "tpr": lambda t: (t.tp, t.tp + t.fn),
    "fpr": lambda t: (t.fp, t.fp + t.tn),
    "tnr": lambda t: (t.tn, t.tn + t.fp),
    "fnr": lambda t: (t.fn, t.fn + t.tp),
    "ppv": lambda t: (t.tp, t.tp + t.fp),
    "npv": lambda t: (t.tn, t.tn + t.fn),
    "accuracy": lambda t: (t.tp + t.tn, _samples(t)),
    "selection_rate": lambda t: (t.tp + t.fp, _samples(t)),
}


def why_undefined(metric: Metric, t: Tally, floor: int) -> str:
    """Why the metric of this group is not given; empty if it is.

    Parameters
    ----------
    t : the Tally of one group (scalars). floor : fewest things a number may be a mean over.
    """
    positives, negatives = int(t.positives), int(t.negatives)
    if positives + negatives == 0:
        return "empty group"
    if metric.threshold and np.isnan(t.tp):
        return "no threshold: the validation rows hold one class only"
    if metric.probability and np.isnan(t.brier):
        return "score is no probability"
    both = metric.over == "both classes"
    if both and not (positives and negatives):
        return "one class only"
    needed: dict[str, int] = {}
    if both or metric.over == "positives":
        needed["positives"] = positives
    if both or metric.over == "negatives":
        needed["negatives"] = negatives
    if metric.over == "samples":
        needed["samples"] = positives + negatives
    elif metric.over == "positive calls":
        needed["positive calls"] = int(t.tp + t.fp)
    elif metric.over == "negative calls":
        needed["negative calls"] = int(t.tn + t.fn)
    for what, there in needed.items():
        if there == 0:
            return f"no {what}"
        if there < floor:
            return f"fewer than {floor} {what}"
    return ""
