"""The few SVG parts that the figures are made of. All text and attribute values are cleaned and escaped here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from fmcache.analyze.report.wording import clean

# series differ by colour, dash and marker, so that none of the three is needed to tell them apart
DASHES = ("", "7 3", "2 3", "9 3 2 3", "1 3", "12 4")
MARKS = 6


@dataclass(frozen=True)
class Scale:
    """Linear map from data [low, high] to pixels [start, stop]."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.stop - self.start)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values that span low to high, at most `most` of them, at least two."""
    for power in range(-4, 2):
        for step in (10.0**power * k for k in (1, 2, 5)):
            first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
            if last - first < most:
                return [k * step for k in range(first, max(last, first + 1) + 1)]
    return [low, high]


def element(name: str, *children: str, **attributes: object) -> Markup:
    """``<name attributes>children</name>``; text children are escaped, `Markup` ones are kept.

    ``class_`` is written ``class``; underscores become hyphens (``stroke_width``) except in ``viewBox``.
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _attribute(value))
        for key, value in attributes.items()
        if value is not None and value != ""
    )
    inside = Markup("").join(
        child if isinstance(child, Markup) else escape(clean(child)) for child in children
    )
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), written, inside)


def _attribute(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return clean(str(value))


def line(x1: float, y1: float, x2: float, y2: float, class_: str, **more: object) -> Markup:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_, **more)


def label(x: float, y: float, text: str, class_: str = "", anchor: str = "", **more: object) -> Markup:
    return element("text", text, x=x, y=y, class_=class_, text_anchor=anchor, **more)


def polyline(points: Iterable[tuple[float, float]], class_: str, dash: str = "") -> Markup:
    return element("polyline", points=_points(points), class_=class_, stroke_dasharray=dash)


def mark(kind: int, x: float, y: float, class_: str, size: float = 4.5, title: str = "") -> Markup:
    """A marker: circle, square, diamond, triangle, triangle down, cross; `title` is shown on hover."""
    inside = (element("title", title),) if title else ()
    kind %= MARKS
    r = size
    if kind == 0:
        return element("circle", *inside, cx=x, cy=y, r=r, class_=class_)
    if kind == 1:
        return element(
            "rect", *inside, x=x - r * 0.9, y=y - r * 0.9, width=r * 1.8, height=r * 1.8, class_=class_
        )
    shapes: tuple[Sequence[tuple[float, float]], ...] = (
        ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
        ((0, -1.2), (1.15, 0.9), (-1.15, 0.9)),
        ((0, 1.2), (1.15, -0.9), (-1.15, -0.9)),
        ((-.4, -1.2), (.4, -1.2), (.4, -.4), (1.2, -.4), (1.2, .4), (.4, .4), (.4, 1.2), (-.4, 1.2), (-.4, .4),
         (-1.2, .4), (-1.2, -.4), (-.4, -.4)),
    )  # fmt: skip
    corners = [(x + r * dx, y + r * dy) for dx, dy in shapes[kind - 2]]
    return element("polygon", *inside, points=_points(corners), class_=class_)


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{_attribute(float(x))},{_attribute(float(y))}" for x, y in points)


def figure(width: int, height: float, title: str, description: str, identity: str, *parts: Markup) -> Markup:
    """The root ``<svg>`` with its name and description for those who do not see it."""
    return element(
        "svg",
        element("title", title, id=f"{identity}-t"),
        element("desc", description, id=f"{identity}-d"),
        *parts,
        viewBox=f"0 0 {width} {height:.0f}",
        width=width,
        height=f"{height:.0f}",
        role="img",
        aria_labelledby=f"{identity}-t {identity}-d",
        class_="chart",
    )
