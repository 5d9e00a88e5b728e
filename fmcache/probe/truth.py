"""From columns of a samples table to what is trained on: labels as 0, 1 or NaN, attributes as groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from fmcache.errors import UsageError
from fmcache.shapes import Float, Int
from fmcache.store.groups import group_by
from fmcache.store.schema import LABEL

UNCERTAIN = -1.0  # as CheXpert and MIMIC-CXR code it
UNSURE = "uncertain."  # columns that extraction writes: whether the finding was uncertain
_MEANS = {"u-ignore": np.nan, "u-zero": 0.0, "u-one": 1.0}


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
            flag = UNSURE + label
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


def groups_of(
    table: pl.DataFrame, attribute: str, option: str = "--attribute"
) -> tuple[Int[np.ndarray, " k"], tuple[str, ...]]:
    """Codes (-1 unknown) and names, sorted, of an attribute or an intersection (``sex*age_group``).

    Raises
    ------
    UsageError : no such attribute, or one with too many values to be groups.
    """
    found = group_by(table, attribute, option=option)
    names = tuple(found.names[k] for k in found.known)  # unknown is the last, if it is there
    return np.where(found.codes < len(names), found.codes, -1), names
