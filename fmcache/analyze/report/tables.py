"""The rows of the report's tables, as text; every dash has a footnote that says why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fmcache.analyze.report.sentences import VERDICTS, verdict
from fmcache.analyze.report.views import GROUP_METRICS, HIDDEN, Attribute, Disparities, Group, Number, View
from fmcache.analyze.report.wording import (
    DASH,
    count,
    decimal,
    disparity_name,
    interval,
    metric_name,
    p_value,
    percent,
    spoken,
)
from fmcache.errors import UsageError

SPREADS = ("ratio", "worst", "std", "skew", "es")
MAIN = ("auc", "tpr", "fpr", "ece", "eqodds", "dp", "prevalence")  # the others come after, folded


@dataclass(frozen=True)
class Entry:
    """One table cell: its text, a smaller second line, and the letter of its footnote."""

    text: str
    below: str = ""
    note: str = ""


@dataclass
class Footnotes:
    """Reasons in the order in which a table needs them, lettered a, b, c …"""

    reasons: list[str] = field(default_factory=list)

    def letter(self, reason: str) -> str:
        if reason not in self.reasons:
            self.reasons.append(reason)
        return _letters(self.reasons.index(reason))

    def __iter__(self) -> Any:
        return ((_letters(i), reason) for i, reason in enumerate(self.reasons))


def _letters(i: int) -> str:
    return (chr(96 + i // 26) if i >= 26 else "") + chr(97 + i % 26)


@dataclass(frozen=True)
class Table:
    """Heads, rows of (name, entries), and footnotes."""

    heads: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Entry]]]
    notes: Footnotes


def entry(number: Number, notes: Footnotes, digits: int = 3) -> Entry:
    """A value over its interval; a dash with a footnote when undefined or withheld."""
    if number.hidden:
        return Entry("hidden", note=notes.letter("withheld, because a small group's number went into it"))
    if not number.known:
        return Entry(DASH, note=notes.letter(number.reason or "not computed"))
    note = notes.letter(number.reason) if number.reason else ""
    return Entry(decimal(number.value, digits), interval(number.low, number.high, digits), note)


def group_table(view: View, attribute: Attribute, floor: int) -> Table:
    """The overall row, then every group: counts, prevalence and metrics with intervals."""
    notes = Footnotes()
    heads = ["Group", "Images", "Positive", "Patients", "Prevalence", *map(metric_name, GROUP_METRICS)]
    rows = [
        (group.name if group is view.overall else spoken(group.name), _group_entries(group, floor, notes))
        for group in (view.overall, *attribute.groups)
    ]
    if attribute.unnamed:
        letter = notes.letter(_why("small", floor))
        blank = [Entry("hidden", note=letter), *[Entry("hidden")] * (len(heads) - 2)]
        rows.append((f"{attribute.unnamed} more groups, not named", blank))
    return Table(heads, rows, notes)


def _group_entries(group: Group, floor: int, notes: Footnotes) -> list[Entry]:
    if group.why is not None:
        first = f"<{floor}" if group.why == "small" else "hidden"
        cells = [Entry(first, note=notes.letter(_why(group.why, floor)))]
        return cells + [Entry("hidden")] * (3 + len(GROUP_METRICS))
    prevalence = group.prevalence
    cells = [Entry(count(value)) for value in (group.n, group.n_pos, group.n_patients)]
    if prevalence.known:
        sure = ""
        if math.isfinite(prevalence.low) and math.isfinite(prevalence.high):
            sure = f"{100 * prevalence.low:.1f}{DASH}{100 * prevalence.high:.1f}"
        cells.append(Entry(percent(prevalence.value), sure))
    else:
        cells.append(entry(prevalence, notes))
    return cells + [
        entry(group.numbers.get(metric, Number(reason="not computed")), notes) for metric in GROUP_METRICS
    ]


def _why(why: str, floor: int) -> str:
    if why == "small":
        return f"fewer than {floor} images, patients, positives or negatives: hidden, so that nobody can be recognised"
    return "hidden, so that a smaller group cannot be worked out by subtraction"


def disparity_table(attribute: Attribute, main: bool = True) -> Table:
    """One row a metric: gap with interval, what chance gives, p-value, verdict, then the other known spreads.

    `main` chooses the metrics of MAIN or all others.
    """
    notes = Footnotes()
    shown = [one for one in attribute.disparities if one.numbers and (one.metric in MAIN) == main]
    shown.sort(key=lambda one: (MAIN.index(one.metric) if main else 0, one.metric))
    others = [name for name in SPREADS if any(name in one.numbers for one in shown)]
    heads = ["Metric", "Gap", "By chance", "p", "Reading", *map(disparity_name, others)]
    rows = []
    for one in shown:
        cells = [entry(one.gap, notes) if "gap" in one.numbers else Entry("")]
        cells += [Entry(decimal(one.null)), Entry(p_value(one.p)), Entry(_reading(one))]
        cells += [entry(one.numbers[name], notes) if name in one.numbers else Entry("") for name in others]
        rows.append((metric_name(one.metric), cells))
    return Table(heads, rows, notes)


def _reading(one: Disparities) -> str:
    told = verdict(one)
    return DASH if told in ("open", "hidden") else VERDICTS[told]


def truth_table(truth: Mapping[str, Any], views: Sequence[View]) -> Table:
    """Planted truth against estimate: does the interval cover it?

    Parameters
    ----------
    truth : ``run``, ``label`` and ``rows``, each with metric, disparity, attribute, group, value, text.

    Raises
    ------
    UsageError : the report does not hold that run and label.
    """
    view = next((v for v in views if (v.run_id, v.label) == (truth["run"], truth["label"])), None)
    if view is None:
        raise UsageError(
            f"The planted truth is about run {truth['run']}, label {truth['label']}.",
            "The report holds no such run and label.",
            "Name that run with --run, or compute its metrics: fmcache metrics",
        )
    notes = Footnotes()
    rows = []
    for row in truth["rows"]:
        number = _estimate(view, row)
        value = float(row["value"])
        if number.hidden:
            covered = Entry("hidden")
        elif math.isfinite(number.low) and math.isfinite(number.high):
            covered = Entry("yes" if number.low <= value <= number.high else "no")
        else:
            covered = Entry("not known", note=notes.letter("no interval was computed"))
        sure = Entry(interval(number.low, number.high) or DASH)
        estimate = entry(number, notes)
        rows.append(
            (
                str(row["text"]),
                [Entry(decimal(value)), Entry(estimate.text, note=estimate.note), sure, covered],
            )
        )
    return Table(["Planted", "Truth", "Estimate", "Interval", "Covered"], rows, notes)


def _estimate(view: View, row: Mapping[str, Any]) -> Number:
    missing = Number(reason="not among the results")
    if not row["attribute"]:
        return HIDDEN if view.overall.why else view.overall.numbers.get(row["metric"], missing)
    attribute = next((one for one in view.attributes if one.name == row["attribute"]), None)
    if attribute is None:
        return missing
    if row["disparity"]:
        one = next((one for one in attribute.disparities if one.metric == row["metric"]), None)
        return missing if one is None else one.numbers.get(row["disparity"], missing)
    group = next((one for one in attribute.groups if one.name == row["group"]), None)
    if group is None:
        return HIDDEN if attribute.unnamed else missing
    return HIDDEN if group.why else group.numbers.get(row["metric"], missing)
