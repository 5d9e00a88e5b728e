"""``fmcache datasets`` and ``fmcache phantom``."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from fmcache.cli.options import Debug, Form, settings
from fmcache.cli.root import app
from fmcache.cli.sample_options import AllowLeakage, Balance, Split, SplitSeed, Task, Uncertain
from fmcache.errors import MissingExtra
from fmcache.output import Format, emit, say


@app.command(epilog="Example: fmcache datasets mimic --root /data/mimic-cxr-jpg")
def datasets(
    name: Annotated[
        str | None, typer.Argument(help="One dataset: a card's name, a FILE.toml or a FILE.csv.")
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Check the files in this folder.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check the files where fmcache.toml says they are.")
    ] = False,
    audit: Annotated[
        bool, typer.Option("--audit", help="Who is in it: groups, missing values, prevalence.")
    ] = False,
    reference: Annotated[
        Path | None,
        typer.Option(help="With --audit: a CSV attribute,group,share of the population to compare with."),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="With --audit: also write a self-contained page.")] = None,
    croissant: Annotated[
        Path | None, typer.Option(help="With --audit: also write Croissant metadata (JSON).")
    ] = None,
    min_cell: Annotated[
        int | None,
        typer.Option(min=1, help="Hide groups with fewer samples; default 1, with --html or --croissant 11."),
    ] = None,
    synthesize: Annotated[
        Path | None, typer.Option(help="Write a miniature in the published layout into this new folder.")
    ] = None,
    show_ids: Annotated[bool, typer.Option("--show-ids", help="Name files in the check.")] = False,
    task: Task = "full",
    uncertain: Uncertain = None,
    split: Split = None,
    split_seed: SplitSeed = 0,
    balance: Balance = None,
    allow_leakage: AllowLeakage = False,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """List the dataset cards, show one, check its files, audit who is in it, or make a miniature of it."""
    from fmcache.extract.dataset import SampleOptions
    from fmcache.extract.dataset_listing import list_datasets, show_dataset

    known = settings()
    if name is None:
        emit(list_datasets(known), form=form)
        return
    if not (synthesize or audit or html or croissant or reference or root or check):
        emit(show_dataset(name, known), form=form)
        return
    run = _with_files()
    options = SampleOptions(task, uncertain, split, split_seed, balance, allow_leakage)
    if synthesize is not None:
        typer.echo(run.synthesize_command(name, synthesize, known))
    elif audit or html or croissant or reference:
        done = run.audit_command(
            name, known, root=root, options=options, reference=reference, html=html, croissant=croissant,
            min_cell=min_cell,
        )  # fmt: skip
        for line in done.notes:
            say(line)
        emit([row.row() for row in done.rows], form=form)
    else:
        findings, notes = run.check_command(name, known, root=root, options=options, show_ids=show_ids)
        for line in notes:
            say(line)
        emit([finding.row() for finding in findings], form=form)
        raise typer.Exit(3 if any(finding.state == "bad" for finding in findings) else 0)


def _with_files() -> ModuleType:
    """What reads images; cards can be listed without it."""
    try:
        from fmcache.extract import datasets_command
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "Reading a dataset's files needs the extract extra.", f"The module {error.name} is not installed.",
            'Type: python -m pip install "fmcache[extract]"',
        ) from None  # fmt: skip
    return datasets_command


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
    prevalence_male: Annotated[
        float, typer.Option(min=0, max=1, help="Share of men's images with the lesion.")
    ] = 0.5,
    prevalence_female: Annotated[
        float, typer.Option(min=0, max=1, help="Share of women's images with the lesion.")
    ] = 0.5,
    women: Annotated[float, typer.Option(min=0, max=1, help="Share of patients who are women.")] = 0.5,
    lucent: Annotated[
        str, typer.Option(help="female or male: whose lesions are darker than the lung, not brighter.")
    ] = "",
    drain_male: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Share of men's positive images with a chest drain; of negative ones the rest."
        ),
    ] = None,
    drain_female: Annotated[
        float | None, typer.Option(min=0, max=1, help="The same of women's images. Default: no drains.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    debug: Debug = False,
) -> None:
    """Make a radiograph-like study with a known, planted difference between men and women."""
    from fmcache.extract.datasets.phantom import synthesize_phantom

    given = {"male": drain_male, "female": drain_female}
    drains = {sex: share for sex, share in given.items() if share is not None} or None
    typer.echo(
        synthesize_phantom(
            out,
            patients=patients,
            images=images,
            visible={"male": visible_male, "female": visible_female},
            prevalence={"male": prevalence_male, "female": prevalence_female},
            women=women,
            lucent=lucent,
            drain=drains,
            seed=seed,
        )
    )
