"""The findings in sentences that a clinician understands, and how sure they are."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fmcache.analyze.groups import UNKNOWN
from fmcache.analyze.report.views import Attribute, Disparities, View
from fmcache.analyze.report.wording import decimal, p_value, percent, spoken

COMPARED = ("auc", "tpr", "fpr")  # on one scale from 0 to 1, so that their gaps can be compared
ALPHA = 0.05
SPOKEN = {
    "auc": "how well cases are told from non-cases (AUC)",
    "tpr": "sensitivity, the share of true cases found,",
    "fpr": "the share of people without the finding who are flagged",
}


@dataclass(frozen=True)
class Finding:
    """One sentence with its verdict: ``beyond`` chance, within ``chance``, ``open`` (not assessed) or ``hidden``."""

    text: str
    verdict: str


VERDICTS = {
    "beyond": "More than chance",
    "chance": "Could be chance",
    "open": "Chance not assessed",
    "hidden": "Not shown",
}


def verdict(one: Disparities) -> str:
    """Compare a gap with what chance alone gives; a p-value decides, else the interval against the null gap."""
    if not one.gap.known:
        return "hidden"
    if math.isfinite(one.p):
        return "beyond" if one.p < ALPHA else "chance"
    if math.isfinite(one.null) and math.isfinite(one.gap.low):
        return "beyond" if one.gap.low > one.null else "chance"
    return "open"


def largest(attribute: Attribute) -> Disparities | None:
    """The metric of COMPARED with the largest shown gap."""
    known = [one for one in attribute.disparities if one.metric in COMPARED and one.gap.known]
    return max(known, key=lambda one: one.gap.value, default=None)


def finding(view: View, attribute: Attribute) -> Finding:
    """The largest gap of one attribute, with interval, null gap and p-value, in one sentence."""
    by = f"By {spoken(attribute.name)}"
    one = largest(attribute)
    if one is None:
        if attribute.hidden:
            return Finding(
                f"{by}, the groups are too small for a comparison that protects patients.", "hidden"
            )
        reason = next((d.gap.reason for d in attribute.disparities if d.gap.reason), "no gap was computed")
        return Finding(f"{by}, no gap can be given: {reason}.", "hidden")
    level = f"{100 * view.level:.0f} % interval" if math.isfinite(view.level) else "interval"
    gap = one.gap
    text = f"{by}, the largest difference is in {SPOKEN[one.metric]}"
    text = f"{text.rstrip(',')}: {_extremes(attribute, one.metric)}a gap of {decimal(gap.value, 2)}"
    if math.isfinite(gap.low) and math.isfinite(gap.high):
        text += f" ({level} {decimal(gap.low, 2)} to {decimal(gap.high, 2)})"
    if math.isfinite(one.null):
        text += f", where chance alone would give about {decimal(one.null, 2)}"
    if math.isfinite(one.p):
        text += f" (p {'' if one.p < 0.001 else '= '}{p_value(one.p)})"
    return Finding(f"{text}.", verdict(one))


def _extremes(attribute: Attribute, metric: str) -> str:
    """``0.62 for female and 0.85 for male, ``; nothing if a group is hidden, for the extreme may be its."""
    known = [
        (group.numbers[metric].value, group.name)
        for group in attribute.shown
        if metric in group.numbers and group.numbers[metric].known and group.name != UNKNOWN
    ]
    if attribute.hidden or len(known) < 2:
        return ""
    (low, lowest), (high, highest) = min(known), max(known)
    return f"{decimal(low, 2)} for {spoken(lowest)} and {decimal(high, 2)} for {spoken(highest)}, "


def lead(view: View) -> str:
    """One sentence on the whole: how many images, of whom, how good overall."""
    overall = view.overall
    if overall.why is not None:
        return "The whole evaluation set is too small to be shown."
    n, patients = overall.n or 0, overall.n_patients
    who = f"{n:,} {view.split or 'evaluated'} images" + (f" of {patients:,} patients" if patients else "")
    positives = f", {percent(overall.n_pos / n)} of them positive" if n and overall.n_pos is not None else ""
    auc = overall.numbers.get("auc")
    if auc is None or not auc.known:
        return f"{who}{positives}."
    sure = f" ({decimal(auc.low, 2)} to {decimal(auc.high, 2)})" if math.isfinite(auc.low) else ""
    return f"{who}{positives}. Overall AUC {decimal(auc.value, 2)}{sure}."
