"""Which samples train under a fraction, a balance and its control; and what counts as a group."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from fmcache.errors import UsageError
from fmcache.probe.subsets import Subset, choose_samples, subsets_of
from fmcache.probe.truth import groups_of

K = 300
RNG = np.random.default_rng(0)
Y = (RNG.random((K, 2)) < 0.3).astype(np.float32)
Y[RNG.random((K, 2)) < 0.1] = np.nan
GROUP = np.where(np.arange(K) % 11 == 0, -1, (np.arange(K) % 4 == 0).astype(int))
TRAIN = np.arange(K) % 3 > 0
IDS = [f"s{i:03d}" for i in range(K)]
PATIENTS = [f"p{i // 2:03d}" for i in range(K)]


def _chosen(subset: Subset, seed: int = 0) -> np.ndarray:
    return choose_samples(subset, TRAIN, Y, IDS, PATIENTS, GROUP, seed)


def test_every_known_training_sample_without_a_subset() -> None:
    np.testing.assert_array_equal(_chosen(Subset()), TRAIN[:, None] & ~np.isnan(Y))


def test_fractions_are_of_patients_and_nested() -> None:
    small, large = _chosen(Subset(0.1)), _chosen(Subset(0.5))
    assert (small <= large).all()
    people = {PATIENTS[i] for i in np.flatnonzero(TRAIN)}
    kept = {PATIENTS[i] for i in np.flatnonzero(small.any(axis=1))}
    assert len(kept) <= round(0.1 * len(people))
    whole = [i for i in range(K) if PATIENTS[i] in kept and TRAIN[i]]
    np.testing.assert_array_equal(small[whole], ~np.isnan(Y[whole]))  # all of a patient, or nothing
    assert (_chosen(Subset(0.1), seed=1) != small).any()


def test_balanced_groups_and_a_control_of_the_same_size() -> None:
    balanced, control = _chosen(Subset(1.0, "sex")), _chosen(Subset(1.0, "sex", True))
    for column in range(2):
        rows = balanced[:, column]
        assert (GROUP[rows] == 0).sum() == (GROUP[rows] == 1).sum() > 0
        assert control[:, column].sum() == rows.sum()
        assert (GROUP[control[:, column]] >= 0).all()


def test_balance_of_label_and_group() -> None:
    chosen = _chosen(Subset(1.0, "label*sex"))
    for column in range(2):
        counts = {
            (g, v): int((chosen[:, column] & (g == GROUP) & (Y[:, column] == v)).sum())
            for g in (0, 1)
            for v in (0, 1)
        }
        assert len(set(counts.values())) == 1
        assert min(counts.values()) > 0


def test_the_order_of_rows_does_not_matter() -> None:
    turn = np.random.default_rng(5).permutation(K)
    subset = Subset(0.4, "sex")
    there = choose_samples(
        subset, TRAIN[turn], Y[turn], [IDS[i] for i in turn], [PATIENTS[i] for i in turn], GROUP[turn], 0
    )
    np.testing.assert_array_equal(there, _chosen(subset)[turn])


def test_names() -> None:
    assert [one.name for one in subsets_of((0.05, 1.0), "sex")] == [
        "[fraction=0.05,balance=sex]", "[fraction=0.05,control=sex]", "[balance=sex]", "[control=sex]",
    ]  # fmt: skip
    assert subsets_of((1.0,), "")[0].name == ""


def test_groups_of_probes() -> None:
    table = pl.DataFrame(
        {
            "attribute.sex": ["F", " M", None, "N/A", "F", "unknown"] * 5,
            "attribute.age": [20.0, 45.5, 60.0, None, -1.0, 119.0] * 3 + [float(a) for a in range(25, 37)],
            "attribute.code": [1.0, 2.0, float("nan"), 1.0, 2.0, -1.0] * 5,
            "attribute.bmi": [17.0, 24.9, 25.0, 41.5, None, float("nan")] * 3 + [18.5 + a for a in range(12)],
        }
    )
    expected = {
        "sex": ["F", "M", None, None, "F", None],
        "age_group": ["0-39", "40-59", "60+", None, None, "60+"],
        "code": ["1", "2", None, "1", "2", None],
        "bmi": ["underweight", "normal", "overweight", "obese", None, None],
        "sex*age_group": ["F*0-39", "M*40-59", None, None, None, None],
    }
    for attribute, first in expected.items():
        codes, names = groups_of(table, attribute)
        assert [names[code] if code >= 0 else None for code in codes[:6]] == first
        assert list(names) == sorted(names)
        assert "unknown" not in names
    with pytest.raises(UsageError, match="Type: --attribute age_group"):
        groups_of(table.with_columns(pl.lit("adult").alias("attribute.age_group")), "age")
