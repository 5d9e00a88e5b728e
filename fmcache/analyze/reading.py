"""Anybody's table, in a file or in memory, as polars; and its columns as truth, scores, splits and attributes."""

from __future__ import annotations

import difflib
import gzip
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl

from fmcache.errors import UsageError
from fmcache.store.groups import MISSING_WORDS, MOST_NUMBERS

SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val",
    "dev": "val", "test": "test", "testing": "test",
}  # fmt: skip
TRUTH = {"1": 1.0, "1.0": 1.0, "true": 1.0, "0": 0.0, "0.0": 0.0, "false": 0.0}


def read_any(table: Any) -> pl.DataFrame:
    """A file (.csv, .tsv, .parquet, .arrow, .feather), or a polars, pandas, Arrow or DuckDB table.

    Raises
    ------
    UsageError : no such file, an unreadable one, or an object that is no table.
    """
    if isinstance(table, str | Path):
        return _read_file(Path(table))
    if isinstance(table, pl.DataFrame):
        return table
    try:
        frame = nw.from_native(table)
    except TypeError:
        raise UsageError(
            f"An object of type {type(table).__name__} is no table.",
            "Known: polars, pandas and Arrow tables, DuckDB relations, and files.",
            "Give the path of a CSV or Parquet file, or a DataFrame.",
        ) from None
    if isinstance(frame, nw.LazyFrame):
        frame = frame.collect(backend="polars")
    return frame.to_polars()


def _read_file(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise UsageError(f"There is no file {path}.", "", "Give a CSV, Parquet or Arrow file.")
    name = path.name.lower()
    try:
        if name.endswith((".csv", ".csv.gz", ".tsv", ".tsv.gz")):
            return pl.read_csv(path, infer_schema=False, separator=_separator(path))
        if name.endswith(".parquet"):
            return pl.read_parquet(path)
        if name.endswith((".arrow", ".feather", ".ipc")):
            return pl.read_ipc(path)
    except (pl.exceptions.PolarsError, OSError, EOFError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} cannot be read.",
            str(error).splitlines()[0][:200],
            "Give a CSV with a header, a Parquet or an Arrow file.",
        ) from None
    raise UsageError(
        f"{path} has an unknown ending.",
        "Known: .csv, .tsv (also .gz), .parquet, .arrow, .feather, .ipc.",
        "Save the table as CSV or Parquet.",
    )


def _separator(path: Path) -> str:
    """What stands between the names of the header; spreadsheets of many countries write semicolons."""
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8-sig", errors="replace") as file:
        header = file.readline(1 << 20)
    return "," if "," in header else max(",;\t", key=header.count)


def require(name: str, table: pl.DataFrame) -> None:
    """Refuse a column that is not there, with the nearest that is."""
    if name not in table.columns:
        close = difflib.get_close_matches(name, table.columns, n=1, cutoff=0.5)
        raise UsageError(
            f"There is no column {name}.",
            f"Columns: {', '.join(table.columns[:20])}{' …' if len(table.columns) > 20 else ''}.",
            f"Did you mean {close[0]}?" if close else "Name one of them.",
        )


def text(column: pl.Series) -> pl.Series:
    """Trimmed text, null where empty: ids stay as they are written (007 is not 7)."""
    trimmed = column.cast(pl.String).str.strip_chars()
    return pl.select(pl.when(trimmed == "").then(None).otherwise(trimmed)).to_series()


def words(column: pl.Series) -> pl.Series:
    """Lower-case text, null where the cell says that it is missing (-1 is a value here)."""
    lowered = column.cast(pl.String).str.strip_chars().str.to_lowercase()
    missing = list(MISSING_WORDS - {"-1", "-1.0"})
    return pl.select(pl.when(lowered.is_in(missing)).then(None).otherwise(lowered)).to_series()


def truth(column: pl.Series, name: str) -> pl.Series:
    """0, 1 or NaN; true and false count, empty cells are NaN.

    Raises
    ------
    UsageError : other values, or none at all.
    """
    said = words(column)
    y = said.replace_strict(TRUTH, default=None, return_dtype=pl.Float32)
    wrong = said.filter(y.is_null() & said.is_not_null()).unique().sort()
    if len(wrong):
        # a few odd values help; many are probably ids or free text, which must not be repeated
        shown = ", ".join(wrong.to_list()) if len(wrong) <= 5 else f"{len(wrong):,} other values"
        raise UsageError(
            f"The label {name} has to be 0 or 1.",
            f"It also holds: {shown}.",
            "Make a column that is 1 for the finding, 0 without it and empty where it is not known; for several "
            "classes give one score column a class: --score p_a,p_b,p_c",
        )
    if y.null_count() == len(y):
        raise UsageError(
            f"The label {name} has no value in any row.",
            "Every cell of it is empty.",
            "Give 0 and 1 where it is known, or name another --label.",
        )
    return y.fill_null(float("nan"))


def number(column: pl.Series, name: str) -> pl.Series:
    """Numbers, NaN where empty; decisions as true/false count as 1/0.

    Raises
    ------
    UsageError : text that is no number.
    """
    if column.dtype.is_numeric():
        return column.cast(pl.Float64).fill_null(float("nan"))
    said = words(column)
    numbers = said.replace({"true": "1", "false": "0"}).cast(pl.Float64, strict=False)
    wrong = int((numbers.is_null() & said.is_not_null()).sum())
    if wrong:
        commas = int(said.str.contains(r"^-?\d+,\d+$").sum())
        raise UsageError(
            f"The score {name} has to be a number.",
            f"{wrong:,} of {len(column):,} values are not{', they have a decimal comma' * (commas == wrong)}.",
            "Write decimals with a point."
            if commas == wrong
            else "Give the column of the predicted probability.",
        )
    return numbers.fill_null(float("nan"))


def splits(column: pl.Series, name: str) -> pl.Series:
    """train, val or test.

    Raises
    ------
    UsageError : any other word, or an empty cell.
    """
    said = words(column)
    wrong = said.filter(~said.is_in(list(SPLITS)) | said.is_null()).unique()
    if len(wrong):
        raise UsageError(
            f"The split {name} has to be train, val or test.",
            f"{len(wrong):,} other values, or empty cells, are there.",
            "Rename them, or leave --split out to measure every row.",
        )
    return said.replace(SPLITS)


def attribute(column: pl.Series) -> pl.Series:
    """Numbers if there are more of them than groups would have (an age); text otherwise."""
    said = words(column)
    numbers = said.cast(pl.Float64, strict=False)
    if numbers.n_unique() > MOST_NUMBERS and numbers.null_count() == said.null_count():
        return numbers
    return column if column.dtype.is_numeric() else column.cast(pl.String)


def sample_ids(table: pl.DataFrame) -> pl.Series:
    """The column sample_id if it is complete and distinct, else row numbers."""
    if "sample_id" in table.columns:
        ids = table["sample_id"].cast(pl.String)
        if not ids.null_count() and ids.n_unique() == len(ids):
            return ids
    width = len(str(len(table)))
    return pl.Series([f"{k:0{width}d}" for k in range(len(table))])


def attribute_columns(table: pl.DataFrame, by: list[str], bins: set[str]) -> list[str]:
    """The columns that the attributes and intersections of `by` need; age for an age_group that is not there."""
    named = list(dict.fromkeys(part.strip() for one in by for part in one.split("*")))
    derived = "age_group" in named and "age_group" not in table.columns and "age" in table.columns
    columns = [("age" if derived and name == "age_group" else name) for name in named]
    for name in columns:
        require(name, table)
    for name in sorted(bins - set(columns)):
        raise UsageError(
            f"The bins of {name} are not used.",
            f"--by names: {', '.join(by) or 'nothing'}.",
            f"Type: --by {name}",
        )
    return list(dict.fromkeys(columns))
