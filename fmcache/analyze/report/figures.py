"""Three figures of one attribute as inline SVG: AUC with intervals, ROC curves, calibration.

Each is 360 units wide, so that its letters keep their size from a phone to a printed page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from numpy import ndarray

from fmcache.analyze.report.curves import Bin
from fmcache.analyze.report.explorer import Explorer
from fmcache.analyze.report.svg import DASHES, Scale, element, figure, label, line, mark, polyline, ticks
from fmcache.analyze.report.views import Group, Number
from fmcache.analyze.report.wording import DASH, count, decimal, interval, metric_name, spoken
from fmcache.shapes import Float

WIDTH = 360
SERIES = 6  # curves in one figure; more cannot be told apart
PLOT = 292  # units from 0 to 1 upwards; the page's script knows it
_LEFT, _RIGHT, _TOP = 44, 348, 12


@dataclass(frozen=True)
class Series:
    """One group's curves; `slot` fixes its colour, dash and marker in all figures of an attribute."""

    slot: int
    group: Group
    roc: Float[ndarray, "2 k"]
    pr: Float[ndarray, "2 m"]
    bins: Sequence[Bin]


def short_name(name: str, longest: int = 26) -> str:
    name = spoken(name)
    return name if len(name) <= longest else name[: longest - 1] + "…"


def forest(
    groups: Sequence[Group], slots: dict[str, int], overall: Group, metric: str, title: str, identity: str
) -> Markup:
    """A metric of each group with its interval, beside the overall line; two lines a group, so names stay readable."""
    whole = overall.numbers.get(metric, Number())
    numbers = [group.numbers.get(metric, Number()) for group in groups]
    ends = [v for n in (*numbers, whole) for v in (n.low, n.value, n.high) if math.isfinite(v)]
    low, high = min(ends, default=0.5), max(ends, default=1.0)
    marks = (
        ticks(min(0.9, math.floor(10 * low) / 10), 1.0, 11) if low >= 0 and high <= 1 else ticks(low, high)
    )
    if len(marks) > 6:
        marks = marks[::-1][::2][::-1]
    x = Scale(min(marks[0], low), marks[-1], 14, _RIGHT)
    shape = ".3g" if high > 1 else ".1f" if all(abs(10 * t - round(10 * t)) < 1e-6 for t in marks) else ".2f"
    step, top = 46, 34
    bottom = top + step * len(groups)
    parts = []
    for tick in marks:
        parts.append(line(x(tick), top - 8, x(tick), bottom, "grid"))
        parts.append(label(x(tick), bottom + 18, f"{tick:{shape}}", "tick", "middle"))
    if metric == "auc" and marks[0] < 0.5:
        parts.append(line(x(0.5), top - 8, x(0.5), bottom, "axis"))
    if math.isfinite(whole.low) and math.isfinite(whole.high):
        parts.append(
            element("rect", x=x(whole.low), y=top - 8, width=x(whole.high) - x(whole.low),
                    height=bottom - top + 8, class_="band")
        )  # fmt: skip
    if whole.known:
        parts.append(line(x(whole.value), top - 8, x(whole.value), bottom, "whole", stroke_dasharray="5 4"))
        room = 40 + 14 < x(whole.value) < WIDTH - 56
        anchor, at = ("middle", x(whole.value)) if room else ("end", float(_RIGHT))
        parts.append(label(at, 16, f"overall {decimal(whole.value)}", "tick strong", anchor))
    told = []
    for i, (group, number) in enumerate(zip(groups, numbers, strict=True)):
        y = top + step * i
        known = (
            f"{decimal(number.value)} {'(' + interval(number.low, number.high) + ')' if number.known else ''}"
        )
        parts.append(label(14, y + 14, short_name(group.name, 22), "name"))
        parts.append(label(_RIGHT, y + 14, known.strip(), "value", "end"))
        told.append(f"{spoken(group.name)} {known.strip()}")
        if not number.known:
            continue
        slot = slots.get(group.name, 0)
        if math.isfinite(number.low) and math.isfinite(number.high):
            parts.append(line(x(number.low), y + 30, x(number.high), y + 30, f"whisker s{slot}"))
            both = (number.low, number.high)
            parts += [line(x(end), y + 25, x(end), y + 35, f"whisker s{slot}") for end in both]
        parts.append(
            mark(slot, x(number.value), y + 30, f"mark s{slot}", 5.5, f"{spoken(group.name)}: {known}")
        )
    parts.append(line(14, bottom, _RIGHT, bottom, "axis"))
    parts.append(
        label((14 + _RIGHT) / 2, bottom + 38, f"{metric_name(metric)} with interval", "tick", "middle")
    )
    description = f"Overall {decimal(whole.value)}. " + "; ".join(told) + "."
    return figure(WIDTH, bottom + 46, title, description, identity, *parts)


def roc_figure(
    series: Sequence[Series], title: str, identity: str, whole: Float[ndarray, "2 k"] | None = None
) -> Markup:
    """ROC curve of each group with its operating point."""
    x, y = Scale(0, 1, _LEFT, _RIGHT), Scale(0, 1, _TOP + PLOT, _TOP)
    parts = [*frame(x, y, "False alarms (FPR)", "Sensitivity (TPR)", diagonal=True)]
    if whole is not None and whole.size:
        parts.append(polyline(((x(a), y(b)) for a, b in whole.T), "curve whole"))
    told = []
    points = []
    for one in series:
        if one.roc.size:
            parts.append(
                polyline(((x(a), y(b)) for a, b in one.roc.T), f"curve s{one.slot}", DASHES[one.slot])
            )
        fpr, tpr = (one.group.numbers.get(name, Number()).value for name in ("fpr", "tpr"))
        words = f"{spoken(one.group.name)}: sensitivity {decimal(tpr)}, false alarms {decimal(fpr)}"
        told.append(words)
        if math.isfinite(fpr) and math.isfinite(tpr):
            points.append(
                moving(
                    one.slot, "fpr tpr", mark(one.slot, x(fpr), y(tpr), f"mark point s{one.slot}", 5.5, words)
                )
            )
    parts += points
    key, bottom = _key(series, _TOP + PLOT + 56, ["AUC " + decimal(_auc(one)) for one in series])
    description = "Markers are the operating point. " + "; ".join(told) + "."
    return figure(WIDTH, bottom, title, description, identity, *parts, *key)


def pr_figure(series: Sequence[Series], title: str, identity: str) -> Markup:
    """Precision-recall curve of each group with its operating point, and its prevalence as a tick at the right."""
    x, y = Scale(0, 1, _LEFT, _RIGHT), Scale(0, 1, _TOP + PLOT, _TOP)
    parts = [*frame(x, y, "Sensitivity (recall)", "Precision (PPV)")]
    told, points = [], []
    for one in series:
        numbers = one.group.numbers
        if one.pr.size:
            parts.append(
                polyline(((x(a), y(b)) for a, b in one.pr.T), f"curve s{one.slot}", DASHES[one.slot])
            )
        share = one.group.prevalence.value
        if math.isfinite(share):
            parts.append(line(x(0.965), y(share), x(1), y(share), f"whisker s{one.slot}"))
        tpr, ppv = (numbers.get(name, Number()).value for name in ("tpr", "ppv"))
        words = f"{spoken(one.group.name)}: sensitivity {decimal(tpr)}, precision {decimal(ppv)}"
        told.append(f"{words}, prevalence {decimal(share)}")
        if math.isfinite(ppv) and math.isfinite(tpr):
            drawn = mark(one.slot, x(tpr), y(ppv), f"mark point s{one.slot}", 5.5, words)
            points.append(moving(one.slot, "tpr ppv", drawn))
    values = ["AUPRC " + decimal(one.group.numbers.get("auprc", Number()).value) for one in series]
    key, bottom = _key(series, _TOP + PLOT + 56, values)
    description = (
        "Markers are the operating point, ticks at the right the prevalence. " + "; ".join(told) + "."
    )
    return figure(WIDTH, bottom, title, description, identity, *parts, *points, *key)


def explorer_figure(explorer: Explorer, title: str, identity: str) -> Markup:
    """Sensitivity (filled) and false alarms (hollow) of each group on one line; the page's script moves them."""
    x = Scale(0, 1, 14, _RIGHT - 4)
    step, top = 46, 16
    bottom = top + step * len(explorer.groups)
    parts, told = [], []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(line(x(tick), top, x(tick), bottom, "grid"))
        parts.append(label(x(tick), bottom + 18, f"{tick:g}", "tick", "middle"))
    for i, moves in enumerate(explorer.groups):
        y = top + step * i
        _, tpr, fpr, _ = moves.rates(explorer.start)
        name = spoken(moves.group.name)
        told.append(f"{name}: sensitivity {decimal(tpr)}, false alarms {decimal(fpr)}")
        parts.append(label(14, y + 14, short_name(name), "name"))
        parts.append(line(14, y + 30, x(1), y + 30, "grid"))
        hollow = mark(moves.slot, x(fpr), y + 30, f"mark hollow o{moves.slot}", 5.5, f"{name}: false alarms")
        filled = mark(moves.slot, x(tpr), y + 30, f"mark s{moves.slot}", 5.5, f"{name}: sensitivity")
        parts += [moving(moves.slot, "fpr", hollow), moving(moves.slot, "tpr", filled)]
    parts.append(line(14, bottom, x(1), bottom, "axis"))
    key = bottom + 42
    parts += [mark(0, 20, key - 4, "mark key", 5), label(32, key, "sensitivity", "tick")]
    parts += [mark(0, 122, key - 4, "mark hollow", 5), label(134, key, "false alarms", "tick")]
    description = "At the threshold in use: " + "; ".join(told) + "."
    return figure(WIDTH, key + 8, title, description, identity, *parts)


def moving(slot: int, axes: str, drawn: Markup, **more: object) -> Markup:
    """A marker that follows the threshold explorer: along x by the first rate, along y by the second.

    more : ``data_wide`` and ``data_tall``, the units from 0 to 1 where they are not those of the ROC curve, and
        ``data_least``, the lowest value that is drawn.
    """
    return element("g", drawn, data_slot=slot, data_axes=axes, **more)


def calibration_figure(series: Sequence[Series], title: str, identity: str) -> Markup:
    """Observed share against predicted probability by bin, and below how many images each bin holds."""
    plot = PLOT - 64
    x, y = Scale(0, 1, _LEFT, _RIGHT), Scale(0, 1, _TOP + plot, _TOP)
    base = _TOP + PLOT
    highest = max((b.n for one in series for b in one.bins), default=1)
    bar = Scale(0, highest, 0, 40)
    parts = [*frame(x, y, "", "Observed share", ticks_below=False, diagonal=True)]
    width = 26 / max(len(series), 2)
    told = []
    for place, one in enumerate(series):
        shift = (place - (len(series) - 1) / 2) * width
        parts.append(
            polyline(
                ((x(b.predicted), y(b.observed)) for b in one.bins), f"curve s{one.slot}", DASHES[one.slot]
            )
        )
        for b in one.bins:
            words = (
                f"{spoken(one.group.name)}, scores {b.low:.1f}{DASH}{b.high:.1f}: {count(b.n)} images, "
                f"predicted {b.predicted:.2f}, observed {b.observed:.2f}"
            )
            parts.append(mark(one.slot, x(b.predicted), y(b.observed), f"mark s{one.slot}", 4, words))
            middle = x((b.low + b.high) / 2) + shift
            parts.append(
                element("rect", element("title", words), x=middle - width / 2 + 0.5, y=base - bar(b.n),
                        width=width - 1, height=bar(b.n), class_=f"bar s{one.slot}")
            )  # fmt: skip
        told.append(
            f"{spoken(one.group.name)}: "
            + ", ".join(f"{b.predicted:.2f}→{b.observed:.2f} (n {b.n})" for b in one.bins)
        )
    parts.append(line(_LEFT, base, _RIGHT, base, "axis"))
    parts.append(label(_LEFT - 6, base - 36, count(highest), "tick", "end"))
    parts.append(label(_LEFT - 6, base, "0", "tick", "end"))
    parts.append(label(_LEFT + 4, base - 44, "images a bin", "tick"))
    parts += _ticks(x, base)
    parts.append(label((_LEFT + _RIGHT) / 2, base + 36, "Predicted probability", "tick", "middle"))
    key, bottom = _key(series, base + 56, ["ECE " + decimal(_ece(one)) for one in series])
    description = "Predicted to observed by bin. " + "; ".join(told) + "."
    return figure(WIDTH, bottom, title, description, identity, *parts, *key)


def _auc(one: Series) -> float:
    return one.group.numbers.get("auc", Number()).value


def _ece(one: Series) -> float:
    return one.group.numbers.get("ece", Number()).value


def frame(
    x: Scale,
    y: Scale,
    below: str,
    beside: str,
    up: Sequence[float] = (0, 0.25, 0.5, 0.75, 1),
    *,
    ticks_below: bool = True,
    diagonal: bool = False,
) -> list[Markup]:
    """Grid, axes and their names; x is 0 to 1, `up` the ticks of y."""
    parts = [line(x(tick), y.start, x(tick), y.stop, "grid") for tick in (0, 0.25, 0.5, 0.75, 1)]
    for tick in up:
        parts.append(line(x.start, y(tick), x.stop, y(tick), "grid"))
        parts.append(label(x.start - 6, y(tick) + 4, f"{tick:.3g}".replace("-", "−"), "tick", "end"))
    if ticks_below:
        parts += _ticks(x, y.start)
        parts.append(label((x.start + x.stop) / 2, y.start + 36, below, "tick", "middle"))
    if diagonal:
        parts.append(line(x(0), y(0), x(1), y(1), "diagonal"))
    parts.append(line(x.start, y.start, x.stop, y.start, "axis"))
    parts.append(line(x.start, y.start, x.start, y.stop, "axis"))
    middle = (y.start + y.stop) / 2
    parts.append(label(10, middle, beside, "tick", "middle", transform=f"rotate(-90 10 {middle:.0f})"))
    return parts


def _ticks(x: Scale, base: float) -> list[Markup]:
    return [label(x(tick), base + 18, f"{tick:g}", "tick", "middle") for tick in (0, 0.25, 0.5, 0.75, 1)]


def _key(series: Sequence[Series], top: float, values: Sequence[str]) -> tuple[list[Markup], float]:
    return group_key([(one.slot, one.group.name) for one in series], top, values)


def group_key(
    groups: Sequence[tuple[int, str]], top: float, values: Sequence[str]
) -> tuple[list[Markup], float]:
    """One line a (slot, name) with its value, and where the figure ends."""
    parts = []
    for i, ((slot, name), value) in enumerate(zip(groups, values, strict=True)):
        y = top + 22 * i
        parts.append(line(_LEFT, y, _LEFT + 34, y, f"curve s{slot}", stroke_dasharray=DASHES[slot]))
        parts.append(mark(slot, _LEFT + 17, y, f"mark s{slot}"))
        parts.append(label(_LEFT + 44, y + 4, short_name(name), "name"))
        parts.append(label(_RIGHT, y + 4, value, "value", "end"))
    return parts, top + 22 * len(groups) - 6
