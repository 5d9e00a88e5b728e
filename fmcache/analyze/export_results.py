"""The tidy results as they may leave the machine: the same rows, without what small groups would give away."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from fmcache.analyze.report.views import NAMED_HIDDEN, OVERALL, gives_away, hidden_places
from fmcache.analyze.suppression import Place, Why
from fmcache.errors import UsageError
from fmcache.store.groups import UNKNOWN

NUMBERS = ("value", "ci_low", "ci_high", "threshold")
COUNTS = ("n", "n_pos", "n_patients")
REASONS: Mapping[Why, str] = {
    "small": "suppressed: fewer than {floor} images, patients, positives or negatives",
    "complement": "suppressed: a smaller group could be worked out from it",
}
WITHHELD = "suppressed: a small group's number went into it"
Row = dict[str, Any]


def protected(results: pl.DataFrame, min_cell: int) -> pl.DataFrame:
    """The results with small cells suppressed; the columns stay.

    A suppressed row keeps its name and says why in ``reason``; its numbers and counts are null. Rows of hidden groups
    are dropped where an attribute has more than NAMED_HIDDEN of them, for then their names tell too much. Counts of
    spreads over an attribute with a hidden group are null: their sum would give it away.

    Parameters
    ----------
    results : RESULT_COLUMNS. min_cell : groups with 1 to min_cell - 1 images, patients, positives or negatives are
        suppressed, and those from which they could be worked out; 1 suppresses nothing.
    """
    if min_cell < 1:
        raise UsageError(
            f"min_cell is {min_cell}.", "The smallest is 1: nothing is hidden.", "Type: --min-cell 11"
        )
    kept: list[Row] = []
    for run in results.partition_by("run_id", maintain_order=True):
        tables = [part.to_dicts() for part in run.partition_by("label", "split", maintain_order=True)]
        hidden = [_hidden(rows, min_cell) for rows in tables]
        names = {place[1] for of in hidden for place in of}
        for rows, of in zip(tables, hidden, strict=True):
            kept += _protect(rows, of, names, min_cell)
    return pl.DataFrame(kept, schema=results.schema, orient="row")


def _hidden(rows: Sequence[Row], floor: int) -> dict[Place, Why]:
    """Hidden under any seed: seeds may have test rows of their own."""
    found: dict[Place, Why] = {}
    for seed in dict.fromkeys(row["seed"] for row in rows):
        mine = hidden_places([row for row in rows if row["seed"] == seed], floor)
        found.update({place: why for place, why in mine.items() if found.get(place) != "small"})
    return found


def _protect(
    rows: Sequence[Row], hidden: Mapping[Place, Why], names: Iterable[str], floor: int
) -> Iterable[Row]:
    attributes = {attribute for attribute, _ in hidden}
    unnamed = {a for a in attributes if sum(place[0] == a for place in hidden) > NAMED_HIDDEN}
    small: dict[str, list[Row]] = {}
    for row in rows:
        place = (row["attribute"], row["group"])
        if hidden.get(place) == "small" and row["group"] != UNKNOWN and not row["disparity"]:
            small.setdefault(row["attribute"], []).append(row)
    for row in rows:
        place = (row["attribute"] or "", row["group"] or "")
        why = hidden.get(place) or hidden.get((place[0], row.get("reference") or ""))
        if row["metric"] == "finding":
            if not any(_mentions(row["reason"] or "", name) for name in names):
                yield row
        elif why is not None:
            if place[0] not in unnamed or place == OVERALL:
                yield _blank(row, REASONS[why].format(floor=floor))
        elif OVERALL in hidden or (
            not place[1] and place[0] and gives_away(row["metric"], small.get(place[0], ()))
        ):
            yield _blank(row, WITHHELD)
        elif not place[1] and place[0] in attributes:
            yield {**row, **dict.fromkeys(COUNTS)}
        else:
            yield row


def _mentions(text: str, name: str) -> bool:
    return bool(name) and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None


def _blank(row: Row, reason: str) -> Row:
    numbers = {name: math.nan if row[name] is not None else None for name in NUMBERS}
    return {**row, **numbers, **dict.fromkeys(COUNTS), "reason": reason}
