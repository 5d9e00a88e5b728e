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
    pairs = list(zip(_lists(positives), _lists(negatives), strict=True))
    defined = np.array([bool(above.size and below.size) for above, below in pairs])
    values = np.zeros(len(pairs))
    for index in np.flatnonzero(defined):
        values[index] = function(*pairs[index])
    validity = pa.py_buffer(np.packbits(defined, bitorder="little"))
    return pa.Array.from_buffers(pa.float64(), len(pairs), [validity, pa.py_buffer(values)])


def _lists(column: pa.Array | pa.ChunkedArray) -> list[np.ndarray]:
    """The values of each list; none for a null. By buffers: pyarrow's own ways to and from NumPy import pandas where it
    is installed, which takes longer than a query."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    validity, offsets = column.buffers()[:2]
    values = column.values
    numbers = np.frombuffer(values.buffers()[1] or b"", np.float64)[values.offset :]
    edges = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    present = np.ones(len(column), bool)
    if validity is not None:
        bits = np.unpackbits(np.frombuffer(validity, np.uint8), bitorder="little")
        present = bits[column.offset : column.offset + len(column)].astype(bool)
    return [
        numbers[start:stop] if there else numbers[:0]
        for start, stop, there in zip(edges[:-1], edges[1:], present, strict=True)
    ]
