"""``fmcache cache``: look after the cache."""

from __future__ import annotations

from typing import Annotated

import typer

from fmcache.cli.options import CacheDir, Debug, Form, cache_path, open_store
from fmcache.cli.root import app
from fmcache.output import Bar, Format, emit, say

cache_app = typer.Typer(
    help="Look after the cache.", no_args_is_help=True, epilog="Example: fmcache cache ls"
)
app.add_typer(cache_app, name="cache")


@cache_app.command("ls", epilog="Example: fmcache cache ls --format json")
def cache_ls(cache: CacheDir = None, form: Form = Format.auto, debug: Debug = False) -> None:
    """List the entries."""
    from fmcache.store.maintenance import list_entries

    emit(list_entries(open_store(cache)), form=form)


@cache_app.command("show", epilog="Example: fmcache cache show 3f9ab2")
def cache_show(
    key: Annotated[str, typer.Argument(help="The first characters of an entry's key, or MODEL/DATASET.")],
    cache: CacheDir = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """Everything an entry says of itself: key document, segments, provenance."""
    from fmcache.store.maintenance import show_entry

    emit(show_entry(open_store(cache), key), form=form)


@cache_app.command("verify", epilog="Example: fmcache cache verify")
def cache_verify(
    key: Annotated[str | None, typer.Argument(help="One entry; default: everything.")] = None,
    cache: CacheDir = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """Re-hash every byte; name every file that was changed, lost or added."""
    from fmcache.store.maintenance import verify

    with Bar() as bar:
        problems = verify(open_store(cache), key, progress=bar)
    emit([problem.row() for problem in problems], ["path", "problem", "do"], form)
    if any(problem.serious for problem in problems):
        raise typer.Exit(5)
    say(
        "Every published byte is as it was written."
        if not problems
        else "Nothing that was published is damaged."
    )


@cache_app.command("gc", epilog="Example: fmcache cache gc --yes")
def cache_gc(
    yes: Annotated[bool, typer.Option("--yes", help="Really delete; without it only a list.")] = False,
    cache: CacheDir = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """List, or delete, what nothing needs: abandoned staging, superseded dataset versions."""
    from fmcache.store.maintenance import collect_garbage

    emit(collect_garbage(open_store(cache), dry_run=not yes), form=form)


@cache_app.command("repair", epilog="Example: fmcache cache repair 3f9ab2")
def cache_repair(
    key: Annotated[str, typer.Argument(help="The first characters of the damaged entry's key.")],
    cache: CacheDir = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """Move damaged files aside, so that the next extraction makes just their rows again."""
    from fmcache.store.maintenance import repair

    emit(repair(open_store(cache), key), form=form)


@cache_app.command("purge", epilog="Example: fmcache cache purge --patient 10000032 --yes")
def cache_purge(
    patient: Annotated[list[str], typer.Option("--patient", help="A patient_id; repeat for several.")],
    yes: Annotated[bool, typer.Option("--yes", help="Really erase; without it only a list.")] = False,
    cache: CacheDir = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """Erase a patient: rows, embeddings, masks; and the runs and results that were made with them."""
    from fmcache.store.purge import purge

    emit(purge(open_store(cache), patient, dry_run=not yes), ["path", "done", "rows"], form)
    if yes:
        say("Erased. Delete the images too, then extract, probe and compute the metrics again.")
    else:
        say("Nothing is changed yet. To erase for good, add --yes")


@cache_app.command("path", epilog="Example: cd $(fmcache cache path)")
def cache_path_command(cache: CacheDir = None, debug: Debug = False) -> None:
    """Print the cache directory."""
    typer.echo(cache_path(cache).absolute())
