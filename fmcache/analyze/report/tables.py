"""The rows of the report's tables, as text; every dash has a footnote that says why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fmcache.analyze.report.sentences import ALPHA, VERDICTS, verdict
from fmcache.analyze.report.views import (
    Attribute,
    Difference,
    Disparities,
    Group,
    Number,
    View,
)
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

SPREADS = ("ratio", "worst", "std", "skew", "es")
MAIN = ("auc", "tpr", "fpr", "ece", "eqodds", "dp", "prevalence")  # the others come after, folded


@dataclass(frozen=True)
class Entry:
    """One table cell: its text, a smaller second line, the letter of its footnote, a class."""

    text: str
    below: str = ""
    note: str = ""
    look: str = ""  # ``beyond``: a difference that chance does not explain


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
    """Heads, rows of (name, entries), footnotes, and for each row the identity it links to, if any does."""

    heads: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Entry]]]
    notes: Footnotes
    links: Sequence[str] = ()


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
    heads = ["Group", "Images", "Positive", "Patients", "Prevalence", *map(metric_name, view.measured)]
    rows = [
        (
            group.name if group is view.overall else spoken(group.name),
            _group_entries(group, view.measured, floor, notes),
        )
        for group in (view.overall, *attribute.groups)
    ]
    if attribute.unnamed:
        letter = notes.letter(_why("small", floor))
        blank = [Entry("hidden", note=letter), *[Entry("hidden")] * (len(heads) - 2)]
        rows.append((f"{attribute.unnamed} more groups, not named", blank))
    return Table(heads, rows, notes)


def _group_entries(group: Group, metrics: Sequence[str], floor: int, notes: Footnotes) -> list[Entry]:
    if group.why is not None:
        first = f"<{floor}" if group.why == "small" else "hidden"
        cells = [Entry(first, note=notes.letter(_why(group.why, floor)))]
        return cells + [Entry("hidden")] * (3 + len(metrics))
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
        entry(group.numbers.get(metric, Number(reason="not computed")), notes) for metric in metrics
    ]


def _why(why: str, floor: int) -> str:
    if why == "small":
        return f"fewer than {floor} images, patients, positives or negatives: hidden, so that nobody can be recognised"
    return "hidden, so that a smaller group cannot be worked out by subtraction"


def difference_table(view: View, attribute: Attribute) -> Table:
    """One row a group, one column a metric: the difference to the reference group, its interval and p-value."""
    notes = Footnotes()
    metrics = [m for m in view.measured if any(one.metric == m for one in attribute.differences)]
    rows = []
    for group in dict.fromkeys(one.group for one in attribute.differences):
        cells = []
        for metric in metrics:
            one = next((d for d in attribute.differences if (d.group, d.metric) == (group, metric)), None)
            cells.append(Entry("") if one is None else _difference_entry(one, notes))
        rows.append((spoken(group), cells))
    return Table([f"Less {spoken(attribute.reference)}", *map(metric_name, metrics)], rows, notes)


def _difference_entry(one: Difference, notes: Footnotes) -> Entry:
    found = entry(one.number, notes)
    adjusted = math.isfinite(one.holm)
    p = one.holm if adjusted else one.p
    if not one.number.known or not math.isfinite(p):
        return found
    sure = " · ".join(part for part in (found.below, f"p {p_value(p)}") if part)
    letters = [
        found.note,
        notes.letter(
            "p adjusted by Holm over the declared family of comparisons" if adjusted else "p not adjusted"
        ),
        notes.letter(one.equivalence) if one.equivalence else "",
    ]
    signed = found.text if found.text.startswith("−") else f"+{found.text}"
    return Entry(
        signed, sure, " ".join(letter for letter in letters if letter), "beyond" if p < ALPHA else ""
    )


def disparity_table(view: View, attribute: Attribute, main: bool = True) -> Table:
    """One row a metric: gap with interval, what chance gives, p-value, verdict, then the other known spreads.

    `main` chooses what the view measures and the metrics of MAIN, or all others.
    """
    notes = Footnotes()
    first = list(dict.fromkeys([*view.measured, *MAIN]))
    shown = [one for one in attribute.disparities if one.numbers and (one.metric in first) == main]
    shown.sort(key=lambda one: (first.index(one.metric) if main else 0, one.metric))
    others = [name for name in SPREADS if any(name in one.numbers for one in shown)]
    heads = ["Metric", "Gap", "By chance", "p", "Reading", *map(disparity_name, others)]
    rows = []
    for one in shown:
        cells = [entry(one.gap, notes) if "gap" in one.numbers else Entry("")]
        told = notes.letter(one.equivalence) if one.equivalence else ""
        untested = one.gap.known and not (math.isfinite(one.null) or math.isfinite(one.p))
        why = notes.letter("not tested against chance") if untested else ""
        cells += [Entry(decimal(one.null), note=why), Entry(p_value(one.p)), Entry(_reading(one), note=told)]
        cells += [entry(one.numbers[name], notes) if name in one.numbers else Entry("") for name in others]
        rows.append((metric_name(one.metric), cells))
    return Table(heads, rows, notes)


def _reading(one: Disparities) -> str:
    told = verdict(one)
    return DASH if told in ("open", "hidden") else VERDICTS[told]
