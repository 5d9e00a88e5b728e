"""Several models or methods on one task side by side: the front of utility and fairness, and whom all of them favour.

A study is one dataset × label × split with at least two views. Only shown numbers are compared: `views` has withheld
the others before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fmcache.analyze.metrics import METRICS
from fmcache.analyze.multiclass import MULTICLASS
from fmcache.analyze.report.views import Attribute, Group, Number, View
from fmcache.analyze.report.wording import metric_name, spoken
from fmcache.analyze.values import metric_of
from fmcache.store.groups import UNKNOWN

MOST_STUDIES = 6  # studies that are drawn; the overview has all


@dataclass(frozen=True)
class Point:
    """One view in the front: overall AUC against its gap; `best` if no other view has both better."""

    name: str
    slot: int
    utility: Number
    gap: Number
    es: Number
    best: bool


@dataclass(frozen=True)
class Path:
    """What one method reached on the test rows with each coefficient: (coefficient, AUC, AUC gap), rising."""

    name: str
    slot: int
    steps: Sequence[tuple[float, float, float]]


@dataclass(frozen=True)
class Pair:
    """One view in the consistency plot: the AUC of the reference group and that of another."""

    name: str
    group: str
    slot: int
    reference: Number
    other: Number


@dataclass(frozen=True)
class Comparison:
    """One attribute of one study."""

    study: str
    attribute: str
    metric: str  # as it is spoken: AUC
    points: Sequence[Point]
    reference: str
    pairs: Sequence[Pair]
    paths: Sequence[Path] = ()


def more_is_better(metric: str) -> bool:
    """Whether a larger value is the better one; of an unknown column it is not known, so it is not compared."""
    return ({**METRICS, **MULTICLASS}.get(metric) or metric_of(metric)).better == "higher"


def studies(views: Sequence[View]) -> list[list[View]]:
    """The views of each dataset, label and split that has at least two, in the order of their first."""
    found: dict[tuple[str, str, str, str], list[View]] = {}
    for view in views:
        if view.overall.why is None and more_is_better(view.measured[0]):
            found.setdefault((view.text("dataset"), view.label, view.split, view.measured[0]), []).append(
                view
            )
    return [study for study in found.values() if len(study) > 1]


def comparisons(views: Sequence[View]) -> list[Comparison]:
    """One for each study and attribute that can be compared; intersections are left to the tables."""
    found = []
    for study in studies(views)[:MOST_STUDIES]:
        names = dict.fromkeys(attribute.name for view in study for attribute in view.attributes)
        found += [_compare(study, name) for name in names if "*" not in name]
    return [one for one in found if len(one.points) > 1 or len({pair.name for pair in one.pairs}) > 1]


def short_names(study: Sequence[View]) -> list[str]:
    """What tells the views of a study apart: of model, usage, method and what a method knew those that differ."""
    parts = [
        (view.text("model"), view.text("usage"), view.text("method") or "erm", view.tell) for view in study
    ]
    differing = [i for i in range(4) if len({part[i] for part in parts}) > 1]
    names = [" · ".join(part[i] for i in differing or [0] if part[i]) for part in parts]
    if len(set(names)) < len(names):
        names = [f"{name} · {view.run_id[:6]}" for name, view in zip(names, study, strict=True)]
    return names


def _compare(study: Sequence[View], name: str) -> Comparison:
    having = [
        (title, view, attribute)
        for title, view in zip(short_names(study), study, strict=True)
        for attribute in view.attributes
        if attribute.name == name
    ]
    models = list(dict.fromkeys(view.text("model") for view in study))
    points = _front(
        [
            Point(title, models.index(view.text("model")), *_numbers(view, attribute), best=False)
            for title, view, attribute in having
        ]
    )
    reference, pairs = _pairs(having)
    head = study[0]
    paths = [
        Path(title, models.index(view.text("model")), steps)
        for title, view, attribute in having
        if len(steps := _steps(view, attribute)) > 1
    ]
    study_name = " · ".join((head.text("dataset"), head.label))
    return Comparison(
        study_name, spoken(name), metric_name(head.measured[0]), points, reference, pairs, paths
    )


def _steps(view: View, attribute: Attribute) -> list[tuple[float, float, float]]:
    """The front that the run stored for the attribute it was trained with; none if a group is hidden."""
    if view.text("attribute") != attribute.name or attribute.hidden:
        return []
    rows = view.info.get("front")
    found = [
        (float(row["coefficient"]), float(row["auc"]), float(row["auc_gap"]))
        for row in (rows if isinstance(rows, (list, tuple)) else ())
        if (row["label"], row["seed"], row["split"]) == (view.label, view.seed, view.split)
        and row["auc"] is not None
        and row["auc_gap"] is not None
    ]
    return sorted(found)


def _numbers(view: View, attribute: Attribute) -> tuple[Number, Number, Number]:
    missing = Number(reason="not computed")
    metric = view.measured[0]
    of = next((one for one in attribute.disparities if one.metric == metric), None)
    gap = of.gap if of else missing
    es = of.numbers.get("es", missing) if of else missing
    return view.overall.numbers.get(metric, missing), gap, es


def _front(points: Sequence[Point]) -> list[Point]:
    """Known points by falling utility; best = none has a higher utility and no larger gap, or the reverse."""
    known = [point for point in points if point.utility.known and point.gap.known]
    ranked = sorted(known, key=lambda point: (-point.utility.value, point.gap.value, point.name))
    found, least = [], float("inf")
    for point in ranked:
        best = point.gap.value < least
        least = min(least, point.gap.value)
        found.append(Point(point.name, point.slot, point.utility, point.gap, point.es, best))
    return found


def _pairs(having: Sequence[tuple[str, View, Attribute]]) -> tuple[str, list[Pair]]:
    """AUC of the largest group (of the first view) against every other group, view by view."""

    metric = having[0][1].measured[0]

    def known(attribute: Attribute) -> dict[str, Group]:
        return {
            group.name: group
            for group in attribute.shown
            if group.name != UNKNOWN and group.numbers.get(metric, Number()).known
        }

    first = known(having[0][2])
    if len(first) < 2:
        return "", []
    reference = max(first.values(), key=lambda group: (group.n or 0, group.name)).name
    others = [name for name in first if name != reference]
    pairs = []
    for title, _, attribute in having:
        groups = known(attribute)
        if reference in groups:
            pairs += [
                Pair(title, name, i, groups[reference].numbers[metric], groups[name].numbers[metric])
                for i, name in enumerate(others)
                if name in groups
            ]
    return reference, pairs


def consistency_sentence(one: Comparison) -> str:
    """In how many of the views each group is worse off than the reference group."""
    told = []
    for group in dict.fromkeys(pair.group for pair in one.pairs):
        mine = [pair for pair in one.pairs if pair.group == group]
        lower = sum(pair.other.value < pair.reference.value for pair in mine)
        told.append(f"among {spoken(group)} in {lower} of {len(mine)}")
    return (
        f"The {one.metric} is lower than among {spoken(one.reference)}: {', '.join(told)} models and methods."
    )


def front_sentence(one: Comparison) -> str:
    """Which views nobody beats in both."""
    names = [point.name for point in one.points if point.best]
    if len(names) == 1:
        return f"{names[0]} has both the highest {one.metric} and the smallest gap."
    return f"No other choice has a higher {one.metric} and a smaller gap than {', '.join(names[:-1])} or {names[-1]}."
