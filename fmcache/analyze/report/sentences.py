"""The findings in sentences that a clinician understands, and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fmcache.analyze.report.views import Attribute, Disparities, Number, View
from fmcache.analyze.report.wording import DASH, count, decimal, metric_name, p_value, percent, spoken
from fmcache.store.groups import UNKNOWN

SHARES = ("tpr", "fpr")  # told in per cent
COMPARED = ("auc", "tpr", "fpr")  # on one scale from 0 to 1, so that their gaps can be compared
ALPHA = 0.05
# metric → a sentence with both extremes, and one without, for attributes of which a group is hidden
FACTS = {
    "auc": (
        "cases are told from non-cases with an AUC of {low} among {lowest} and {high} among {highest}",
        "how well cases are told from non-cases (AUC) differs between the groups",
    ),
    "tpr": (
        "{low} of the cases are found among {lowest} and {high} among {highest}",
        "the share of cases that are found differs between the groups",
    ),
    "fpr": (
        "of the people without the finding, {low} are flagged among {lowest} and {high} among {highest}",
        "the share of people without the finding who are flagged differs between the groups",
    ),
}


@dataclass(frozen=True)
class Finding:
    """One sentence with its verdict: ``beyond`` chance, within ``chance``, ``open`` (not assessed) or ``hidden``.

    weight : how far the gap is above what chance gives, for the order of findings; beyond chance counts first.
    """

    text: str
    verdict: str
    weight: float = 0.0


VERDICTS = {
    "beyond": "More than chance",
    "chance": "Could be chance",
    "open": "Chance not assessed",
    "hidden": "Not shown",
}
READINGS = {
    "beyond": "That is more than chance would give.",
    "chance": "Chance alone could make such a difference.",
    "open": "",
    "hidden": "",
}
_ORDER = {name: rank for rank, name in enumerate(VERDICTS)}


def verdict(one: Disparities) -> str:
    """Compare a gap with what chance alone gives; a p-value decides, else the interval against the null gap.

    Where the interval holds no gap at all (0), none is claimed: one missed patient among eighteen can be rarer than
    the shuffles of a coarse rate give, and says nothing.
    """
    if not one.gap.known:
        return "hidden"
    if math.isfinite(one.p):
        return "beyond" if one.p < ALPHA and not one.gap.low <= 0 else "chance"
    if math.isfinite(one.null) and math.isfinite(one.gap.low):
        return "beyond" if one.gap.low > one.null else "chance"
    return "open"


def excess(one: Disparities) -> float:
    """The gap less what chance alone gives."""
    return one.gap.value - (one.null if math.isfinite(one.null) else 0.0)


def compared(view: View) -> Sequence[str]:
    """The metrics whose gaps are told of: COMPARED, or where there is no AUC the first one that is measured."""
    return COMPARED if view.measured[0] == "auc" else view.measured[:1]


def largest(view: View, attribute: Attribute) -> Disparities | None:
    """Of the compared metrics the one to tell of: beyond chance before others, then furthest above chance."""
    metrics = compared(view)
    known = [one for one in attribute.disparities if one.metric in metrics and one.gap.known]
    return min(known, key=lambda one: (_ORDER[verdict(one)], one.gap.value == 0, -excess(one)), default=None)


def finding(view: View, attribute: Attribute) -> Finding:
    """The most telling gap of one attribute, with interval, null gap and p-value, in one sentence."""
    by = f"By {spoken(attribute.name)}"
    one = largest(view, attribute)
    if one is None:
        if attribute.hidden:
            return Finding(
                f"{by}, the groups are too small for a comparison that protects patients.", "hidden"
            )
        reason = next((d.gap.reason for d in attribute.disparities if d.gap.reason), "no gap was computed")
        return Finding(f"{by}, no gap can be given: {reason}.", "hidden")
    if one.gap.value == 0 and not attribute.hidden:
        same = [d.metric for d in attribute.disparities if d.metric in compared(view) and d.gap.value == 0]
        return Finding(f"{by}, the groups do not differ in {_list(same)}.", verdict(one))
    level = f"{100 * view.level:.0f} % interval" if math.isfinite(view.level) else "interval"
    gap, share = one.gap, one.metric in SHARES
    sure = []
    if math.isfinite(gap.low) and math.isfinite(gap.high):
        sure.append(f"{level} {_size(gap.low, share, '')} to {_size(gap.high, share, '')}")
    if math.isfinite(one.null):
        sure.append(f"by chance alone about {_size(one.null, share, '')}")
    if math.isfinite(one.p):
        sure.append("p\u00a0" + ("" if one.p < 0.001 else "=\u00a0") + p_value(one.p))
    text = f"{by}: {_facts(attribute, one.metric)}{_size(gap.value, share)}"
    if sure:
        text += f" ({'; '.join(sure)})"
    return Finding(f"{text}.", verdict(one), excess(one))


def _list(metrics: Sequence[str]) -> str:
    names = [metric_name(metric) for metric in metrics]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _facts(attribute: Attribute, metric: str) -> str:
    """Both extremes, unless a group is hidden: the extreme may be its."""
    known = [
        (group.numbers[metric].value, group.name)
        for group in attribute.shown
        if metric in group.numbers and group.numbers[metric].known and group.name != UNKNOWN
    ]
    name = metric_name(metric)
    full, bare = FACTS.get(
        metric,
        (
            f"the {name} is {{low}} among {{lowest}} and {{high}} among {{highest}}",
            f"the {name} differs between the groups",
        ),
    )
    if attribute.hidden or len(known) < 2:
        return f"{bare} by up to "
    (low, lowest), (high, highest) = min(known), max(known)
    told = _percent if metric in SHARES else decimal
    fill = {"low": told(low, 2), "high": told(high, 2), "lowest": spoken(lowest), "highest": spoken(highest)}
    return f"{full.format(**fill)}, a difference of "


def _percent(value: float, _: int) -> str:
    return f"{100 * value:.0f} %" if value >= 0.1 else f"{100 * value:.1f} %"


def _size(value: float, share: bool, unit: str = " points") -> str:
    """A gap: shares in percentage points, AUCs as they are; small ones with one more digit."""
    if not share:
        return decimal(value, 2 if abs(value) >= 0.0095 else 3)
    return f"{100 * value:.1f}{unit}" if abs(value) < 0.0995 else f"{100 * value:.0f}{unit}"


def lead(view: View) -> str:
    """One sentence on the whole: how many images, of whom, how good overall."""
    overall = view.overall
    if overall.why is not None:
        return "The whole evaluation set is too small to be shown."
    n, patients = overall.n or 0, overall.n_patients
    who = f"{count(n)} {view.split or 'evaluated'} images" + (
        f" of {count(patients)} patients" if patients else ""
    )
    positives = f", {percent(overall.n_pos / n)} of them positive" if n and overall.n_pos is not None else ""
    metric = view.measured[0]
    first = overall.numbers.get(metric, Number())
    if not first.known:
        return f"{who}{positives}."
    sure = f" ({decimal(first.low, 2)}{DASH}{decimal(first.high, 2)})" if math.isfinite(first.low) else ""
    return f"{who}{positives}. Overall {metric_name(metric)} {decimal(first.value, 2)}{sure}."


@dataclass(frozen=True)
class Headline:
    """A finding with the view it is about and the identity of the section that shows it."""

    finding: Finding
    view: View
    attribute: str

    @property
    def about(self) -> str:
        """``dinov2 on mimic, edema (group-dro)``."""
        about = f"{self.view.text('model')} on {self.view.text('dataset')}, {spoken(self.view.label)}"
        method = self.view.text("method")
        return f"{about} ({method})" if method not in ("", "erm") else about

    @property
    def told(self) -> str:
        """The finding and how to read it; of no difference there is no more to say."""
        if self.finding.weight <= 0 and " do not differ in " in self.finding.text:
            return self.finding.text
        return f"{self.finding.text} {READINGS[self.finding.verdict]}".strip()

    @property
    def text(self) -> str:
        """The whole, with what it is about: ``dinov2 on mimic, edema. By sex: …``."""
        return f"{self.about}. {self.told}"


def headlines(views: Sequence[View], most: int = 3) -> list[Headline]:
    """The `most` important findings: beyond chance first, then by how far above chance; one a view and attribute.

    The best of each view come before the second best of any, so that one bad model does not hide the others.
    """
    ranked: list[tuple[tuple[float, ...], Headline]] = []
    for view in views:
        mine = [Headline(finding(view, a), view, a.name) for a in view.attributes if "*" not in a.name]
        mine.sort(key=lambda one: (_ORDER[one.finding.verdict], -one.finding.weight))
        ranked += [
            ((float(_ORDER[one.finding.verdict]), float(place), -one.finding.weight), one)
            for place, one in enumerate(mine)
        ]
    ranked.sort(key=lambda pair: pair[0])
    return [one for _, one in ranked[:most]]


def looked_at(views: Sequence[View]) -> str:
    """How many gaps of COMPARED were tested and how many are beyond chance: luck alone makes some of many so."""
    tested = [
        one.p
        for view in views
        for attribute in view.attributes
        for one in attribute.disparities
        if one.metric in compared(view) and math.isfinite(one.p)
    ]
    if len(tested) < 10:
        return ""
    beyond = sum(p < ALPHA for p in tested)
    return (
        f"{count(len(tested))} gaps were tested, and {count(beyond)} have p < {ALPHA:g}; with nothing unfair about "
        f"{ALPHA * len(tested):.0f} would."
    )
