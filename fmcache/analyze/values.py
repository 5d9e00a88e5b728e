"""Numbers that every sample has already (Dice, surface distance, an error in days): means by group.

Segmentation is measured so: a table with one row a sample and structure (for volumes: slices summed first), one
column a metric. NaN and empty cells are left out and said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from fmcache.analyze.areas import Floats
from fmcache.analyze.bootstrap import Resamples
from fmcache.analyze.cases import OVERALL, Setting, patient_codes
from fmcache.analyze.definitions import check_definitions
from fmcache.analyze.differences import Member, family_rows
from fmcache.analyze.disparities import DISPARITIES, Disparity
from fmcache.analyze.findings import Finding, family_findings, finding_rows, group_findings
from fmcache.analyze.metrics import DEFINITION, Metric, ratio
from fmcache.analyze.reading import (
    attribute,
    attribute_columns,
    number,
    read_any,
    require,
    sample_ids,
    splits,
    text,
)
from fmcache.analyze.references import named_references
from fmcache.analyze.rows import in_order
from fmcache.analyze.scores import SumCase, sum_rows
from fmcache.errors import UsageError
from fmcache.store.cache import Cache
from fmcache.store.groups import Bins, Grouping, group_by
from fmcache.store.schema import ATTRIBUTE, PREDICTION_COLUMNS, RESULT_COLUMNS

_NONE: Any = None  # a mean is a function of sums, not of a Tally
VALUES: dict[str, Metric] = {
    "dsc": Metric("Dice similarity", "2 |A ∩ B| / (|A| + |B|), mean over samples", "higher", "samples", _NONE),
    "iou": Metric("intersection over union", "|A ∩ B| / |A ∪ B|, mean over samples", "higher", "samples", _NONE),
    "nsd": Metric("normalised surface Dice", "share of both surfaces within a tolerance of the other",
                  "higher", "samples", _NONE),
    "hd95": Metric("Hausdorff distance, 95th percentile", "of the distances between the surfaces, mean over samples",
                   "lower", "samples", _NONE, high=np.inf),
    "asd": Metric("average surface distance", "mean distance between the surfaces, mean over samples", "lower",
                  "samples", _NONE, high=np.inf),
}  # fmt: skip

SPREADS_OF_FAIRMEDFM = ("gap", "worst", "std", "skew", "es")
HARVARD_ES = Disparity(
    "overall / (1 + std), ddof 1",
    "the overall value",
    lambda v, o, b: o / (1 + v.std(axis=0, ddof=1)),
    rising=True,
)


def metric_of(name: str) -> Metric:
    """What is known of a column: by its name (dsc, dice_liver, hd95, …); an unknown one has no direction."""
    lowered = name.lower()
    for known, metric in VALUES.items():
        if re.search(rf"(^|[_.\-]){known}($|[_.\-])", lowered):
            return metric
    if "dice" in lowered:
        return VALUES["dsc"]
    return Metric(name, "mean over samples", "neither", "samples", _NONE, low=-np.inf, high=np.inf)


def audit_values(
    table: Any,
    values: Sequence[str],
    by: Sequence[str],
    *,
    patient: str | None = None,
    split: str | None = None,
    label: str | None = None,
    bins: Mapping[str, Bins] | None = None,
    definition: Sequence[str] = (DEFINITION,),
    info: Mapping[str, Any] | None = None,
    cache: Cache | None = None,
    **options: Any,
) -> pl.DataFrame:
    """Group means, differences and spreads of columns of numbers, RESULT_COLUMNS with the findings first.

    Parameters
    ----------
    table : a file or a table. values : its columns of numbers. by : attributes and intersections.
    patient, split : columns; only rows of test are measured. label : a column whose values (a structure, a class) are
    measured apart.
    definition : fmcache, and for what differs of it: fairmedfm and paper have the same spreads over two groups,
    harvard divides by 1 + std with ddof 1 (``es``).
    info : model, dataset, … of the rows. cache : keeps the results, with a run that has no predictions (a report
    shows them; `run_metrics` has nothing to compute from).

    Raises
    ------
    UsageError : an unknown column, text that is no number, nothing to measure.
    """
    definitions = check_definitions(list(definition))
    setting = replace(Setting(), bins=bins or {}, **options)
    raw = read_any(table)
    for name in (*values, *(one for one in (patient, split, label) if one)):
        require(name, raw)
    columns = attribute_columns(raw, list(by), set(setting.bins))
    n = len(raw)
    used = pl.DataFrame(
        {
            "sample_id": sample_ids(raw),
            "patient_id": text(raw[patient]) if patient else pl.Series([None] * n, dtype=pl.String),
            "split": splits(raw[split], split) if split else pl.Series(["test"] * n, dtype=pl.String),
            "label": text(raw[label]).fill_null("") if label else pl.Series([""] * n, dtype=pl.String),
            "seed": pl.Series([0] * n, dtype=pl.Int32),
            **{ATTRIBUTE + name: attribute(raw[name]) for name in columns},
            **{f"value.{name}": number(raw[name], name) for name in values},
        }
    )
    measured = used.filter(split="test").sort("label", "sample_id")
    if measured.is_empty():
        raise UsageError(
            "No row is in the test split.",
            f"The table has {n:,} rows.",
            "Write test in the column split of the rows to audit, or leave the column away.",
        )
    findings = _findings(used, measured, values, list(by), setting)
    patients = int(patient_codes(measured).max()) + 1
    measured = measured.with_columns(pl.Series("_patient", patient_codes(measured)))
    resamples = Resamples(patients, setting.draws, setting.seed)
    rows, family = list[dict[str, Any]](), list[Member]()
    for (name,), mine in measured.group_by("label", maintain_order=True):
        case = _case(str(name), mine, values, list(by), setting)
        references = named_references(case.groupings, case.patient, setting.reference)
        if DEFINITION in definitions:
            found, members = sum_rows(case, patients, resamples, references, setting)
            rows, family = rows + found, family + members
        for other in definitions:
            if other != DEFINITION:
                rows += _other(other, case, patients, resamples, setting)
    keys = ("run_id", "model", "dataset", "usage", "method")
    common = {key: str((info or {}).get(key, "") or "") for key in keys} | {"split": "test"}
    told = finding_rows([*findings, *family_findings(family)], str(measured["label"][0]), 0, definitions[0])
    filled = [
        {"reference": "", "definition": DEFINITION, **row, **common}
        for row in [*told, *in_order(rows + family_rows(family, setting.level))]
    ]
    results = pl.DataFrame(
        {name: [row.get(name) for row in filled] for name in RESULT_COLUMNS}, schema=dict(RESULT_COLUMNS)
    )
    return results if cache is None else _kept(cache, results, columns)


def _kept(cache: Cache, results: pl.DataFrame, attributes: Sequence[str]) -> pl.DataFrame:
    """The results with the id of the run that they are published for."""
    first = results.row(0, named=True)
    info = {
        "model": first["model"] or "external", "dataset": first["dataset"] or "table",
        "usage": first["usage"] or "external",
        "method": first["method"], "seeds": [0], "labels": results["label"].unique().sort().to_list(),
        "attributes": list(attributes), "threshold_policy": "",
    }  # fmt: skip
    empty = pl.DataFrame(
        schema=dict(PREDICTION_COLUMNS) | {ATTRIBUTE + one: pl.String() for one in attributes}
    )
    run_id = cache.publish_run(info, empty)
    kept = results.with_columns(
        run_id=pl.lit(run_id), **{k: pl.lit(str(info[k])) for k in ("model", "dataset", "usage")}
    )
    cache.publish_results(run_id, kept)
    return kept


def _findings(
    used: pl.DataFrame, measured: pl.DataFrame, values: Sequence[str], by: list[str], setting: Setting
) -> list[Finding]:
    found = group_findings(used, measured, by, setting.bins)
    for name in values:
        missing = int(measured[f"value.{name}"].fill_nan(None).is_null().sum())
        if missing:
            text_ = f"{name}: {missing:,} of {len(measured):,} rows have no value and are left out."
            found.append(Finding("warning", text_))
    return sorted(found, key=lambda one: one.rank)


def _family(values: Sequence[str], setting: Setting) -> list[str]:
    """The columns that ``--family`` names; all of them, if it is not given."""
    if setting.family == Setting().family:
        return list(values)
    for name in setting.family:
        if name not in values:
            raise UsageError(
                f"There is no value {name!r} for the family.",
                f"Values: {', '.join(values)}.",
                "Type: --family with one of them, or leave it out.",
            )
    return list(setting.family)


def _case(label: str, mine: pl.DataFrame, values: Sequence[str], by: list[str], setting: Setting) -> SumCase:
    columns = []
    for name in values:
        value = mine[f"value.{name}"].to_numpy().astype(np.float64)
        known = np.isfinite(value)
        columns += [known, np.where(known, value, 0.0)]
    everyone = Grouping("", (OVERALL,), np.zeros(len(mine), np.int64))

    def means(s: Floats) -> dict[str, Floats]:
        return {name: ratio(s[:, 2 * k + 1], s[:, 2 * k]) for k, name in enumerate(values)}

    return SumCase(
        label, 0, np.stack(columns, axis=1).astype(np.float64), means, {name: metric_of(name) for name in values},
        mine["_patient"].to_numpy(), [everyone, *(group_by(mine, name, setting.bins) for name in by)],
        np.zeros(len(mine), bool), family=_family(values, setting),
    )  # fmt: skip


def _other(
    definition: str, case: SumCase, patients: int, resamples: Resamples, setting: Setting
) -> list[dict[str, Any]]:
    """The spreads that another definition computes: those of fmcache by its names, but for harvard's ``es``."""
    spreads = (
        {"es": HARVARD_ES} if definition == "harvard" else {k: DISPARITIES[k] for k in SPREADS_OF_FAIRMEDFM}
    )
    case = replace(case, spreads=spreads)
    rows, _ = sum_rows(case, patients, resamples, {}, replace(setting, permutations=0))
    return [{**row, "definition": definition} for row in rows]
