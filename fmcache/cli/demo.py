"""``fmcache demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmcache.cli.options import Debug
from fmcache.cli.root import app
from fmcache.output import Bar


@app.command(epilog="Example: fmcache demo --out my-demo")
def demo(
    out: Annotated[Path, typer.Option(help="Where the study, the cache and the report go.")] = Path(
        "fmcache-demo"
    ),
    debug: Debug = False,
) -> None:
    """The whole path on real weights and real labels: two audits and one report in about two minutes."""
    from fmcache.demo import run_demo

    with Bar() as bar:
        outcome = run_demo(out, bar)
    for sentence in outcome.sentences:
        typer.echo(sentence)
    typer.echo(f"\nReport: {outcome.report}")
