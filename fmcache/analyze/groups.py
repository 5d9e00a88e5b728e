"""From attribute columns to groups: names, missing values, ages, intersections."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from fmcache.errors import UsageError
from fmcache.store.schema import ATTRIBUTE

UNKNOWN = "unknown"
# how tables say that a value is missing, in lower case; "other" is a group, not a missing value
MISSING_WORDS = frozenset(
    ("", "unknown", "unk", "na", "n/a", "nan", "none", "null", "missing", "not reported", "?", "-1", "-1.0")
)
MOST_NUMBERS = 10  # a numeric attribute with more different values is continuous
MOST_GROUPS = 50  # a text attribute with more different values is no attribute of people
AGE_LIMITS, AGE_GROUPS = (40, 60), ("0-39", "40-59", "60+")
OLDEST = 120  # years; a recorded age above is not plausible and counts as missing


@dataclass(frozen=True)
class Grouping:
    """Disjoint groups of the rows of a table.

    Attributes
    ----------
    attribute : "sex", or "sex*age_group". names : [g], sorted, ``unknown`` last if there is one. codes : [n].
    """

    attribute: str
    names: tuple[str, ...]
    codes: npt.NDArray[np.int64]

    @property
    def known(self) -> list[int]:
        """Indices of the groups that count for disparities: all but ``unknown``."""
        return [k for k, name in enumerate(self.names) if name != UNKNOWN]


def attribute_names(table: pl.DataFrame) -> list[str]:
    """The attributes that metrics are computed by unless others are named: those whose columns hold groups."""
    names = [name.removeprefix(ATTRIBUTE) for name in table.columns if name.startswith(ATTRIBUTE)]
    usable = [name for name in names if _too_many(table[ATTRIBUTE + name]) is None]
    return usable + (["age_group"] if _age_can_be_cut(table) else [])


def _age_can_be_cut(table: pl.DataFrame) -> bool:
    age = ATTRIBUTE + "age"
    return (
        age in table.columns
        and ATTRIBUTE + "age_group" not in table.columns
        and table[age].dtype.is_numeric()
        and table[age].n_unique() > MOST_NUMBERS
    )


def group_by(table: pl.DataFrame, by: str) -> Grouping:
    """The groups of an attribute or of an intersection ("sex*age_group" → "female*60+").

    A row that lacks one of the attributes of an intersection is in its group ``unknown``.

    Raises
    ------
    UsageError : no such attribute, or one with too many values.
    """
    parts = [part.strip().removeprefix(ATTRIBUTE) for part in by.split("*")]
    columns = [_groups(table, part) for part in parts]
    known = pl.all_horizontal([column != UNKNOWN for column in columns])
    joined = pl.select(pl.when(known).then(pl.concat_str(columns, separator="*")).otherwise(pl.lit(UNKNOWN)))
    values = joined.to_series()
    names = tuple(sorted(values.unique().to_list(), key=lambda name: (name == UNKNOWN, name)))
    codes = values.replace_strict(list(names), list(range(len(names))), return_dtype=pl.Int64)
    return Grouping("*".join(parts), names, codes.to_numpy())


def _groups(table: pl.DataFrame, name: str) -> pl.Series:
    if name == "age_group" and _age_can_be_cut(table):
        return _cut_age(table[ATTRIBUTE + "age"])
    if ATTRIBUTE + name not in table.columns:
        raise unknown_attribute(name, table)
    column = table[ATTRIBUTE + name]
    if problem := _too_many(column):
        do = "Type: --by age_group   (age cut at 40 and 60)" if name == "age" else "Add a column with groups."
        raise UsageError(f"The attribute {name} has {problem}; metrics need groups.", "", do)
    return as_groups(column)


def unknown_attribute(name: str, table: pl.DataFrame) -> UsageError:
    """The error for an attribute that the table does not have, with the nearest that it has."""
    names = [column.removeprefix(ATTRIBUTE) for column in table.columns if column.startswith(ATTRIBUTE)]
    close = difflib.get_close_matches(name, names, n=1)
    return UsageError(
        f"There is no attribute {name}.",
        f"Attributes: {', '.join(names) or 'none'}.",
        f"Did you mean {close[0]}?" if close else "",
    )


def _too_many(column: pl.Series) -> str | None:
    values = column.n_unique()
    if column.dtype.is_numeric() and values > MOST_NUMBERS:
        return f"{values:,} different numbers"
    if values > MOST_GROUPS:
        return f"{values:,} different values"
    return None


def as_groups(column: pl.Series) -> pl.Series:
    """Text, trimmed; ``unknown`` for null, NaN and the words that mean missing.

    >>> as_groups(pl.Series(["F", " M", "", None, "N/A"])).to_list()
    ['F', 'M', 'unknown', 'unknown', 'unknown']
    """
    if column.dtype.is_float() and (column.drop_nulls().drop_nans() % 1 == 0).all():
        column = column.fill_nan(None).cast(pl.Int64)
    text = column.cast(pl.String).str.strip_chars()
    missing = text.is_null() | text.str.to_lowercase().is_in(MISSING_WORDS)
    return pl.select(pl.when(missing).then(pl.lit(UNKNOWN)).otherwise(text)).to_series()


def _cut_age(age: pl.Series) -> pl.Series:
    years = age.cast(pl.Float64).fill_nan(None)
    young, old = AGE_LIMITS
    return pl.select(
        pl.when(years.is_null() | (years < 0) | (years > OLDEST))
        .then(pl.lit(UNKNOWN))
        .when(years < young)
        .then(pl.lit(AGE_GROUPS[0]))
        .when(years < old)
        .then(pl.lit(AGE_GROUPS[1]))
        .otherwise(pl.lit(AGE_GROUPS[2]))
    ).to_series()
