"""``fmcache sql``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fmcache.cli.options import CacheDir, Debug, Form, open_store
from fmcache.cli.root import app
from fmcache.errors import UsageError
from fmcache.output import Format, emit, say


@app.command(
    epilog='Example: fmcache sql "SELECT sex, auc(y, score) AS auc, count(*) AS n FROM predictions GROUP BY sex"'
)
def sql(
    statement: Annotated[
        str | None, typer.Argument(help="One SELECT; - reads it from standard input.")
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="List tables, columns and macros.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write the rows to FILE.parquet or FILE.csv instead of printing them.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds.")] = 60.0,
    memory: Annotated[str, typer.Option(help="Memory limit, tables included.")] = "2GB",
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place", help="Leave tables on disk: for more than fits in memory. A weaker sandbox."
        ),
    ] = False,
    cache: CacheDir = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """Read-only DuckDB SQL over samples, entries, masks, runs, predictions and results."""
    from fmcache.store.sql import query, query_arrow, tables

    if schema:
        emit(tables(open_store(cache)), form=form)
        return
    if statement is None:
        raise UsageError(
            "No SQL was given.", "", 'Type: fmcache sql "SELECT * FROM runs"   or: fmcache sql --schema'
        )
    text = sys.stdin.read() if statement == "-" else statement
    if out is not None:
        from fmcache.store.sql_export import check_name, write_result

        check_name(out)
        table = query_arrow(open_store(cache), text, timeout=timeout, memory=memory, in_place=in_place)
        write_result(table, out)
        say(f"{table.num_rows:,} rows: {out}")
        return
    result = query(open_store(cache), text, timeout=timeout, memory=memory, in_place=in_place)
    emit([dict(zip(result.columns, row, strict=True)) for row in result.rows], result.columns, form)
