"""How much each sample moves an area: clustered DeLong standard errors, and a first-order bootstrap.

The influence of sample k on an area A is dA/dw_k at weight 1. For the AUC it is DeLong's placement: for a positive
(share of negatives below it − A) / P, for a negative (share of positives above it − A) / N. Summed over each
patient's samples, it gives

    the variance with patients as the unit          m / (m − 1) · Σ_patients IF²      (Obuchowski 1997)
    the variance as if images were independent      S₁₀ / P + S₀₁ / N                 (DeLong et al. 1988)
    a replicate to first order                      A + Σ_patients w · IF

Influences of disjoint groups, of two labels or of two models add and subtract, so covariances come for free.
"""

from __future__ import annotations

import math

import numpy as np

from fmcache.analyze.areas import Bools, Floats, Ints


def auc_influence(y: Bools, score: Floats) -> tuple[float, Floats]:
    """The AUC and the influence [n] of every sample, which sums to 0; NaN and zeros where a class is absent.

    >>> area, influence = auc_influence(np.array([False, False, True]), np.array([0.1, 0.6, 0.5]))
    >>> area, influence.tolist()
    (0.5, [0.25, -0.25, 0.0])
    """
    above, below = np.sort(score[y]), np.sort(score[~y])
    out = np.zeros(len(y))
    if not len(above) or not len(below):
        return math.nan, out
    wins = np.searchsorted(below, score[y], "left") + np.searchsorted(below, score[y], "right")
    area = float(wins.sum() / (2 * len(below) * len(above)))
    out[y] = (wins / (2 * len(below)) - area) / len(above)
    lost = np.searchsorted(above, score[~y], "left") + np.searchsorted(above, score[~y], "right")
    out[~y] = (1 - lost / (2 * len(above)) - area) / len(below)
    return area, out


def auprc_influence(y: Bools, score: Floats) -> Floats:
    """The influence [n] of every sample on the average precision; zeros where a class is absent.

    With TP and FP the counts down to a score and AP = Σ_positives TP/(TP + FP) / P, a positive adds its own precision
    and raises that of all positives below it, a negative lowers that of all positives at or below it.
    """
    out = np.zeros(len(y))
    positives = int(y.sum())
    if not positives or positives == len(y):
        return out
    order = np.argsort(-score, kind="stable")
    last = np.append(
        np.flatnonzero(np.diff(score[order])), len(y) - 1
    )  # the end of every tie block, from the top
    hits = np.cumsum(y[order])[last].astype(np.float64)
    called = last + 1.0
    here = np.diff(hits, prepend=0)  # positives in the block
    precision = hits / called
    ap = float((here * precision).sum() / positives)
    raised = _at_or_below(here * (called - hits) / called**2)
    lowered = _at_or_below(here * hits / called**2)
    block = np.searchsorted(last, np.arange(len(y)))
    out[order] = (np.where(y[order], precision[block] - ap + raised[block], -lowered[block])) / positives
    return out


def _at_or_below(blocks: Floats) -> Floats:
    """Σ over this block and those after it."""
    return np.asarray(np.cumsum(blocks[::-1])[::-1])


def clustered_variance(influence: Floats, unit: Ints) -> float:
    """The variance of the area with `unit` [n], codes from 0, as the independent unit; NaN for fewer than two."""
    total = np.bincount(unit, influence)
    m = int(np.count_nonzero(np.bincount(unit)))
    return float(m / (m - 1) * (total**2).sum()) if m > 1 else math.nan


def independent_variance(y: Bools, influence: Floats) -> float:
    """DeLong's variance of the AUC, with every sample independent; NaN below two positives or negatives."""
    positives, negatives = int(y.sum()), int((~y).sum())
    if positives < 2 or negatives < 2:
        return math.nan
    return float(
        (influence[y] ** 2).sum() * positives / (positives - 1)
        + (influence[~y] ** 2).sum() * negatives / (negatives - 1)
    )


def logit_interval(area: float, variance: float, z: float) -> tuple[float, float]:
    """area ± z standard errors on the logit scale, so that it stays in (0, 1); NaN at 0, 1 or without a variance.

    >>> tuple(round(end, 3) for end in logit_interval(0.9, 0.0009, 1.96))
    (0.824, 0.945)
    """
    if not 0 < area < 1 or not variance > 0:
        return math.nan, math.nan
    middle, half = math.log(area / (1 - area)), z * math.sqrt(variance) / (area * (1 - area))
    return 1 / (1 + math.exp(-(middle - half))), 1 / (1 + math.exp(-(middle + half)))


def separated_interval(area: float, pairs: int, level: float) -> tuple[float, float]:
    """The exact interval of an area of 1 or 0 from `pairs` disjoint pairs, all of which were won or lost.

    With a true area a, the chance to win m independent pairs is a^m; so a ≥ (α/2)^(1/m). Conservative, since the
    other pairs say something too.

    Parameters
    ----------
    pairs : the smaller of the numbers of patients with a positive and with a negative.

    >>> round(separated_interval(1.0, 20, 0.95)[0], 3)
    0.832
    """
    bound = ((1 - level) / 2) ** (1 / max(pairs, 1))
    return (bound, 1.0) if area > 0.5 else (0.0, 1 - bound)
