"""``fmcache sql --out FILE``: a result as Parquet (exact) or CSV (for people and their spreadsheets)."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from fmcache.errors import StorageError, UsageError

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

KINDS = (".parquet", ".csv")
FORMULA = r"^[=+\-@\t\r]"  # what spreadsheets take for the beginning of a formula
CONTROL = r"[\x00-\x08\x0b-\x1f\x7f-\x9f]"


def check_name(path: Path) -> None:
    """Refuse a name before the query runs.

    Raises
    ------
    UsageError : it does not end in .parquet or .csv, or its directory does not exist.
    """
    if path.suffix.lower() not in KINDS:
        raise UsageError(
            f"--out {path.name} has no known kind.",
            "A result is written as .parquet or .csv.",
            f"Type: --out {path.stem}.csv",
        )
    if not path.absolute().parent.is_dir():
        raise UsageError(f"There is no directory {path.parent}.", "", f"Type: mkdir -p {path.parent}")


def write_result(table: pa.Table, path: Path) -> None:
    """Write the file beside its place and rename it into it: it is whole or not there. Mode 0600: it may hold ids.

    Parquet keeps every value; DuckDB's HUGEINT (what sum() of integers gives) becomes a 64-bit integer where it fits.
    In CSV a text that a spreadsheet would run as a formula gets a leading apostrophe, control characters are removed,
    and lists and structs are JSON.
    """
    temporary = path.absolute().with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.partial")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            if path.suffix.lower() == ".parquet":
                import pyarrow.parquet as pq

                pq.write_table(_narrow(table), file, compression="zstd", write_page_checksum=True)
            else:
                _readable(table).write_csv(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            what = f"{path} cannot be written: {error.strerror or error}."
            raise StorageError(what, "Nothing was left there.", "Name another place: --out FILE") from None
        raise


def _narrow(table: pa.Table) -> pa.Table:
    import pyarrow as pa

    for index, field in enumerate(table.schema):
        if pa.types.is_decimal(field.type) and field.type.scale == 0:
            try:
                table = table.set_column(index, field.name, table.column(index).cast(pa.int64()))
            except pa.ArrowInvalid:
                continue
    return table


def _readable(table: pa.Table) -> pl.DataFrame:
    import polars as pl
    import polars.selectors as cs

    frame = pl.DataFrame(_narrow(table))
    frame = frame.with_columns(
        *(_json(frame[name]) for name, kind in frame.schema.items() if kind.is_nested()),
        cs.binary().bin.encode("hex"),
        cs.categorical().cast(pl.String),
        cs.enum().cast(pl.String),
    )
    text = pl.col(pl.String).str.replace_all(CONTROL, "")
    frame = frame.with_columns(
        pl.when(text.str.contains(FORMULA)).then("'" + text).otherwise(text).name.keep()
    )
    return frame.rename({name: _defused(name) for name in frame.columns})


def _json(column: pl.Series) -> pl.Series:
    import json

    import polars as pl

    texts = [
        None if value is None else json.dumps(value, default=str, ensure_ascii=False)
        for value in column.to_list()
    ]
    return pl.Series(column.name, texts, pl.String)


def _defused(name: str) -> str:
    return "'" + name if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name
