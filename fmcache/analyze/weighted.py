"""Tallies of all groups under many weightings of the patients at once, exactly.

A bootstrap replicate gives every patient a whole-number weight; a permutation of groups gives 0 or 1. Both are a
matrix W [units, b], and everything a metric needs is linear in W up to the last step:

    buckets of negatives between the tie blocks of the positives   K rows  ┐
    tie blocks of positives, in score order                        J rows  │
    called positive: true, false                                  2G rows  ├ M, one sparse matrix; X = M @ W
    Σ (p − y) a calibration bin                                   10G rows │
    Σ (p − y)²                                                     G rows  ┘

With C = the running sum of the negative buckets, a tie block of weight w whose lower and upper edges are lo and hi
adds w · (C[lo] + C[hi]) / 2 to the Mann-Whitney count U: AUC = U / (W₊ W₋). Ties cost nothing, they shrink M.
Groups are laid one after another on the same axis, so a partition of the samples needs one M.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from fmcache.analyze.metrics import BINS, Bools, Floats, Tally, bin_of, ratio

Ints = npt.NDArray[np.int64]
EXACT = 2**24  # whole numbers below this are exact in float32


@dataclass(frozen=True)
class Partition:
    """Disjoint groups of the samples: `codes` [n] in 0 … size − 1."""

    codes: Ints
    size: int


@dataclass(frozen=True)
class _Part:
    """The sparse matrix of one partition, and where its rows are."""

    matrix: sp.csr_array
    groups: int
    buckets: int
    blocks: int
    low: Ints  # [J] edge below a tie block, as an index into C
    high: Ints  # [J] edge above
    edge: Ints  # [G + 1] where a group's negatives begin in C
    block: Ints  # [G + 1] where a group's tie blocks begin
    rates: bool
    calibration: bool


@dataclass(frozen=True)
class Plan:
    """One label's predictions, prepared for any number of weightings.

    Build it with `plan`. `cells` groups in all: the partitions' groups, one partition after another.
    """

    parts: tuple[_Part, ...]
    units: int
    auprc: bool

    @property
    def cells(self) -> int:
        return sum(part.groups for part in self.parts)

    def tally(self, weights: npt.NDArray[np.floating]) -> Tally:
        """The tallies under weights [units, b], fields [cells, b]. A column's result depends on that column only."""
        if weights.shape[0] != self.units:
            raise ValueError(f"{weights.shape[0]} weights for {self.units} units")
        return concatenate([_tally(part, weights, self.auprc) for part in self.parts], axis=0)


def concatenate(tallies: list[Tally], axis: int) -> Tally:
    """Tallies joined along an axis: 0 = cells, 1 = replicates."""
    return Tally(*(np.concatenate([getattr(t, f.name) for t in tallies], axis=axis) for f in fields(Tally)))


def select(tallies: Tally, cells: slice | Ints) -> Tally:
    """Some cells of a Tally."""
    return Tally(*(getattr(tallies, f.name)[cells] for f in fields(Tally)))


def plan(
    y: Bools,
    score: Floats,
    unit: Ints,
    units: int,
    partitions: list[Partition],
    *,
    threshold: float = float("nan"),
    probability: bool = False,
    auprc: bool = True,
) -> Plan:
    """Sort once, cut into groups, and lay out one sparse matrix a partition.

    Parameters
    ----------
    y, score : [n]. unit : [n], what the weights are for (a patient), in 0 … units − 1.
    threshold : decision = score >= threshold; NaN leaves the rates out (NaN in the Tally).
    probability : whether to prepare brier and ece. auprc : whether to compute the average precision.
    """
    order = np.argsort(score, kind="stable")
    y, score, unit = y[order], score[order], unit[order]
    rank = np.cumsum(np.concatenate([[0], np.diff(score) != 0])) if len(score) else np.zeros(0, np.int64)
    parts = [
        _part(y, score, unit, units, rank, Partition(part.codes[order], part.size), threshold, probability)
        for part in partitions
    ]
    return Plan(tuple(parts), units, auprc)


def _part(
    y: Bools,
    score: Floats,
    unit: Ints,
    units: int,
    rank: Ints,
    part: Partition,
    threshold: float,
    probability: bool,
) -> _Part:
    groups, codes = part.size, part.codes
    by_group = np.argsort(
        codes.astype(np.uint16), kind="stable"
    )  # radix sort; keeps the score order in a group
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

    dtype = np.float32 if len(y) < EXACT // 4 else np.float64
    rows, columns, values = (
        [bucket_of, buckets + block_of],
        [unit[negative], unit[positive]],
        [np.ones(len(y), dtype)],
    )
    height = buckets + blocks
    rates = not np.isnan(threshold)
    if rates:
        called = np.flatnonzero(score >= threshold)
        rows.append(height + np.where(y[called], 0, groups) + codes[called])
        columns.append(unit[called])
        values.append(np.ones(len(called), dtype))
        height += 2 * groups
    if probability:
        residual = score - y
        rows += [height + codes * BINS + bin_of(score), height + groups * BINS + codes]
        columns += [unit, unit]
        values += [residual.astype(dtype), (residual**2).astype(dtype)]
        height += groups * (BINS + 1)
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return _Part(
        matrix=sp.csr_array(entries, shape=(height, units)),
        groups=groups,
        buckets=buckets,
        blocks=blocks,
        low=np.searchsorted(edges, low[first]),
        high=np.searchsorted(edges, high[first]),
        edge=np.searchsorted(edges, start_n),
        block=np.searchsorted(first, start_p),
        rates=rates,
        calibration=probability,
    )


def _tally(part: _Part, weights: npt.NDArray[np.floating], with_auprc: bool) -> Tally:
    width, groups = weights.shape[1], part.groups
    x = part.matrix @ weights
    c = np.zeros((part.buckets + 1, width), x.dtype)
    np.cumsum(x[: part.buckets], axis=0, out=c[1:])
    w = x[part.buckets : part.buckets + part.blocks]
    if part.blocks and 2.0 * float(c[-1].max()) * float(w.max()) >= EXACT:
        c, w = c.astype(np.float64), w.astype(np.float64)
    wins = c[part.low]
    wins += c[part.high]
    wins *= w
    precise = _precision_weighted(part, c, w) if with_auprc else None
    positives, negatives, twice_u, gained = (np.zeros((groups, width)) for _ in range(4))
    for g in range(groups):
        mine = slice(part.block[g], part.block[g + 1])
        positives[g] = w[mine].sum(axis=0, dtype=np.float64)
        negatives[g] = c[part.edge[g + 1]].astype(np.float64) - c[part.edge[g]]
        twice_u[g] = wins[mine].sum(axis=0, dtype=np.float64)
        twice_u[g] -= 2.0 * c[part.edge[g]].astype(np.float64) * positives[g]
        if precise is not None:
            gained[g] = precise[mine].sum(axis=0, dtype=np.float64)
    area = ratio(twice_u, 2 * positives * negatives)
    nothing = np.full((groups, width), np.nan)
    tp = fp = nothing
    rest = part.buckets + part.blocks
    if part.rates:
        tp = x[rest : rest + groups].astype(np.float64)
        fp = x[rest + groups : rest + 2 * groups].astype(np.float64)
        rest += 2 * groups
    brier = ece = nothing
    if part.calibration:
        n = positives + negatives
        bins = np.abs(x[rest : rest + groups * BINS]).reshape(groups, BINS, width)
        off = np.zeros((groups, width))
        for k in range(BINS):  # one after another: the same order of additions for every width
            off += bins[:, k]
        ece = ratio(off, n)
        brier = ratio(x[rest + groups * BINS :].astype(np.float64), n)
    return Tally(
        tp=tp,
        fp=fp,
        fn=positives - tp,
        tn=negatives - fp,
        positives=positives,
        negatives=negatives,
        auc=area,
        auprc=np.where(np.isnan(area), np.nan, ratio(gained, positives)) if with_auprc else nothing,
        brier=brier,
        ece=ece,
    )


def _precision_weighted(
    part: _Part, c: npt.NDArray[np.floating], w: npt.NDArray[np.floating]
) -> npt.NDArray[np.floating]:
    """For every tie block, weight × precision at its score, [J, b]."""
    above = np.zeros((part.blocks + 1, w.shape[1]), w.dtype)
    np.cumsum(w, axis=0, out=above[1:])
    group = np.repeat(np.arange(part.groups), np.diff(part.block))
    hits = above[part.block[group + 1]]
    hits -= above[:-1]
    called = c[part.edge[group + 1]]
    called -= c[part.low]
    called += hits
    np.divide(hits, called, out=hits, where=called > 0)
    hits *= w
    return hits
