"""The gap that chance alone would show: groups dealt anew over the patients, within label strata.

A max − min gap is never 0 in a finite sample. Without any disparity, four groups of 62, 20, 12 and 6 % of 5,000
samples at a prevalence of 5 % have a mean AUC gap of 0.08. So beside every gap stands the gap of permuted groups:
as many patients a group as before, as many of them with a positive as before, but nothing else in common.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import gammaincc

from fmcache.analyze.areas import Bools, Floats, Ints
from fmcache.analyze.bootstrap import CHUNK
from fmcache.analyze.metrics import Tally
from fmcache.analyze.partitions import Partition
from fmcache.analyze.weighted import Plan, concatenate, plan
from fmcache.parallel import side_by_side
from fmcache.store.groups import ranked

PERMUTATIONS = 100
COUNTED = 10  # permutations that reach the observed gap, from which on their share is the p-value
KEPT = 100_000  # units up to which shuffles are kept for the next label
SMALLEST_P = 1e-4  # no smaller p-value is claimed: the tail is an approximation


def permuted(
    y: Bools,
    score: Floats,
    patient: Ints,
    codes: Ints,
    groups: int,
    *,
    threshold: float,
    probability: bool,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    exact: bool = True,
    threads: bool = False,
    prepared: Plan | None = None,
) -> Tally:
    """Tallies of the groups under permutations, fields [groups, permutations].

    Parameters
    ----------
    y, score, patient, codes : [n]; only samples whose group is known. A patient who is in two groups (an age that
    passed a limit) counts as two.
    prepared : a plan of these very samples as one group over their patients; used where units are patients.

    The weight of a patient is 1 in the columns of the group the patient was dealt to and 0 in the others, so the
    plan for all samples together gives every group of every permutation. Equal-mass bins and the start of the
    recalibration are therefore those of all samples.
    """
    unit, units, chunks, deal = dealing(y, patient, codes, groups, permutations, seed)
    ready = prepared
    if ready is None or units != ready.units or not np.array_equal(unit, patient):
        everyone = Partition(np.zeros(len(y), np.int64), 1)
        ready = plan(
            y, score, unit, units, [everyone], threshold=threshold, probability=probability, exact=exact
        )

    def piece(some: npt.NDArray[np.int32]) -> Tally:
        flat = ready.tally(deal(some))
        return Tally(*(field.reshape(groups, -1) for field in vars(flat).values()))

    return concatenate(side_by_side(piece, chunks) if threads else [piece(some) for some in chunks], axis=1)


def dealing(
    strata: Bools, patient: Ints, codes: Ints, groups: int, permutations: int, seed: int
) -> tuple[
    Ints, int, list[npt.NDArray[np.int32]], Callable[[npt.NDArray[np.int32]], npt.NDArray[np.float32]]
]:
    """The units of the permutation, and the weights under which they are in each group.

    Parameters
    ----------
    strata : [n]; a patient with a True sample stays among such patients.

    Returns
    -------
    unit : [n], codes of (patient, group). units : how many. chunks : places of the units, some permutations each.
    deal : a chunk → weights [units, groups · permutations], 0 or 1.
    """
    pairs, unit = ranked(patient * groups + codes, (int(patient.max()) + 1) * groups)
    group = pairs % groups
    ill = np.bincount(unit, strata, len(pairs)) > 0
    places = _places(ill.tobytes(), seed, permutations)
    dealt = np.concatenate([group[ill], group[~ill]])
    a_time = max(2 * CHUNK // groups, 1)
    chunks = [places[start : start + a_time] for start in range(0, permutations, a_time)]
    return unit, len(pairs), chunks, lambda some: _members(some, dealt, groups)


@lru_cache(maxsize=4)
def _places(ill: bytes, seed: int, permutations: int) -> npt.NDArray[np.int32]:
    """[permutations, units]: the place of every unit, where units with a positive come first, then the others, both
    in random order.

    A random order of all units is a random order of every part of them, so all labels, attributes and models share
    the shuffles; the order in permutation k depends on (seed, k) only. Kept for the next attribute of the label.
    """
    sick = np.frombuffer(ill, np.bool_)
    number = np.arange(len(sick), dtype=np.int32) + np.int32(sick.sum())
    out = np.empty((permutations, len(sick)), np.int32)
    for k in range(permutations):
        order, place = (_shuffled if len(sick) <= KEPT else _shuffled.__wrapped__)(len(sick), seed, k)
        mask = np.take(sick, order)
        before = np.cumsum(mask, dtype=np.int32)
        np.take(np.where(mask, before - 1, number - before), place, out=out[k])
    return out


@lru_cache(maxsize=256)
def _shuffled(units: int, seed: int, number: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The units in a random order, and the place of every unit in it."""
    order = np.random.default_rng([seed, 2, number]).permutation(units).astype(np.int32)
    place = np.empty(units, np.int32)
    place[order] = np.arange(units, dtype=np.int32)
    return order, place


def _members(places: npt.NDArray[np.int32], group: Ints, groups: int) -> npt.NDArray[np.float32]:
    """Membership, [units, groups · permutations], 0 or 1, when the unit at place k gets the group group[k]."""
    kind = np.uint8 if groups < 2**8 else np.uint16
    of_unit = np.ascontiguousarray(np.take(group.astype(kind), places).T)
    out = np.empty((len(of_unit), groups, len(places)), np.float32)
    for g in range(groups):
        out[:, g] = (of_unit == g).view(np.uint8)
    return out.reshape(len(of_unit), -1)


def chance(observed: float, null: Floats) -> float:
    """The p-value of a gap against the gaps [k] of permutations.

    If at least 10 permutations reach it, or they take fewer than 10 values (a rate of few patients, which no tail
    describes), their share, (1 + count) / (1 + k). Otherwise the tail of the gamma
    distribution with the mean and variance of the null gaps (Winkler et al. 2016), which depends on the number of
    permutations through its accuracy only; a gap has a lighter tail, so this errs on the side of caution. Never
    below 0.0001.

    >>> round(chance(0.3, np.linspace(0, 0.4, 100)), 2)
    0.26
    """
    # equal within rounding counts as reached: float32 sums may differ in the last digit
    reached = int(np.sum(null >= observed - 1e-6))
    counted = (1 + reached) / (1 + len(null))
    mean, variance = float(np.mean(null)), float(np.var(null))
    few = len(np.unique(np.round(null, 6))) < COUNTED
    if reached >= COUNTED or few or not variance > 0 or not mean > 0:
        return counted
    tail = float(gammaincc(mean**2 / variance, observed * mean / variance))
    return max(tail, SMALLEST_P)
