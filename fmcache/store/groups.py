"""From attribute columns to groups: names, missing values, ages, intersections; the same for probes and audits."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Mapping
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
DENSE = 16  # possible codes a sample, up to which codes are marked rather than sorted
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


def attribute_names(table: pl.DataFrame, bins: Mapping[str, Bins] | None = None) -> list[str]:
    """The attributes that metrics are computed by unless others are named: those whose columns hold groups."""
    names = attributes_in(table)
    cut_up = set(bins or ())
    usable = [
        name
        for name in names
        if name in cut_up or bmi_can_be_cut(table, name) or _too_many(table[ATTRIBUTE + name]) is None
    ]
    return usable + (["age_group"] if _age_can_be_cut(table) and "age" not in cut_up else [])


def _age_can_be_cut(table: pl.DataFrame) -> bool:
    age = ATTRIBUTE + "age"
    return (
        age in table.columns
        and ATTRIBUTE + "age_group" not in table.columns
        and table[age].dtype.is_numeric()
        and table[age].n_unique() > MOST_NUMBERS
    )


def bmi_can_be_cut(table: pl.DataFrame, name: str) -> bool:
    column = table.get_column(ATTRIBUTE + name, default=None) if name == "bmi" else None
    return column is not None and column.dtype.is_numeric() and column.n_unique() > MOST_NUMBERS


def group_by(
    table: pl.DataFrame, by: str, bins: Mapping[str, Bins] | None = None, option: str = "--by"
) -> Grouping:
    """The groups of an attribute or of an intersection ("sex*age_group" → "female*60+").

    A row that lacks one of the attributes of an intersection is in its group ``unknown``.

    Parameters
    ----------
    bins : attribute → where its numbers are cut. option : how the user names an attribute, for errors.

    Raises
    ------
    UsageError : no such attribute, or one with too many values.
    """
    parts = [part.strip().removeprefix(ATTRIBUTE) for part in by.split("*")]
    if "" in parts:
        raise UsageError(
            f"{option} {by!r} names no attribute {'beside its *' if len(parts) > 1 else 'at all'}.",
            _there(table),
            f"Type: {option} {next(filter(None, parts), 'NAME')}   or, for an intersection: {option} 'sex*age_group'",
        )
    names, codes = [""], np.zeros(len(table), np.int64)
    for k, part in enumerate(parts):
        values = group_names(table, part, bins or {}, option)
        mine = values.unique().to_list()
        which = values.cast(pl.Enum(mine)).to_physical().to_numpy()
        pairs, codes = ranked(codes * len(mine) + which, len(names) * len(mine))
        names = [_joined(names[pair // len(mine)], mine[pair % len(mine)], k) for pair in pairs]
    order = sorted(set(names), key=lambda name: (name == UNKNOWN, name))
    place = {name: k for k, name in enumerate(order)}
    return Grouping("*".join(parts), tuple(order), np.array([place[name] for name in names])[codes])


def ranked(codes: npt.NDArray[np.int64], size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The codes (in 0 … size − 1) that occur, rising, and the place among them of every one [n].

    >>> ranked(np.array([7, 2, 7]), 9)
    (array([2, 7]), array([1, 0, 1]))
    """
    if size > DENSE * len(codes):
        there, place = np.unique(codes, return_inverse=True)
        return there, place
    marked = np.zeros(size, bool)
    marked[codes] = True
    return np.flatnonzero(marked), (np.cumsum(marked) - 1)[codes]


def _joined(left: str, right: str, k: int) -> str:
    if k == 0:
        return right
    return UNKNOWN if UNKNOWN in (left, right) else f"{left}*{right}"


def group_names(table: pl.DataFrame, name: str, bins: Mapping[str, Bins], option: str = "--by") -> pl.Series:
    """The group of every row by one attribute; raises as `group_by`."""
    if name in bins and ATTRIBUTE + name in table.columns:
        return cut(table[ATTRIBUTE + name], bins[name])
    if bmi_can_be_cut(table, name):
        return cut(table[ATTRIBUTE + name], BMI)
    if name in ("age", "age_group") and _age_can_be_cut(table):
        return _cut_age(table[ATTRIBUTE + "age"])
    if ATTRIBUTE + name not in table.columns:
        raise unknown_attribute(name, table)
    column = table[ATTRIBUTE + name]
    if problem := _too_many(column):
        takes_bins = option == "--by"
        if name == "age":
            do = f"Type: {option} age_group   (a column of the dataset)"
            do += f", or --bins {name}=40:60" if takes_bins else ""
        elif takes_bins and column.dtype.is_numeric():
            do = f"Type: --bins {name}=40:60   (or name:limit:name:limit:name)"
        else:
            do = "Add a column with groups."
        raise UsageError(f"The attribute {name} has {problem}; groups are needed.", "", do)
    return as_groups(column)


@dataclass(frozen=True)
class Bins:
    """Where a number is cut, and what the pieces are called.

    Attributes
    ----------
    limits : rising; a value on a limit is in the upper group. names : one more than limits.
    """

    limits: tuple[float, ...]
    names: tuple[str, ...]


BMI = Bins((18.5, 25.0, 30.0), ("underweight", "normal", "overweight", "obese"))  # WHO, kg/m²


def parse_bins(text: str) -> tuple[str, Bins]:
    """The attribute and the bins of ``age=40:60`` or, with names, ``age=young:40:middle:60:old``.

    Without names, whole limits of an age give ``0-39`` as in `AGE_GROUPS`; others ``<0.5``, ``0.5 to <1``, ``>=1``.

    Raises
    ------
    UsageError : not of that form, or limits that do not rise.

    >>> parse_bins("age=18:65")[1].names, parse_bins("bmi=lean:25:heavy")[1]
    (('0-17', '18-64', '65+'), Bins(limits=(25.0,), names=('lean', 'heavy')))
    """
    attribute, _, rest = text.partition("=")
    pieces = [piece.strip() for piece in rest.split(":")] if rest.strip() else []
    numbers = [_as_number(piece) for piece in pieces]
    if attribute.strip() and pieces and all(number is not None for number in numbers):
        limits = tuple(number for number in numbers if number is not None)
        names = _bin_names(attribute.strip(), limits)
    else:
        between = numbers[1::2]
        limits = tuple(number for number in between if number is not None)
        names = tuple(pieces[0::2])
        if (
            not attribute.strip()
            or len(pieces) < 3
            or len(pieces) % 2 == 0
            or None in between
            or not all(names)
        ):
            raise UsageError(
                f"The bins {text!r} cannot be read.",
                "",
                "Type: --bins age=40:60   or, with names: --bins age=young:40:middle:60:old",
            )
    if list(limits) != sorted(set(limits)) or len(set(names)) < len(names):
        raise UsageError(
            f"The bins {text!r} cannot be used.",
            "Limits have to rise and names to differ.",
            "Type: --bins age=40:60",
        )
    return attribute.strip().removeprefix(ATTRIBUTE), Bins(limits, names)


def _as_number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _bin_names(attribute: str, limits: tuple[float, ...]) -> tuple[str, ...]:
    if attribute.startswith("age") and all(limit == int(limit) and limit > 0 for limit in limits):
        lows = [0, *(int(limit) for limit in limits)]
        return (*(f"{low}-{high - 1}" for low, high in itertools.pairwise(lows)), f"{lows[-1]}+")
    inner = [f"{low:g} to <{high:g}" for low, high in itertools.pairwise(limits)]
    return (f"<{limits[0]:g}", *inner, f">={limits[-1]:g}")


def cut(column: pl.Series, bins: Bins) -> pl.Series:
    """The names of the bins; ``unknown`` for what is missing or no number, and for an age that cannot be.

    >>> cut(pl.Series("age", [17.0, 18.0, None]), parse_bins("age=18")[1]).to_list()
    ['0-17', '18+', 'unknown']
    """
    number = column.cast(pl.Float64, strict=False).fill_nan(None)
    if column.name.removeprefix(ATTRIBUTE) == "age":
        number = number.set((number < 0) | (number > OLDEST), None)
    which = np.searchsorted(np.array(bins.limits), number.fill_null(0.0).to_numpy(), "right")
    named = pl.Series([*bins.names])[which.tolist()] if len(which) else pl.Series([], dtype=pl.String)
    return pl.select(pl.when(number.is_null()).then(pl.lit(UNKNOWN)).otherwise(named)).to_series()


def unknown_attribute(name: str, table: pl.DataFrame) -> UsageError:
    """The error for an attribute that the table does not have, with the nearest that it has."""
    close = difflib.get_close_matches(name, attributes_in(table), n=1)
    return UsageError(
        f"There is no attribute {name}.",
        _there(table),
        f"Did you mean {close[0]}?" if close else "",
    )


def _there(table: pl.DataFrame) -> str:
    return f"Attributes: {', '.join(attributes_in(table)) or 'none'}."


def attributes_in(table: pl.DataFrame) -> list[str]:
    """The names of all attribute columns, whatever they hold."""
    return [column.removeprefix(ATTRIBUTE) for column in table.columns if column.startswith(ATTRIBUTE)]


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
    distinct = column.unique()
    if len(distinct) < len(column) / 4:
        return column.replace_strict(distinct, _named(distinct), return_dtype=pl.String)
    return _named(column)


def _named(column: pl.Series) -> pl.Series:
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
