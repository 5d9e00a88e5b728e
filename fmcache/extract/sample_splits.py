"""Which sample is for training, validation and test, where the owner of a dataset does not say it.

* ``patient``: 70 % train, 10 % val, 20 % test of the patients, stratified by label and attributes. Patients are put in
  the order of (stratum, hash of seed and patient) and dealt out in turns of ten, so that every stratum is cut in about
  these shares, and the same table and seed give the same split on any machine.
* ``paper``: what the FairMedFM benchmark does, but seeded: 80 % train and 20 % test of the *samples*, no val; from the
  test part equal numbers of each group of one attribute are kept, the others are in no split. Patients with several
  images come to lie on both sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import polars as pl

from fmcache.errors import UsageError

POLICIES = ("official", "patient", "paper")
TURN = ("train", "train", "test", "train", "train", "val", "train", "train", "test", "train")
_TEST_SHARE = 0.2


def split_by_patient(samples: pl.DataFrame, strata: Sequence[str], seed: int) -> pl.Series:
    """One of train, val, test for every sample; all samples of a patient get the same.

    Parameters
    ----------
    strata : columns of `samples`; a patient's stratum is the largest value it has in each.
    """
    each = samples.group_by("patient_id").agg(
        pl.col(name).cast(pl.String).max().fill_null("") for name in strata
    )
    places = pl.Series("place", [_place(patient, seed) for patient in each["patient_id"]])
    dealt = each.with_columns(places).sort(*strata, "place", "patient_id")
    turns = [TURN[turn % len(TURN)] for turn in range(dealt.height)]
    parts = dealt.select("patient_id").with_columns(pl.Series("split", turns, dtype=pl.String))
    return samples.select("patient_id").join(parts, on="patient_id", how="left", maintain_order="left")[
        "split"
    ]


def split_as_paper(samples: pl.DataFrame, balance: str, seed: int) -> pl.Series:
    """train, test or null for every sample.

    Parameters
    ----------
    balance : a column of groups; samples whose group is unknown are in no test set.

    Raises
    ------
    UsageError : fewer than two groups are in the test part.
    """
    ids = samples["sample_id"]
    order = sorted(range(samples.height), key=lambda row: _place(ids[row], seed))
    test = order[: round(_TEST_SHARE * samples.height)]
    groups: dict[str, list[int]] = {}
    for row in test:  # in hashed order, so that the first n of a group are a random n
        group = samples[balance][row]
        if group is not None:
            groups.setdefault(str(group), []).append(row)
    if len(groups) < 2:
        name = balance.removeprefix("attribute.")
        raise UsageError(
            f"A test set balanced by {name} needs two groups of it.", f"The test part has {len(groups)}.",
            "Type: --split patient   or another --balance ATTRIBUTE",
        )  # fmt: skip
    least = min(map(len, groups.values()))
    split: list[str | None] = ["train"] * samples.height
    for row in test:
        split[row] = None
    for rows in groups.values():
        for row in rows[:least]:
            split[row] = "test"
    return pl.Series("split", split, dtype=pl.String)


def leaking_patients(samples: pl.DataFrame) -> int:
    """How many patients have samples in more than one split."""
    several = samples.drop_nulls("split").group_by("patient_id").agg(pl.col("split").n_unique())
    return several.filter(pl.col("split") > 1).height


def split_document(policy: str, samples: pl.DataFrame, seed: int | None, **more: Any) -> dict[str, Any]:
    """What a dataset's card keeps of how its split came to be."""
    counts = samples["split"].fill_null("none").value_counts()
    sizes = dict(sorted(counts.iter_rows()))
    return {
        "policy": policy,
        "seed": seed,
        **more,
        "samples": sizes,
        "leaking_patients": leaking_patients(samples),
    }


def _place(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}\0{name}".encode()).hexdigest()
