"""From a run's predictions to the curves of its groups. Ids are used to count patients and go no further."""

from __future__ import annotations

import numpy as np
import polars as pl

from fmcache.analyze.report.curves import Bin, calibration, precision_recall, roc
from fmcache.analyze.report.figures import SERIES, Series
from fmcache.analyze.report.views import Attribute, Group, View
from fmcache.errors import UsageError
from fmcache.shapes import Float
from fmcache.store.groups import UNKNOWN, group_by

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


Rows = tuple[int, Group, pl.DataFrame]


def rows_by_group(predictions: pl.DataFrame, view: View, attribute: Attribute) -> list[Rows]:
    """(slot, group, its rows) of the shown groups that have a slot; empty without the attribute's columns.

    Rows get the columns ``person``, one number a patient, and ``probability``, the same in all rows.
    """
    if view.overall.why is not None:
        return []
    try:
        grouping = group_by(predictions, attribute.name)
    except UsageError:
        return []
    names = pl.Series("group", [grouping.names[code] for code in grouping.codes], dtype=pl.String)
    keyed = predictions.with_columns(
        names, probability(predictions).alias("probability"), _person(predictions)
    )
    place = slots(view, attribute)
    found = [
        (place[group.name], group, keyed.filter(pl.col("group") == group.name))
        for group in attribute.shown
        if group.name in place
    ]
    return sorted((one for one in found if one[2].height), key=lambda one: one[0])


def all_series(groups: list[Rows], floor: int) -> list[Series]:
    """The curves of the groups."""
    return [_series(slot, group, rows, floor) for slot, group, rows in groups]


def _person(predictions: pl.DataFrame) -> pl.Series:
    """0 … patients - 1; a row without a patient is its own."""
    numbered = predictions.with_row_index("row")
    named = pl.col("patient_id").is_not_null() & (pl.col("patient_id") != "")
    key = pl.when(named).then("p" + pl.col("patient_id")).otherwise("r" + pl.col("row").cast(pl.String))
    return numbered.select((key.rank("dense").cast(pl.Int64) - 1).alias("person"))["person"]


def probability(predictions: pl.DataFrame) -> pl.Expr:
    """Whether the scores can be read as probabilities: all in [0, 1] and more than FEW_SCORES values."""
    score = predictions["score"]
    inside = bool(score.is_between(0, 1).all()) and score.n_unique() > FEW_SCORES
    return pl.lit(inside)


def whole_roc(predictions: pl.DataFrame) -> Float[np.ndarray, "2 k"]:
    return roc(predictions["y"].cast(pl.Float64).to_numpy(), predictions["score"].to_numpy())


def _series(slot: int, group: Group, rows: pl.DataFrame, floor: int) -> Series:
    y, score = rows["y"].cast(pl.Float64).to_numpy(), rows["score"].to_numpy()
    bins: list[Bin] = []
    if rows["probability"][0]:
        bins = calibration(y, score, rows["person"].to_numpy(), floor)
    return Series(slot, group, roc(y, score), precision_recall(y, score), bins)
