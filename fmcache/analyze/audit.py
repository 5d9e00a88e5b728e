"""``fmcache audit``: the metrics of any model's predictions, from a table. No model, no embeddings needed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa

from fmcache.analyze.evaluate import Evaluation, evaluate
from fmcache.analyze.groups import MISSING_WORDS, MOST_NUMBERS
from fmcache.analyze.thresholds import fixed_threshold
from fmcache.errors import UsageError
from fmcache.store.cache import Cache
from fmcache.store.schema import ATTRIBUTE, RESULT_COLUMNS

SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val",
    "dev": "val", "test": "test", "testing": "test",
}  # fmt: skip
TRUTH = {"1": 1.0, "1.0": 1.0, "true": 1.0, "0": 0.0, "0.0": 0.0, "false": 0.0}


def audit(
    table: str | Path | pl.DataFrame | pa.Table,
    *,
    label: str,
    score: str,
    by: Sequence[str],
    patient: str | None = None,
    split: str | None = None,
    threshold: str = "0.5",
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    cache: Cache | None = None,
    model: str = "external",
    dataset: str | None = None,
) -> Evaluation:
    """All metrics and disparities of a table of predictions, one row a prediction.

    Parameters
    ----------
    table : FILE.csv, .tsv, .parquet, .arrow or .feather, or a table in memory.
    label : column of the truth: 0/1 or true/false; empty = not known, left out.
    score : column of the prediction: a probability, another number, or a decision (0/1, true/false).
    by : attribute columns and intersections, ["sex", "sex*age_group"].
    patient : column of the patient; without it every row counts as its own patient, and a finding says so.
    split : column with train, val, test; metrics are those of test. Without it every row is a test row.
    threshold : a number, or a policy that needs ``val`` rows.
    cache : keeps the predictions (usage ``external``) and the results. model, dataset : the names they get there;
    the dataset's default is the file's name.

    Raises
    ------
    UsageError : an unknown column, a label that is not 0/1, a score that is no number, an unreadable file.

    Notes
    -----
    Ids stay text (007 is not 7). Empty cells and the words in `groups.MISSING_WORDS` are missing attributes.
    """
    fixed_threshold(threshold)
    raw = _read(table)
    if raw.is_empty():
        raise UsageError("The table has no rows.", f"Columns: {', '.join(raw.columns[:12])}.")
    attributes = list(dict.fromkeys(part.strip() for one in by for part in one.split("*")))
    derived = "age_group" in attributes and "age_group" not in raw.columns and "age" in raw.columns
    columns = [("age" if derived and name == "age_group" else name) for name in attributes]
    for name in (label, score, *columns, *(name for name in (patient, split) if name)):
        _require(name, raw)
    ids = raw["sample_id"].cast(pl.String) if "sample_id" in raw.columns else None
    if ids is None or ids.null_count() or ids.n_unique() < len(ids):
        width = len(str(len(raw)))
        ids = pl.Series([f"{k:0{width}d}" for k in range(len(raw))])
    y, p = _truth(raw[label], label), _number(raw[score], score)
    predictions = pl.DataFrame(
        {
            "sample_id": ids,
            "patient_id": _text(raw[patient]) if patient else pl.Series([None] * len(raw), dtype=pl.String),
            "split": _splits(raw[split], split) if split else pl.Series(["test"] * len(raw)),
            "label": pl.Series([label] * len(raw)),
            "seed": pl.Series([0] * len(raw), dtype=pl.Int32),
            "y": y,
            "score": p,
            "logit": pl.Series([None] * len(raw), dtype=pl.Float64),
            **{ATTRIBUTE + name: _attribute(raw[name]) for name in dict.fromkeys(columns)},
        }
    )
    info = {
        "model": model,
        "dataset": dataset or (Path(table).name.split(".")[0] if isinstance(table, str | Path) else "table"),
        "usage": "external",
        "method": "",
        "seeds": [0],
        "labels": [label],
        "attributes": list(dict.fromkeys(columns)),
        "threshold_policy": threshold,
        "columns": {"label": label, "score": score, "patient": patient, "split": split},
    }
    outcome = evaluate(
        predictions, by=list(by), threshold_policy=threshold, draws=draws, level=level, seed=seed, info=info
    )
    if cache is None:
        return outcome
    run_id = cache.publish_run(info, predictions)
    results = outcome.results.with_columns(pl.lit(run_id).alias("run_id")).select(list(RESULT_COLUMNS))
    cache.publish_results(run_id, results)
    return Evaluation(results, outcome.findings)


def _read(table: str | Path | pl.DataFrame | pa.Table) -> pl.DataFrame:
    if isinstance(table, pl.DataFrame):
        return table
    if isinstance(table, pa.Table):
        return pl.DataFrame(table)
    path = Path(table)
    if not path.is_file():
        raise UsageError(f"There is no file {path}.", "", "Give a CSV, Parquet or Arrow file.")
    name = path.name.lower()
    try:
        if name.endswith((".csv", ".csv.gz", ".tsv", ".tsv.gz")):
            return pl.read_csv(path, infer_schema=False, separator="\t" if ".tsv" in name else ",")
        if name.endswith(".parquet"):
            return pl.read_parquet(path)
        if name.endswith((".arrow", ".feather", ".ipc")):
            return pl.read_ipc(path)
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read.", str(error).splitlines()[0][:200]) from None
    raise UsageError(
        f"{path} has an unknown ending.",
        "Known: .csv, .tsv (also .gz), .parquet, .arrow, .feather, .ipc.",
        "Save the table as CSV or Parquet.",
    )


def _require(name: str, table: pl.DataFrame) -> None:
    if name not in table.columns:
        close = difflib.get_close_matches(name, table.columns, n=1, cutoff=0.5)
        raise UsageError(
            f"There is no column {name}.",
            f"Columns: {', '.join(table.columns[:20])}{' …' if len(table.columns) > 20 else ''}.",
            f"Did you mean {close[0]}?" if close else "",
        )


def _text(column: pl.Series) -> pl.Series:
    text = column.cast(pl.String).str.strip_chars()
    return pl.select(pl.when(text == "").then(None).otherwise(text)).to_series()


def _words(column: pl.Series) -> pl.Series:
    """Lower-case text, null where the cell says that it is missing (-1 is a value here)."""
    text = column.cast(pl.String).str.strip_chars().str.to_lowercase()
    words = list(MISSING_WORDS - {"-1", "-1.0"})
    return pl.select(pl.when(text.is_in(words)).then(None).otherwise(text)).to_series()


def _truth(column: pl.Series, name: str) -> pl.Series:
    words = _words(column)
    y = words.replace_strict(TRUTH, default=None, return_dtype=pl.Float32)
    wrong = words.filter(y.is_null() & words.is_not_null()).unique().sort()
    if len(wrong):
        # a few odd values help; many are probably ids or free text, which must not be repeated
        shown = ", ".join(wrong.to_list()) if len(wrong) <= 5 else f"{len(wrong):,} other values"
        raise UsageError(
            f"The label {name} has to be 0 or 1.",
            f"It also holds: {shown}.",
            "Make a column that is 1 for the finding, 0 without it and empty where it is not known.",
        )
    if y.null_count() == len(y):
        raise UsageError(f"The label {name} has no value in any row.")
    return y.fill_null(float("nan"))


def _number(column: pl.Series, name: str) -> pl.Series:
    words = _words(column)
    if column.dtype.is_numeric():
        return column.cast(pl.Float64).fill_null(float("nan"))
    decisions = words.replace({"true": "1", "false": "0"})
    numbers = decisions.cast(pl.Float64, strict=False)
    wrong = int((numbers.is_null() & words.is_not_null()).sum())
    if wrong:
        raise UsageError(
            f"The score {name} has to be a number.",
            f"{wrong:,} of {len(column):,} values are not.",
            "Give the column of the predicted probability.",
        )
    return numbers.fill_null(float("nan"))


def _splits(column: pl.Series, name: str) -> pl.Series:
    words = _words(column)
    wrong = words.filter(~words.is_in(list(SPLITS)) | words.is_null()).unique()
    if len(wrong):
        raise UsageError(
            f"The split {name} has to be train, val or test.",
            f"{len(wrong):,} other values, or empty cells, are there.",
            "Rename them, or leave --split out to measure every row.",
        )
    return words.replace(SPLITS)


def _attribute(column: pl.Series) -> pl.Series:
    """Numbers if there are more of them than groups would have (an age); text otherwise."""
    text = _words(column)
    numbers = text.cast(pl.Float64, strict=False)
    if numbers.n_unique() > MOST_NUMBERS and numbers.null_count() == text.null_count():
        return numbers
    return column if column.dtype.is_numeric() else column.cast(pl.String)
