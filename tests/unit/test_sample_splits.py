"""Splits that fmcache draws: by patient, in the right shares, the same everywhere; and the paper's, which leaks."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmcache.errors import UsageError
from fmcache.extract.sample_splits import leaking_patients, split_as_paper, split_by_patient


def study(patients: int, images: int = 2, groups: int = 2) -> pl.DataFrame:
    owner = [i for i in range(patients) for _ in range(images)]
    return pl.DataFrame(
        {
            "sample_id": [f"s{i}" for i in range(len(owner))],
            "patient_id": [f"p{i}" for i in owner],
            "attribute.sex": ["female" if i % groups else "male" for i in owner],
        }
    )


@settings(max_examples=25, deadline=None)
@given(patients=st.integers(10, 200), images=st.integers(1, 4), seed=st.integers(0, 5))
def test_no_patient_is_parted_and_the_shares_hold_in_every_stratum(
    patients: int, images: int, seed: int
) -> None:
    samples = study(patients, images)
    samples = samples.with_columns(split_by_patient(samples, ["attribute.sex"], seed))
    assert leaking_patients(samples) == 0
    people = samples.unique("patient_id")
    for part, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        assert abs((people["split"] == part).sum() - share * patients) < 3
        for group in ("male", "female"):
            of = people.filter(pl.col("attribute.sex") == group)
            assert abs((of["split"] == part).sum() - share * of.height) < 4


def test_the_order_of_the_rows_does_not_matter_and_the_seed_does() -> None:
    samples = study(60)
    one = dict(zip(samples["sample_id"], split_by_patient(samples, ["attribute.sex"], 0), strict=True))
    other = samples.reverse()
    assert dict(zip(other["sample_id"], split_by_patient(other, ["attribute.sex"], 0), strict=True)) == one
    assert (
        dict(zip(samples["sample_id"], split_by_patient(samples, ["attribute.sex"], 1), strict=True)) != one
    )


def test_the_split_of_a_known_table_is_pinned() -> None:
    # a change here moves patients between training and test for everyone who draws a split
    split = split_by_patient(study(10, 1), ["attribute.sex"], 0).to_list()
    assert split == ["train", "train", "val", "test", "test", "train", "train", "train", "train", "train"]


def test_the_papers_test_set_is_balanced_and_its_leakage_is_counted() -> None:
    samples = study(300, images=3, groups=4)  # one man, three women
    samples = samples.with_columns(split_as_paper(samples, "attribute.sex", 0))
    test = samples.filter(pl.col("split") == "test")
    assert (samples["split"] == "train").sum() == 720
    assert test["attribute.sex"].value_counts()["count"].n_unique() == 1
    assert samples["split"].null_count() == 180 - test.height
    assert leaking_patients(samples) > 50
    again = split_as_paper(
        samples.sample(fraction=1, shuffle=True, seed=1).sort("sample_id"), "attribute.sex", 0
    )
    assert again.to_list() == samples.sort("sample_id")["split"].to_list()  # drawn anew, it is the same
    assert split_as_paper(samples, "attribute.sex", 1).to_list() != samples["split"].to_list()


def test_a_test_set_needs_two_groups_and_leaves_out_the_unknown() -> None:
    samples = study(100).with_columns(pl.lit("male").alias("attribute.sex"))
    with pytest.raises(UsageError, match="balanced by sex needs two groups"):
        split_as_paper(samples, "attribute.sex", 0)
    some = study(100).with_columns(
        pl.when(pl.col("patient_id") != "p1").then("attribute.sex").alias("attribute.sex")
    )
    test = some.with_columns(split_as_paper(some, "attribute.sex", 0)).filter(pl.col("split") == "test")
    assert test["attribute.sex"].null_count() == 0
