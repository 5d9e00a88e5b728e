"""Resampling patients: how often each is drawn in every replicate, and the replicates of a plan.

The unit is the patient: all images, labels and groups of a patient come and go together, and all numbers of one run
share the resamples, so differences between groups are paired. Resampling images instead gives intervals that are
too short when patients have several.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fmcache.analyze.metrics import Tally
from fmcache.analyze.weighted import Plan, concatenate
from fmcache.parallel import side_by_side

CHUNK = 64  # replicates computed together; the fastest of 16 … 256, and no effect on any count or area
MOST_KEPT = 512 * 2**20  # bytes of counts that are kept for the next label rather than drawn again


def patient_weights(patients: int, replicates: range, seed: int) -> npt.NDArray[np.float32]:
    """How often every patient is drawn, [patients, b]; replicate r depends on (seed, r) only.

    Each replicate draws `patients` patients with replacement (Efron 1979, over clusters).
    """
    return _counts(patients, replicates, seed).astype(np.float32)


def _counts(patients: int, replicates: range, seed: int) -> npt.NDArray[np.uint8]:
    drawn = np.empty((len(replicates), patients), np.uint8)
    for k, replicate in enumerate(replicates):
        who = np.random.default_rng([seed, 1, replicate]).integers(0, patients, patients, dtype=np.int32)
        # a patient is drawn more than 255 times in one of 10^500 replicates
        drawn[k] = np.bincount(who, minlength=patients)
    return np.ascontiguousarray(drawn.T)


@dataclass(frozen=True)
class Resamples:
    """The weights of all replicates, a chunk at a time; small ones are kept, so that labels share the drawing.

    Attributes
    ----------
    threads : chunks side by side, for one label alone; several labels are already measured side by side.
    """

    patients: int
    draws: int
    seed: int
    chunk: int = CHUNK
    threads: bool = False

    @cached_property
    def _kept(self) -> list[npt.NDArray[np.uint8]] | None:
        if self.patients * self.draws > MOST_KEPT:
            return None
        return [_counts(self.patients, some, self.seed) for some in self._chunks()]

    def _chunks(self) -> list[range]:
        starts = range(0, self.draws, self.chunk)
        return [range(start, min(start + self.chunk, self.draws)) for start in starts]

    def _weights(self, k: int) -> npt.NDArray[np.float32]:
        kept = self._kept
        counts = kept[k] if kept is not None else _counts(self.patients, self._chunks()[k], self.seed)
        return counts.astype(np.float32)

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        return (self._weights(k) for k in range(len(self._chunks())))

    def tally(self, plan: Plan) -> Tally:
        """The tallies of a plan in every replicate, fields [cells, draws]."""
        if not self.threads:
            return concatenate([plan.tally(weights) for weights in self], axis=1)

        def some(k: int) -> Tally:
            return plan.tally(self._weights(k))

        return concatenate(side_by_side(some, range(len(self._chunks()))), axis=1)
