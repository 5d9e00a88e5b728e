"""Who trains, who chooses the penalty, who is measured: splits by patient, never by image.

A dataset's own split column is used as it stands. What it lacks is drawn by patient from the patient's id and the
seed alone, so neither the order of the rows nor the model matters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from fmcache.errors import UsageError
from fmcache.store.schema import LABEL

SPLITS = ("train", "val", "test")
_ALL = ("train", "train", "val", "train", "test")  # 60/20/20
_CARVE = ("train", "train", "val", "train", "train")  # one patient in five of the training patients


@dataclass(frozen=True)
class Splits:
    """The split of every sample.

    Attributes
    ----------
    split : [n] of train, val, test, or "" for a sample that the dataset leaves out.
    policy : ``given``, ``val carved from train`` or ``drawn 60/20/20``; the seed matters in the last two.
    leaking_patients : patients that are in more than one split (0 unless that was allowed).
    """

    split: np.ndarray
    policy: str
    leaking_patients: int

    @property
    def seeded(self) -> bool:
        """Whether another seed gives another split."""
        return self.policy != "given"


def make_splits(samples: pl.DataFrame, seed: int = 0, allow_leakage: bool = False) -> Splits:
    """Split a samples table (sample_id, patient_id, split, ``label.*``).

    Raises
    ------
    UsageError : a split of another name, no training or no test samples, too few patients, or a patient in two splits
        (unless `allow_leakage`; patients that the seed assigns are never in two).
    """
    patients = _patients(samples)
    given = samples["split"].fill_null("").to_numpy().astype(object)
    present = set(given) - {""}
    if unknown := sorted(present - set(SPLITS)):
        raise UsageError(
            f"The split column holds {unknown[0]!r}.", f"Its values are {', '.join(sorted(present))}.",
            "Use train, val and test (or leave the column empty: 60/20/20 by patient).",
        )  # fmt: skip
    if not present:
        split = _draw(patients, _strata(samples, patients), seed, _ALL)
        policy = "drawn 60/20/20"
    else:
        if lacking := [name for name in ("train", "test") if name not in present]:
            raise UsageError(
                f"The split column has no {lacking[0]} samples.", f"Its values are {', '.join(sorted(present))}.",
                "Give train and test samples (val may be missing), or leave the column empty.",
            )  # fmt: skip
        split, policy = given, "given"
        if "val" not in present:
            train = given == "train"
            table = samples.filter(pl.Series(train))
            split = given.copy()
            split[train] = _draw(patients[train], _strata(table, patients[train]), seed, _CARVE)
            policy = "val carved from train"
    if empty := [name for name in SPLITS if name not in set(split)]:
        raise UsageError(
            f"There are too few patients for a {empty[0]} split.", f"There are {len(set(patients))}.",
            "Give the splits yourself in the split column.",
        )  # fmt: skip
    leaking = _leaking(patients, split)
    if leaking and not allow_leakage:
        raise UsageError(
            f"{leaking:,} patient{'s are' if leaking > 1 else ' is'} in more than one split.",
            "Their scores would look better than those of new patients.",
            "Correct the split column, or type: fmcache probe lp --allow-leakage",
        )
    return Splits(split, policy, leaking)


def _patients(samples: pl.DataFrame) -> np.ndarray:
    """patient_id, or where it is missing the sample is its own patient (a name that no patient_id can equal)."""
    own = "\0" + samples["sample_id"]
    return pl.select(pl.coalesce(samples["patient_id"], own)).to_series().to_numpy().astype(object)


def _strata(samples: pl.DataFrame, patients: np.ndarray) -> dict[str, str]:
    """Each patient's rarest positive label ("" for none), so that rare findings reach every split."""
    labels = sorted(name for name in samples.columns if name.startswith(LABEL))
    if not labels:
        return {}
    flags = pl.DataFrame({"_patient": pl.Series(patients.tolist(), dtype=pl.String)}).with_columns(
        *(
            samples[name].cast(pl.Float64, strict=False).fill_nan(None).fill_null(0).alias(name)
            for name in labels
        )
    )
    each = flags.group_by("_patient").agg(pl.max(name) for name in labels)
    count = {name: float((each[name] > 0).sum()) for name in labels}
    rarest = sorted(labels, key=lambda name: (count[name], name))
    pick = pl.coalesce(*(pl.when(pl.col(name) > 0).then(pl.lit(name)) for name in rarest), pl.lit(""))
    return dict(each.select("_patient", pick.alias("_stratum")).iter_rows())


def _draw(patients: np.ndarray, strata: dict[str, str], seed: int, pattern: Sequence[str]) -> np.ndarray:
    """Deal patients, by stratum and within it in the order of a hash, to the splits in turn."""

    def place(patient: str) -> tuple[str, str]:
        return strata.get(patient, ""), hashlib.sha256(f"{seed}\0{patient}".encode()).hexdigest()

    dealt = {
        patient: pattern[turn % len(pattern)] for turn, patient in enumerate(sorted(set(patients), key=place))
    }
    return np.array([dealt[patient] for patient in patients], dtype=object)


def _leaking(patients: np.ndarray, split: np.ndarray) -> int:
    seen: dict[str, set[str]] = {}
    for patient, name in zip(patients, split, strict=True):
        if name:
            seen.setdefault(patient, set()).add(name)
    return sum(len(names) > 1 for names in seen.values())
