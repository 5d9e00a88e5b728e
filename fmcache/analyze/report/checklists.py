"""Items of reporting guidelines that the data answer, and where in the report the answer stands.

TRIPOD+AI: Collins et al., BMJ 2024;385:e078378. STANDING Together: Alderman et al., Lancet Digital Health 2025 and
NEJM AI 2025 (recommendations for documentation and use of health datasets). TRIPOD+AI items carry their number where
we are sure of it; those of STANDING Together are named by their part, since its numbering differs between versions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fmcache.analyze.groups import UNKNOWN
from fmcache.analyze.report.views import View
from fmcache.analyze.report.wording import count, policy_text, spoken


@dataclass(frozen=True)
class Item:
    """What one item asks for and what this report says to it."""

    number: str
    asks: str
    answer: str


@dataclass(frozen=True)
class Checklist:
    """A guideline's items that are answered."""

    name: str
    source: str
    items: Sequence[Item]


def checklists(views: Sequence[View], min_cell: int) -> list[Checklist]:
    """The two guidelines, answered from the views."""
    attributes = list(dict.fromkeys(a.name for view in views for a in view.attributes))
    named = ", ".join(spoken(name) for name in attributes) or "no attribute"
    single = [name for name in attributes if "*" not in name]
    crossed = [name for name in attributes if "*" in name]
    shown = [view for view in views if view.overall.why is None]
    patients = sum(view.overall.n_patients is not None for view in shown)
    policies = dict.fromkeys(policy_text(view.policy) for view in views if view.policy)
    levels = {f"{100 * view.level:.0f} %" for view in views if math.isfinite(view.level)}
    leaking = [
        view.info["leaking_patients"] for view in views if isinstance(view.info.get("leaking_patients"), int)
    ]
    split = "The tables say how many images and patients are in each split."
    if leaking:
        found = sum(leaking)
        split += (
            " No patient is on both sides." if not found else f" {count(found)} patients are on both sides."
        )
    tripod = [
        Item("3c", "health inequalities between groups of people", f"Measured by {named}."),
        Item("11", "how missing data were handled", _missing(views)),
        Item("12e", "performance measures, with calibration",
             "AUC, AUPRC, sensitivity, false alarms, calibration error, by group, with curves."),
        Item("14", "the approach to fairness",
             f"Gaps between the groups of {named}, beside what chance gives, and differences to a reference group."),
        Item("15", "how thresholds were identified",
             f"They are {'; '.join(policies)}." if policies else "No threshold was used."),
        Item("20", "numbers of participants and events", _numbers(shown, patients)),
        Item("23a", "performance with intervals, key subgroups included",
             f"In every table; {', '.join(sorted(levels)) or 'no'} intervals, patients resampled."),
        Item("23b", "heterogeneity between clusters", _datasets(views)),
    ]  # fmt: skip
    standing = [
        Item("Documentation", "which groups of people the data hold, and how many", f"Counts of images, patients and "
             f"positives by {', '.join(map(spoken, single)) or 'no attribute'}."),
        Item("Documentation", "what is not known about people", _missing(views)),
        Item("Documentation", "how data were split between training and test", split),
        Item("Use", "performance in contextualised groups of interest, with uncertainty",
             f"By {named}. Intervals and curves for each group."),
        Item("Use", "intersections of attributes", f"By {', '.join(map(spoken, crossed))}." if crossed
             else "Not evaluated here; --by sex*age_group adds them."),
        Item("Use", "groups that are too small to be evaluated", _small(views, min_cell)),
    ]  # fmt: skip
    return [
        Checklist("TRIPOD+AI", "BMJ 2024;385:e078378", tripod),
        Checklist("STANDING Together", "recommendations for health datasets, 2024", standing),
    ]


def _missing(views: Sequence[View]) -> str:
    told = []
    for name in dict.fromkeys(a.name for view in views for a in view.attributes if "*" not in a.name):
        shares = [
            group.n / view.overall.n
            for view in views
            for attribute in view.attributes
            for group in attribute.shown
            if attribute.name == name and group.name == UNKNOWN and group.n and view.overall.n
        ]
        if shares:
            low, high = 100 * min(shares), 100 * max(shares)
            told.append(f"{spoken(name)} {low:.1f} %" + (f" to {high:.1f} %" if high - low > 0.05 else ""))
    rule = "People whose group is not recorded are the group “unknown”: shown, and left out of gaps"
    return f"{rule} ({', '.join(told)} of the images)." if told else f"{rule}; none is shown here."


def _numbers(shown: Sequence[View], patients: int) -> str:
    if not shown:
        return "Too few to be shown."
    sizes = sorted({view.overall.n for view in shown if view.overall.n})
    span = count(sizes[0]) if len(sizes) == 1 else f"{count(sizes[0])} to {count(sizes[-1])}"
    unit = "with patients and positives" if patients else "with positives"
    return f"{span} images an evaluation, {unit}, overall and by group."


def _datasets(views: Sequence[View]) -> str:
    names = {view.text("dataset") for view in views}
    if len(names) > 1:
        return f"{count(len(names))} datasets side by side in the overview."
    return "One dataset; sites can be compared with --by site where a column names them."


def _small(views: Sequence[View], min_cell: int) -> str:
    if min_cell <= 1:
        return "All groups are shown, however small."
    hidden = sum(1 for view in views for why in view.hidden.values() if why == "small")
    return (
        f"Below {count(min_cell)} they are named and hidden: {count(hidden)} here."
        if hidden
        else "None here."
    )
