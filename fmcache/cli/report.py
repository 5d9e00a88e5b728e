"""``fmcache report`` and ``fmcache export``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fmcache.cli.options import CacheDir, Debug, Form, open_store
from fmcache.cli.root import app
from fmcache.output import Format, emit

Runs = Annotated[
    list[str] | None, typer.Option("--run", help="A run id or its beginning; default: all runs.")
]
MinCell = Annotated[
    int, typer.Option(min=1, help="Groups below this size are hidden, with those that would give them away.")
]


class What(StrEnum):
    """What is exported."""

    results = "results"
    table = "table"
    model_index = "model-index"
    record = "record"


@app.command(epilog="Example: fmcache report --out report.html")
def report(
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("report.html"),
    run: Runs = None,
    title: Annotated[str | None, typer.Option(help="The title.")] = None,
    min_cell: MinCell = 11,
    cache: CacheDir = None,
    debug: Debug = False,
) -> None:
    """One self-contained HTML file of all there is: findings, groups with intervals, figures, provenance."""
    from fmcache.analyze.report.build import build_report

    typer.echo(build_report(open_store(cache), out, runs=run, title=title, min_cell=min_cell))


@app.command(epilog="Example: fmcache export table --out table.tex")
def export(
    what: Annotated[
        What,
        typer.Argument(
            help="results: tidy rows (.csv, .parquet, .json). table: as in a paper (.md, .tex). model-index: for a "
            "model card (.yaml). record: all that the report says (.json, with a schema)."
        ),
    ] = What.results,
    out: Annotated[
        Path | None, typer.Option(help="The file; its ending is its kind. Default: stdout.")
    ] = None,
    run: Runs = None,
    min_cell: MinCell = 11,
    intervals: Annotated[bool, typer.Option("--intervals", help="Print intervals in a table.")] = False,
    cache: CacheDir = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """The results for other tools and people, small groups hidden as in the report."""
    from fmcache.analyze.export import export as run_export
    from fmcache.analyze.export import tidy

    if what is What.results and out is None:
        table = tidy(open_store(cache), run, min_cell)
        emit(table.to_dicts(), table.columns, form)
        return
    made = run_export(open_store(cache), what.value, out, runs=run, min_cell=min_cell, intervals=intervals)
    typer.echo(made, nl=isinstance(made, Path))
