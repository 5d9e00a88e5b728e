"""Figures that compare models and methods: the front, the consistency plot."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from markupsafe import Markup

from fmcache.analyze.report.compare import Comparison, Point
from fmcache.analyze.report.figures import WIDTH, short_name
from fmcache.analyze.report.svg import Scale, element, figure, label, line, mark, polyline, ticks
from fmcache.analyze.report.wording import decimal, interval, spoken

LISTED = 24  # points that the key names
SLOTS = 6
_LEFT, _RIGHT, _TOP, _PLOT = 50, 348, 16, 270


def front_figure(one: Comparison, title: str, identity: str) -> Markup:
    """Overall AUC against its gap, the gap growing downwards: the upper right corner is good and fair."""
    steps = [step for path in one.paths for step in path.steps]
    across = ticks(*_ends([*(p.utility.value for p in one.points), *(auc for _, auc, _ in steps)]))
    down = ticks(0.0, max([*(p.gap.value for p in one.points), *(gap for *_, gap in steps)]))
    x = Scale(across[0], across[-1], _LEFT, _RIGHT - 6)
    y = Scale(down[0], down[-1], _TOP, _TOP + _PLOT)
    parts = _axes(x, y, across, down, f"Overall {one.metric}, better →", f"{one.metric} gap, fairer →")
    best = sorted((p for p in one.points if p.best), key=lambda p: p.utility.value)
    corners = [(x(best[0].utility.value), y(best[0].gap.value))]
    for before, after in pairwise(best):
        corners += [
            (x(before.utility.value), y(after.gap.value)),
            (x(after.utility.value), y(after.gap.value)),
        ]
    parts.append(polyline(corners, "curve front", "5 4"))
    for path in one.paths:
        slot = path.slot % SLOTS
        parts.append(polyline(((x(auc), y(gap)) for _, auc, gap in path.steps), f"curve thin s{slot}"))
        for coefficient, auc, gap in path.steps:
            words = f"{path.name}, coefficient {coefficient:g}: AUC {decimal(auc)}, gap {decimal(gap)}"
            parts.append(mark(0, x(auc), y(gap), f"mark s{slot}", 2.5, words))
    numbered = list(enumerate(one.points, 1))
    for number, point in sorted(numbered, key=lambda pair: pair[1].best):
        words = _words(point)
        parts.append(_disc(number, x(point.utility.value), y(point.gap.value), point.slot, words, point.best))
    top = _TOP + _PLOT + 58
    listed = numbered if len(numbered) <= LISTED else [pair for pair in numbered if pair[1].best]
    parts.append(label(_RIGHT, top, f"{one.metric} · gap", "tick", "end"))
    for i, (number, point) in enumerate(listed):
        at = top + 22 + 22 * i
        parts.append(_disc(number, 12, at - 4, point.slot, "", point.best))
        parts.append(label(28, at, short_name(point.name, 32), "name" if point.best else ""))
        parts.append(
            label(_RIGHT, at, f"{decimal(point.utility.value)} · {decimal(point.gap.value)}", "value", "end")
        )
    bottom = top + 22 * len(listed) + 12
    if len(listed) < len(numbered):
        parts.append(label(12, bottom + 8, f"{len(numbered) - len(listed)} more, off the front", "tick"))
        bottom += 16
    told = "; ".join(f"{n}: {_words(p)}" for n, p in numbered)
    if one.paths:
        told += f". Thin lines: the coefficients of {', '.join(path.name for path in one.paths)}"
    return figure(
        WIDTH,
        bottom,
        title,
        f"The dashed line joins those that none beats in both. {told}.",
        identity,
        *parts,
    )


def consistency_figure(one: Comparison, title: str, identity: str) -> Markup:
    """AUC of the reference group against that of another group; on the diagonal both are served alike."""
    values = [x for pair in one.pairs for x in (pair.reference.value, pair.other.value)]
    both = ticks(*_ends(values))
    x, y = Scale(both[0], both[-1], _LEFT, _RIGHT - 6), Scale(both[0], both[-1], _TOP + _PLOT, _TOP)
    groups = list(dict.fromkeys(pair.group for pair in one.pairs))
    beside = (
        f"{one.metric} of {short_name(groups[0], 18)}"
        if len(groups) == 1
        else f"{one.metric} of the other group"
    )
    parts = _axes(x, y, both, both, f"{one.metric} of {short_name(one.reference)}", beside)
    parts.append(line(x(both[0]), y(both[0]), x(both[-1]), y(both[-1]), "diagonal strong"))
    parts.append(label(_LEFT + 8, _TOP + 16, f"worse for {short_name(one.reference, 20)}", "tick"))
    parts.append(
        label(_RIGHT - 12, _TOP + _PLOT - 10, f"better for {short_name(one.reference, 20)}", "tick", "end")
    )
    told = []
    for pair in one.pairs:
        words = (
            f"{pair.name}: {spoken(one.reference)} {decimal(pair.reference.value)}, "
            f"{spoken(pair.group)} {decimal(pair.other.value)}"
        )
        told.append(words)
        slot = pair.slot % SLOTS
        for number, horizontal in ((pair.reference, True), (pair.other, False)):
            if math.isfinite(number.low) and math.isfinite(number.high):
                a, b = x(pair.reference.value), y(pair.other.value)
                ends = (
                    (x(number.low), b, x(number.high), b)
                    if horizontal
                    else (a, y(number.low), a, y(number.high))
                )
                parts.append(line(*ends, f"whisker thin s{slot}"))
    for pair, words in zip(one.pairs, told, strict=True):
        slot = pair.slot % SLOTS
        parts.append(mark(slot, x(pair.reference.value), y(pair.other.value), f"mark s{slot}", 5, words))
    top = _TOP + _PLOT + 58
    if len(groups) > 1:
        for i, group in enumerate(groups[:SLOTS]):
            parts.append(mark(i, 20, top + 22 * i - 4, f"mark s{i}", 5))
            parts.append(label(34, top + 22 * i, short_name(group), "name"))
        top += 22 * len(groups[:SLOTS])
    return figure(WIDTH, top - 6, title, "; ".join(told) + ".", identity, *parts)


def _ends(values: Iterable[float]) -> tuple[float, float]:
    found = list(values)
    return max(min(found) - 0.005, 0.0), min(max(found) + 0.005, 1.0)


def _words(point: Point) -> str:
    sure = interval(point.gap.low, point.gap.high)
    return (
        f"{point.name}: {decimal(point.utility.value)}, gap {decimal(point.gap.value)}"
        + (f" ({sure})" if sure else "")
        + (f", equity-scaled {decimal(point.es.value)}" if point.es.known else "")
    )


def _disc(number: int, x: float, y: float, slot: int, words: str, best: bool) -> Markup:
    """A numbered disc, filled if it is on the front."""
    slot %= SLOTS
    inside = [element("title", words)] if words else []
    look = f"mark s{slot}" if best else f"mark hollow o{slot}"
    return element(
        "g",
        *inside,
        element("circle", cx=x, cy=y, r=8.5, class_=look),
        label(x, y + 3.5, str(number), "number" if best else "number plain", "middle"),
    )


def _axes(
    x: Scale, y: Scale, across: Sequence[float], down: Sequence[float], below: str, beside: str
) -> list[Markup]:
    base, top = max(y.start, y.stop), min(y.start, y.stop)
    parts = []
    for tick in across:
        parts.append(line(x(tick), top, x(tick), base, "grid"))
        parts.append(label(x(tick), base + 18, f"{tick:.3g}", "tick", "middle"))
    for tick in down:
        parts.append(line(x.start, y(tick), x.stop, y(tick), "grid"))
        parts.append(label(x.start - 6, y(tick) + 4, f"{tick:.3g}", "tick", "end"))
    parts.append(line(x.start, base, x.stop, base, "axis"))
    parts.append(line(x.start, top, x.start, base, "axis"))
    parts.append(label((x.start + x.stop) / 2, base + 36, below, "tick", "middle"))
    middle = (base + top) / 2
    parts.append(label(12, middle, beside, "tick", "middle", transform=f"rotate(-90 12 {middle:.0f})"))
    return parts
