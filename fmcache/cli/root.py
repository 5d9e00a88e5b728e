"""The root of the command tree."""

from __future__ import annotations

from typing import Annotated, Any

import typer
import typer.core

from fmcache.cli.options import Debug

_ORDER = [
    "demo",
    "extract",
    "probe",
    "metrics",
    "dice",
    "report",
    "sql",
    "audit",
    "rank",
    "represent",
    "models",
    "datasets",
    "phantom",
    "cache",
]


class _InOrder(typer.core.TyperGroup):
    """Commands in the order in which a study needs them."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))


app = typer.Typer(
    name="fmcache",
    help="How fair are medical-imaging foundation models? Run each model once; answer the rest from the cache.",
    cls=_InOrder,
    epilog="Example: fmcache demo",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        from fmcache import __version__

        typer.echo(f"fmcache {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
    debug: Debug = False,
) -> None:
    pass
