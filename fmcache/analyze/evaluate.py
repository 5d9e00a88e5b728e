"""From predictions to tidy results: every metric of every group, differences, disparities, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.special import ndtri

from fmcache.analyze.areas import Floats, Ints
from fmcache.analyze.bootstrap import Resamples
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
from fmcache.analyze.groups import attribute_names
from fmcache.analyze.influence import (
    clustered_variance,
    independent_variance,
    logit_interval,
    separated_interval,
)
from fmcache.analyze.intervals import interval, wilson
from fmcache.analyze.metrics import DEFINITION, METRICS, RATES, Metric, Tally, why_undefined
from fmcache.analyze.parallel import side_by_side
from fmcache.analyze.permutation import chance, permuted
from fmcache.analyze.rows import NAN, Rows
from fmcache.analyze.thresholds import fixed_threshold
from fmcache.analyze.weighted import Plan, plan, select
from fmcache.errors import UsageError
from fmcache.store.schema import PREDICTION_COLUMNS, RESULT_COLUMNS, conform, empty

__all__ = ["FLOOR", "OVERALL", "Evaluation", "Setting", "evaluate"]
NOT_BY_CHANCE = ("prevalence",)  # the strata of the permutation keep it, so it has no null gap


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
    findings = data_findings(table, measured, names, setting.bins)
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

    next(iter(resamples))  # draw before the threads start, so that they share the counts
    measured_cases = side_by_side(measure, cases)
    rows = [row for mine, _ in measured_cases for row in mine]
    family = [member for _, members in measured_cases for member in members]
    rows = _in_order(rows + family_rows(family, setting.level))
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


def _in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By label and seed: groups, then differences, then the spreads over groups; each in the order it was noted."""
    attributes = list(dict.fromkeys(row["attribute"] for row in rows))
    place = {attribute: k for k, attribute in enumerate(attributes)}

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        kind = 0 if row["group"] and not row["reference"] else 1 if row["reference"] else 2
        return row["label"], row["seed"], kind > 0, place[row["attribute"]] if kind else 0, kind

    filled = ({"reference": "", "definition": DEFINITION, **row} for row in rows)
    return sorted(filled, key=key)


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
            _precision_rows(rows, where, name, case, (i, g), at, drawn[name][k], setting)
    for i, start in list(enumerate(case.starts()))[1:]:
        size = len(case.groupings[i].names)
        here = {name: numbers[start : start + size] for name, numbers in value.items()}
        there = {name: numbers[start : start + size] for name, numbers in drawn.items()}
        reference = references.get(case.groupings[i].attribute)
        family += difference_rows(rows, case, i, reference, here, there, setting)
        _disparity_rows(rows, case, i, here, there, (value, drawn), setting, prepared, threads)
    label = {"label": case.label, "seed": case.seed}
    return [row | label for row in rows.finish()], family


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
    rows: Rows, where: dict[str, Any], name: str, case: Case, cell: tuple[int, int], at: float, drawn: Floats,
    setting: Setting,
) -> None:  # fmt: skip
    """``delong``: the AUC with its logit-scale interval; ``design_effect``: clustered / independent standard error."""
    if np.isnan(at):
        return
    if name == "auc":
        i, g = cell
        mine = case.groupings[i].codes == g
        influence = case.influence(i, g)
        clustered = clustered_variance(influence, case.patient[mine])
        independent = independent_variance(case.y[mine], influence)
        z = float(ndtri((1 + setting.level) / 2))
        rows.plain({**where, "disparity": "delong"}, at, logit_interval(at, clustered, z))
        effect = np.sqrt(clustered / independent) if independent > 0 else NAN
    elif name in RATES:
        _, trials = RATES[name](case.points[case.starts()[cell[0]] + cell[1]])
        alone = np.sqrt(at * (1 - at) / float(trials))
        effect = float(np.nanstd(drawn)) / alone if alone > 0 else NAN
    else:
        return
    reason = "" if effect == effect else "no variation"
    rows.plain({**where, "disparity": "design_effect"}, float(effect), None, reason)


def _disparity_rows(
    rows: Rows, case: Case, i: int, value: Mapping[str, Floats], drawn: Mapping[str, Floats],
    everyone: tuple[Mapping[str, Floats], Mapping[str, Floats]], setting: Setting, prepared: Plan,
    threads: bool,
) -> None:  # fmt: skip
    grouping = case.groupings[i]
    known = np.array(grouping.known, np.int64)
    null = _null(case, i, setting, prepared, threads)

    def where(metric: str, title: str, use: Ints, threshold: bool) -> dict[str, Any]:
        return {
            "attribute": grouping.attribute, "group": "", "metric": metric, "disparity": title,
            **case.size(grouping, use.tolist()), **threshold_columns(case, setting, i, None, threshold),
        }  # fmt: skip

    for name, metric in METRICS.items():
        use = known[defined(value[name][known])]
        points, replicates = value[name][use][:, None], drawn[name][use]
        remark = _left_out(len(use), len(known))
        for title, disparity in DISPARITIES.items():
            if not applies(disparity, metric):
                continue
            place = where(name, title, use, metric.threshold)
            if len(use) < 2:
                rows.plain(place, NAN, (NAN, NAN), UNDEFINED)
                continue
            at = float(disparity.of(points, everyone[0][name][:1], metric.better)[0])
            spread = disparity.of(replicates, everyone[1][name][0], metric.better)
            rows.add(place, at, spread, remark or (NO_RATIO.get(title, "") if np.isnan(at) else ""))
        if len(use) < 2:
            continue
        if setting.tolerance is not None:
            se = standard_errors(case, i, name, use.tolist(), replicates)
            p, verdict = gap_equivalence(points[:, 0], se, setting.tolerance, 1 - setting.level)
            text = f"gap {verdict} {setting.tolerance:g}" if verdict != UNDECIDED else UNDECIDED
            rows.plain(where(name, "gap_equivalence", use, metric.threshold), p, None, text)
        _by_chance(rows, where, name, metric, float(gap(points)[0]), use, null, known, setting)
    for name, (_, _, parts) in COMPOSITES.items():
        use = known[defined(np.sum([value[part][known] for part in parts], axis=0))]
        place = where(name, "gap", use, True)
        if len(use) < 2:
            rows.plain(place, NAN, (NAN, NAN), UNDEFINED)
            continue
        at = float(mean_gap([value[part][use][:, None] for part in parts])[0])
        rows.add(place, at, mean_gap([drawn[part][use] for part in parts]), _left_out(len(use), len(known)))
        _by_chance(rows, where, name, METRICS[parts[0]], at, use, null, known, setting, parts)


NO_RATIO = {"ratio": "the largest value is 0", "skew": "a group is perfect"}


def _null(case: Case, i: int, setting: Setting, prepared: Plan, threads: bool) -> Tally | None:
    """Tallies [known groups, permutations] of groups dealt anew, or None if there is nothing to deal."""
    grouping = case.groupings[i]
    known = grouping.known
    if setting.permutations < 1 or len(known) < 2:
        return None
    rows = np.isin(grouping.codes, known)
    dealt = permuted(
        case.y[rows], case.score[rows], case.patient[rows], grouping.codes[rows], len(grouping.names),
        threshold=float(case.limits[0][0]), probability=case.probability, permutations=setting.permutations,
        seed=setting.seed, exact=setting.exact, threads=threads,
        prepared=prepared if rows.all() else None,
    )  # fmt: skip
    return select(dealt, np.array(known, np.int64))


def _by_chance(
    rows: Rows, where: Any, name: str, metric: Metric, observed: float, use: Ints, null: Tally | None, known: Ints,
    setting: Setting, parts: Sequence[str] = (),
) -> None:  # fmt: skip
    """The rows ``gap_null`` (mean and band) and ``gap_p``."""
    if null is None or name in NOT_BY_CHANCE:
        return
    places = [where(name, title, use, metric.threshold) for title in ("gap_null", "gap_p")]
    if metric.threshold and setting.per_group:
        for place in places:
            rows.plain(place, NAN, (NAN, NAN), "no null gap: every group has its own threshold")
        return
    among = np.searchsorted(known, use)
    expected = mean_gap([METRICS[part].of(null)[among] for part in parts or (name,)])
    low, high, remark = interval(expected, setting.level)
    rows.plain(places[0], float(np.nanmean(expected)) if low == low else NAN, (low, high), remark)
    p = chance(observed, expected[~np.isnan(expected)]) if low == low else NAN
    rows.plain(places[1], p, None, remark)


def _left_out(used: int, there: int) -> str:
    return f"{there - used} of {there} groups are undefined and left out" if used < there else ""


def _table(rows: list[dict[str, Any]]) -> pl.DataFrame:
    schema = dict(RESULT_COLUMNS)
    if not rows:
        return empty(RESULT_COLUMNS)
    columns = {name: [row.get(name) for row in rows] for name in schema}
    return pl.DataFrame(columns, schema=schema)
