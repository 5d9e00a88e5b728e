"""From columns of a samples table to what is trained on: labels as 0, 1 or NaN, attributes as groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from fmcache.errors import UsageError
from fmcache.probe.asked import unknown
from fmcache.shapes import Float, Int
from fmcache.store.schema import ATTRIBUTE, LABEL

UNCERTAIN = -1.0  # as CheXpert and MIMIC-CXR code it
_MEANS = {"u-ignore": np.nan, "u-zero": 0.0, "u-one": 1.0}

# What counts as a missing attribute, and how an age is cut, is the same in fmcache.analyze.groups (a test compares).
MISSING = frozenset(
    ("", "unknown", "unk", "na", "n/a", "nan", "none", "null", "missing", "not reported", "?", "-1", "-1.0")
)
MOST_NUMBERS, MOST_GROUPS, OLDEST = 10, 50, 120
AGE_LIMITS, AGE_GROUPS = (40, 60), ("0-39", "40-59", "60+")


def truth_of(table: pl.DataFrame, labels: Sequence[str], uncertain: str = "") -> Float[np.ndarray, "k c"]:
    """Labels as float32: 0, 1 or NaN (unknown).

    Parameters
    ----------
    uncertain : what a finding that is uncertain means: ``u-ignore`` (unknown), ``u-zero``, ``u-one`` (the U-policies of
        Irvin et al. 2019, CheXpert, section 3). Uncertain are the rows of ``uncertain.NAME``, which extraction writes
        for cards that know such codes, and labels of -1. "" takes the labels as they were extracted and refuses -1.

    Raises
    ------
    UsageError : another value.
    """
    out = np.empty((table.height, len(labels)), np.float32)
    for column, label in enumerate(labels):
        raw = table[LABEL + label]
        values = raw.cast(pl.Float64, strict=False)
        wrong = raw.is_not_null() & values.is_null()
        numbers = values.fill_null(float("nan")).to_numpy().copy()
        if uncertain:
            flag = "uncertain." + label
            perhaps = numbers == UNCERTAIN
            if flag in table.columns:
                perhaps |= table[flag].fill_null(False).cast(pl.Boolean).to_numpy()
            numbers[perhaps] = _MEANS[uncertain]
        bad = wrong.to_numpy() | ~(np.isnan(numbers) | np.isin(numbers, (0.0, 1.0)))
        if bad.any():
            value = raw.filter(pl.Series(bad))[0]
            if value == UNCERTAIN:
                do = "Type: --uncertain u-ignore   (unknown), u-zero or u-one"
            else:
                do = "Map it in the dataset's table or card (an uncertain finding is empty, or 0, or 1: decide)."
            raise UsageError(f"The label {label} has the value {value}.", "A label is 0, 1 or empty.", do)
        out[:, column] = numbers
    return out


def fittable(
    y: Float[np.ndarray, "k c"], labels: Sequence[str], training: Sequence[np.ndarray]
) -> tuple[list[str], dict[str, str]]:
    """The labels with both classes in training under every seed, and why the others are not fitted.

    Parameters
    ----------
    training : one mask a seed, [k] or [k, c].
    """
    fitted, skipped = [], {}
    for column, label in enumerate(labels):
        counts = []
        for mask in training:
            train = y[mask if mask.ndim == 1 else mask[:, column], column]
            counts.append((int((train == 0).sum()), int((train == 1).sum())))
        negative, positive = min(counts, key=min)
        if negative and positive:
            fitted.append(label)
        else:
            skipped[label] = f"its training samples have {positive} positives and {negative} negatives"
    return fitted, skipped


def groups_of(table: pl.DataFrame, attribute: str) -> tuple[Int[np.ndarray, " k"], tuple[str, ...]]:
    """Codes (-1 unknown) and names, sorted, of an attribute or an intersection (``sex*age_group``).

    Raises
    ------
    UsageError : no such attribute, or one with too many values to be groups.
    """
    texts = [_texts(table, part.strip().removeprefix(ATTRIBUTE)) for part in attribute.split("*")]
    whole = pl.select(pl.concat_str(texts, separator="*")).to_series()  # null where one part is
    names = tuple(sorted(whole.drop_nulls().unique().to_list()))
    codes = whole.replace_strict(list(names), list(range(len(names))), default=-1, return_dtype=pl.Int64)
    return codes.to_numpy().astype(np.int64), names


def _texts(table: pl.DataFrame, name: str) -> pl.Series:
    column = ATTRIBUTE + name
    if column not in table.columns and not (name == "age_group" and ATTRIBUTE + "age" in table.columns):
        known = [other.removeprefix(ATTRIBUTE) for other in table.columns if other.startswith(ATTRIBUTE)]
        raise unknown("attribute", name, known, UsageError)
    values = table[column] if column in table.columns else table[ATTRIBUTE + "age"]
    numbers = values.dtype.is_numeric()
    if numbers and values.n_unique() > MOST_NUMBERS:
        if name not in ("age", "age_group"):
            raise UsageError(
                f"The attribute {name} has {values.n_unique():,} different numbers; methods need groups.",
                "",
                "Add a column with groups.",
            )
        return _cut(values)
    if values.n_unique() > MOST_GROUPS:
        raise UsageError(
            f"The attribute {name} has {values.n_unique():,} different values; methods need groups.",
            "",
            "Add a column with groups.",
        )
    if values.dtype.is_float() and (values.drop_nulls().drop_nans() % 1 == 0).all():
        values = values.fill_nan(None).cast(pl.Int64)
    text = values.cast(pl.String).str.strip_chars()
    missing = text.is_null() | text.str.to_lowercase().is_in(MISSING)
    return pl.select(pl.when(missing).then(None).otherwise(text)).to_series()


def _cut(age: pl.Series) -> pl.Series:
    years = age.cast(pl.Float64).fill_nan(None)
    years = pl.select(pl.when((years >= 0) & (years <= OLDEST)).then(years)).to_series()
    young, old = AGE_LIMITS
    cut = pl.when(years < young).then(pl.lit(AGE_GROUPS[0])).when(years < old).then(pl.lit(AGE_GROUPS[1]))
    return pl.select(
        pl.when(years.is_null()).then(None).otherwise(cut.otherwise(pl.lit(AGE_GROUPS[2])))
    ).to_series()
