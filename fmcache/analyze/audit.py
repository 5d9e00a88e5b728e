"""``fmcache audit``: the metrics of any model's predictions, from a table. No model, no embeddings needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from fmcache.analyze.evaluate import Evaluation, evaluate
from fmcache.analyze.findings import Finding, finding_rows
from fmcache.analyze.metrics import DEFINITION
from fmcache.analyze.multiclass import class_columns, multiclass_rows
from fmcache.analyze.reading import (
    attribute,
    attribute_columns,
    number,
    read_any,
    require,
    sample_ids,
    splits,
    text,
    truth,
)
from fmcache.analyze.thresholds import fixed_threshold
from fmcache.errors import UsageError
from fmcache.store.cache import Cache
from fmcache.store.groups import Bins, parse_bins
from fmcache.store.schema import ATTRIBUTE, PREDICTION_COLUMNS, RESULT_COLUMNS


def audit(
    table: Any,
    *,
    label: str | Sequence[str],
    score: str | Sequence[str],
    by: Sequence[str],
    patient: str | None = None,
    **options: Any,
) -> pl.DataFrame:
    """All metrics and disparities of a table of predictions, with intervals; see `audit_table` for the options.

    Parameters
    ----------
    table : a polars, pandas or Arrow table, a DuckDB relation, or the path of a CSV, Parquet or Arrow file.

    Returns
    -------
    polars.DataFrame : one row a number (RESULT_COLUMNS); the first rows are findings, problems first.
    """
    return audit_table(table, label=label, score=score, by=by, patient=patient, **options).results


def audit_table(
    table: Any,
    *,
    label: str | Sequence[str],
    score: str | Sequence[str],
    by: Sequence[str],
    patient: str | None = None,
    split: str | None = None,
    threshold: str = "0.5",
    bins: Sequence[str] | Mapping[str, Bins] = (),
    definition: str | Sequence[str] = DEFINITION,
    cache: Cache | None = None,
    model: str = "external",
    dataset: str | None = None,
    curves: Path | None = None,
    **setting: Any,
) -> Evaluation:
    """All metrics and disparities of a table of predictions, one row a sample.

    Parameters
    ----------
    table : FILE.csv, .tsv, .parquet, .arrow or .feather, or a table in memory.
    label : column of the truth: 0/1 or true/false; empty = not known, left out. Several labels need as many scores.
    With one label and several scores, the label holds class names and every class has a score.
    score : column of the prediction: a probability, another number, or a decision (0/1, true/false).
    by : attribute columns and intersections, ["sex", "sex*age_group"].
    patient : column of the patient; without it every row counts as its own patient, and a finding says so.
    split : column with train, val, test; metrics are those of test. Without it every row is a test row.
    threshold : a number, or a policy that needs ``val`` rows. bins : ["age=40:60"], where numbers are cut.
    definition : one or several of `definitions.DEFINITIONS`.
    cache : keeps the predictions (usage ``external``) and the results. model, dataset : the names they get there;
    the dataset's default is the file's name.
    curves : a .parquet or .csv file for the curves by group.
    setting : draws, level, seed, reference, tolerance, family, …; see `cases.Setting`.

    Raises
    ------
    UsageError : an unknown column, a label that is not 0/1, a score that is no number, an unreadable file.

    Notes
    -----
    Ids stay text (007 is not 7). Empty cells and the words in `groups.MISSING_WORDS` are missing attributes.
    """
    fixed_threshold(threshold)
    cuts = dict(bins) if isinstance(bins, Mapping) else dict(parse_bins(one) for one in bins)
    raw = read_any(table)
    if raw.is_empty():
        raise UsageError(
            "The table has no rows.",
            f"Columns: {', '.join(raw.columns[:12])}.",
            "Give one row a case, with its label and score.",
        )
    labels = [label] if isinstance(label, str) else list(label)
    scores = [score] if isinstance(score, str) else list(score)
    columns = attribute_columns(raw, list(by), set(cuts))
    for name in (
        *labels,
        *(one.rpartition("=")[2] for one in scores),
        *(one for one in (patient, split) if one),
    ):
        require(name, raw)
    base = {
        "sample_id": sample_ids(raw),
        "patient_id": text(raw[patient]) if patient else pl.Series([None] * len(raw), dtype=pl.String),
        "split": splits(raw[split], split) if split else pl.Series(["test"] * len(raw)),
        **{ATTRIBUTE + name: attribute(raw[name]) for name in columns},
    }
    classes = class_columns(raw, labels, scores)
    if classes:
        said = text(raw[labels[0]])
        pairs = [
            (
                f"{labels[0]}={name}",
                (said == name).cast(pl.Float32).fill_null(float("nan")),
                number(raw[column], column),
            )
            for name, column in classes.items()
        ]
    else:
        pairs = [
            (name, truth(raw[name], name), number(raw[column], column))
            for name, column in zip(labels, scores, strict=True)
        ]
    predictions = pl.concat(_one_label(base, *pair) for pair in pairs)
    info = {
        "model": model,
        "dataset": dataset or (Path(table).name.split(".")[0] if isinstance(table, str | Path) else "table"),
        "usage": "external",
        "method": "",
        "seeds": [0],
        "labels": [name for name, _, _ in pairs],
        "attributes": columns,
        "threshold_policy": threshold,
        "columns": {"label": labels, "score": scores, "patient": patient, "split": split},
    }
    run_id = cache.publish_run(info, predictions) if cache is not None else ""
    outcome = evaluate(
        predictions, by=list(by), threshold_policy=threshold, definition=definition, info={**info, "run_id": run_id},
        bins=cuts, curves=curves, **setting,
    )  # fmt: skip
    if classes:
        more, told = multiclass_rows(
            predictions, labels[0], list(classes), list(by), {**info, "run_id": run_id}, bins=cuts, **setting
        )
        outcome = _with(outcome, more, told)
    if cache is not None:
        cache.publish_results(run_id, outcome.results.select(list(RESULT_COLUMNS)))
    return outcome


def _with(outcome: Evaluation, more: pl.DataFrame, told: list[Finding]) -> Evaluation:
    """With the rows and the notes of the label as a whole, findings first."""
    head = outcome.results.filter(metric="finding")
    notes = [
        {**head.row(0, named=True), **row, "label": more["label"][0]}
        for row in finding_rows(told, "", 0, DEFINITION)
    ]
    rows = [
        head,
        pl.DataFrame(notes, schema=head.schema),
        outcome.results.filter(pl.col("metric") != "finding"),
        more,
    ]
    return Evaluation(pl.concat(rows), outcome.findings + told)


def _one_label(base: dict[str, pl.Series], name: str, y: pl.Series, score: pl.Series) -> pl.DataFrame:
    n = len(y)
    columns = {
        **base, "label": pl.Series([name] * n), "seed": pl.Series([0] * n, dtype=pl.Int32), "y": y, "score": score,
        "logit": pl.Series([None] * n, dtype=pl.Float64),
    }  # fmt: skip
    order = [*PREDICTION_COLUMNS, *(one for one in columns if one.startswith(ATTRIBUTE))]
    return pl.DataFrame(columns).select(order)
