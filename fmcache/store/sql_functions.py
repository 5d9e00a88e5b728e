"""The aggregates of SQL that sort, over DuckDB's lists: one call a vector of groups, NumPy inside."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa


def areas(positives: pa.Array, negatives: pa.Array) -> pa.Array:
    """Per group the area under the ROC curve, ties counting half; null where a class is absent.

    Parameters
    ----------
    positives, negatives : list<double>, the scores of each class; null = none.
    """
    return _each(area, positives, negatives)


def average_precisions(positives: pa.Array, negatives: pa.Array) -> pa.Array:
    """Per group the average precision; null where a class is absent."""
    return _each(average_precision, positives, negatives)


def area(positives: np.ndarray, negatives: np.ndarray) -> float:
    """The Mann-Whitney U over P·N. Both sides are sorted, the smaller is searched in the larger.

    >>> area(np.array([0.4, 0.8]), np.array([0.1, 0.4]))
    0.875
    """
    few, many = (np.sort(scores) for scores in sorted((positives, negatives), key=len))
    # twice the number of pairs in which the one of `few` is larger, ties once
    wins = int(np.searchsorted(many, few, "left").sum()) + int(np.searchsorted(many, few, "right").sum())
    pairs = 2 * len(few) * len(many)
    return (wins if len(positives) <= len(negatives) else pairs - wins) / pairs


def average_precision(positives: np.ndarray, negatives: np.ndarray) -> float:
    """The mean over positives of the precision at their score: positives and negatives at or above it.

    >>> average_precision(np.array([0.4, 0.8]), np.array([0.1, 0.35]))
    1.0
    """
    positives, negatives = np.sort(positives), np.sort(negatives)
    true = len(positives) - np.searchsorted(positives, positives, "left")
    false = len(negatives) - np.searchsorted(negatives, positives, "left")
    return float((true / (true + false)).mean())


def _each(
    function: Callable[[np.ndarray, np.ndarray], float], positives: pa.Array, negatives: pa.Array
) -> pa.Array:
    return pa.array(
        [
            function(above, below) if above.size and below.size else None
            for above, below in zip(_lists(positives), _lists(negatives), strict=True)
        ],
        pa.float64(),
    )


def _lists(column: pa.Array | pa.ChunkedArray) -> list[np.ndarray]:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    values = column.values.to_numpy(zero_copy_only=False)
    offsets = column.offsets.to_numpy()
    present = column.is_valid().to_numpy(zero_copy_only=False)
    return [
        values[start:stop] if there else values[:0]
        for start, stop, there in zip(offsets[:-1], offsets[1:], present, strict=True)
    ]
