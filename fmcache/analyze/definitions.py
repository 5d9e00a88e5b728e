"""Other people's formulas under the names of their code bases, so that published tables can be reproduced.

A definition is a list of decisions (threshold and ``>`` or ``>=``), a calibration error, and the spreads it reports.
Its numbers go through the same resamples as ours; thresholds and bin edges stay as found on all measured rows.
`parity` is 1 − gap, what such tables print as "EqOdds ↑". Undefined stays NaN, also where the code says 0.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fmcache.analyze.areas import Bools, Floats, Ints
from fmcache.analyze.bootstrap import Resamples
from fmcache.analyze.calibration import BINS, SMALLEST
from fmcache.analyze.cases import Case, Setting
from fmcache.analyze.disparities import UNDEFINED, gap, skew
from fmcache.analyze.metrics import DEFINITION, auc, ratio
from fmcache.analyze.partitions import Partition
from fmcache.analyze.rows import NAN, Rows
from fmcache.analyze.sums import sums_of
from fmcache.analyze.thresholds import choose_threshold
from fmcache.analyze.weighted import plan
from fmcache.errors import UsageError
from fmcache.store.groups import AGE_GROUPS, UNKNOWN, Grouping

DEFINITIONS: dict[str, str] = {
    "fmcache": "the default, this page",
    "paper": "FairMedFM, appendix C as written: ECE is the mean of |p − y|; two groups of race, language and age",
    "fairmedfm": "that paper's code: threshold chosen on the test labels, p > t, ECE bins over each group's own range",
    "medfair": "MEDFAIR: equalised odds at four thresholds chosen on the test labels; ECE as in fairmedfm",
    "harvard": "FairCLIP, FairVision, Harvard-GF: es = overall / (1 + Σ |group − overall|); differences at 0.5",
}
OLD_AT = ("0-59", "60+")  # the paper's ages, in all data sets but COVID-CT-MD (50), ADNI (75) and CANDI (10)
TWO_GROUPS = {"race": ("white", "non-white"), "language": ("english", "other")}  # of the paper


@dataclass(frozen=True)
class Decision:
    """A threshold, the policy's name, and whether a score that equals it is a positive call."""

    policy: str
    threshold: float
    inclusive: bool

    def called(self, score: Floats) -> Bools:
        return np.asarray(score >= self.threshold if self.inclusive else score > self.threshold)


def check_definitions(names: Sequence[str]) -> list[str]:
    """The names, once each, in the order given.

    Raises
    ------
    UsageError : no such definition.
    """
    for name in names:
        if name not in DEFINITIONS:
            close = difflib.get_close_matches(name, DEFINITIONS, n=1)
            raise UsageError(
                f"There is no definition {name!r}.",
                f"Definitions: {', '.join(DEFINITIONS)}.",
                f"Did you mean {close[0]}?" if close else "",
            )
    return list(dict.fromkeys(names)) or [DEFINITION]


def best_f1_of_the_curve(y: Bools, score: Floats) -> float:
    """The lowest threshold of the precision-recall curve with the largest 2pr / (p + r + 1e-8); NaN with one class.

    Source: FairMedFM and MEDFAIR, utils/metrics.py.

    >>> best_f1_of_the_curve(np.array([False, True, True]), np.array([0.2, 0.4, 0.9]))
    0.4
    """
    positives = int(y.sum())
    if not positives or positives == len(y):
        return NAN
    order = np.argsort(score, kind="stable")
    first = np.concatenate(
        [[0], np.flatnonzero(np.diff(score[order])) + 1]
    )  # everything from here on is called
    hits = positives - np.concatenate([[0], np.cumsum(y[order])])[first]
    precision, recall = hits / (len(y) - first), hits / positives
    return float(score[order][first][np.argmax(2 * precision * recall / (precision + recall + 1e-8))])


def cut_bin_of(p: Floats) -> Ints:
    """pandas.cut(p, 10): bins over [min p, max p], closed on the right, the first edge lowered by 0.1 % of the range.

    If all scores are equal, they share one bin.
    """
    low, high = float(p.min()), float(p.max())
    if low == high:
        return np.zeros(len(p), np.int64)
    edges = np.linspace(low, high, BINS + 1)
    edges[0] -= 0.001 * (high - low)
    return np.clip(np.searchsorted(edges, p, "left") - 1, 0, BINS - 1)


def merged(grouping: Grouping) -> Grouping:
    """The paper's two groups of race, of language and of our three of age; any other grouping as it is."""
    if grouping.attribute in TWO_GROUPS:
        one, rest = TWO_GROUPS[grouping.attribute]
        named = [name if name == UNKNOWN else one if name.lower() == one else rest for name in grouping.names]
    elif grouping.attribute in ("age", "age_group") and {*grouping.names} <= {*AGE_GROUPS, UNKNOWN}:
        one, rest = OLD_AT
        named = [{AGE_GROUPS[-1]: rest, UNKNOWN: UNKNOWN}.get(name, one) for name in grouping.names]
    else:
        return grouping
    names = [name for name in (one, rest, UNKNOWN) if name in named]
    return replace(
        grouping, names=tuple(names), codes=np.array([names.index(name) for name in named])[grouping.codes]
    )


@dataclass(frozen=True)
class _Numbers:
    """metric → values [groups, 1 + b]: the first column of the rows themselves, then the replicates."""

    auc: Floats
    log_loss: Floats
    ece: Floats
    rates: Sequence[Mapping[str, Floats]]  # for every decision: tpr, fpr, tnr, accuracy, selection_rate


def other_rows(
    definition: str, case: Case, patients: int, resamples: Resamples, setting: Setting
) -> list[dict[str, Any]]:
    """The rows of one case under a definition other than fmcache's."""
    decisions = _decisions(definition, case, setting.policy)
    groupings = [merged(one) for one in case.groupings] if definition == "paper" else case.groupings
    rows = Rows(setting.level)
    numbers = [_numbers(definition, case, one, decisions, patients, resamples) for one in groupings]
    for grouping, mine in zip(groupings, numbers, strict=True):
        within = replace(case, groupings=[grouping], _sizes={}, _influence={})
        size = [within.size(grouping, [g]) for g in range(len(grouping.names))]
        for g, name in enumerate(grouping.names):
            where = {"attribute": grouping.attribute, "group": name, "disparity": "", **size[g]}
            for metric, values, decision in _group_metrics(definition, mine, decisions):
                reason = "" if not np.isnan(values[g, 0]) else _why(case, metric, size[g])
                _add(rows, where | {"metric": metric}, decision, values[g], reason)
        if grouping.attribute:
            known = np.array(grouping.known, np.int64)
            for metric, title, decision, needed, of in _spreads(definition, mine, numbers[0], decisions):
                use = known[~np.isnan(needed[known, 0])]
                where = {"attribute": grouping.attribute, "group": "", "metric": metric, "disparity": title}
                where |= within.size(grouping, use.tolist())
                if len(use) < 2:
                    rows.plain(where | _threshold(decision), NAN, (NAN, NAN), UNDEFINED)
                    continue
                left = f"{len(known) - len(use)} of {len(known)} groups are undefined and left out"
                _add(rows, where, decision, of(use), left if len(use) < len(known) else "")
    label = {"label": case.label, "seed": case.seed, "definition": definition}
    return [row | label for row in rows.finish()]


def _decisions(definition: str, case: Case, policy: str) -> list[Decision]:
    y, score = case.y, case.score
    if definition in ("fairmedfm", "medfair"):
        best = best_f1_of_the_curve(y, score)
        found = [Decision("test-f1", best, False), Decision("0.5", 0.5, False)]
        if definition == "medfair":
            for policy in ("test-spec@0.80", "test-sens@0.80"):
                found.append(Decision(policy, choose_threshold(y, score, policy), True))
        return found
    if definition == "harvard":
        return [Decision("0.5", 0.5, True)]
    limits = case.limits[0]
    return [Decision(policy, float(limits[0]), True)]


def _numbers(
    definition: str, case: Case, grouping: Grouping, decisions: Sequence[Decision], patients: int, resamples: Resamples
) -> _Numbers:  # fmt: skip
    y, p = case.y, case.score
    part = Partition(grouping.codes, len(grouping.names))
    columns = [y, ~y]
    for decision in decisions:
        called = decision.called(p)
        columns += [y & called, ~y & called]
    losses = (
        -np.log(np.clip(np.where(y, p, 1 - p), SMALLEST, 1)) if case.probability else np.full(len(y), np.nan)
    )
    columns.append(losses)
    if definition == "paper":
        columns.append(np.abs(p - y))
    elif case.probability:
        bins = np.zeros(len(y), np.int64)
        for g in range(part.size):
            mine = grouping.codes == g
            if mine.any():
                bins[mine] = cut_bin_of(p[mine])
        columns += [np.where(bins == k, p - y, 0.0) for k in range(BINS)]
    table = np.stack(columns, axis=1).astype(np.float64)
    sums = sums_of(table, case.patient, patients, part)
    exact = np.stack([table[grouping.codes == g].sum(axis=0) for g in range(part.size)])[:, :, None]
    drawn = np.concatenate([exact, *(sums.under(weights) for weights in resamples)], axis=2)
    areas = resamples.tally(plan(y, p, case.patient, patients, [part], auprc=False)).auc
    points = [auc(y[mine], p[mine]) for g in range(part.size) for mine in [grouping.codes == g]]
    positives, negatives = drawn[:, 0], drawn[:, 1]
    n = positives + negatives
    rates = []
    for k, decision in enumerate(decisions):
        tp, fp = drawn[:, 2 + 2 * k], drawn[:, 3 + 2 * k]
        if np.isnan(decision.threshold):
            tp = fp = np.full(tp.shape, np.nan)
        rates.append({
            "tpr": ratio(tp, positives), "fpr": ratio(fp, negatives), "tnr": ratio(negatives - fp, negatives),
            "accuracy": ratio(tp + negatives - fp, n), "selection_rate": ratio(tp + fp, n),
        })  # fmt: skip
    at = 2 + 2 * len(decisions)
    off = drawn[:, at + 1] if definition == "paper" else np.abs(drawn[:, at + 1 :]).sum(axis=1)
    ece = ratio(off, n) if case.probability else np.full(n.shape, np.nan)
    return _Numbers(
        np.concatenate([np.array(points)[:, None], areas], axis=1), ratio(drawn[:, at], n), ece, rates
    )


def _group_metrics(
    definition: str, mine: _Numbers, decisions: Sequence[Decision]
) -> list[tuple[str, Floats, Decision | None]]:
    found: list[tuple[str, Floats, Decision | None]] = [("auc", mine.auc, None)]
    if definition != "harvard":
        found.append(("ece", mine.ece, None))
    if definition == "fairmedfm":
        found.append(("log_loss", mine.log_loss, None))
    for rates, decision in zip(mine.rates, decisions, strict=True):
        found += [(name, values, decision) for name, values in rates.items()]
    return found


_Of = Callable[[Ints], Floats]


def _spreads(
    definition: str, mine: _Numbers, overall: _Numbers, decisions: Sequence[Decision]
) -> list[tuple[str, str, Decision | None, Floats, _Of]]:
    """(metric, disparity, decision, the values that have to be defined, groups → value and replicates [1 + b])."""
    both = [rates["tpr"] + rates["fpr"] for rates in mine.rates]

    def gap_of(values: Floats) -> _Of:
        return lambda use: gap(values[use])

    def odds(k: int, name: str = "fpr", worst: bool = False) -> _Of:
        tpr, other = mine.rates[k]["tpr"], mine.rates[k][name]
        if worst:
            return lambda use: np.maximum(gap(tpr[use]), gap(other[use]))
        return lambda use: (gap(tpr[use]) + gap(other[use])) / 2

    def one_minus(of: _Of) -> _Of:
        return lambda use: 1 - of(use)

    rates, first = mine.rates, decisions[0]
    found: list[tuple[str, str, Decision | None, Floats, _Of]] = [
        ("auc", "gap", None, mine.auc, gap_of(mine.auc)),
        ("auc", "worst", None, mine.auc, lambda use: mine.auc[use].min(axis=0)),
    ]
    if definition == "paper":
        found += [
            ("auc", "skew", None, mine.auc, lambda use: skew(mine.auc[use])),
            ("auc", "es", None, mine.auc, lambda use: overall.auc[0] / (1 + mine.auc[use].std(axis=0))),
            ("ece", "gap", None, mine.ece, gap_of(mine.ece)),
            ("accuracy", "gap", first, rates[0]["accuracy"], gap_of(rates[0]["accuracy"])),
            ("eqodds", "gap", first, both[0], odds(0)),
            ("eqodds", "parity", first, both[0], one_minus(odds(0))),
            ("dp", "gap", first, rates[0]["selection_rate"], gap_of(rates[0]["selection_rate"])),
        ]
    elif definition == "fairmedfm":
        found += [
            ("ece", "gap", None, mine.ece, gap_of(mine.ece)),
            ("log_loss", "gap", None, mine.log_loss, gap_of(mine.log_loss)),
        ]
        for k, decision in enumerate(decisions):
            found += [
                ("accuracy", "gap", decision, rates[k]["accuracy"], gap_of(rates[k]["accuracy"])),
                ("eqodds", "parity", decision, both[k], one_minus(odds(k, "tnr"))),
                ("eqopp", "gap", decision, rates[k]["tpr"], gap_of(rates[k]["tpr"])),
            ]
    elif definition == "medfair":
        found.append(("ece", "gap", None, mine.ece, gap_of(mine.ece)))
        found += [
            ("eqodds", "parity", decision, both[k], one_minus(odds(k)))
            for k, decision in enumerate(decisions)
        ]
        selected = rates[0]["selection_rate"]
        found.append(("dp", "parity", first, selected, one_minus(gap_of(selected))))
    else:
        found += [
            ("auc", "es", None, mine.auc,
             lambda use: overall.auc[0] / (1 + np.abs(mine.auc[use] - overall.auc[0]).sum(axis=0))),
            ("eqodds", "gap", first, both[0], odds(0, worst=True)),
            ("dp", "gap", first, rates[0]["selection_rate"], gap_of(rates[0]["selection_rate"])),
        ]  # fmt: skip
    return found


def _threshold(decision: Decision | None) -> dict[str, Any]:
    if decision is None:
        return {"threshold": None, "threshold_policy": ""}
    threshold = None if np.isnan(decision.threshold) else decision.threshold
    return {"threshold": threshold, "threshold_policy": decision.policy}


def _add(rows: Rows, where: dict[str, Any], decision: Decision | None, values: Floats, reason: str) -> None:
    rows.add(where | _threshold(decision), float(values[0]), values[1:], reason)


def _why(case: Case, metric: str, size: Mapping[str, int]) -> str:
    if not size["n"]:
        return "empty group"
    if metric in ("ece", "log_loss") and not case.probability:
        return "score is no probability"
    if size["n_pos"] in (0, size["n"]):
        return "one class only"
    return "no threshold: the rows that choose it hold one class only"
