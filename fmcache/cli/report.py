"""``fmcache report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmcache.cli.options import CacheDir, Debug, open_store
from fmcache.cli.root import app


@app.command(epilog="Example: fmcache report --out report.html")
def report(
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("report.html"),
    run: Annotated[list[str] | None, typer.Option(help="A run id; default: all runs.")] = None,
    title: Annotated[str | None, typer.Option(help="The title.")] = None,
    min_cell: Annotated[int, typer.Option(min=1, help="Groups below this size are suppressed.")] = 11,
    cache: CacheDir = None,
    debug: Debug = False,
) -> None:
    """One self-contained HTML file of all there is: findings, groups with intervals, figures, provenance."""
    from fmcache.analyze.report.build import build_report

    typer.echo(build_report(open_store(cache), out, runs=run, title=title, min_cell=min_cell))
