"""From a table of predictions to arrays: one case for each label and seed, with its groups and thresholds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from fmcache.analyze.areas import Bools, Floats, Ints
from fmcache.analyze.calibration import recalibrate
from fmcache.analyze.influence import auc_influence
from fmcache.analyze.metrics import METRICS, Tally, is_probability, tally
from fmcache.analyze.partitions import Partition
from fmcache.analyze.permutation import PERMUTATIONS
from fmcache.analyze.thresholds import choose_threshold, chosen_on_test, fixed_threshold, needs_validation
from fmcache.errors import UsageError
from fmcache.parallel import side_by_side
from fmcache.store.groups import Bins, Grouping, group_by

FLOOR = 10  # fewest positives, negatives or samples that a number may be a mean over
OVERALL = "overall"


@dataclass(frozen=True)
class Setting:
    """How the numbers are made; the same for all labels.

    Attributes
    ----------
    draws, level, seed : of the bootstrap and its intervals. permutations : for the null gap; 0 leaves it out.
    floor : fewest positives, negatives or samples. policy : see `thresholds`.
    per_group : choose a threshold in every group (a mitigation, and named so).
    exact : recompute the areas in every replicate, rather than to first order.
    reference : attribute → the group that others are compared with; the largest group where none is named.
    tolerance : the largest difference that does not matter; None = no equivalence test.
    family : the metrics whose differences to the reference are corrected for their number.
    bins : attribute → where its numbers are cut.
    """

    draws: int = 1000
    level: float = 0.95
    seed: int = 0
    permutations: int = PERMUTATIONS
    floor: int = FLOOR
    policy: str = "youden"
    per_group: bool = False
    exact: bool = True
    reference: Mapping[str, str] = field(default_factory=dict)
    tolerance: float | None = None
    family: Sequence[str] = ("auc",)
    bins: Mapping[str, Bins] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """The rows of one label and seed, by rising score: arrays, groupings (the first is everyone), a Tally a cell.

    Attributes
    ----------
    patient : [n], codes shared by all cases. limits, fits : for every grouping, the threshold of
    each group [groups], and its `recalibrate` [groups, 3] (NaN if the scores are no probabilities).
    """

    label: str
    seed: int
    y: Bools
    score: Floats
    patient: Ints
    probability: bool
    groupings: list[Grouping]
    limits: list[Floats]
    points: list[Tally]
    fits: list[Floats]
    _sizes: dict[tuple[str, tuple[int, ...]], dict[str, int]] = field(default_factory=dict)
    _influence: dict[tuple[int, int], Floats] = field(default_factory=dict)

    def influence(self, i: int, g: int) -> Floats:
        """The influence of the samples of group g of grouping i on the group's AUC, in the order of the rows."""
        if (i, g) not in self._influence:
            mine = self.groupings[i].codes == g
            self._influence[i, g] = auc_influence(self.y[mine], self.score[mine])[1]
        return self._influence[i, g]

    def partitions(self) -> list[Partition]:
        return [partition(grouping) for grouping in self.groupings]

    def size(self, grouping: Grouping, groups: Sequence[int]) -> dict[str, int]:
        """n, n_pos and n_patients of some groups together."""
        key = (grouping.attribute, tuple(groups))
        if key not in self._sizes:
            inside = np.zeros(len(grouping.names), bool)
            inside[list(groups)] = True
            rows = inside[grouping.codes]
            there = np.zeros(self.patient.max(initial=-1) + 1, bool)
            there[self.patient[rows]] = True
            self._sizes[key] = {
                "n": int(np.count_nonzero(rows)),
                "n_pos": int(np.count_nonzero(self.y & rows)),
                "n_patients": int(np.count_nonzero(there)),
            }
        return self._sizes[key]

    def cells(self) -> Iterator[tuple[int, int, Grouping, int]]:
        """(index of the cell, of the grouping, the grouping, index of the group)."""
        k = 0
        for i, grouping in enumerate(self.groupings):
            for g in range(len(grouping.names)):
                yield k, i, grouping, g
                k += 1

    def starts(self) -> list[int]:
        """The first cell of every grouping."""
        return [int(k) for k in np.cumsum([0, *(len(grouping.names) for grouping in self.groupings)])[:-1]]


def partition(grouping: Grouping) -> Partition:
    return Partition(grouping.codes, len(grouping.names))


def cases_of(
    table: pl.DataFrame, names: Sequence[str], split: str, setting: Setting
) -> tuple[list[Case], int]:
    """The cases of the measured split, sorted by label and seed, and the number of patients.

    Parameters
    ----------
    table : PREDICTION_COLUMNS and ``attribute.*``. names : attributes and intersections.

    Raises
    ------
    UsageError : nothing to measure; a policy that needs validation rows without any.
    """
    fixed = fixed_threshold(setting.policy)
    chosen_on = split if chosen_on_test(setting.policy) else "val"
    used = table.filter(pl.col("split").is_in([split] if fixed is not None else [split, chosen_on]))
    groupings = [group_by(used, name, setting.bins) for name in names]
    codes = {f"_{k}": grouping.codes for k, grouping in enumerate(groupings)}
    bare = used.select("label", "seed", "split", "y", "score").with_columns(
        pl.Series(patient_codes(used)).alias("_patient"),
        *(pl.Series(name, one) for name, one in codes.items()),
    )
    patients = _measured_patients(bare, split)
    known = pl.col("y").is_in([0.0, 1.0]) & pl.col("score").is_finite()
    parts = bare.filter(known.fill_null(False)).partition_by("label", "seed", as_dict=True)

    def case(part: tuple[tuple[Any, ...], pl.DataFrame]) -> Case | None:
        (label, seed), rows = part
        # in the order of the scores, in which everything that ranks them is fast; rows that agree in all of these
        # are interchangeable
        rows = rows.sort("score", "_patient", "y", *codes)
        mine, val = rows.filter(pl.col("split") == split), rows.filter(pl.col("split") == chosen_on)
        if mine.is_empty():
            return None
        if fixed is None and val.is_empty():
            raise needs_validation(setting.policy, label, sorted(_splits_of(table, label)))
        return _case(str(label), int(seed), mine, val, groupings, setting, patients)

    cases = [one for one in side_by_side(case, sorted(parts.items())) if one is not None]
    if not cases:
        measured = int((table["split"] == split).sum())
        raise UsageError(
            f"No prediction in the split {split!r} has a label of 0 or 1 and a finite score.",
            f"It has {measured:,} rows.",
            "Choose another --split, or another run.",
        )
    return cases, len(patients)


def _splits_of(table: pl.DataFrame, label: object) -> list[str]:
    return table.filter(pl.col("label") == label)["split"].unique().drop_nulls().to_list()


def patient_codes(table: pl.DataFrame) -> Ints:
    """0 … in the order of the ids; a row without a patient is its own (one for all labels and seeds of a sample)."""
    named = pl.col("patient_id").is_not_null() & (pl.col("patient_id") != "")
    key = table.select(
        pl.when(named).then("p" + pl.col("patient_id")).otherwise("s" + pl.col("sample_id")).alias("k")
    )["k"]
    order = key.unique().sort()
    return key.replace_strict(order, pl.Series(range(len(order)), dtype=pl.Int64)).to_numpy()


def _measured_patients(bare: pl.DataFrame, split: str) -> Ints:
    """The codes of the patients that are measured, sorted, whether or not their labels and scores are known: so two
    models of one dataset share their resamples."""
    return bare.filter(pl.col("split") == split)["_patient"].unique().sort().to_numpy()


def _case(
    label: str, seed: int, mine: pl.DataFrame, val: pl.DataFrame, groupings: list[Grouping], setting: Setting,
    patients: Ints,
) -> Case:  # fmt: skip
    y, score = mine["y"].to_numpy() == 1, mine["score"].to_numpy()
    everyone = Grouping("", (OVERALL,), np.zeros(len(mine), np.int64))
    here = [everyone] + [
        Grouping(one.attribute, one.names, mine[f"_{k}"].to_numpy()) for k, one in enumerate(groupings)
    ]
    there = [np.zeros(len(val), np.int64)] + [val[f"_{k}"].to_numpy() for k in range(len(groupings))]
    truth, seen = val["y"].to_numpy() == 1, val["score"].to_numpy()
    limit = choose_threshold(truth, seen, setting.policy)
    limits = []
    for k, grouping in enumerate(here):
        if k and setting.per_group:
            own = [there[k] == g for g in range(len(grouping.names))]
            limits.append(np.array([choose_threshold(truth[m], seen[m], setting.policy) for m in own]))
        else:
            limits.append(np.full(len(grouping.names), limit))
    probability = is_probability(score)
    points, fits = [], []
    for grouping, thresholds in zip(here, limits, strict=True):
        found = []
        for member, threshold in zip(partition(grouping).members(), thresholds, strict=True):
            truths, scores = y[member], score[member]
            found.append(recalibrate(truths, scores) if probability else (np.nan,) * 3)
            points.append(tally(truths, scores, float(threshold), probability=probability, fit=found[-1]))
        fits.append(np.array(found).reshape(-1, 3))
    patient = np.searchsorted(patients, mine["_patient"].to_numpy())
    return Case(label, seed, y, score, patient, probability, here, limits, points, fits)


def threshold_columns(case: Case, setting: Setting, i: int, g: int | None, needed: bool) -> dict[str, object]:
    """Threshold and policy on the rows that depend on it; null and empty on the others.

    Parameters
    ----------
    i, g : the grouping and the group; g None for a number of several groups, which has a threshold if they share it.
    """
    if not needed:
        return {"threshold": None, "threshold_policy": ""}
    own = setting.per_group and i > 0
    limits = case.limits[i]
    shared = limits[0] if len(limits) and not own else None
    limit = limits[g] if g is not None else shared
    policy = setting.policy + (" per group" if own else "")
    return {
        "threshold": None if limit is None or np.isnan(limit) else float(limit),
        "threshold_policy": policy,
    }


NEEDS_THRESHOLD = tuple(name for name, metric in METRICS.items() if metric.threshold)
