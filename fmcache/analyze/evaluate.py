"""From predictions to tidy results: every metric of every group, differences, disparities, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.special import ndtri

from fmcache.analyze.areas import Floats, Ints
from fmcache.analyze.bootstrap import Resamples
from fmcache.analyze.by_chance import by_chance, expected_gaps, null_rows
from fmcache.analyze.calibrated import calibrated_errors
from fmcache.analyze.cases import FLOOR, OVERALL, Case, Setting, cases_of, threshold_columns
from fmcache.analyze.curves import curves as all_curves
from fmcache.analyze.curves import write_curves
from fmcache.analyze.definitions import check_definitions, other_rows
from fmcache.analyze.differences import (
    UNDECIDED,
    Member,
    choose_references,
    difference_rows,
    family_rows,
    gap_equivalence,
    standard_errors,
)
from fmcache.analyze.disparities import (
    COMPOSITES,
    DISPARITIES,
    UNDEFINED,
    applies,
    defined,
    gap,
    mean_gap,
)
from fmcache.analyze.findings import Finding, data_findings, finding_rows, result_findings, setting_findings
from fmcache.analyze.influence import (
    clustered_variance,
    independent_variance,
    logit_interval,
    separated_interval,
)
from fmcache.analyze.intervals import wilson
from fmcache.analyze.metrics import DEFINITION, METRICS, RATES, Tally, ratio, why_undefined
from fmcache.analyze.rows import NAN, Rows, in_order
from fmcache.analyze.thresholds import fixed_threshold
from fmcache.analyze.weighted import Plan, plan
from fmcache.errors import UsageError
from fmcache.parallel import side_by_side
from fmcache.store.groups import attribute_names
from fmcache.store.schema import PREDICTION_COLUMNS, RESULT_COLUMNS, conform, empty

__all__ = ["FLOOR", "OVERALL", "Evaluation", "Setting", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """Results (RESULT_COLUMNS, findings first, then one row a number) and the findings as sentences."""

    results: pl.DataFrame
    findings: list[Finding]


def evaluate(
    predictions: pl.DataFrame,
    *,
    by: Sequence[str] | None = None,
    definition: str | Sequence[str] = DEFINITION,
    split: str = "test",
    threshold_policy: str = "youden",
    info: Mapping[str, Any] | None = None,
    curves: Path | None = None,
    setting: Setting | None = None,
    **options: Any,
) -> Evaluation:
    """All metrics and disparities of a run's predictions.

    Parameters
    ----------
    predictions : PREDICTION_COLUMNS and ``attribute.*``; one row a sample, label and seed.
    by : attributes and intersections ("sex", "sex*age_group"); None: every attribute that has groups.
    definition : one or several of `definitions.DEFINITIONS`.
    split : the rows that are measured. threshold_policy : see `thresholds`; chosen on ``val`` rows.
    info : run_id, model, dataset, usage, method, copied into the rows.
    curves : a file for the curves by group (`curves`).
    setting, options : see `Setting`; options (draws, level, seed, permutations, floor, …) change single fields of it.

    Returns
    -------
    Evaluation : rows in a fixed order, whatever the order of the predictions.

    Raises
    ------
    UsageError : an unknown attribute, policy, definition or split; a policy that needs validation rows without any.
    """
    definitions = check_definitions([definition] if isinstance(definition, str) else definition)
    setting = replace(setting or Setting(), policy=threshold_policy, **options)
    fixed_threshold(setting.policy)
    _check_family(setting)
    table = conform(predictions, PREDICTION_COLUMNS, "predictions", extra=True)
    measured = table.filter(pl.col("split") == split)
    if measured.is_empty():
        there = ", ".join(sorted(table["split"].unique().drop_nulls().to_list())) or "none"
        raise UsageError(
            f"No prediction is in the split {split!r}.", f"Splits: {there}.", "Type: --split with one of them"
        )
    names = list(dict.fromkeys(by)) if by is not None else attribute_names(measured, setting.bins)
    cases, patients = cases_of(table, names, split, setting)
    if curves is not None:
        write_curves(all_curves(cases), curves)
    references = choose_references(cases, setting)
    resamples = Resamples(patients, setting.draws, setting.seed, threads=len(cases) == 1)

    def measure(case: Case) -> tuple[list[dict[str, Any]], list[Member]]:
        mine, members = list[dict[str, Any]](), list[Member]()
        if DEFINITION in definitions:
            drawn = resamples.tally(_plan(case, patients, setting, len(case.groupings)))
            everyone = _plan(case, patients, setting, 1)
            mine, members = _case_rows(case, drawn, references, setting, everyone, resamples.threads)
        for other in definitions:
            if other != DEFINITION:
                mine += other_rows(other, case, patients, resamples, setting)
        return mine, members

    before: list[Callable[[], Any]] = [
        lambda: data_findings(table, measured, names, setting.bins),
        lambda: next(
            iter(resamples)
        ),  # drawn before the labels are measured, so that their threads share the counts
    ]
    findings: list[Finding] = side_by_side(lambda one: one(), before)[0]
    measured_cases = side_by_side(measure, cases)
    rows = [row for mine, _ in measured_cases for row in mine]
    family = [member for _, members in measured_cases for member in members]
    rows = in_order(rows + family_rows(family, setting.level))
    keys = ("run_id", "model", "dataset", "usage", "method")
    common = {key: str((info or {}).get(key, "") or "") for key in keys} | {"split": split}
    findings += setting_findings(setting, references, family)
    results = _table([row | common for row in rows])
    findings = sorted(findings + result_findings(results, setting.floor), key=lambda one: one.rank)
    told = [row | common for row in finding_rows(findings, cases[0].label, cases[0].seed, definitions[0])]
    return Evaluation(pl.concat([_table(told), results]), findings)


def _check_family(setting: Setting) -> None:
    for name in setting.family:
        if name not in METRICS:
            raise UsageError(
                f"There is no metric {name!r} for the family.",
                f"Metrics: {', '.join(METRICS)}.",
                "Type: --family with one of them.",
            )


def _plan(case: Case, patients: int, setting: Setting, k: int) -> Plan:
    """Of the first k groupings."""
    return plan(
        case.y, case.score, case.patient, patients, case.partitions()[:k], threshold=case.limits[:k],
        probability=case.probability, exact=setting.exact, starts=case.fits[:k],
    )  # fmt: skip


def _case_rows(
    case: Case,
    replicates: Tally,
    references: Mapping[str, str],
    setting: Setting,
    prepared: Plan,
    threads: bool,
) -> tuple[list[dict[str, Any]], list[Member]]:
    cells = len(case.points)
    rows, family = Rows(setting.level), list[Member]()
    value = {name: np.full(cells, np.nan) for name in METRICS}
    drawn = {name: metric.of(replicates) for name, metric in METRICS.items()}
    spread = {name: _standard_deviation(drawn[name]) for name in RATES}
    by_chance_alone = _calibrated(case, setting)
    for k, i, grouping, g in case.cells():
        for name, metric in METRICS.items():
            where = {
                "attribute": grouping.attribute, "group": grouping.names[g], "metric": name,
                **case.size(grouping, [g]), **threshold_columns(case, setting, i, g, metric.threshold),
            }  # fmt: skip
            reason = why_undefined(metric, case.points[k], setting.floor)
            at = NAN if reason else float(metric.of(case.points[k]))
            reason = reason or ("no recalibration fits" if np.isnan(at) else "")
            value[name][k] = at
            _group_row(rows, where, name, case, k, at, drawn[name][k], reason, setting.level)
            se = float(spread[name][k]) if name in spread else NAN
            _precision_rows(rows, where, name, case, (k, i, g), at, se, setting)
            if name in by_chance_alone and not np.isnan(at):
                null_rows(rows, where, at, by_chance_alone[name][k], setting.level)
    for i, start in list(enumerate(case.starts()))[1:]:
        size = len(case.groupings[i].names)
        here = {name: numbers[start : start + size] for name, numbers in value.items()}
        there = {name: numbers[start : start + size] for name, numbers in drawn.items()}
        reference = references.get(case.groupings[i].attribute)
        family += difference_rows(rows, case, i, reference, here, there, setting)
        _disparity_rows(rows, case, i, here, there, (value, drawn), setting, prepared, threads)
    label = {"label": case.label, "seed": case.seed}
    return [row | label for row in rows.finish()], family


def _calibrated(case: Case, setting: Setting) -> dict[str, Floats]:
    if not case.probability or setting.permutations < 1:
        return {}
    return calibrated_errors(case.score, case.partitions(), setting.permutations, setting.seed)


def _group_row(
    rows: Rows, where: dict[str, Any], name: str, case: Case, k: int, at: float, drawn: Floats, reason: str,
    level: float,
) -> None:  # fmt: skip
    """A group's number: Wilson's interval for a share of independent images, else percentiles of the replicates."""
    where = {**where, "disparity": ""}
    point = case.points[k]
    if not np.isnan(at) and name in RATES:
        _, trials = RATES[name](point)
        independent = where["n_patients"] == where["n"]
        if independent or np.ptp(drawn[~np.isnan(drawn)], axis=0) == 0:
            # without variation the percentiles are a point: take as many trials as there are patients
            trials_used = float(trials if independent else min(trials, where["n_patients"]))
            rows.plain(where, at, wilson(at * trials_used, trials_used, level), reason)
            return
    if name == "auc" and at in (0.0, 1.0):
        reason = "perfect separation: the interval is exact for disjoint pairs of patients"
        rows.plain(where, at, separated_interval(at, _disjoint_pairs(case, where), level), reason)
        return
    rows.add(where, at, drawn, reason)


def _disjoint_pairs(case: Case, where: Mapping[str, Any]) -> int:
    grouping = next(one for one in case.groupings if one.attribute == where["attribute"])
    mine = grouping.codes == grouping.names.index(where["group"])
    sides = (case.patient[mine & case.y], case.patient[mine & ~case.y])
    return min(len(np.unique(side)) for side in sides)


def _precision_rows(
    rows: Rows, where: dict[str, Any], name: str, case: Case, cell: tuple[int, int, int], at: float, se: float,
    setting: Setting,
) -> None:  # fmt: skip
    """``delong``: the AUC with its logit-scale interval; ``design_effect``: clustered / independent standard error.

    cell : its index, its grouping, its group. se : standard deviation of the replicates.
    """
    if np.isnan(at):
        return
    if name == "auc":
        _, i, g = cell
        mine = case.groupings[i].codes == g
        influence = case.influence(i, g)
        clustered = clustered_variance(influence, case.patient[mine])
        independent = independent_variance(case.y[mine], influence)
        z = float(ndtri((1 + setting.level) / 2))
        rows.plain({**where, "disparity": "delong"}, at, logit_interval(at, clustered, z))
        effect = np.sqrt(clustered / independent) if independent > 0 else NAN
    elif name in RATES:
        _, trials = RATES[name](case.points[cell[0]])
        alone = np.sqrt(at * (1 - at) / float(trials))
        effect = se / alone if alone > 0 else NAN
    else:
        return
    reason = "" if effect == effect else "no variation"
    rows.plain({**where, "disparity": "design_effect"}, float(effect), None, reason)


def _standard_deviation(drawn: Floats) -> Floats:
    """[cells], over the defined replicates of [cells, b]; NaN without any."""
    known = ~np.isnan(drawn)
    n = known.sum(axis=1)
    mean = ratio(np.where(known, drawn, 0).sum(axis=1), n)
    square = np.where(known, (drawn - mean[:, None]) ** 2, 0).sum(axis=1)
    return np.sqrt(ratio(square, n))


def _disparity_rows(
    rows: Rows, case: Case, i: int, value: Mapping[str, Floats], drawn: Mapping[str, Floats],
    everyone: tuple[Mapping[str, Floats], Mapping[str, Floats]], setting: Setting, prepared: Plan,
    threads: bool,
) -> None:  # fmt: skip
    grouping = case.groupings[i]
    known = np.array(grouping.known, np.int64)
    among = {name: known[defined(value[name][known])] for name in METRICS}
    among |= {
        name: known[defined(np.sum([value[part][known] for part in parts], axis=0))]
        for name, (_, _, parts) in COMPOSITES.items()
    }
    expected = expected_gaps(case, i, among, setting, prepared, threads)

    def where(metric: str, title: str, use: Ints, threshold: bool) -> dict[str, Any]:
        return {
            "attribute": grouping.attribute, "group": "", "metric": metric, "disparity": title,
            **case.size(grouping, use.tolist()), **threshold_columns(case, setting, i, None, threshold),
        }  # fmt: skip

    for name, metric in METRICS.items():
        use = among[name]
        points, replicates = value[name][use][:, None], drawn[name][use]
        left = _left_out(len(use), len(known))
        for title, disparity in DISPARITIES.items():
            if not applies(disparity, metric):
                continue
            place = where(name, title, use, metric.threshold)
            if len(use) < 2:
                rows.plain(place, NAN, (NAN, NAN), UNDEFINED)
                continue
            at = float(disparity.of(points, everyone[0][name][:1], metric.better)[0])
            spread = disparity.of(replicates, everyone[1][name][0], metric.better)
            rows.add(place, at, spread, left or (NO_RATIO.get(title, "") if np.isnan(at) else ""))
        if len(use) < 2:
            continue
        if setting.tolerance is not None:
            se = standard_errors(case, i, name, use.tolist(), replicates)
            p, verdict = gap_equivalence(points[:, 0], se, setting.tolerance, 1 - setting.level)
            text = f"gap {verdict} {setting.tolerance:g}" if verdict != UNDECIDED else UNDECIDED
            rows.plain(where(name, "gap_equivalence", use, metric.threshold), p, None, text)
        by_chance(rows, where, name, metric, float(gap(points)[0]), use, expected, setting)
    for name, (_, _, parts) in COMPOSITES.items():
        use = among[name]
        place = where(name, "gap", use, True)
        if len(use) < 2:
            rows.plain(place, NAN, (NAN, NAN), UNDEFINED)
            continue
        at = float(mean_gap([value[part][use][:, None] for part in parts])[0])
        rows.add(place, at, mean_gap([drawn[part][use] for part in parts]), _left_out(len(use), len(known)))
        by_chance(rows, where, name, METRICS[parts[0]], at, use, expected, setting)


NO_RATIO = {"ratio": "the largest value is 0", "skew": "a group is perfect"}


def _left_out(used: int, there: int) -> str:
    return f"{there - used} of {there} groups are undefined and left out" if used < there else ""


def _table(rows: list[dict[str, Any]]) -> pl.DataFrame:
    schema = dict(RESULT_COLUMNS)
    if not rows:
        return empty(RESULT_COLUMNS)
    columns = {name: [row.get(name) for row in rows] for name in schema}
    return pl.DataFrame(columns, schema=schema)
