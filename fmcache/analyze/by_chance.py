"""What numbers would be by chance: ``gap_null`` and ``gap_p`` of groups dealt anew (`permutation.py`), ``null`` and
``null_p`` of a calibration error (`calibrated.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fmcache.analyze.areas import Floats, Ints
from fmcache.analyze.cases import Case, Setting
from fmcache.analyze.disparities import COMPOSITES, mean_gap
from fmcache.analyze.intervals import interval, percentiles, remark
from fmcache.analyze.metrics import METRICS, Metric, Tally
from fmcache.analyze.permutation import chance, permuted
from fmcache.analyze.rows import NAN, Rows
from fmcache.analyze.weighted import Plan, select

NOT_BY_CHANCE = ("prevalence",)  # the strata of the permutation keep it, so it has no null gap
# metric, disparity, groups, whether a threshold is needed → the place of a row
Where = Callable[[str, str, Ints, bool], dict[str, Any]]


@dataclass(frozen=True)
class Expected:
    """The gaps of permuted groups [b], their interval, and what is said of it."""

    gaps: Floats
    low: float
    high: float
    remark: str


def expected_gaps(
    case: Case, i: int, among: Mapping[str, Ints], setting: Setting, prepared: Plan, threads: bool
) -> dict[str, Expected]:
    """metric → what its gap over the groups of grouping i would be by chance; nothing without permutations.

    Parameters
    ----------
    among : metric or composite → the groups in which it is defined; with fewer than two it has no gap.
    prepared : the plan of all rows as one group over their patients.
    """
    null = _null(case, i, setting, prepared, threads)
    if null is None:
        return {}
    values = {name: metric.of(null) for name, metric in METRICS.items()}
    known, gaps = np.array(case.groupings[i].known, np.int64), {}
    for name, use in among.items():
        if len(use) > 1 and name not in NOT_BY_CHANCE:
            parts = COMPOSITES[name][2] if name in COMPOSITES else (name,)
            gaps[name] = mean_gap([values[part][np.searchsorted(known, use)] for part in parts])
    if not gaps:
        return {}
    low, high, undefined = percentiles(np.stack([*gaps.values()]), setting.level)
    return {
        name: Expected(of, float(low[k]), float(high[k]), remark(int(undefined[k]), len(of)))
        for k, (name, of) in enumerate(gaps.items())
    }


def by_chance(
    rows: Rows, where: Where, name: str, metric: Metric, observed: float, use: Ints,
    expected: Mapping[str, Expected], setting: Setting,
) -> None:  # fmt: skip
    """The rows ``gap_null`` (mean and band) and ``gap_p``."""
    if name not in expected:
        return
    places = [where(name, title, use, metric.threshold) for title in ("gap_null", "gap_p")]
    if metric.threshold and setting.per_group:
        for place in places:
            rows.plain(place, NAN, (NAN, NAN), "no null gap: every group has its own threshold")
        return
    here = expected[name]
    gaps = here.gaps[~np.isnan(here.gaps)]
    fine = not np.isnan(here.low)
    rows.plain(places[0], float(gaps.mean()) if fine else NAN, (here.low, here.high), here.remark)
    rows.plain(places[1], chance(observed, gaps) if fine else NAN, None, here.remark)


def null_rows(rows: Rows, where: dict[str, Any], at: float, null: Floats, level: float) -> None:
    """The rows ``null`` and ``null_p`` of a group's calibration error, from those of a calibrated model [b]."""
    low, high, said = interval(null, level)
    rows.plain({**where, "disparity": "null"}, float(null.mean()), (low, high), said)
    rows.plain({**where, "disparity": "null_p"}, chance(at, null), None, said)


def _null(case: Case, i: int, setting: Setting, prepared: Plan, threads: bool) -> Tally | None:
    """Tallies [known groups, permutations] of groups dealt anew, or None if there is nothing to deal."""
    grouping = case.groupings[i]
    known = grouping.known
    if setting.permutations < 1 or len(known) < 2:
        return None
    rows = np.isin(grouping.codes, known)
    dealt = permuted(
        case.y[rows], case.score[rows], case.patient[rows], grouping.codes[rows], len(grouping.names),
        threshold=float(case.limits[0][0]), probability=case.probability, permutations=setting.permutations,
        seed=setting.seed, exact=setting.exact, threads=threads,
        prepared=prepared if rows.all() else None,
    )  # fmt: skip
    return select(dealt, np.array(known, np.int64))
