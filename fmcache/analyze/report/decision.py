"""Decision curves by group: the net benefit of acting on the score, over thresholds (Vickers and Elkin, 2006).

Net benefit = TP/n − FP/n · t/(1 − t): what is gained, in true positives a person, when a false alarm costs the odds of
the threshold t. It needs scores that are probabilities. The points are those of the threshold explorer, so that no step
of a curve is about a few patients, and the markers follow its slider.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from fmcache.analyze.report.explorer import Explorer
from fmcache.analyze.report.figures import PLOT, WIDTH, frame, group_key, moving
from fmcache.analyze.report.svg import DASHES, Scale, figure, label, line, mark, polyline, ticks
from fmcache.analyze.report.wording import decimal, spoken

READING = (
    "True positives a person that acting on the score gains, false alarms counted with the odds of the threshold. Thin "
    "lines: everyone is called. A curve begins at its group’s prevalence: compare it with its own thin line."
)
_LEFT, _RIGHT, _TOP = 52, 348, 12
_Point = tuple[float, float]


def decision_figure(explorer: Explorer, title: str, identity: str) -> Markup | None:
    """The net benefit of each group, and that of calling everyone; None unless the scores are probabilities and two
    thresholds lie between 0 and 1."""
    stops = [i for i, t in enumerate(explorer.thresholds) if 0 <= t < 1]
    if not explorer.probability or len(stops) < 2:
        return None
    prevalence = [moves.positives / (moves.positives + moves.negatives) for moves in explorer.groups]
    marks = ticks(-0.12 * max(prevalence), 1.02 * max(prevalence))
    x, y = Scale(0, 1, _LEFT, _RIGHT), Scale(marks[0], marks[-1], _TOP + PLOT, _TOP)
    parts = frame(x, y, "Threshold", "Net benefit", marks)
    parts.append(line(x(0), y(0), x(1), y(0), "axis"))
    parts.append(label(x(1) - 4, y(0) + 14, "nobody is called", "tick", "end"))
    start, told, points = explorer.thresholds[explorer.start], [], []
    values = []
    for moves, share in zip(explorer.groups, prevalence, strict=True):
        everyone = [(t, share - (1 - share) * t / (1 - t)) for t in np.linspace(0, 0.99, 100).tolist()]
        curve = [(explorer.thresholds[i], moves.net(i, explorer.thresholds[i])) for i in stops]
        for line_of, look, dash in (
            (everyone, f"curve thin s{moves.slot}", ""),
            (curve, f"curve s{moves.slot}", DASHES[moves.slot]),
        ):
            for part in _above(line_of, marks[0]):
                parts.append(polyline(((x(a), y(b)) for a, b in part), look, dash))
        net = moves.net(explorer.start, start)
        values.append(f"{decimal(net)} at {start:.3g}")
        words = f"{spoken(moves.group.name)}: net benefit {decimal(net)}"
        told.append(
            f"{words}, calling everyone {decimal(share - (1 - share) * start / (1 - start))}"
            if start < 1
            else words
        )
        drawn = mark(
            moves.slot,
            x(start),
            y(net) if math.isfinite(net) else y(0),
            f"mark point s{moves.slot}",
            5.5,
            words,
        )
        seen = math.isfinite(net) and net >= marks[0]
        points.append(
            moving(
                moves.slot, "threshold net", drawn, data_wide=_RIGHT - _LEFT, data_tall=PLOT / (marks[-1] - marks[0]),
                data_least=f"{marks[0]:g}", visibility=None if seen else "hidden",
            )
        )  # fmt: skip
    named = [(moves.slot, moves.group.name) for moves in explorer.groups]
    key, bottom = group_key(named, _TOP + PLOT + 56, values)
    description = f"At the threshold in use, {start:.3g}: {'; '.join(told)}."
    return figure(WIDTH, bottom, title, description, identity, *parts, *points, *key)


def _above(points: Sequence[_Point], least: float) -> list[list[_Point]]:
    """The stretches of a line that lie at `least` or above, cut where it crosses."""
    found: list[list[_Point]] = [[]]
    for before, (t, value) in zip([None, *points], points, strict=False):
        if before is not None and (before[1] < least) != (value < least):
            share = (least - before[1]) / (value - before[1])
            found[-1].append((before[0] + share * (t - before[0]), least))
            if value < least:
                found.append([])
        if value >= least:
            found[-1].append((t, value))
    return [part for part in found if len(part) > 1]
