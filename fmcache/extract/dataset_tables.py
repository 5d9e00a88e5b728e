"""Tables as published → rows: files are read as text; a card's query runs over them and can reach nothing else."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from fmcache.errors import DatasetError
from fmcache.extract.file_tables import dicom_table, files_table, hdf5_table, npz_table, text_table
from fmcache.extract.table_card import TableCard

_SEPARATOR = {".csv": ",", ".tsv": "\t", ".tab": "\t", "": ","}  # HAM10000_metadata has no suffix
READABLE = ".csv, .tsv (also .gz), .parquet, .xlsx, .json"


def read_table(file: Path, card: TableCard | None = None) -> pl.DataFrame:
    """A CSV or TSV (either also .gz), Parquet, XLSX or JSON file.

    Cells stay text, exactly as written (``007`` stays ``007``, ``F`` does not become false); an empty cell is null. A
    byte order mark and either kind of line end are understood. Parquet keeps its types. A JSON file is a list of
    objects; what is nested in them stays JSON.

    Raises
    ------
    DatasetError : unreadable, not UTF-8, ragged, a column name twice or empty, or another kind of file.
    """
    card = card or TableCard((file.name,))
    suffixes = [suffix.lower() for suffix in file.suffixes]
    compressed = suffixes[-1:] == [".gz"]
    kind = (suffixes[:-1] if compressed else suffixes)[-1:] or [""]
    try:
        if kind == [".parquet"] and not compressed:
            return pl.read_parquet(file)
        if kind == [".xlsx"] and not compressed:
            return _headed(_workbook(file, card.sheet), file, card)
        if kind[0] not in (*_SEPARATOR, ".json", ".txt"):
            raise DatasetError(
                f"{file.name} is no table that can be read.",
                f"Readable: {READABLE}.",
                "Convert it to one of these.",
            )
        data = gzip.decompress(file.read_bytes()) if compressed else file.read_bytes()
        data.decode("utf-8")
        if kind == [".json"]:
            return _objects(data, file)
        table = pl.read_csv(
            data, separator=_separator(kind[0], data, card), infer_schema=False, has_header=False,
            truncate_ragged_lines=False,
        )  # fmt: skip
    except pl.exceptions.NoDataError:
        raise DatasetError(
            f"{file.name} is empty.",
            "It has not even a header.",
            "Give a table with a header and one row a sample.",
        ) from None
    except UnicodeDecodeError as error:
        found = f"Byte {error.start:,} is no UTF-8."
        raise DatasetError(f"{file.name} is not UTF-8 text.", found, "Save it as UTF-8.") from None
    except OSError as error:
        found = f"{error.strerror or 'It is damaged'}."
        raise DatasetError(
            f"{file.name} cannot be read.", found, "Give a file that you may read; look at it with: ls -l"
        ) from None
    except (EOFError, pl.exceptions.PolarsError):
        raise DatasetError(
            f"{file.name} is not a well-formed table.",
            "A row has more cells than the header, or a quote is open.",
            "Write the table again with quotes around cells that hold a comma, as UTF-8.",
        ) from None
    return _headed(table, file, card)


def _separator(ending: str, data: bytes, card: TableCard) -> str:
    """By the ending; a .csv whose header has semicolons and no comma is what spreadsheets of many countries write."""
    known = _SEPARATOR.get(ending, ",")
    header = data.partition(b"\n")[0]
    if known == "," and b";" in header and b"," not in header and not card.names and not card.skip:
        return ";"
    return known


def _headed(table: pl.DataFrame, file: Path, card: TableCard) -> pl.DataFrame:
    """The rows below the header, named by it (or by the card)."""
    table = table[card.skip :]
    if card.names:
        if len(card.names) > table.width:
            found = f"It has {table.width} columns, the card names {len(card.names)}."
            raise DatasetError(
                f"{file.name} has too few columns.", found, "Is it the file of another release?"
            )
        return table.select(table.columns[: len(card.names)]).rename(
            dict(zip(table.columns, card.names, strict=False))
        )
    if table.is_empty():
        raise DatasetError(
            f"{file.name} is empty.",
            "It has not even a header.",
            "Give a table with a header and one row a sample.",
        )
    names = [(name or "").strip() for name in table.row(0)]
    if repeated := sorted({name for name in names if name and names.count(name) > 1}):
        raise DatasetError(f"{file.name} has a column `{repeated[0]}` twice.", "", "Rename one of them.")
    if names.count("") > 1:
        names = [name or f"unnamed_{number}" for number, name in enumerate(names)]
    table.columns = [name or "unnamed" for name in names]
    return table[1:]


def _workbook(file: Path, sheet: str) -> pl.DataFrame:
    import zipfile

    import openpyxl

    try:
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        if sheet and sheet not in book.sheetnames:
            near = get_close_matches(sheet, book.sheetnames, n=1, cutoff=0.3)
            raise DatasetError(
                f"{file.name} has no sheet `{sheet}`.", f"It has: {', '.join(book.sheetnames)}.",
                f"Is it `{near[0]}`? Set `sheet` in the card." if near else "Set `sheet` in the card.",
            )  # fmt: skip
        rows = [[_cell(value) for value in row] for row in book[sheet or book.sheetnames[0]].values]
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError):
        raise DatasetError(
            f"{file.name} is no workbook that can be read.",
            "It is damaged, or no .xlsx.",
            "Save it again as .xlsx, or as CSV.",
        ) from None
    width = max((len(row) for row in rows), default=0)
    if not width:
        raise DatasetError(
            f"{file.name} is empty.",
            "It has not even a header.",
            "Give a table with a header and one row a sample.",
        )
    padded = [row + [None] * (width - len(row)) for row in rows]
    schema = {f"column_{number}": pl.String for number in range(width)}
    return pl.DataFrame(padded, schema=schema, orient="row")


def _cell(value: Any) -> str | None:
    """A cell of a workbook as text; whole numbers without a point, as they are shown."""
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) or None


def _objects(data: bytes, file: Path) -> pl.DataFrame:
    try:
        content = json.loads(data)
    except ValueError as error:
        raise DatasetError(
            f"{file.name} is not valid JSON.", str(error), "Write the file again, or give a CSV."
        ) from None
    if not isinstance(content, list) or not content or not all(isinstance(one, dict) for one in content):
        raise DatasetError(
            f"{file.name} is no list of objects.",
            "One object a row is expected.",
            'Write [{"sample_id": …, "path": …}, …], or give a CSV.',
        )
    names = list(dict.fromkeys(name for one in content for name in one))
    return pl.DataFrame(
        {name: [_json(one.get(name)) for one in content] for name in names},
        schema=dict.fromkeys(names, pl.String),
    )


def _json(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def load_table(name: str, card: TableCard, root: Path) -> pl.DataFrame:
    """One table of a card, all cells text but those of Parquet.

    Raises
    ------
    DatasetError : it is not there (and not optional), or cannot be read.
    """
    if card.kind == "files":
        table = files_table(root, card.files)
    elif card.kind == "text":
        table = text_table(root, card.files)
    elif card.kind == "npz":
        table = npz_table(root, card.files)
    elif card.kind == "dicom":
        table = dicom_table(root, card.files, card.fields)
    else:
        files = table_files(card, root)
        if not files and not card.optional:
            raise _missing(name, card, root)
        if not all(file.resolve().is_relative_to(root.resolve()) for file in files):
            raise DatasetError(
                f"The table `{name}` is a link out of the root.", "", "Copy the file into the root."
            )
        if card.kind == "hdf5":
            table = hdf5_table(root, files, card.fields)
        else:
            # columns are renamed file by file: two releases may lie side by side
            parts = [_renamed(read_table(file, card), card.rename) for file in files]
            table = pl.concat(parts, how="diagonal_relaxed") if parts else pl.DataFrame()
    if table.is_empty() and not card.optional and card.kind != "table":
        raise _missing(name, card, root)
    absent = [column for column in card.columns if column not in table.columns]
    return table.with_columns(pl.lit(None, pl.String).alias(column) for column in absent)


def _renamed(table: pl.DataFrame, names: Mapping[str, str]) -> pl.DataFrame:
    return table.rename(
        {old: new for old, new in names.items() if old in table.columns and new not in table.columns}
    )


def run_query(query: str, tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """The rows of a card's query over its tables.

    Parameters
    ----------
    query : one SELECT in DuckDB's SQL. CSV columns are text: cast where a number is meant.

    Raises
    ------
    DatasetError : DuckDB refuses the query (its message, with the tables' columns).
    """
    con = duckdb.connect(":memory:", config={"python_enable_replacements": "false"})
    try:
        for name, table in tables.items():
            if table.width == 0:
                table = pl.DataFrame(schema={"file": pl.String})
            con.register("loaded", table.to_arrow(compat_level=pl.CompatLevel.oldest()))
            con.execute(f'CREATE TABLE "{name.replace(chr(34), chr(34) * 2)}" AS SELECT * FROM loaded')
            con.unregister("loaded")
        con.execute("SET enable_external_access = false; SET lock_configuration = true")
        statements = con.extract_statements(query)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise DatasetError(
                "The card's query is not one SELECT.",
                f"It has {len(statements)} statements.",
                "Write one SELECT over the tables of the card; docs/datasets.md (Tables) shows one.",
            )
        return pl.DataFrame(con.sql(statements[0].query).to_arrow_table())
    except duckdb.Error as error:
        # the first line names tables and columns; DuckDB quotes cell values only in conversion errors
        first = str(error).splitlines()[0]
        if isinstance(error, duckdb.ConversionException | duckdb.InvalidInputException):
            first = "A value cannot be converted; TRY_CAST gives null instead."
        known = "; ".join(f"{name}: {', '.join(of.columns[:30])}" for name, of in tables.items())
        raise DatasetError("The card's query does not run.", first, f"The tables have {known}") from None
    finally:
        con.close()


def table_files(card: TableCard, root: Path) -> list[Path]:
    """The files of the first alternative that is there."""
    for pattern in card.files:
        if any(sign in pattern for sign in "*?["):
            files = sorted(file for file in root.glob(pattern) if file.is_file())
        else:
            files = [root / pattern] if (root / pattern).is_file() else []
        if files:
            return files
    return []


def _missing(name: str, card: TableCard, root: Path) -> DatasetError:
    """What was looked for, and where it may be: misspelt, or one folder further up or down."""
    looked = " or ".join(card.files)
    what, found = f"The table `{name}` is not there.", f"{looked} was looked for in the root."
    for pattern in card.files:
        below = sorted(root.glob(f"*/{pattern}"))[:1]
        if below:
            depth = len(Path(pattern).parts)
            return DatasetError(
                what, found, f"It is one folder further down: --root …/{below[0].parts[-depth - 1]}"
            )
    folder = (root / card.files[0]).parent
    there = sorted(file.name for file in folder.iterdir())[:1000] if folder.is_dir() else []
    near = get_close_matches(Path(card.files[0]).name, there, n=1)
    return DatasetError(
        what, found, f"Did you mean {near[0]}?" if near else "Give the dataset's folder with --root."
    )
