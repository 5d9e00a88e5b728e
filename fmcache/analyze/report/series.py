"""From a run's predictions to the curves of its groups. Ids are used to count patients and go no further."""

from __future__ import annotations

import numpy as np
import polars as pl

from fmcache.analyze.groups import UNKNOWN, group_by
from fmcache.analyze.report.curves import Bin, calibration, roc
from fmcache.analyze.report.figures import SERIES, Series
from fmcache.analyze.report.views import Attribute, Group, View
from fmcache.errors import UsageError
from fmcache.shapes import Float

FEW_SCORES = 2  # a score with no more values than this is a decision, not a probability


def of_view(predictions: pl.DataFrame, view: View) -> pl.DataFrame:
    """The rows with a known label and score that the view was computed from."""
    rows = predictions.filter(
        (pl.col("label") == view.label)
        & (pl.col("split") == view.split)
        & pl.col("y").is_in([0.0, 1.0])
        & pl.col("score").is_finite()
    )
    if view.seed is not None and rows["seed"].n_unique() > 1:
        rows = rows.filter(pl.col("seed") == view.seed)
    return rows


def slots(view: View, attribute: Attribute) -> dict[str, int]:
    """group → colour, dash and marker, in the table's order; beyond SERIES shown groups only the largest get one."""
    ranked = sorted(attribute.shown, key=lambda group: (group.name == UNKNOWN, -(group.n or 0), group.name))
    drawn = {group.name for group in ranked[:SERIES]}
    return {name: i for i, name in enumerate(group.name for group in attribute.shown if group.name in drawn)}


def all_series(predictions: pl.DataFrame, view: View, attribute: Attribute, floor: int) -> list[Series]:
    """Curves of the shown groups; empty when the predictions lack the attribute's columns."""
    if view.overall.why is not None:
        return []
    try:
        grouping = group_by(predictions, attribute.name)
    except UsageError:
        return []
    names = pl.Series("group", [grouping.names[code] for code in grouping.codes], dtype=pl.String)
    keyed = predictions.with_columns(names, probability(predictions).alias("probability"))
    place = slots(view, attribute)
    found = []
    for group in attribute.shown:
        rows = keyed.filter(pl.col("group") == group.name)
        if group.name in place and rows.height:
            found.append(_series(place[group.name], group, rows, floor))
    return sorted(found, key=lambda one: one.slot)


def probability(predictions: pl.DataFrame) -> pl.Expr:
    """Whether the scores can be read as probabilities: all in [0, 1] and more than FEW_SCORES values."""
    score = predictions["score"]
    inside = bool(score.is_between(0, 1).all()) and score.n_unique() > FEW_SCORES
    return pl.lit(inside)


def whole_roc(predictions: pl.DataFrame) -> Float[np.ndarray, "2 k"]:
    return roc(predictions["y"].cast(pl.Float64).to_numpy(), predictions["score"].to_numpy())


def _series(slot: int, group: Group, rows: pl.DataFrame, floor: int) -> Series:
    y, score = rows["y"].cast(pl.Float64).to_numpy(), rows["score"].to_numpy()
    numbered = rows.with_row_index("row")
    person = numbered.select(
        pl.coalesce(pl.col("patient_id"), pl.concat_str(pl.lit("\0"), pl.col("row").cast(pl.String)))
        .rank("dense")
        .alias("person")
    )["person"]
    bins: list[Bin] = []
    if rows["probability"][0]:
        bins = calibration(y, score, person.cast(pl.Int64).to_numpy(), floor)
    return Series(slot, group, roc(y, score), bins)
