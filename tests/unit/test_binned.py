"""Counts and residuals of bins of groups, against sums taken sample by sample."""

import numpy as np
import pytest

from fmcache.analyze.binned import COUNTS, binned_of
from fmcache.analyze.calibration import BINS, bin_of, equal_mass_bin_of
from fmcache.analyze.partitions import Partition, finest
from fmcache.store.groups import ranked


def one_by_one(y, p, weight, partition, called, mass):
    """[groups, rows] under the weight [n] of every sample."""
    out = np.zeros((partition.size, COUNTS + 4 * BINS))
    for k, g in enumerate(partition.codes):
        wide = int(bin_of(p[k : k + 1])[0])
        out[g, :COUNTS] += weight[k] * np.array([1, y[k], called[k], called[k] and y[k]])
        out[g, COUNTS + wide] += weight[k] * (p[k] - y[k])
        for j, value in enumerate((1, y[k], p[k] - y[k])):
            out[g, COUNTS + BINS * (j + 1) + mass[k]] += weight[k] * value
    return out


@pytest.mark.parametrize(
    ("groups", "ties", "one_product"),
    [((1, 2), 20, False), ((1, 2, 3), 20, False), ((1, 4, 9, 5), 10**6, True)],
)
def test_bins_of_groups_are_sums_over_their_samples(groups, ties, one_product):
    random = np.random.default_rng(len(groups))
    n, units = 1200, 500
    p = np.sort(np.round(random.uniform(size=n) * ties) / ties)
    y = random.uniform(size=n) < p
    unit = random.integers(0, units, n)
    partitions = [
        Partition(random.integers(0, size, n) if size > 1 else np.zeros(n, int), size) for size in groups
    ]
    limits = [random.uniform(0.3, 0.7, part.size) for part in partitions]
    called = [p >= limit[part.codes] for part, limit in zip(partitions, limits, strict=True)]
    mass = []
    for part in partitions:
        bins = np.zeros(n, int)
        for g in range(part.size):
            bins[part.codes == g] = equal_mass_bin_of(p[part.codes == g])
        mass.append(bins)
    cells = finest(partitions)
    binned = binned_of(y, p - y, unit, units, cells, partitions, called, (bin_of(p), mass))
    assert (binned.gather is None) == one_product
    weights = random.integers(0, 4, (units, 3)).astype(np.float32)
    for part, calls, bins, found in zip(partitions, called, mass, binned.under(weights), strict=True):
        for b in range(weights.shape[1]):
            expected = one_by_one(y, p, weights[unit, b], part, calls, bins)
            assert np.array_equal(found[:, :COUNTS, b], expected[:, :COUNTS])
            assert np.allclose(found[:, :, b], expected, atol=1e-4)


def test_scores_that_are_no_probabilities_have_counts_only():
    y, unit = np.array([False, True, True]), np.array([0, 1, 1])
    everyone = Partition(np.zeros(3, int), 1)
    binned = binned_of(
        y, np.zeros(3), unit, 2, finest([everyone]), [everyone], [np.array([False, False, True])], None
    )
    (found,) = binned.under(np.array([[1.0, 0.0], [2.0, 1.0]], np.float32))
    assert found[0].tolist() == [
        [5, 2],
        [4, 2],
        [2, 1],
        [2, 1],
    ]  # samples, positives, called, called positives


@pytest.mark.parametrize("size", [6, 10**6])  # marked, and sorted
def test_ranked_is_numpys_unique(size):
    codes = np.random.default_rng(0).integers(0, 6, 20)
    there, place = ranked(codes, size)
    expected, inverse = np.unique(codes, return_inverse=True)
    assert there.tolist() == expected.tolist()
    assert place.tolist() == inverse.tolist()
