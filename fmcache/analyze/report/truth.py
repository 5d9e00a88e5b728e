"""Generated studies: the planted truth beside what was measured, and whether the interval covers it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fmcache.analyze.report.tables import Entry, Footnotes, Table, entry
from fmcache.analyze.report.views import HIDDEN, Number, View
from fmcache.analyze.report.wording import DASH, decimal, interval, metric_name, spoken
from fmcache.errors import FmcacheError


@dataclass(frozen=True)
class Truth:
    """The planted values of one view: a table, and a sentence on the gap."""

    what: str
    table: Table
    sentence: str


def planted(cache: Any, view: View) -> list[Mapping[str, Any]]:
    """The rows that the card of a generated dataset says were planted for this label; none for a real one."""
    if not hasattr(cache, "dataset"):
        return []
    try:
        card = cache.dataset(view.text("dataset")).card
    except FmcacheError:  # foreign predictions: no dataset in the cache
        return []
    rows = card.get("truth") if isinstance(card, Mapping) else None
    return [row for row in rows if row["label"] == view.label] if isinstance(rows, list) else []


def truth(view: View, rows: Sequence[Mapping[str, Any]]) -> Truth:
    """Planted truth, estimate, interval, covered.

    Parameters
    ----------
    rows : each with attribute, group, metric, disparity, value, as in the results.
    """
    notes = Footnotes()
    found = []
    told = ""
    for row in rows:
        number, value = _estimate(view, row), float(row["value"])
        name = _name(row)
        if number.hidden:
            covered = Entry("hidden")
        elif math.isfinite(number.low) and math.isfinite(number.high):
            inside = number.low <= value <= number.high
            covered = Entry("yes" if inside else "no")
            if row["disparity"] and not told:
                sure, covers = interval(number.low, number.high, 2), "covers" if inside else "does not cover"
                told = (
                    f"The planted {name} is {decimal(value, 2)}; measured is {decimal(number.value, 2)}, and its "
                    f"interval ({sure}) {covers} the truth."
                )
        else:
            covered = Entry("not known", note=notes.letter("no interval was computed"))
        estimate = entry(number, notes)
        cells = [Entry(decimal(value)), Entry(estimate.text, note=estimate.note)]
        found.append((name, [*cells, Entry(interval(number.low, number.high) or DASH), covered]))
    table = Table(["Planted", "Truth", "Estimate", "Interval", "Covered"], found, notes)
    return Truth(view.what, table, told)


def _name(row: Mapping[str, Any]) -> str:
    metric = metric_name(row["metric"])
    if row["disparity"]:
        return f"{metric} {row['disparity']} by {spoken(row['attribute'])}"
    return f"{metric}, {spoken(row['group'])}" if row["group"] else metric


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
