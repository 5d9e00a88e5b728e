"""Counts and residuals of every bin of every group under many weightings of the patients: one walk over the samples.

In the order of the scores, a bin of a calibration error is a stretch of samples, and so are the samples that a
threshold calls. The samples of a finest cell (groups of all partitions at once) are cut into runs wherever a bin or
the calls of any of their groups begin; then each bin of each group is a union of runs:

    X = M · W        of every run: samples, positives, Σ (p − y)        M [3r, units], W [units, b]
    S = G · X        rows of X added up                                 G [groups · rows, 3r], all partitions
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from fmcache.analyze.areas import EXACT, Bools, Floats, Ints, streamed
from fmcache.analyze.calibration import BINS
from fmcache.analyze.partitions import Partition

COUNTS = 4  # rows of a group: samples, positives, called samples, called positives
ROWS = COUNTS + 4 * BINS  # … residuals an equal-width bin; samples, positives, residuals an equal-mass bin
LONG = 8  # samples a run, from which on M and G one after the other are faster than G · M
SAMPLES, POSITIVES, RESIDUALS = range(3)


@dataclass(frozen=True)
class Binned:
    """M and G, or G · M alone; build it with `binned_of`. groups : of each partition. rows : of each group."""

    matrix: sp.csr_array | sp.csc_array
    gather: sp.csr_array | None
    groups: tuple[int, ...]
    rows: int

    def under(self, weights: npt.NDArray[np.floating]) -> list[npt.NDArray[np.floating]]:
        """The sums under weights [units, b], for every partition [groups, rows, b]; counts are exact."""
        x = self.matrix @ weights
        if self.gather is not None:
            x = self.gather @ x
        ends = np.cumsum(self.groups[:-1]) * self.rows
        return [part.reshape(-1, self.rows, weights.shape[1]) for part in np.split(x, ends)]


def binned_of(
    y: Bools, residual: Floats, unit: Ints, units: int, cells: Partition, partitions: Sequence[Partition],
    called: Sequence[Bools], bins: tuple[Ints, Sequence[Ints]] | None,
) -> Binned:  # fmt: skip
    """Cut the samples into runs and lay out the matrices.

    Parameters
    ----------
    y, residual : [n], by rising score; residual = p − y. unit : [n], what the weights are for, in 0 … units − 1.
    cells : `finest` of the partitions. called : [n] for every partition, whether its threshold calls a sample.
    bins : the equal-width bin [n], and for every partition the equal-mass bin [n] within the sample's group. None
    for scores that are no probabilities; groups then have the first `COUNTS` rows only.
    """
    rows = ROWS if bins else COUNTS
    kind = np.float32 if len(y) < EXACT // 4 else np.float64
    # a radix sort, where there are few cells; keeps the score order in a cell
    order = np.argsort(cells.codes.astype(np.uint16) if cells.size < 2**16 else cells.codes, kind="stable")
    new = np.zeros(len(y), bool)
    new[:1] = True
    for one in (cells.codes, *called, *((bins[0], *bins[1]) if bins else ())):
        along = one[order]
        new[1:] |= along[1:] != along[:-1]
    first = np.flatnonzero(new)
    edges = np.append(first, len(y))
    ill = np.flatnonzero(y[order])
    who = unit[order]
    parts = [
        (who, np.ones(len(y), kind), edges),
        (who[ill], np.ones(len(ill), kind), np.searchsorted(ill, edges)),
    ]
    if bins:
        parts.append((who, residual[order].astype(kind), edges))
    indptr = np.concatenate([[0], *(np.diff(one) for _, _, one in parts)]).cumsum()
    columns = np.concatenate([one for one, _, _ in parts]).astype(np.int32)
    values = np.concatenate([one for _, one, _ in parts])
    matrix = sp.csr_array((values, columns, indptr.astype(np.int32)), shape=(len(indptr) - 1, units))
    at = order[first]  # the first sample of a run stands for all of it
    gather = sp.vstack([
        _gather(part.codes[at], part.size, rows, calls[at], (bins[0][at], bins[1][k][at]) if bins else None, kind)
        for k, (part, calls) in enumerate(zip(partitions, called, strict=True))
    ], format="csr")  # fmt: skip
    sizes = tuple(part.size for part in partitions)
    if len(y) < LONG * len(first):
        return Binned(streamed(sp.csr_array(gather @ matrix)), None, sizes, rows)
    return Binned(streamed(matrix), gather, sizes, rows)


def _gather(
    group: Ints, groups: int, rows: int, called: Bools, bins: tuple[Ints, Ints] | None, kind: type
) -> sp.csr_array:
    """G of one partition; group, called, bins : [r], of every run."""
    runs = np.arange(len(group))

    def entries() -> Iterator[tuple[Ints, Ints]]:
        """(rows of G, rows of X)"""
        top = group * rows
        for k in (SAMPLES, POSITIVES):
            yield top + k, k * len(runs) + runs
            yield top[called] + 2 + k, k * len(runs) + runs[called]
        if bins:
            wide, mass = bins
            yield top + COUNTS + wide, RESIDUALS * len(runs) + runs
            for k in (SAMPLES, POSITIVES, RESIDUALS):
                yield top + COUNTS + BINS * (k + 1) + mass, k * len(runs) + runs

    to, of = (np.concatenate(one) for one in zip(*entries(), strict=True))
    shape = (groups * rows, (3 if bins else 2) * len(runs))
    return sp.csr_array((np.ones(len(to), kind), (to, of)), shape=shape)
