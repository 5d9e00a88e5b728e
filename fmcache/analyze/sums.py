"""Sums of columns in every group under many weightings of the patients at once: one matrix product a group.

Everything but areas under curves is a function of a few sums (calls, residuals a bin, squared errors). Summed over
each patient's samples first, the sums under all weightings are

    S[g] = A[g]ᵀ · W[patients of g]      A[g] [units, k], W [units, b]

which is a dense product of float32, in which counts below 2²⁴ are exact.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from fmcache.analyze.areas import Floats, Ints
from fmcache.analyze.partitions import Partition


@dataclass(frozen=True)
class Sums:
    """The columns of one partition, summed over each unit's samples; build it with `sums_of`.

    Attributes
    ----------
    blocks : for every group, the units [m] that have samples in it, and their column sums [m, k].
    """

    blocks: tuple[tuple[Ints, npt.NDArray[np.float32]], ...]
    columns: int
    units: int

    def under(self, weights: npt.NDArray[np.floating]) -> Floats:
        """The sums under weights [units, b]: [groups, k, b]."""
        out = np.zeros((len(self.blocks), self.columns, weights.shape[1]))
        for g, (units, block) in enumerate(self.blocks):
            # take copies whole rows, which is three times as fast as weights[units]
            out[g] = block.T @ (weights if len(units) == self.units else np.take(weights, units, axis=0))
        return out


def sums_of(columns: npt.NDArray[np.floating], unit: Ints, units: int, partition: Partition) -> Sums:
    """Sum the columns [n, k] over the samples of each unit, within each group of the partition.

    Parameters
    ----------
    unit : [n], in 0 … units − 1.
    """
    key = partition.codes.astype(np.int64) * units + unit
    order = np.argsort(key, kind="stable")
    sorted_key = key[order]
    first = np.ones(len(key), bool)
    first[1:] = np.diff(sorted_key) != 0
    pairs = sorted_key[first]
    indptr = np.append(np.flatnonzero(first), len(key))
    once = sp.csr_array((np.ones(len(key), np.float32), order, indptr), shape=(len(pairs), len(key)))
    dense = once @ columns.astype(np.float32, copy=False)
    edges = np.searchsorted(pairs, np.arange(partition.size + 1) * units)
    blocks = tuple(
        (pairs[a:b] - g * units, np.ascontiguousarray(dense[a:b]))
        for g, (a, b) in enumerate(itertools.pairwise(edges))
    )
    return Sums(blocks, columns.shape[1], units)
