"""The first table: every model, method and label in one row, with the overall AUC and the gap by each attribute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fmcache.analyze.report.sentences import ALPHA, verdict
from fmcache.analyze.report.tables import Entry, Footnotes, Table, entry
from fmcache.analyze.report.views import HIDDEN, Number, View
from fmcache.analyze.report.wording import metric_name, spoken

MOST_COLUMNS = 5  # attributes; intersections come last and are the first to go
BEYOND = f"more than chance alone would give (p < {ALPHA:g}, interval above 0)"


def overview(views: Sequence[View], places: Mapping[int, str]) -> Table:
    """One row a view, with AUC gaps; a gap beyond chance is marked.

    Parameters
    ----------
    places : index of the view → identity of its section, for the link; a view without one is not drawn.
    """
    names = list(dict.fromkeys(attribute.name for view in views for attribute in view.attributes))
    names = sorted(names, key=lambda name: name.count("*"))[:MOST_COLUMNS]
    notes = Footnotes()
    rows = []
    for i, view in enumerate(views):
        missing = Number(reason="not computed")
        whole = HIDDEN if view.overall.why else view.overall.numbers.get(view.measured[0], missing)
        cells = [entry(whole, notes), *(_gap(view, name, notes) for name in names)]
        rows.append((view.what, cells, places.get(i, "")))
    measured = dict.fromkeys(view.measured[0] for view in views)
    metric = metric_name(next(iter(measured))) if len(measured) == 1 else "Metric"
    heads = [
        "Model, dataset, label",
        f"Overall {metric}",
        *(f"{metric} gap by {spoken(name)}" for name in names),
    ]
    return Table(heads, [(name, cells) for name, cells, _ in rows], notes, links=[link for *_, link in rows])


def _gap(view: View, name: str, notes: Footnotes) -> Entry:
    attribute = next((one for one in view.attributes if one.name == name), None)
    if attribute is None:
        return Entry("")
    one = next((one for one in attribute.disparities if one.metric == view.measured[0]), None)
    if one is None:
        return entry(Number(reason="not computed"), notes)
    found = entry(one.gap, notes)
    if verdict(one) == "beyond":
        return Entry(found.text, found.below, notes.letter(BEYOND), "beyond")
    return found
