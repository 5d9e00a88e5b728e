"""``fmcache sql``: read-only DuckDB over the cache, in a room without doors.

Every byte is verified, then copied into tables in memory; only then is the query seen by a connection that can reach
nothing outside itself and whose settings are locked. One statement, and it has to be a SELECT. That is defence in depth
for honest mistakes and pasted queries; against a hostile user run it in a container without network.

`in_place` leaves the tables on disk, for caches that are larger than memory. It is weaker: the connection may still
read (by any function of DuckDB) the files of the tables that the query names, and spill into a temporary directory.
"""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from duckdb.func import ARROW, SPECIAL

from fmcache.errors import FmcacheError, UsageError
from fmcache.store.catalog import TABLES, macros, verified_files, views

if TYPE_CHECKING:
    import pyarrow as pa

    from fmcache.store.cache import Cache

MACROS = ("auc", "auprc", "tpr", "fpr", "ece", "brier", "dice")
_CONFIG = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "allow_unsigned_extensions": False,
}
_LOOKS_AT_CATALOG = re.compile(
    r"show|describe|information_schema|duckdb_|pragma_|pg_|sqlite_|query|all_tables", re.I
)
_WORD = re.compile(r"\w+")
_SCHEMA = "type: fmcache sql --schema"


@dataclass(frozen=True)
class Result:
    """Column names, made distinct (a, a_1), and rows of Python values."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


def query(
    cache: Cache, text: str, *, timeout: float = 60.0, memory: str = "2GB", in_place: bool = False
) -> Result:
    """Run one SELECT (WITH, FROM, VALUES, DESCRIBE, SHOW and SUMMARIZE are SELECTs).

    Parameters
    ----------
    timeout : seconds. memory : DuckDB's limit, tables included.
    in_place : do not copy the tables into memory (see the module).

    Raises
    ------
    UsageError : not one SELECT, or DuckDB cannot make sense of it, or it reached outside.
    FmcacheError : out of time or memory. CorruptCache : a table's bytes are not the published ones.
    """
    with _session(cache, text, timeout, memory, in_place) as connection, _said_plainly(text, timeout, memory):
        connection.execute(text)
        names = [column[0] for column in connection.description or []]
        rows = connection.fetchall()
    return Result(_distinct(names), [tuple(_plain(value) for value in row) for row in rows])


def query_arrow(
    cache: Cache, text: str, *, timeout: float = 60.0, memory: str = "2GB", in_place: bool = False
) -> pa.Table:
    """The same as an Arrow table, for files."""
    with _session(cache, text, timeout, memory, in_place) as connection, _said_plainly(text, timeout, memory):
        table = connection.sql(text).to_arrow_table()
    return table.rename_columns(_distinct(table.column_names))


def tables(cache: Cache) -> list[dict[str, Any]]:
    """Tables, columns and macros: rows of table, column, type and about."""
    described = query(
        cache,
        " UNION ALL ".join(
            f"SELECT '{table.name}', column_name, column_type FROM (DESCRIBE {table.name})"
            for table in TABLES
        ),
        in_place=True,
    ).rows
    rows: list[dict[str, Any]] = []
    for table in TABLES:
        columns = [(name, kind) for of, name, kind in described if of == table.name]
        rows += [
            {"table": table.name, "column": name, "type": kind, "about": "" if index else table.about}
            for index, (name, kind) in enumerate(columns)
        ]
    about = {
        "auc": "area under the ROC curve, ties counting half",
        "auprc": "average precision",
        "tpr": "share of the positives with score >= threshold (0.5)",
        "fpr": "share of the negatives with score >= threshold (0.5)",
        "ece": "expected calibration error, 10 equal-width bins",
        "brier": "mean squared error of the probability",
        "dice": "2 TP / (2 TP + FP + FN) at a threshold (0.5)",
    }
    for name in MACROS:
        arguments = "(y, score[, threshold])" if name in ("tpr", "fpr", "dice") else "(y, score)"
        rows.append({"table": "", "column": f"{name}{arguments}", "type": "DOUBLE", "about": about[name]})
    return rows


# ----------------------------------------------------------------------------------------------------------- the room


@contextmanager
def _session(
    cache: Cache, text: str, timeout: float, memory: str, in_place: bool
) -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect(":memory:", config=dict(_CONFIG))
    with tempfile.TemporaryDirectory(prefix="fmcache-sql-") as scratch:
        timer = threading.Timer(timeout, connection.interrupt)
        timer.daemon = True
        try:
            _gate(connection, text)
            wanted = wanted_tables(text)
            variables = {name for table in TABLES if table.name in wanted for name in table.variables}
            found = verified_files(cache.path, variables)
            timer.start()
            with _said_plainly(text, timeout, memory):
                _furnish(connection, wanted, found, memory, Path(scratch) if in_place else None)
            yield connection
        finally:
            timer.cancel()
            connection.close()


def _gate(connection: duckdb.DuckDBPyConnection, text: str) -> None:
    """Refuse all but one SELECT. EXPLAIN is refused too: EXPLAIN ANALYZE runs what it explains, a COPY for instance."""
    try:
        statements = connection.extract_statements(text)
    except duckdb.Error as error:
        raise _no_sense(error, text) from None
    kinds = [str(statement.type).rpartition(".")[2] for statement in statements]
    if kinds == ["SELECT"]:
        return
    if not kinds:
        raise UsageError("The SQL holds no statement.", "", 'Type: fmcache sql "SELECT * FROM runs"')
    if kinds == ["MULTI"]:
        raise UsageError(
            "PIVOT has to name its values here.",
            "Without them DuckDB makes it several statements, and only one SELECT is run.",
            "Write: PIVOT samples ON sex IN ('female', 'male') USING count(*)",
        )
    what = (
        f"{len(kinds)} statements were given"
        if len(kinds) > 1
        else f"This is a statement of the kind {kinds[0]}"
    )
    raise UsageError(
        f"{what}; fmcache sql runs one SELECT and changes nothing.",
        _why_refused(kinds),
        "Write one SELECT; for files use --out result.parquet; for more, cd to the cache and: duckdb -init catalog.sql",
    )


def _why_refused(kinds: list[str]) -> str:
    if "EXPLAIN" in kinds:
        return "EXPLAIN ANALYZE runs the statement that it explains, so EXPLAIN is refused as well."
    return "Its tables are copies: what changed them would be lost, and it may not write files."


def wanted_tables(text: str) -> set[str]:
    """The tables whose names occur in the text; all of them where it may look at the catalog itself.

    A table that is not wanted does not exist for the query: leaving one out can be an error, never a wrong number.
    """
    if _LOOKS_AT_CATALOG.search(text):
        return {table.name for table in TABLES}
    words = {word.casefold() for word in _WORD.findall(text)}
    return {table.name for table in TABLES if table.name in words}


def _furnish(
    connection: duckdb.DuckDBPyConnection,
    wanted: set[str],
    found: dict[str, list[Path]],
    memory: str,
    scratch: Path | None,
) -> None:
    """Tables, macros and functions; then close the doors."""
    connection.execute("SET python_enable_replacements = false")
    connection.execute("SET allow_persistent_secrets = false")
    connection.execute(f"SET memory_limit = {_quote(memory)}")
    connection.execute(f"SET temp_directory = {_quote(str(scratch) if scratch else '')}")
    connection.execute("ATTACH ':memory:' AS files")
    connection.execute("USE files")
    for variable in {name for table in TABLES for name in table.variables}:
        paths = ", ".join(_quote(str(path)) for path in found.get(variable, []))
        connection.execute(f"SET VARIABLE {variable} = " + (f"[{paths}]" if paths else "NULL"))
    if wanted:
        connection.execute(views())
    connection.execute("USE memory")
    for name in sorted(wanted):
        kind = "VIEW" if scratch else "TABLE"
        connection.execute(f"CREATE {kind} {name} AS FROM files.{name}")
    connection.execute(macros())
    add_functions(connection)
    if scratch:
        allowed = [_quote(str(path)) for paths in found.values() for path in paths]
        connection.execute(f"SET allowed_paths = [{', '.join(allowed)}]")
    else:
        connection.execute("DETACH files")
        for variable in found:
            connection.execute(f"RESET VARIABLE {variable}")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def add_functions(connection: duckdb.DuckDBPyConnection) -> None:
    """Replace the macros auc and auprc by the same in NumPy, over the lists of scores of both classes."""
    from fmcache.store.sql_functions import areas, average_precisions

    lists: list[Any] = [duckdb.list_type("DOUBLE")] * 2
    for name, function in (("auc", areas), ("auprc", average_precisions)):
        connection.create_function(
            f"_{name}", function, lists, duckdb.dtype("DOUBLE"), type=ARROW, null_handling=SPECIAL
        )  # fmt: skip
        scores = [
            f"list(score::DOUBLE) FILTER (_usable(y, score) AND y::DOUBLE = {truth})" for truth in (1, 0)
        ]
        connection.execute(f"CREATE OR REPLACE MACRO {name}(y, score) AS _{name}({', '.join(scores)})")


# --------------------------------------------------------------------------------------------------- words and values


@contextmanager
def _said_plainly(text: str, timeout: float, memory: str) -> Iterator[None]:
    try:
        yield
    except duckdb.InterruptException:
        raise FmcacheError(
            f"The query was stopped after {timeout:g} s.",
            "Nothing was changed.",
            "Ask for less, or give it more time: --timeout SECONDS",
        ) from None
    except duckdb.OutOfMemoryException:
        raise FmcacheError(
            f"The query needs more than {memory} of memory.",
            "Its tables are held in memory too.",
            "Ask for less, allow more (--memory 8GB), or leave the tables on disk: --in-place",
        ) from None
    except duckdb.PermissionException as error:
        raise UsageError(
            "The query reaches outside the cache.",
            _first_line(error),
            "fmcache sql sees its own tables only; " + _SCHEMA,
        ) from None
    except duckdb.Error as error:
        raise _no_sense(error, text) from None


def _no_sense(error: duckdb.Error, text: str) -> UsageError:
    near = re.search(r"Candidate bindings: (.*)|Did you mean (.*)", str(error))
    return UsageError(
        f"DuckDB cannot run this: {_first_line(error)}",
        near.group(0) if near else f"The statement: {' '.join(text.split())[:160]}",
        "The tables and columns: " + _SCHEMA.removeprefix("type: "),
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _distinct(names: list[str]) -> list[str]:
    taken: set[str] = set()
    made = []
    for name in names:
        new, count = name, 0
        while new in taken:
            count += 1
            new = f"{name}_{count}"
        taken.add(new)
        made.append(new)
    return made


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value
