"""What fmcache says of the differences between groups: kernels on group values, and the tables.

A kernel takes the values of the groups [g, b] (b replicates, or 1) and gives [b]. It propagates NaN: a replicate in
which one group is undefined is an undefined replicate. Groups that are undefined to begin with are left out before,
by `defined`; with fewer than two left, a disparity is undefined.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fmcache.analyze.areas import Floats
from fmcache.analyze.metrics import Better, Metric, ratio

UNDEFINED = "fewer than two groups are defined"


def gap(values: Floats) -> Floats:
    """max − min over groups; 0 = equal.

    >>> gap(np.array([[0.7], [0.9]])).round(3).tolist()
    [0.2]
    """
    return np.asarray(values.max(axis=0) - values.min(axis=0))


def smallest_ratio(values: Floats) -> Floats:
    """min / max over groups; 1 = equal; NaN if the largest is 0.

    >>> smallest_ratio(np.array([[0.4], [0.8]])).tolist()
    [0.5]
    """
    return ratio(values.min(axis=0), values.max(axis=0))


def worst(values: Floats, better: Better) -> Floats:
    """The value of the group that is served worst: min, or max where lower is better."""
    return np.asarray(values.max(axis=0) if better == "lower" else values.min(axis=0))


def std(values: Floats) -> Floats:
    """Standard deviation over groups (ddof 0); 0 = equal.

    >>> std(np.array([[0.7], [0.9]])).round(3).tolist()
    [0.1]
    """
    return np.asarray(values.std(axis=0, ddof=0))


def skew(values: Floats) -> Floats:
    """max(1 − value) / min(1 − value) over groups, at least 1; 1 = equal; NaN if a group is perfect.

    Source: FairMedFM, appendix C.

    >>> skew(np.array([[0.7], [0.9]])).round(3).tolist()
    [3.0]
    """
    return ratio(1 - values.min(axis=0), 1 - values.max(axis=0))


def equity_scaled(values: Floats, overall: Floats) -> Floats:
    """overall / (1 + std over groups): never above the overall value, equal to it without disparity.

    Source: FairMedFM, appendix C. Other code bases divide by 1 + Σ|group − overall|, or use ddof 1.
    """
    return np.asarray(overall / (1 + std(values)))


@dataclass(frozen=True)
class Disparity:
    """One row of the table of disparities.

    Attributes
    ----------
    formula : for people. equal : its value when all groups are equal, as text.
    of : (values [g, b], overall [b], better) → [b]. directed : only for metrics with a better direction;
    rising : only for metrics where higher is better. signless : not for metrics that can be negative.
    """

    formula: str
    equal: str
    of: Callable[[Floats, Floats, Better], Floats]
    directed: bool = False
    rising: bool = False
    signless: bool = False


DISPARITIES: dict[str, Disparity] = {
    "gap": Disparity("max − min over groups", "0", lambda v, o, b: gap(v)),
    "ratio": Disparity("min / max over groups", "1", lambda v, o, b: smallest_ratio(v), signless=True),
    "worst": Disparity(
        "the worst group's value: min, or max where lower is better",
        "the overall value",
        lambda v, o, b: worst(v, b),
        directed=True,
    ),
    "std": Disparity("standard deviation over groups, ddof 0", "0", lambda v, o, b: std(v)),
    "skew": Disparity(
        "max (1 − value) / min (1 − value) over groups", "1", lambda v, o, b: skew(v), rising=True
    ),
    "es": Disparity(
        "equity-scaled: overall / (1 + std)",
        "the overall value",
        lambda v, o, b: equity_scaled(v, o),
        rising=True,
    ),
}

# metric of a composite → (title, formula, the metrics whose gaps are averaged)
COMPOSITES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "eqodds": ("equalised odds", "½ (TPR gap + FPR gap)", ("tpr", "fpr")),
    "eqopp": ("equal opportunity", "TPR gap", ("tpr",)),
    "dp": ("demographic parity", "selection-rate gap", ("selection_rate",)),
}


def applies(disparity: Disparity, metric: Metric) -> bool:
    """Whether this disparity of this metric means something."""
    if disparity.signless and metric.low < 0:
        return False
    if disparity.rising:
        return metric.better == "higher"
    return not disparity.directed or metric.better != "neither"


def defined(values: Floats) -> list[int]:
    """Indices of the groups whose value [g] is defined."""
    return [int(k) for k in np.flatnonzero(~np.isnan(values))]


def mean_gap(values: list[Floats]) -> Floats:
    """The composites: the mean over metrics of the gap over groups; each element [g, b] → [b].

    >>> mean_gap([np.array([[0.7], [0.9]]), np.array([[0.1], [0.5]])]).round(3).tolist()
    [0.3]
    """
    return np.asarray(np.mean([gap(one) for one in values], axis=0))
