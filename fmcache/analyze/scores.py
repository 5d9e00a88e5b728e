"""Numbers that are functions of group sums (means of DSC, accuracy over classes, …): groups, differences, spreads.

`evaluate.py` does this for binary predictions; here the columns and the function are the caller's. Replicates,
permutations, tests and the form of the rows are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fmcache.analyze.areas import Bools, Floats, Ints
from fmcache.analyze.bootstrap import Resamples
from fmcache.analyze.cases import Setting
from fmcache.analyze.differences import UNDECIDED, Member, equivalence, two_sided
from fmcache.analyze.disparities import DISPARITIES, UNDEFINED, Disparity, applies, gap
from fmcache.analyze.intervals import interval
from fmcache.analyze.metrics import Metric
from fmcache.analyze.partitions import Partition
from fmcache.analyze.permutation import chance, dealing
from fmcache.analyze.rows import NAN, Rows
from fmcache.analyze.sums import sums_of
from fmcache.store.groups import Grouping

Values = Mapping[str, Floats]  # metric → [groups, b]


@dataclass(frozen=True)
class SumCase:
    """Samples with columns, and what the sums of the columns mean.

    Attributes
    ----------
    columns : [n, k]. of : sums [groups, k, b] → metric → [groups, b]. metrics : what is known of each metric.
    strata : [n], truth that permuted groups keep; all False if there is none.
    extra : per grouping, metric → [groups, 1 + b], values that are no function of sums (first column: the rows
    themselves). extra_null : the same of permuted groups, [groups, permutations] (`dealing` with these strata).
    family : the metrics whose differences to the reference are corrected for their number.
    spreads : the disparities.
    """

    label: str
    seed: int
    columns: Floats
    of: Callable[[Floats], Values]
    metrics: Mapping[str, Metric]
    patient: Ints
    groupings: Sequence[Grouping]
    strata: Bools
    extra: Sequence[Values] = ()
    extra_null: Sequence[Values] = ()
    family: Sequence[str] = ()
    spreads: Mapping[str, Disparity] = field(default_factory=lambda: DISPARITIES)

    def size(self, grouping: Grouping, groups: Sequence[int]) -> dict[str, Any]:
        rows = np.isin(grouping.codes, list(groups))
        patients = int(np.count_nonzero(np.bincount(self.patient[rows]))) if rows.any() else 0
        return {"n": int(rows.sum()), "n_pos": None, "n_patients": patients}


def sum_rows(
    case: SumCase, patients: int, resamples: Resamples, references: Mapping[str, str], setting: Setting
) -> tuple[list[dict[str, Any]], list[Member]]:
    """All rows of one case (groups, differences to the reference, spreads with their null gap), and the differences
    that belong to the declared family."""
    rows, family = Rows(setting.level), list[Member]()
    overall: dict[str, Floats] = {}
    for i, grouping in enumerate(case.groupings):
        part = Partition(grouping.codes, len(grouping.names))
        sums = sums_of(case.columns, case.patient, patients, part)
        exact = np.stack([case.columns[grouping.codes == g].sum(axis=0) for g in range(part.size)])[
            :, :, None
        ]
        drawn = np.concatenate([exact, *(sums.under(weights) for weights in resamples)], axis=2)
        values = {
            name: _floored(numbers, case, grouping, setting) for name, numbers in case.of(drawn).items()
        }
        values |= {
            name: _floored(numbers, case, grouping, setting)
            for name, numbers in (case.extra[i] if case.extra else {}).items()
        }
        overall = overall or values
        _group_rows(rows, case, grouping, values, setting)
        if grouping.attribute:
            reference = references.get(grouping.attribute)
            family += _difference_rows(rows, case, grouping, values, reference, setting)
            _spread_rows(rows, case, i, values, overall, setting)
    label = {"label": case.label, "seed": case.seed, "threshold": None, "threshold_policy": ""}
    return [row | label for row in rows.finish()], family


def _floored(numbers: Floats, case: SumCase, grouping: Grouping, setting: Setting) -> Floats:
    small = [case.size(grouping, [g])["n"] < setting.floor for g in range(len(grouping.names))]
    out = numbers.copy()
    out[np.array(small, bool), 0] = np.nan
    return out


def _group_rows(rows: Rows, case: SumCase, grouping: Grouping, values: Values, setting: Setting) -> None:
    for g, name in enumerate(grouping.names):
        size = case.size(grouping, [g])
        for metric, numbers in values.items():
            at = float(numbers[g, 0])
            reason = (
                ""
                if at == at
                else "empty group"
                if not size["n"]
                else (
                    f"fewer than {setting.floor} samples"
                    if size["n"] < setting.floor
                    else "not defined for any sample"
                )
            )
            where = {
                "attribute": grouping.attribute,
                "group": name,
                "metric": metric,
                "disparity": "",
                **size,
            }
            rows.add(where, at, numbers[g, 1:], reason)


def _difference_rows(
    rows: Rows, case: SumCase, grouping: Grouping, values: Values, reference: str | None, setting: Setting
) -> list[Member]:
    if reference not in grouping.names:
        return []
    ref, family = grouping.names.index(reference), list[Member]()
    for metric, numbers in values.items():
        for g in grouping.known:
            if g == ref:
                continue
            where = {
                "attribute": grouping.attribute, "group": grouping.names[g], "reference": reference, "metric": metric,
                **case.size(grouping, [g, ref]),
            }  # fmt: skip
            apart = numbers[g] - numbers[ref]
            at = float(apart[0])
            reason = "" if at == at else "undefined in one of the two"
            rows.add({**where, "disparity": "difference"}, at, apart[1:], reason)
            kept = apart[1:][~np.isnan(apart[1:])]
            se = float(np.std(kept, ddof=1)) if at == at and len(kept) > 1 else NAN
            p = two_sided(at, se)
            rows.plain({**where, "disparity": "difference_p"}, p, None, reason)
            if metric in case.family and "*" not in grouping.attribute and at == at:
                family.append(Member({**where, "label": case.label, "seed": case.seed}, at, p, apart[1:]))
            if setting.tolerance is not None and at == at:
                below, verdict = equivalence(at, se, setting.tolerance, 1 - setting.level)
                said = f"difference {verdict} {setting.tolerance:g}" if verdict != UNDECIDED else UNDECIDED
                rows.plain({**where, "disparity": "difference_equivalence"}, below, None, said)
    return family


def _spread_rows(
    rows: Rows, case: SumCase, i: int, values: Values, overall: Values, setting: Setting
) -> None:
    grouping = case.groupings[i]
    known = np.array(grouping.known, np.int64)
    null = _null(case, i, setting)
    for metric, numbers in values.items():
        use = known[~np.isnan(numbers[known, 0])]
        where = {
            "attribute": grouping.attribute,
            "group": "",
            "metric": metric,
            **case.size(grouping, use.tolist()),
        }
        left = f"{len(known) - len(use)} of {len(known)} groups are undefined and left out"
        for title, disparity in case.spreads.items():
            if not applies(disparity, case.metrics[metric]):
                continue
            if len(use) < 2:
                rows.plain({**where, "disparity": title}, NAN, (NAN, NAN), UNDEFINED)
                continue
            spread = disparity.of(numbers[use], overall[metric][0], case.metrics[metric].better)
            reason = left if len(use) < len(known) else ""
            rows.add({**where, "disparity": title}, float(spread[0]), spread[1:], reason)
        if len(use) < 2 or null is None or metric not in null:
            continue
        expected = gap(null[metric][np.searchsorted(known, use)])
        low, high, remark = interval(expected, setting.level)
        rows.plain({**where, "disparity": "gap_null"}, float(np.nanmean(expected)), (low, high), remark)
        p = chance(float(gap(numbers[use, :1])[0]), expected[~np.isnan(expected)]) if low == low else NAN
        rows.plain({**where, "disparity": "gap_p"}, p, None, remark)


def _null(case: SumCase, i: int, setting: Setting) -> Values | None:
    """metric → [known groups, permutations], of groups dealt anew over the patients."""
    grouping = case.groupings[i]
    known = grouping.known
    if setting.permutations < 1 or len(known) < 2:
        return None
    rows = np.isin(grouping.codes, known)
    size = len(grouping.names)
    pieces = []
    unit, units, chunks, deal = dealing(
        case.strata[rows], case.patient[rows], grouping.codes[rows], size, setting.permutations, setting.seed
    )
    everyone = Partition(np.zeros(int(rows.sum()), np.int64), 1)
    sums = sums_of(case.columns[rows], unit, units, everyone)
    for some in chunks:
        flat = sums.under(deal(some))[0]  # [k, groups · permutations]
        pieces.append(flat.reshape(len(flat), size, -1).transpose(1, 0, 2))
    found = {**case.of(np.concatenate(pieces, axis=2)), **(case.extra_null[i] if case.extra_null else {})}
    return {name: numbers[np.array(known, np.int64)] for name, numbers in found.items()}
