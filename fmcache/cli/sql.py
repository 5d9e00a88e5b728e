"""``fmcache sql``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fmcache.cli.options import CacheDir, Debug, Form, open_store
from fmcache.cli.root import app
from fmcache.errors import UsageError
from fmcache.output import Format, emit


@app.command(
    epilog='Example: fmcache sql "SELECT sex, auc(y, score) AS auc, count(*) AS n FROM predictions GROUP BY sex"'
)
def sql(
    statement: Annotated[
        str | None, typer.Argument(help="One SELECT; - reads it from standard input.")
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="List tables, columns and macros.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds.")] = 60.0,
    memory: Annotated[str, typer.Option(help="Memory limit.")] = "2GB",
    cache: CacheDir = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """Read-only DuckDB SQL over samples, predictions, metrics, runs and entries."""
    from fmcache.store.sql import query, tables

    if schema:
        emit(tables(open_store(cache)), form=form)
        return
    if statement is None:
        raise UsageError(
            "No SQL was given.", "", 'Type: fmcache sql "SELECT * FROM runs"   or: fmcache sql --schema'
        )
    text = sys.stdin.read() if statement == "-" else statement
    result = query(open_store(cache), text, timeout=timeout, memory=memory)
    emit([dict(zip(result.columns, row, strict=True)) for row in result.rows], result.columns, form)
