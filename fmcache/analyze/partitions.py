"""Disjoint groups of the samples, and what they are cut into by several such partitions at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
DENSE = 16  # possible codes a sample, up to which codes are marked rather than sorted


@dataclass(frozen=True)
class Partition:
    """Disjoint groups of the samples: `codes` [n] in 0 … size − 1."""

    codes: Ints
    size: int

    def members(self) -> list[Ints]:
        """The samples of every group, in their order."""
        if self.size == 1:
            return [np.arange(len(self.codes))]
        # a radix sort, where there are few groups
        few = self.size < 2**16
        order = np.argsort(self.codes.astype(np.uint16) if few else self.codes, kind="stable")
        return np.split(order, np.cumsum(np.bincount(self.codes, minlength=self.size))[:-1])


def ranked(codes: Ints, size: int) -> tuple[Ints, Ints]:
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


def finest(partitions: Sequence[Partition]) -> Partition:
    """The groups of all partitions at once, those that have samples.

    >>> finest([Partition(np.array([0, 0, 1]), 2), Partition(np.array([2, 2, 0]), 3)])
    Partition(codes=array([0, 0, 1]), size=2)
    """
    codes, size = np.zeros(len(partitions[0].codes), np.int64), 1
    for part in partitions:
        if part.size > 1:
            there, codes = ranked(codes * part.size + part.codes, size * part.size)
            size = len(there)
    return Partition(codes, size)
