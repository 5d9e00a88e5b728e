"""Resampling patients: the weights of the replicates, the replicates of all labels, and percentile intervals.

The unit is the patient: all images, labels and groups of a patient come and go together, and all numbers of one run
share the resamples, so differences between groups are paired. Resampling images instead gives intervals that are
too short when patients have several.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fmcache.analyze.metrics import Floats, Tally
from fmcache.analyze.weighted import Plan, concatenate

CHUNK = 64  # replicates computed together; the fastest of 16 … 256, and no effect on any result
MOST_UNDEFINED = 0.05  # share of replicates in which a number may be undefined before its interval is


def patient_weights(patients: int, replicates: range, seed: int) -> npt.NDArray[np.float32]:
    """How often every patient is drawn, [patients, b]; replicate r depends on (seed, r) only.

    Each replicate draws `patients` patients with replacement (Efron 1979, over clusters).
    """
    weights = np.empty((len(replicates), patients), np.float32)
    for k, replicate in enumerate(replicates):
        drawn = np.random.default_rng([seed, 1, replicate]).integers(0, patients, patients)
        weights[k] = np.bincount(drawn, minlength=patients)
    return np.ascontiguousarray(weights.T)


def resample(
    plans: Sequence[Plan], patients: int, *, draws: int = 1000, seed: int = 0, chunk: int = CHUNK
) -> list[Tally]:
    """The tallies of every plan in every replicate, fields [cells, draws]; the result does not depend on `chunk`."""
    pieces: list[list[Tally]] = [[] for _ in plans]
    for start in range(0, draws, chunk):
        weights = patient_weights(patients, range(start, min(start + chunk, draws)), seed)
        for mine, one in zip(pieces, plans, strict=True):
            mine.append(one.tally(weights))
    return [concatenate(mine, axis=1) for mine in pieces]


def interval(replicates: Floats, level: float) -> tuple[float, float, str]:
    """Percentile interval of one number over its replicates [b], and a remark.

    Returns
    -------
    low, high, remark : NaN, NaN and why, if more than 5 % of the replicates are undefined; with fewer, the interval
    of the others and a remark that gives the share.
    """
    undefined = int(np.isnan(replicates).sum())
    share = undefined / len(replicates)
    remark = f"undefined in {100 * share:.2g} % of the resamples" if undefined else ""
    if share > MOST_UNDEFINED:
        return float("nan"), float("nan"), f"no interval: {remark}"
    tail = (1 - level) / 2
    low, high = np.quantile(replicates[~np.isnan(replicates)], [tail, 1 - tail])
    return float(low), float(high), remark
