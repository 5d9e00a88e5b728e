"""Areas under the ROC and precision-recall curves of all groups under many weightings of the patients, exactly.

A bootstrap replicate gives every patient a whole-number weight; a permutation of groups gives 0 or 1. Both are a
matrix W [units, b], and an area needs of it only

    buckets of negatives between the tie blocks of the positives   K rows  ┐ M, one sparse matrix; X = M @ W
    tie blocks of positives, in score order                        J rows  ┘

With C = the running sum of the negative buckets, a tie block of weight w whose lower and upper edges are lo and hi
adds w · (C[lo] + C[hi]) / 2 to the Mann-Whitney count U: AUC = U / (W₊ W₋). Ties cost nothing, they shrink M.
Groups are laid one after another on the same axis, so a partition of the samples needs one M.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from fmcache.analyze.partitions import Partition

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
EXACT = 2**24  # whole numbers below this are exact in float32


@dataclass(frozen=True)
class Areas:
    """The sparse matrix of one partition, and where its rows are; build it with `areas_of`."""

    matrix: sp.csr_array | sp.csc_array
    groups: int
    buckets: int
    blocks: int
    low: Ints  # [J] edge below a tie block, as an index into C
    high: Ints  # [J] edge above
    edge: Ints  # [G + 1] where a group's negatives begin in C
    block: Ints  # [G + 1] where a group's tie blocks begin

    def under(
        self, weights: npt.NDArray[np.floating], auprc: bool = True
    ) -> tuple[Floats, Floats, Floats, Floats]:
        """Positives, negatives, AUC and AUPRC under weights [units, b], each [groups, b]; NaN where a class is gone."""
        width, groups = weights.shape[1], self.groups
        x = self.matrix @ weights
        c = np.zeros((self.buckets + 1, width), x.dtype)
        np.cumsum(x[: self.buckets], axis=0, out=c[1:])
        w = x[self.buckets :]
        if self.blocks and 2.0 * float(c[-1].max()) * float(w.max()) >= EXACT:
            c, w = c.astype(np.float64), w.astype(np.float64)
        wins = np.take(c, self.low, axis=0)  # copies whole rows, which is three times as fast as c[self.low]
        wins += np.take(c, self.high, axis=0)
        wins *= w
        precise = self._precision_weighted(c, w) if auprc else None
        positives, negatives, twice_u, gained = (np.zeros((groups, width)) for _ in range(4))
        for g in range(groups):
            mine = slice(self.block[g], self.block[g + 1])
            positives[g] = w[mine].sum(axis=0, dtype=np.float64)
            negatives[g] = c[self.edge[g + 1]].astype(np.float64) - c[self.edge[g]]
            twice_u[g] = wins[mine].sum(axis=0, dtype=np.float64)
            twice_u[g] -= 2.0 * c[self.edge[g]].astype(np.float64) * positives[g]
            if precise is not None:
                gained[g] = precise[mine].sum(axis=0, dtype=np.float64)
        both = (positives > 0) & (negatives > 0)
        nothing = np.full((groups, width), np.nan)
        area = np.divide(twice_u, 2 * positives * negatives, out=nothing.copy(), where=both)
        if precise is None:
            return positives, negatives, area, nothing
        return positives, negatives, area, np.divide(gained, positives, out=nothing, where=both)

    def _precision_weighted(
        self, c: npt.NDArray[np.floating], w: npt.NDArray[np.floating]
    ) -> npt.NDArray[np.floating]:
        """For every tie block, weight × precision at its score, [J, b]."""
        above = np.zeros((self.blocks + 1, w.shape[1]), w.dtype)
        np.cumsum(w, axis=0, out=above[1:])
        group = np.repeat(np.arange(self.groups), np.diff(self.block))
        hits = np.take(above, self.block[group + 1], axis=0)
        hits -= above[:-1]
        called = np.take(c, self.edge[group + 1], axis=0)
        called -= np.take(c, self.low, axis=0)
        called += hits
        np.divide(hits, called, out=hits, where=called > 0)
        hits *= w
        return hits


def areas_of(y: Bools, score: Floats, unit: Ints, units: int, partitions: list[Partition]) -> list[Areas]:
    """Sort once, cut into groups, and lay out one sparse matrix a partition.

    Parameters
    ----------
    y, score : [n]. unit : [n], what the weights are for (a patient), in 0 … units − 1.
    """
    order = np.argsort(score, kind="stable")
    y, score, unit = y[order], score[order], unit[order]
    rank = np.cumsum(np.concatenate([[0], np.diff(score) != 0])) if len(score) else np.zeros(0, np.int64)
    return [_areas(y, unit, units, rank, part.codes[order], part.size) for part in partitions]


def _areas(y: Bools, unit: Ints, units: int, rank: Ints, codes: Ints, groups: int) -> Areas:
    # a radix sort; keeps the score order in a group
    by_group = np.argsort(codes.astype(np.uint16), kind="stable") if groups > 1 else np.arange(len(codes))
    key = codes.astype(np.int64) * (int(rank[-1]) + 1 if len(rank) else 1) + rank
    negative, positive = by_group[~y[by_group]], by_group[y[by_group]]
    low = np.searchsorted(key[negative], key[positive], "left")
    high = np.searchsorted(key[negative], key[positive], "right")
    start_n = np.searchsorted(codes[negative], np.arange(groups + 1))
    start_p = np.searchsorted(codes[positive], np.arange(groups + 1))
    # a tie block is one score, not one pair of edges: precision changes from score to score without a negative between
    new = np.ones(len(positive), bool)
    new[1:] = np.diff(key[positive]) != 0
    first, block_of = np.flatnonzero(new), np.cumsum(new) - 1
    edges = np.unique(np.concatenate([low[first], high[first], start_n]))
    bucket_of = np.searchsorted(edges, np.arange(len(negative)), "right") - 1
    buckets, blocks = max(len(edges) - 1, 0), len(first)
    # both halves are in row order already, so the matrix needs no sorting
    rows = np.concatenate(
        [np.bincount(bucket_of, minlength=buckets), np.bincount(block_of, minlength=blocks)]
    )
    indptr = np.concatenate([[0], np.cumsum(rows)]).astype(np.int32)
    indices = np.concatenate([unit[negative], unit[positive]]).astype(np.int32)
    ones = np.ones(len(y), np.float32 if len(y) < EXACT // 4 else np.float64)
    return Areas(
        matrix=streamed(sp.csr_array((ones, indices, indptr), shape=(buckets + blocks, units))),
        groups=groups,
        buckets=buckets,
        blocks=blocks,
        low=np.searchsorted(edges, low[first]),
        high=np.searchsorted(edges, high[first]),
        edge=np.searchsorted(edges, start_n),
        block=np.searchsorted(first, start_p),
    )


def streamed(matrix: sp.csr_array) -> sp.csr_array | sp.csc_array:
    """The same matrix by columns, if it has fewer rows than columns.

    A product then reads the weights once, from start to end, and adds to the smaller result: up to twice as fast,
    since the processor's caches are what limits it.
    """
    return sp.csc_array(matrix) if matrix.shape[0] < matrix.shape[1] else matrix
