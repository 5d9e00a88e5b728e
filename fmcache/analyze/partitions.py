"""Disjoint groups of the samples, and what they are cut into by several such partitions at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fmcache.store.groups import ranked

Ints = npt.NDArray[np.int64]


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
