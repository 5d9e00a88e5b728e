"""From predictions to tidy results: every metric of every group, every disparity, with intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from fmcache.analyze.bootstrap import interval, resample
from fmcache.analyze.disparities import (
    COMPOSITES,
    DISPARITIES,
    UNDEFINED,
    applies,
    defined,
    gap,
    mean_gap,
)
from fmcache.analyze.findings import Finding, data_findings, result_findings
from fmcache.analyze.groups import Grouping, attribute_names, group_by
from fmcache.analyze.metrics import (
    DEFINITION,
    METRICS,
    Bools,
    Floats,
    Tally,
    is_probability,
    tally,
    why_undefined,
)
from fmcache.analyze.permutation import PERMUTATIONS, chance, permuted
from fmcache.analyze.thresholds import choose_threshold, fixed_threshold, needs_validation
from fmcache.analyze.weighted import Ints, Partition, Plan, plan, select
from fmcache.errors import UsageError
from fmcache.store.schema import PREDICTION_COLUMNS, RESULT_COLUMNS, conform, empty

FLOOR = 10  # fewest positives, negatives or samples that a number may be a mean over
OVERALL = "overall"
NOT_BY_CHANCE = ("prevalence",)  # the strata of the permutation keep it, so it has no null gap


@dataclass(frozen=True)
class Evaluation:
    """Results (RESULT_COLUMNS, one row a number) and what a reader should know about the data."""

    results: pl.DataFrame
    findings: list[Finding]


@dataclass(frozen=True)
class _Setting:
    """How the numbers are made; the same for all labels."""

    draws: int
    level: float
    seed: int
    permutations: int
    floor: int
    policy: str


@dataclass(frozen=True)
class _Case:
    """The rows of one label and seed: [n] arrays, the groupings, and one Tally a cell."""

    label: str
    seed: int
    y: Bools
    score: Floats
    patient: Ints
    threshold: float
    probability: bool
    groupings: list[Grouping]
    points: list[Tally]
    plan: Plan
    sizes: dict[tuple[str, tuple[int, ...]], dict[str, int]]  # memory of `size`

    def size(self, grouping: Grouping, groups: list[int]) -> dict[str, int]:
        """n, n_pos and n_patients of some groups together."""
        key = (grouping.attribute, tuple(groups))
        if key not in self.sizes:
            rows = np.isin(grouping.codes, groups)
            self.sizes[key] = {
                "n": int(rows.sum()),
                "n_pos": int(self.y[rows].sum()),
                "n_patients": len(np.unique(self.patient[rows])),
            }
        return self.sizes[key]

    def cells(self) -> Iterator[tuple[int, Grouping, int]]:
        """(index of the cell, grouping, index of the group)."""
        pairs = [(grouping, g) for grouping in self.groupings for g in range(len(grouping.names))]
        return ((k, grouping, g) for k, (grouping, g) in enumerate(pairs))


def evaluate(
    predictions: pl.DataFrame,
    *,
    by: Sequence[str] | None = None,
    definition: str = DEFINITION,
    split: str = "test",
    threshold_policy: str = "youden",
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
    floor: int = FLOOR,
    info: Mapping[str, Any] | None = None,
) -> Evaluation:
    """All metrics and disparities of a run's predictions.

    Parameters
    ----------
    predictions : PREDICTION_COLUMNS and ``attribute.*``; one row a sample, label and seed.
    by : attributes and intersections ("sex", "sex*age_group"); None: every attribute that has groups.
    split : the rows that are measured. threshold_policy : see `thresholds`; chosen on ``val`` rows.
    draws : bootstrap replicates over patients. level : of the intervals. permutations : for the null gap.
    floor : fewest positives, negatives or samples that a number may be a mean over; below it is NaN with a reason.
    info : run_id, model, dataset, usage, method, copied into the rows.

    Returns
    -------
    Evaluation : rows in a fixed order, whatever the order of the predictions.

    Raises
    ------
    UsageError : an unknown attribute, policy, definition or split; a policy that needs validation rows without any.
    """
    if definition != DEFINITION:
        raise UsageError(f"There is no definition {definition!r}.", f"Definitions: {DEFINITION}.")
    fixed_threshold(threshold_policy)
    table = conform(predictions, PREDICTION_COLUMNS, "predictions", extra=True).sort(
        "label", "seed", "split", "sample_id"
    )
    measured = table.filter(pl.col("split") == split)
    if measured.is_empty():
        there = ", ".join(sorted(table["split"].unique().drop_nulls().to_list())) or "none"
        raise UsageError(
            f"No prediction is in the split {split!r}.", f"Splits: {there}.", "Type: --split with one of them"
        )
    names = list(dict.fromkeys(by)) if by is not None else attribute_names(measured)
    setting = _Setting(draws, level, seed, permutations, floor, threshold_policy)
    findings = data_findings(table, measured, names)
    usable = measured.filter(pl.col("y").is_in([0.0, 1.0]) & pl.col("score").is_finite())
    if usable.is_empty():
        raise UsageError(
            f"No prediction in the split {split!r} has a label of 0 or 1 and a finite score.",
            f"It has {len(measured):,} rows.",
        )
    usable = usable.with_columns(_patient_codes(usable))
    patients = usable["_patient"].n_unique()
    labels = usable.select("label", "seed").unique(maintain_order=True).iter_rows()
    cases = [_case(usable, table, names, setting, patients, label, number) for label, number in labels]
    replicates = resample([case.plan for case in cases], patients, draws=draws, seed=seed)
    common = {
        key: str((info or {}).get(key, "") or "") for key in ("run_id", "model", "dataset", "usage", "method")
    }
    common |= {"split": split, "definition": definition}
    rows = [
        row | common | {"label": case.label, "seed": case.seed}
        for case, replicate in zip(cases, replicates, strict=True)
        for row in _rows(case, replicate, setting)
    ]
    results = _table(rows)
    return Evaluation(results, findings + result_findings(results, floor))


def _patient_codes(table: pl.DataFrame) -> pl.Series:
    """0 … patients − 1 in the order of the ids; a row without a patient is its own."""
    named = pl.col("patient_id").is_not_null() & (pl.col("patient_id") != "")
    key = pl.when(named).then("p" + pl.col("patient_id")).otherwise("s" + pl.col("sample_id"))
    return table.select((key.rank("dense").cast(pl.Int64) - 1).alias("_patient"))["_patient"]


def _case(
    usable: pl.DataFrame,
    table: pl.DataFrame,
    names: list[str],
    setting: _Setting,
    patients: int,
    label: str,
    number: int,
) -> _Case:
    mine = usable.filter((pl.col("label") == label) & (pl.col("seed") == number))
    y, score = mine["y"].to_numpy() == 1, mine["score"].to_numpy()
    threshold = _threshold(table, setting.policy, label, number)
    probability = is_probability(score)
    everyone = Grouping("", (OVERALL,), np.zeros(len(mine), np.int64))
    groupings = [everyone] + [group_by(mine, name) for name in names]
    points = []
    for grouping in groupings:
        for g in range(len(grouping.names)):
            member = grouping.codes == g
            points.append(tally(y[member], score[member], threshold, probability=probability))
    patient = mine["_patient"].to_numpy()
    prepared = plan(
        y, score, patient, patients,
        [Partition(grouping.codes, len(grouping.names)) for grouping in groupings],
        threshold=threshold, probability=probability,
    )  # fmt: skip
    return _Case(label, number, y, score, patient, threshold, probability, groupings, points, prepared, {})


def _threshold(table: pl.DataFrame, policy: str, label: str, number: int) -> float:
    fixed = fixed_threshold(policy)
    if fixed is not None:
        return fixed
    mine = table.filter((pl.col("label") == label) & (pl.col("seed") == number))
    val = mine.filter(
        (pl.col("split") == "val") & pl.col("y").is_in([0.0, 1.0]) & pl.col("score").is_finite()
    )
    if val.is_empty():
        raise needs_validation(policy, label, sorted(mine["split"].unique().drop_nulls().to_list()))
    return choose_threshold(val["y"].to_numpy() == 1, val["score"].to_numpy(), policy)


def _rows(case: _Case, replicates: Tally, setting: _Setting) -> Iterator[dict[str, Any]]:
    cells = len(case.points)
    value = {name: np.full(cells, np.nan) for name in METRICS}
    drawn = {name: metric.of(replicates) for name, metric in METRICS.items()}
    for k, grouping, g in case.cells():
        for name, metric in METRICS.items():
            reason = why_undefined(metric, case.points[k], setting.floor)
            if not reason:
                value[name][k] = float(metric.of(case.points[k]))
            yield {
                "attribute": grouping.attribute,
                "group": grouping.names[g],
                "metric": name,
                "disparity": "",
                **case.size(grouping, [g]),
                **_threshold_of(case, setting, metric.threshold),
                **_number(value[name][k], drawn[name][k], setting, reason),
            }
    for grouping, cell in zip(case.groupings[1:], _starts(case)[1:], strict=True):
        known = np.array(grouping.known, np.int64)
        yield from _disparity_rows(case, grouping, cell + known, value, drawn, setting)


def _starts(case: _Case) -> list[int]:
    """The first cell of every grouping."""
    sizes = [len(grouping.names) for grouping in case.groupings]
    return [sum(sizes[:k]) for k in range(len(sizes))]


def _disparity_rows(
    case: _Case,
    grouping: Grouping,
    cells: Ints,
    value: dict[str, Floats],
    drawn: dict[str, Floats],
    setting: _Setting,
) -> Iterator[dict[str, Any]]:
    null = _null(case, grouping, setting)
    null_of = {name: metric.of(null) for name, metric in METRICS.items()} if null is not None else {}

    def row(
        metric: str, disparity: str, use: list[int], needs: bool, number: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {
            "attribute": grouping.attribute,
            "group": "",
            "metric": metric,
            "disparity": disparity,
            **case.size(grouping, [grouping.known[k] for k in use]),
            **_threshold_of(case, setting, needs),
            **number,
        }

    for name, metric in METRICS.items():
        use = defined(value[name][cells])
        remark = _left_out(len(use), len(cells))
        points, replicates = value[name][cells[use]][:, None], drawn[name][cells[use]]
        for title, disparity in DISPARITIES.items():
            if not applies(disparity, metric):
                continue
            if len(use) < 2:
                yield row(name, title, use, metric.threshold, _undefined(setting, UNDEFINED))
                continue
            at = float(disparity.of(points, value[name][:1], metric.better)[0])
            spread = disparity.of(replicates, drawn[name][0], metric.better)
            reason = remark or ("the largest value is 0" if np.isnan(at) else "")
            yield row(name, title, use, metric.threshold, _number(at, spread, setting, reason))
        if len(use) >= 2 and null is not None and name not in NOT_BY_CHANCE:
            observed, expected = float(gap(points)[0]), gap(null_of[name][use])
            for title, number in _by_chance(observed, expected, setting):
                yield row(name, title, use, metric.threshold, number)
    for name, (_, _, parts) in COMPOSITES.items():
        use = defined(np.sum([value[part][cells] for part in parts], axis=0))
        if len(use) < 2:
            yield row(name, "gap", use, True, _undefined(setting, UNDEFINED))
            continue
        at = float(mean_gap([value[part][cells[use]][:, None] for part in parts])[0])
        spread = mean_gap([drawn[part][cells[use]] for part in parts])
        yield row(name, "gap", use, True, _number(at, spread, setting, _left_out(len(use), len(cells))))
        if null is not None:
            for title, number in _by_chance(at, mean_gap([null_of[part][use] for part in parts]), setting):
                yield row(name, title, use, True, number)


def _null(case: _Case, grouping: Grouping, setting: _Setting) -> Tally | None:
    """Tallies [known groups, permutations] of groups dealt anew, or None if there is nothing to deal."""
    known = grouping.known
    if setting.permutations < 1 or len(known) < 2:
        return None
    rows = np.isin(grouping.codes, known)
    dealt = permuted(
        case.y[rows], case.score[rows], case.patient[rows], grouping.codes[rows], len(grouping.names),
        threshold=case.threshold, probability=case.probability, permutations=setting.permutations,
        seed=setting.seed,
    )  # fmt: skip
    return select(dealt, np.array(known, np.int64))


def _by_chance(observed: float, expected: Floats, setting: _Setting) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows ``gap_null`` (mean and band) and ``gap_p``."""
    low, high, remark = interval(expected, setting.level)
    if np.isnan(low):
        yield "gap_null", _undefined(setting, remark)
        yield "gap_p", _undefined(setting, remark)
        return
    numbers = {"ci_low": low, "ci_high": high, "ci_level": setting.level, "reason": remark}
    yield "gap_null", {"value": float(np.nanmean(expected)), **numbers}
    p = chance(observed, expected[~np.isnan(expected)])
    yield "gap_p", {"value": p, "ci_low": None, "ci_high": None, "ci_level": None, "reason": remark}


def _number(value: float, replicates: Floats, setting: _Setting, reason: str) -> dict[str, Any]:
    if np.isnan(value):
        return _undefined(setting, reason)
    low, high, remark = interval(replicates, setting.level)
    reason = "; ".join(part for part in (reason, remark) if part)
    return {"value": value, "ci_low": low, "ci_high": high, "ci_level": setting.level, "reason": reason}


def _undefined(setting: _Setting, reason: str) -> dict[str, Any]:
    nan = float("nan")
    return {"value": nan, "ci_low": nan, "ci_high": nan, "ci_level": setting.level, "reason": reason}


def _left_out(used: int, there: int) -> str:
    return f"{there - used} of {there} groups are undefined and left out" if used < there else ""


def _threshold_of(case: _Case, setting: _Setting, needed: bool) -> dict[str, Any]:
    """Threshold and policy, on the rows that depend on it; null and empty on the others."""
    return {
        "threshold": case.threshold if needed else None,
        "threshold_policy": setting.policy if needed else "",
    }


def _table(rows: list[dict[str, Any]]) -> pl.DataFrame:
    schema = dict(RESULT_COLUMNS)
    return pl.DataFrame(rows, schema=schema).select(list(schema)) if rows else empty(RESULT_COLUMNS)
