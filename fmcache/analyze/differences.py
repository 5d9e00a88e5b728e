"""Every group against a named reference group: paired differences, tests, bands, equivalence.

A max − min gap is biased upward and names nobody; a difference to a reference is neither. Replicates are shared, so
differences are paired even where a patient is in both groups. p-values are two-sided, of difference / standard error
on the normal distribution; the standard error is DeLong's clustered one for the AUC and that of the replicates
otherwise, so more replicates make a p-value more accurate and not smaller.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr

from fmcache.analyze.areas import Floats
from fmcache.analyze.cases import Case, Setting, threshold_columns
from fmcache.analyze.metrics import METRICS
from fmcache.analyze.multiplicity import benjamini_hochberg, holm, simultaneous
from fmcache.analyze.references import choose
from fmcache.analyze.rows import NAN, Rows

BELOW, ABOVE, UNDECIDED = "shown to be below", "shown to be above", "undecided"


@dataclass(frozen=True)
class Member:
    """One difference of the declared family, kept until all are known."""

    where: dict[str, Any]
    value: float
    p: float
    replicates: Floats


def choose_references(cases: Sequence[Case], setting: Setting) -> dict[str, str]:
    """attribute → reference group over all cases; see `references`.

    Raises
    ------
    UsageError : a named attribute or group that is not there.
    """
    patients: dict[str, dict[str, int]] = {}
    for case in cases:
        for grouping in case.groupings[1:]:
            counts = patients.setdefault(grouping.attribute, {})
            for g in grouping.known:
                name = grouping.names[g]
                counts[name] = counts.get(name, 0) + case.size(grouping, [g])["n_patients"]
    return choose(patients, setting.reference)


def two_sided(difference: float, se: float) -> float:
    """The p-value of difference / se on the normal distribution; NaN without a standard error."""
    return float(2 * ndtr(-abs(difference) / se)) if se > 0 else NAN


def equivalence(difference: float, se: float, tolerance: float, alpha: float) -> tuple[float, str]:
    """Whether |difference| is shown to be below the tolerance.

    Returns
    -------
    p, verdict : of two one-sided tests (Schuirmann 1987), "shown to be below" if p < alpha; "shown to be above" if
    the hypothesis |difference| ≤ tolerance is rejected at alpha; "undecided" otherwise.
    """
    if not se > 0:
        return NAN, UNDECIDED
    p = float(max(ndtr((difference - tolerance) / se), ndtr((-difference - tolerance) / se)))
    beyond = float(ndtr((tolerance - abs(difference)) / se))
    return p, BELOW if p < alpha else ABOVE if beyond < alpha else UNDECIDED


def standard_errors(case: Case, i: int, name: str, use: Sequence[int], drawn: Floats) -> Floats:
    """[len(use), len(use)]: the standard errors of the differences between groups.

    Parameters
    ----------
    use : groups. drawn : [len(use), b], their replicates.
    """
    if name == "auc":
        influence = np.zeros((len(use), int(case.patient.max()) + 1))
        for k, g in enumerate(use):
            mine = case.groupings[i].codes == g
            influence[k] = np.bincount(case.patient[mine], case.influence(i, g), influence.shape[1])
        m = case.size(case.groupings[i], list(use))["n_patients"]
        covariance = influence @ influence.T * (m / max(m - 1, 1))
    else:
        kept = drawn[:, ~np.isnan(drawn).any(axis=0)]
        covariance = np.atleast_2d(np.cov(kept)) if kept.shape[1] > 1 else np.full((len(use),) * 2, np.nan)
    variance = np.diag(covariance)
    return np.sqrt(np.maximum(variance[:, None] + variance[None, :] - 2 * covariance, 0))


def difference_rows(
    rows: Rows, case: Case, i: int, reference: str | None, value: Mapping[str, Floats], drawn: Mapping[str, Floats],
    setting: Setting,
) -> list[Member]:  # fmt: skip
    """Note the rows of one grouping: difference, its p-value and, with a tolerance, its equivalence.

    Parameters
    ----------
    value, drawn : metric → [groups], [groups, b] of this grouping's groups.

    Returns
    -------
    The differences that belong to the declared family.
    """
    grouping = case.groupings[i]
    names = grouping.names
    others = [g for g in grouping.known if names[g] != reference]
    if reference not in names or not others:
        return []
    ref = names.index(reference)
    family: list[Member] = []
    for name, metric in METRICS.items():
        defined = [g for g in (ref, *others) if not np.isnan(value[name][g])]
        se = standard_errors(case, i, name, defined, drawn[name][defined]) if len(defined) > 1 else None
        for g in others:
            where = {
                "attribute": grouping.attribute, "group": names[g], "reference": reference, "metric": name,
                **case.size(grouping, [g, ref]),
                **threshold_columns(case, setting, i, g if not setting.per_group else None, metric.threshold),
            }  # fmt: skip
            at = float(value[name][g] - value[name][ref])
            missing = [names[one] for one in (ref, g) if np.isnan(value[name][one])]
            if missing or se is None:
                reason = f"undefined in {' and '.join(missing)}"
                rows.plain({**where, "disparity": "difference"}, NAN, (NAN, NAN), reason)
                rows.plain({**where, "disparity": "difference_p"}, NAN, None, reason)
                continue
            replicates = drawn[name][g] - drawn[name][ref]
            rows.add({**where, "disparity": "difference"}, at, replicates)
            error = float(se[defined.index(ref), defined.index(g)])
            p = two_sided(at, error)
            rows.plain(
                {**where, "disparity": "difference_p"},
                p,
                None,
                "" if p == p else "the replicates do not vary",
            )
            if setting.tolerance is not None:
                p_below, verdict = equivalence(at, error, setting.tolerance, 1 - setting.level)
                text = f"difference {verdict} {setting.tolerance:g}" if verdict != UNDECIDED else UNDECIDED
                rows.plain({**where, "disparity": "difference_equivalence"}, p_below, None, text)
            if name in setting.family and "*" not in grouping.attribute:
                family.append(Member({**where, "label": case.label, "seed": case.seed}, at, p, replicates))
    return family


def family_rows(family: Sequence[Member], level: float) -> list[dict[str, Any]]:
    """The rows difference_p_holm, difference_p_bh and difference_band of all members together."""
    if not family:
        return []
    p = np.array([member.p for member in family])
    low, high = simultaneous(
        np.array([member.value for member in family]),
        np.stack([member.replicates for member in family]),
        level,
    )
    rows = Rows(level)
    of = f"one of {len(family)} in the family"
    for k, (member, by_holm, by_bh) in enumerate(zip(family, holm(p), benjamini_hochberg(p), strict=True)):
        rows.plain({**member.where, "disparity": "difference_p_holm"}, float(by_holm), None, of)
        rows.plain({**member.where, "disparity": "difference_p_bh"}, float(by_bh), None, of)
        band = {**member.where, "disparity": "difference_band"}
        rows.plain(band, member.value, (float(low[k]), float(high[k])), of)
    return rows.finish()


def gap_equivalence(points: Floats, se: Floats, tolerance: float, alpha: float) -> tuple[float, str]:
    """Whether the gap between the largest and the smallest of the groups is shown to be below the tolerance.

    Below, if every pair is (intersection-union test, no correction needed); above, if one pair is after Bonferroni's
    correction for the number of pairs.

    Parameters
    ----------
    points : [g]. se : [g, g], of the differences.
    """
    pairs = [(a, b) for a in range(len(points)) for b in range(a)]
    below, above = 0.0, 1.0
    for a, b in pairs:
        difference, error = float(points[a] - points[b]), float(se[a, b])
        if not error > 0:
            return NAN, UNDECIDED
        below = max(below, equivalence(difference, error, tolerance, alpha)[0])
        above = min(above, float(ndtr((tolerance - abs(difference)) / error)))
    verdict = BELOW if below < alpha else ABOVE if above * len(pairs) < alpha else UNDECIDED
    return below, verdict if math.isfinite(below) else UNDECIDED
