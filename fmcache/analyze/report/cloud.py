"""Where people lie in the embedding, by group: two principal components of the evaluated images (FairMedFM's fig. 16
has t-SNE).

Principal components are linear, so that distances and overlap mean what they seem to; t-SNE would draw gaps that
are not there. One image a person, at most MOST; the page gets positions on a grid of half a pixel and no ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup

from fmcache.analyze.report.figures import WIDTH, short_name
from fmcache.analyze.report.series import Rows
from fmcache.analyze.report.svg import Scale, element, figure, label, mark
from fmcache.analyze.report.views import View
from fmcache.analyze.report.wording import count, spoken
from fmcache.errors import FmcacheError

MOST, FEWEST = 600, 30
_PLOT, _EDGE = 320, 14


@dataclass(frozen=True)
class Cloud:
    """sample_id, x, y of the drawn images, and the shares of variance that x and y have."""

    points: pl.DataFrame
    shares: tuple[float, float]


def cloud(cache: Any, view: View, predictions: pl.DataFrame) -> Cloud | None:
    """The projection of a view's images; None where the cache holds no vectors of them.

    Parameters
    ----------
    predictions : the view's rows. The components are those of the drawn images.
    """
    if not hasattr(cache, "embeddings") or not view.text("key") or view.text("kind") not in ("", "image"):
        return None
    try:
        found = cache.embeddings(view.text("model"), view.text("dataset"), key=view.text("key"))
    except FmcacheError:  # the embeddings may be gone; the run and its results still stand
        return None
    if len(found.shape) != 1 or found.d < 2:
        return None
    person = pl.coalesce("patient_id", "sample_id")
    people = predictions.sort("sample_id").unique(person, keep="first", maintain_order=True)["sample_id"]
    here = found.samples.select("sample_id").with_row_index("row").unique("sample_id", keep="first")
    chosen = here.join(people.to_frame(), on="sample_id", how="semi").sort("sample_id")
    if chosen.height < FEWEST:
        return None
    if chosen.height > MOST:
        kept = np.sort(np.random.default_rng(0).choice(chosen.height, MOST, replace=False))
        chosen = chosen[kept.tolist()]
    x = found.rows(chosen["row"].to_numpy(), "float32").astype(np.float64)
    x -= x.mean(axis=0)
    u, s, v = np.linalg.svd(x, full_matrices=False)
    # a component has no sign of its own: the largest weight is positive, or a library could turn the picture round
    sign = np.sign(v[:2][np.arange(2), np.abs(v[:2]).argmax(axis=1)])
    xy = u[:, :2] * s[:2] * sign
    share = s[:2] ** 2 / max(float((s**2).sum()), 1e-300)
    points = chosen.select("sample_id").with_columns(x=pl.Series(xy[:, 0]), y=pl.Series(xy[:, 1]))
    return Cloud(points, (float(share[0]), float(share[1])))


def cloud_figure(one: Cloud, groups: list[Rows], title: str, identity: str) -> Markup | None:
    """The points of the groups, small, and the mean of each group, large; None if fewer than two groups have points."""
    placed = []
    for slot, group, rows in groups:
        mine = one.points.join(rows.select("sample_id"), on="sample_id", how="semi").sort("sample_id")
        if mine.height:
            placed.append((slot, group, mine.select("x", "y").to_numpy()))
    if len(placed) < 2:
        return None
    every = np.concatenate([points for *_, points in placed])
    low, high = every.min(axis=0), every.max(axis=0)
    middle, half = (low + high) / 2, float(0.52 * (high - low).max()) or 1.0
    x = Scale(float(middle[0]) - half, float(middle[0]) + half, _EDGE, _EDGE + _PLOT)
    y = Scale(float(middle[1]) - half, float(middle[1]) + half, _EDGE + _PLOT, _EDGE)
    frame = element("rect", x=_EDGE, y=_EDGE, width=_PLOT, height=_PLOT, class_="frame")
    dots, means, key, told = [], [], [], []
    top = _EDGE + _PLOT + 44
    for i, (slot, group, points) in enumerate(placed):
        dots += [mark(slot, _half(x(a)), _half(y(b)), f"mark dot s{slot}", 2.4) for a, b in points.tolist()]
        name = spoken(group.name)
        centre = points.mean(axis=0).tolist()
        means.append(mark(slot, x(centre[0]), y(centre[1]), f"mark point s{slot}", 7, f"{name}: mean"))
        key.append(mark(slot, _EDGE + 8, top + 22 * i - 4, f"mark s{slot}"))
        key.append(label(_EDGE + 22, top + 22 * i, short_name(name), "name"))
        key.append(label(_EDGE + _PLOT, top + 22 * i, f"{count(len(points))} people", "value", "end"))
        told.append(f"{name} {count(len(points))}")
    shares = f"{100 * one.shares[0]:.0f} % and {100 * one.shares[1]:.0f} % of the variance"
    key.append(label(_EDGE, _EDGE + _PLOT + 18, f"first two principal components: {shares}", "tick"))
    description = f"One point a person, large markers the mean of a group. {'; '.join(told)}."
    return figure(
        WIDTH, top + 22 * len(placed) - 10, title, description, identity, frame, *dots, *means, *key
    )


def _half(value: float) -> float:
    return round(2 * value) / 2
