"""The calibration errors that a calibrated model with these very scores would show: the null band of a group's ECE.

A binned error is never 0 in a finite sample: a perfectly calibrated model has an `ece` of 0.11 in a group of 50 and
of 0.01 in one of 5,000. So beside each group's error stands that of labels drawn from the scores, y ~ Bernoulli(p).
"""

from __future__ import annotations

import numpy as np

from fmcache.analyze.areas import Bools, Floats
from fmcache.analyze.binned import COUNTS, Binned, binned_of
from fmcache.analyze.bootstrap import CHUNK
from fmcache.analyze.calibration import BINS, bin_of, binned_error, debiased_error, equal_mass_bin_of
from fmcache.analyze.partitions import Partition, finest

ERRORS = ("ece", "ece_adaptive", "ece_debiased")


def calibrated_errors(
    p: Floats, partitions: list[Partition], simulations: int, seed: int
) -> dict[str, Floats]:
    """metric → its values [cells, simulations] in every group of every partition; NaN in an empty group.

    Parameters
    ----------
    p : [n], probabilities, rising. Labels are independent, also of one patient's samples, and shared by all groups.
    """
    n = len(p)
    mass = []
    for part in partitions:
        bins = np.zeros(n, np.int64)
        for mine in part.members():
            bins[mine] = equal_mass_bin_of(p[mine])
        mass.append(bins)
    nobody: Bools = np.zeros(n, bool)
    # what is weighted are the samples; with residuals of 1, every bin has the sum of its samples' weights
    binned = binned_of(
        nobody, np.ones(n), np.arange(n), n, finest(partitions), partitions, [nobody] * len(partitions),
        (bin_of(p), mass),
    )  # fmt: skip
    samples, expected = (_sums(binned, one[:, None]) for one in (np.ones(n), p))
    found: dict[str, list[Floats]] = {name: [] for name in ERRORS}
    bounds = p.astype(np.float32)[:, None]
    for start in range(0, simulations, CHUNK):
        random = np.random.default_rng([seed, 3, start])
        drawn = random.random((n, min(CHUNK, simulations - start)), dtype=np.float32) < bounds
        ill = _sums(binned, drawn.astype(np.float32))
        wide, equal = (
            (np.broadcast_to(one, some.shape), some, all_ - some)
            for one, some, all_ in zip(samples, ill, expected, strict=True)
        )
        found["ece"].append(binned_error(wide[0], wide[2]))
        found["ece_adaptive"].append(binned_error(equal[0], equal[2]))
        found["ece_debiased"].append(debiased_error(*equal))
    return {name: np.concatenate(some, axis=1) for name, some in found.items()}


def _sums(binned: Binned, weights: Floats) -> tuple[Floats, Floats]:
    """Of the weights [n, b] in every equal-width and every equal-mass bin, [cells, BINS, b] each."""
    sums = np.concatenate(binned.under(weights)).astype(np.float64)
    return sums[:, COUNTS : COUNTS + BINS], sums[:, COUNTS + BINS : COUNTS + 2 * BINS]
