"""Items of reporting guidelines that the data answer, and where in the report the answer stands.

TRIPOD+AI: Collins et al., BMJ 2024;385:e078378; the item numbers are those of its checklist of 11 January 2024.
STANDING Together: Alderman et al., Lancet Digital Health 2025;7:e64–e88: 29 recommendations, 18 on documenting and
11 on using health datasets, meant "to prompt proactive inquiry rather than acting as a checklist". What is told of them
is named by its part, without a number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fmcache.analyze.report.views import View
from fmcache.analyze.report.wording import count, metric_name, policy_text, spoken
from fmcache.store.groups import UNKNOWN


def _mitigates(method: str) -> bool:
    """Whether it was meant to make groups fairer: a recipe, a vote of neighbours or a smaller sample was not."""
    name, _, how = method.partition("[")
    return name not in ("", "erm", "none", "knn") or "balance=" in how


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
    methods = [name for name in dict.fromkeys(view.text("method") for view in views) if _mitigates(name)]
    tripod = [
        Item("11", "how missing data were handled", _missing(views)),
        Item("12a", "how the data were used and partitioned", split),
        Item("12e", "all measures and plots of performance: discrimination, calibration, clinical utility",
             _measures(views)),
        Item("14", "approaches that were used to address fairness, and why",
             f"Methods compared here: {', '.join(methods)}; the reasons are for the authors to give." if methods
             else "None is recorded of these runs: fairness was measured, not addressed."),
        Item("15", "the model's output, and how thresholds were identified",
             f"Scores; thresholds are {'; '.join(policies)}." if policies else "Scores; no threshold was used."),
        Item("20b", "characteristics of the participants, missing data, differences between demographic groups",
             f"Images, patients, positives and prevalence by {named}."),
        Item("21", "numbers of participants and events in each analysis", _numbers(shown, patients)),
        Item("23a", "performance with intervals, key subgroups included",
             f"In every table; {', '.join(sorted(levels)) or 'no'} intervals, patients resampled."),
        Item("23b", "heterogeneity between clusters", _datasets(views)),
        Item("26", "limitations, and their effects on bias, uncertainty and generalisability",
             "The section on limits, as far as the data tell; what is special to the study is for the authors."),
    ]  # fmt: skip
    standing = [
        Item("Documentation", "which groups of people the data hold, and how many", f"Counts of images, patients and "
             f"positives by {', '.join(map(spoken, single)) or 'no attribute'}."),
        Item("Documentation", "what is not known about people", _missing(views)),
        Item("Use", "performance in the groups of interest, beside that of all, with uncertainty",
             f"By {named}. Intervals and curves for each group."
             + ("" if crossed else " Intersections were not evaluated; --by sex*age_group adds them.")),
        Item("Use", "limits of the data for groups that are too small to be evaluated", _small(views, min_cell)),
    ]  # fmt: skip
    return [
        Checklist("TRIPOD+AI", "Collins et al., BMJ 2024;385:e078378", tripod),
        Checklist("STANDING Together", "Alderman et al., Lancet Digital Health 2025;7:e64–e88", standing),
    ]


def _measures(views: Sequence[View]) -> str:
    measured = dict.fromkeys(metric_name(name) for view in views for name in view.measured)
    if "AUC" in measured:
        return (
            "AUC, AUPRC, sensitivity, false alarms, calibration error and net benefit, by group, with curves."
        )
    return f"{', '.join(measured)}, by group."


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
