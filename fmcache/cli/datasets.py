"""``fmcache datasets`` and ``fmcache phantom``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmcache.cli.options import Debug, Form, settings
from fmcache.cli.root import app
from fmcache.output import Format, emit


@app.command(epilog="Example: fmcache datasets phantom")
def datasets(
    name: Annotated[str | None, typer.Argument(help="One dataset's card (a name or a FILE.toml).")] = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """List the dataset cards, or show one."""
    from fmcache.extract.dataset import list_datasets, show_dataset

    known = settings()
    emit(list_datasets(known) if name is None else show_dataset(name, known), form=form)


@app.command(epilog="Example: fmcache phantom my-study --visible-female 0.65")
def phantom(
    out: Annotated[Path, typer.Argument(help="A new directory for the study.")],
    patients: Annotated[int, typer.Option(min=10, help="How many patients.")] = 700,
    images: Annotated[int, typer.Option(min=20, help="How many images.")] = 1200,
    visible_male: Annotated[
        float, typer.Option(min=0, max=1, help="Share of visible lesions in men.")
    ] = 0.95,
    visible_female: Annotated[
        float, typer.Option(min=0, max=1, help="Share of visible lesions in women.")
    ] = 0.65,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    debug: Debug = False,
) -> None:
    """Make a radiograph-like study with a known, planted difference between men and women."""
    from fmcache.extract.datasets.phantom import synthesize_phantom

    visible = {"male": visible_male, "female": visible_female}
    typer.echo(synthesize_phantom(out, patients=patients, images=images, visible=visible, seed=seed))
