"""Tables as published → rows: files are read as text; a card's query runs over them and can reach nothing else."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

import duckdb
import polars as pl

from fmcache.errors import DatasetError

_SEPARATOR = {".csv": ",", ".tsv": "\t", ".tab": "\t"}


def read_table(file: Path) -> pl.DataFrame:
    """A CSV, TSV (either also .gz) or Parquet file.

    CSV cells stay text, exactly as written (``007`` stays ``007``, ``F`` does not become false); an empty cell is null.
    A byte order mark and either kind of line end are understood. Parquet keeps its types.

    Raises
    ------
    DatasetError : unreadable, not UTF-8, ragged, a column name twice or empty, or another kind of file.
    """
    suffixes = [suffix.lower() for suffix in file.suffixes]
    compressed = suffixes[-1:] == [".gz"]
    kind = (suffixes[:-1] if compressed else suffixes)[-1:]
    try:
        if kind == [".parquet"] and not compressed:
            return pl.read_parquet(file)
        if not kind or kind[0] not in _SEPARATOR:
            raise DatasetError(
                f"{file.name} is no table that can be read.", "Readable: .csv, .tsv (also .gz), .parquet."
            )
        data = gzip.decompress(file.read_bytes()) if compressed else file.read_bytes()
        data.decode("utf-8")
        table = pl.read_csv(data, separator=_SEPARATOR[kind[0]], infer_schema=False, has_header=False)
    except pl.exceptions.NoDataError:
        raise DatasetError(f"{file.name} is empty.", "It has not even a header.") from None
    except UnicodeDecodeError as error:
        found = f"Byte {error.start:,} is no UTF-8."
        raise DatasetError(f"{file.name} is not UTF-8 text.", found, "Save it as UTF-8.") from None
    except OSError as error:
        found = f"{error.strerror or 'It is damaged'}."
        raise DatasetError(f"{file.name} cannot be read.", found) from None
    except (EOFError, pl.exceptions.PolarsError):
        raise DatasetError(
            f"{file.name} is not a well-formed table.",
            "A row has more cells than the header, or a quote is open.",
        ) from None
    names = [(name or "").strip() for name in table.row(0)]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        shown = f"`{repeated[0]}`" if repeated[0] else "without a name"
        raise DatasetError(f"{file.name} has a column {shown} twice.", "", "Rename one of them.")
    table.columns = [name or "unnamed" for name in names]
    return table[1:]


def run_query(query: str, tables: Mapping[str, str], root: Path) -> pl.DataFrame:
    """The rows of a card's query over its tables.

    Parameters
    ----------
    query : one SELECT in DuckDB's SQL. CSV columns are text: cast where a number is meant.
    tables : name in the query → file below `root`; ``*`` and ``**`` match several files, whose rows are put together.

    Raises
    ------
    DatasetError : a file is missing, or DuckDB refuses the query (its message, with the tables' columns).
    """
    con = duckdb.connect(":memory:", config={"python_enable_replacements": "false"})
    try:
        columns = {}
        for name, pattern in tables.items():
            table = _all_files(name, pattern, root)
            con.register("loaded", table.to_arrow(compat_level=pl.CompatLevel.oldest()))
            con.execute(f'CREATE TABLE "{name.replace(chr(34), chr(34) * 2)}" AS SELECT * FROM loaded')
            con.unregister("loaded")
            columns[name] = table.columns
        con.execute("SET enable_external_access = false; SET lock_configuration = true")
        statements = con.extract_statements(query)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise DatasetError("The card's query is not one SELECT.", f"It has {len(statements)} statements.")
        return pl.DataFrame(con.sql(statements[0].query).to_arrow_table())
    except duckdb.Error as error:
        # the first line names tables and columns; DuckDB quotes cell values only in conversion errors
        first = str(error).splitlines()[0]
        if isinstance(error, duckdb.ConversionException | duckdb.InvalidInputException):
            first = "A value cannot be converted; TRY_CAST gives null instead."
        known = "; ".join(f"{name}: {', '.join(of[:30])}" for name, of in columns.items())
        raise DatasetError("The card's query does not run.", first, f"The tables have {known}") from None
    finally:
        con.close()


def _all_files(name: str, pattern: str, root: Path) -> pl.DataFrame:
    base = root.resolve()
    files = sorted(root.glob(pattern)) if any(sign in pattern for sign in "*?[") else [root / pattern]
    if not files or not all(file.is_file() for file in files):
        folder = (root / pattern).parent
        there = sorted(file.name for file in folder.iterdir())[:1000] if folder.is_dir() else []
        near = get_close_matches(Path(pattern).name, there, n=1)
        raise DatasetError(
            f"The table `{name}` is not there.",
            f"{pattern} was looked for in the root.",
            f"Did you mean {near[0]}?" if near else "Give the dataset's folder with --root.",
        )
    if not all(file.resolve().is_relative_to(base) for file in files):
        raise DatasetError(
            f"The table `{name}` is a link out of the root.", "", "Copy the file into the root."
        )
    return pl.concat([read_table(file) for file in files], how="diagonal_relaxed")
