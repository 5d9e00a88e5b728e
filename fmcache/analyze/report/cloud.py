"""Where people lie in the embedding, by group (FairMedFM's fig. 16): maps that the cache holds of evaluated images.

Where no map is stored, their two principal components are worked out here. One image a person, at most MOST; the page
gets positions on a grid of half a pixel and no ids.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup

from fmcache.analyze.coordinates import coordinates
from fmcache.analyze.report.figures import WIDTH, short_name
from fmcache.analyze.report.series import Rows
from fmcache.analyze.report.svg import Scale, element, figure, label, mark
from fmcache.analyze.report.views import View
from fmcache.analyze.report.wording import count, decimal, spoken
from fmcache.errors import FmcacheError
from fmcache.store.schema import COORDINATE_COLUMNS, empty

MOST, FEWEST = 600, 30
CAPTIONS = {
    "pca": "Where the groups lie in the embedding",
    "tsne": "Neighbours in the embedding (t-SNE)",
}
READINGS = {
    "pca": "Groups that overlap here can still differ along other directions; a probe for the attribute tells that.",
    "tsne": "Only who lies beside whom can be read from it: distances between islands, their size and density mean "
    "nothing, and islands appear without any cause.",
}
_PLOT, _EDGE = 320, 14


@dataclass(frozen=True)
class Cloud:
    """sample_id, x, y of the drawn images by one projection, and what it says of itself."""

    projection: str
    points: pl.DataFrame
    facts: str


def stored_maps(cache: Any) -> pl.DataFrame:
    """COORDINATE_COLUMNS of all maps; empty where the cache is one that has none."""
    return cache.coordinates() if hasattr(cache, "coordinates") else empty(COORDINATE_COLUMNS)


def clouds(cache: Any, maps: pl.DataFrame, view: View, predictions: pl.DataFrame) -> list[Cloud]:
    """The maps of a view's images; none where the cache holds no vectors of them.

    Parameters
    ----------
    maps : see `stored_maps`. predictions : the view's rows. Without a stored PCA the components are those of the drawn
        images.
    """
    key = view.text("key")
    if not key or view.text("kind") not in ("", "image"):
        return []
    mine = maps.filter(
        (pl.col("model") == view.info.get("model")) & (pl.col("dataset") == view.info.get("dataset"))
        & pl.col("key").str.starts_with(key)
    ).join(predictions.select("sample_id"), on="sample_id", how="semi")  # fmt: skip
    found = {
        str(name): _cloud(_some(part))
        for (name,), part in mine.sort("sample_id").group_by("projection", maintain_order=True)
        if part.height >= FEWEST
    }
    if "pca" not in found and (made := _projected(cache, view, predictions)) is not None:
        found["pca"] = _cloud(made)
    return [found[name] for name in CAPTIONS if name in found]


def _some(rows: pl.DataFrame) -> pl.DataFrame:
    """At most MOST rows, a seeded choice."""
    if rows.height <= MOST:
        return rows
    return rows[np.sort(np.random.default_rng(0).choice(rows.height, MOST, replace=False)).tolist()]


def _cloud(table: pl.DataFrame) -> Cloud:
    first = table.row(0, named=True)
    if first["projection"] == "pca":
        shares = f"{100 * first['x_share']:.0f} % and {100 * first['y_share']:.0f} % of the variance"
        facts = f"first two components: {shares}"
    else:
        made = json.loads(first["parameters"])
        perplexity = (
            f"perplexity {made.get('perplexity', float('nan')):.3g}, " if "perplexity" in made else ""
        )
        facts = f"t-SNE, {perplexity}seed {first['seed']}, divergence {decimal(first['kl_divergence'], 2)}"
    return Cloud(first["projection"], table.select("sample_id", "x", "y"), facts)


def _projected(cache: Any, view: View, predictions: pl.DataFrame) -> pl.DataFrame | None:
    """The principal components of the view's images, one image a person."""
    if not hasattr(cache, "embeddings"):
        return None
    try:
        found = cache.embeddings(view.text("model"), view.text("dataset"), key=view.text("key"))
    except FmcacheError:  # the embeddings may be gone; the run and its results still stand
        return None
    if len(found.shape) != 1 or found.d < 2:
        return None
    person = pl.coalesce("patient_id", "sample_id")
    people = predictions.sort("sample_id").unique(person, keep="first", maintain_order=True)["sample_id"]
    here = found.samples.with_row_index("row").unique("sample_id", keep="first")
    chosen = here.join(people.to_frame(), on="sample_id", how="semi").sort("sample_id")
    if chosen.height < FEWEST:
        return None
    chosen = _some(chosen)
    x = found.rows(chosen["row"].to_numpy(), "float32")
    try:
        return coordinates(x, chosen, found.entry, ["pca"])
    except FmcacheError:  # all images have one embedding: there is nothing to draw
        return None


def cloud_figure(one: Cloud, groups: list[Rows], title: str, identity: str) -> Markup | None:
    """The points of the groups, small; of principal components also the mean of each group, large. None if fewer than
    two groups have points."""
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
        if one.projection == "pca":
            centre = points.mean(axis=0).tolist()
            means.append(mark(slot, x(centre[0]), y(centre[1]), f"mark point s{slot}", 7, f"{name}: mean"))
        key.append(mark(slot, _EDGE + 8, top + 22 * i - 4, f"mark s{slot}"))
        key.append(label(_EDGE + 22, top + 22 * i, short_name(name), "name"))
        key.append(label(_EDGE + _PLOT, top + 22 * i, f"{count(len(points))} people", "value", "end"))
        told.append(f"{name} {count(len(points))}")
    key.append(label(_EDGE, _EDGE + _PLOT + 18, one.facts, "tick"))
    large = ", large markers the mean of a group" if means else ""
    description = f"One point a person{large}. {'; '.join(told)}. {READINGS[one.projection]}"
    return figure(
        WIDTH, top + 22 * len(placed) - 10, title, description, identity, frame, *dots, *means, *key
    )


def _half(value: float) -> float:
    return round(2 * value) / 2
