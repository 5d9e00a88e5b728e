"""Splits are by patient, seeded, and deaf to the order of the rows."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from fmcache.errors import UsageError
from fmcache.probe.splits import make_splits


def _table(n: int = 600, patients: int = 200, split: object = None) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    who = rng.integers(0, patients, n)
    return pl.DataFrame(
        {
            "sample_id": [f"s{i}" for i in range(n)],
            "patient_id": [f"p{i}" for i in who],
            "split": pl.Series([split] * n, dtype=pl.String),
            "label.common": (who % 2).astype(np.float32),
            "label.rare": (who < 5).astype(np.float32),
        }
    )


def test_drawn_by_patient_in_the_promised_shares() -> None:
    table = _table()
    splits = make_splits(table)
    assert splits.policy == "drawn 60/20/20"
    assert splits.seeded
    each = table.with_columns(pl.Series("got", splits.split.tolist()))
    assert each.group_by("patient_id").agg(pl.col("got").n_unique())["got"].max() == 1
    patients = each.unique("patient_id")["got"].value_counts()
    count = dict(patients.iter_rows())
    total = sum(count.values())
    assert {name: round(5 * number / total) for name, number in count.items()} == {
        "train": 3,
        "val": 1,
        "test": 1,
    }


def test_a_rare_finding_reaches_every_split() -> None:
    for seed in range(10):
        table = _table().with_columns(pl.Series("got", make_splits(_table(), seed).split.tolist()))
        assert table.filter(pl.col("label.rare") == 1)["got"].n_unique() == 3


def test_the_order_of_rows_and_columns_does_not_matter_the_seed_does() -> None:
    table = _table()
    mixed = table.sample(fraction=1, shuffle=True, seed=3).select(sorted(table.columns))
    one = dict(zip(table["sample_id"], make_splits(table).split, strict=True))
    two = dict(zip(mixed["sample_id"], make_splits(mixed).split, strict=True))
    assert one == two
    assert one != dict(zip(table["sample_id"], make_splits(table, seed=1).split, strict=True))


def test_given_splits_stay_and_validation_is_carved_from_training_patients() -> None:
    table = _table().with_columns(
        split=pl.when(pl.col("patient_id").hash(0) % 4 == 0).then(pl.lit("test")).otherwise(pl.lit("train"))
    )
    splits = make_splits(table)
    assert splits.policy == "val carved from train"
    got = table.with_columns(pl.Series("got", splits.split.tolist()))
    assert (got.filter(pl.col("split") == "test")["got"] == "test").all()
    assert set(got.filter(pl.col("split") == "train")["got"]) == {"train", "val"}
    shares = got.filter(pl.col("split") == "train").unique("patient_id")["got"].value_counts(normalize=True)
    assert dict(shares.iter_rows())["val"] == pytest.approx(0.2, abs=0.02)


def test_complete_splits_are_used_as_they_stand_and_empty_ones_left_out() -> None:
    table = pl.DataFrame(
        {"sample_id": list("abcd"), "patient_id": list("abcd"), "split": ["train", "val", "test", None]}
    )
    splits = make_splits(table)
    assert splits.split.tolist() == ["train", "val", "test", ""]
    assert not splits.seeded


def test_samples_without_a_patient_are_their_own() -> None:
    table = _table().with_columns(patient_id=pl.lit(None, dtype=pl.String))
    assert set(make_splits(table).split) == {"train", "val", "test"}


def test_a_patient_in_two_splits_is_refused_without_naming_him() -> None:
    table = pl.DataFrame(
        {
            "sample_id": list("abcd"),
            "patient_id": ["secret", "q", "r", "secret"],
            "split": ["train", "val", "test", "test"],
        }
    )
    with pytest.raises(UsageError) as caught:
        make_splits(table)
    assert str(caught.value) == (
        "1 patient is in more than one split.\n"
        "Their scores would look better than those of new patients.\n"
        "Correct the split column, or type: fmcache probe lp --allow-leakage"
    )
    allowed = make_splits(table, allow_leakage=True)
    assert allowed.leaking_patients == 1
    assert allowed.split.tolist() == ["train", "val", "test", "test"]


@pytest.mark.parametrize(
    ("splits", "says"),
    [
        (["train", "dev", "test"], "The split column holds 'dev'."),
        (["train", "val", "val"], "The split column has no test samples."),
        (["val", "val", "test"], "The split column has no train samples."),
        ([None, None, None], "There are too few patients for a test split."),
        (["train", "test", "test"], "There are too few patients for a val split."),
    ],
)
def test_what_cannot_be_split_is_said(splits: list[str | None], says: str) -> None:
    table = pl.DataFrame(
        {"sample_id": list("abc"), "patient_id": list("abc"), "split": pl.Series(splits, dtype=pl.String)}
    )
    with pytest.raises(UsageError) as caught:
        make_splits(table)
    assert caught.value.what == says
