"""The gap that chance alone would show: groups dealt anew over the patients, within label strata.

A max − min gap is never 0 in a finite sample. Without any disparity, four groups of 62, 20, 12 and 6 % of 5,000
samples at a prevalence of 5 % have a mean AUC gap of 0.08. So beside every gap stands the gap of permuted groups:
as many patients a group as before, as many of them with a positive as before, but nothing else in common.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fmcache.analyze.bootstrap import CHUNK
from fmcache.analyze.metrics import Bools, Floats, Tally
from fmcache.analyze.weighted import Ints, Partition, concatenate, plan

PERMUTATIONS = 100


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
) -> Tally:
    """Tallies of the groups under permutations, fields [groups, permutations].

    Parameters
    ----------
    y, score, patient, codes : [n]; only samples whose group is known. A patient who is in two groups (an age that
    passed a limit) counts as two.

    The weight of a patient is 1 in the columns of the group the patient was dealt to and 0 in the others, so the
    plan for all samples together gives every group of every permutation.
    """
    pairs, unit = np.unique(patient * groups + codes, return_inverse=True)
    group = pairs % groups
    ill = np.zeros(len(pairs), bool)
    np.logical_or.at(ill, unit, y)
    everyone = Partition(np.zeros(len(y), np.int64), 1)
    prepared = plan(y, score, unit, len(pairs), [everyone], threshold=threshold, probability=probability)
    strata = [np.flatnonzero(ill), np.flatnonzero(~ill)]
    pieces = []
    a_time = max(CHUNK // groups, 1)
    for start in range(0, permutations, a_time):
        dealt = [_deal(group, strata, seed, k) for k in range(start, min(start + a_time, permutations))]
        weights = np.concatenate([_members(one, groups) for one in dealt], axis=1)
        flat = prepared.tally(weights)
        pieces.append(Tally(*(field.reshape(len(dealt), groups).T for field in vars(flat).values())))
    return concatenate(pieces, axis=1)


def _deal(group: Ints, strata: list[Ints], seed: int, number: int) -> Ints:
    """The groups [units], shuffled within each stratum; permutation `number` depends on (seed, number) only."""
    random = np.random.default_rng([seed, 2, number])
    dealt = group.copy()
    for members in strata:
        dealt[members] = random.permutation(group[members])
    return dealt


def _members(group: Ints, groups: int) -> npt.NDArray[np.float32]:
    """Membership, [units, groups], 0 or 1."""
    return (group[:, None] == np.arange(groups)).astype(np.float32)


def chance(observed: float, null: Floats) -> float:
    """Permutation p-value (1 + #{null >= observed}) / (1 + permutations); never 0.

    >>> chance(0.3, np.array([0.1, 0.2, 0.3, 0.4]))
    0.6
    """
    # equal within rounding counts as reached: float32 sums may differ in the last digit
    return float((1 + np.sum(null >= observed - 1e-6)) / (1 + len(null)))
