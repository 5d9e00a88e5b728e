"""``fmcache probe``: one command a usage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fmcache.cli.options import CacheDir, Datasets, Debug, Form, Models, open_store
from fmcache.cli.root import app
from fmcache.output import Bar, Format, emit

if TYPE_CHECKING:
    from fmcache.store.cache import Cache


probe_app = typer.Typer(
    help="Train probes on cached embeddings. Without a usage: lp, for every image entry and label.",
    invoke_without_command=True,
    epilog="Example: fmcache probe lp --model dinov2 --dataset mimic",
)
app.add_typer(probe_app, name="probe")


def _probe_lp(models: list[str] | None, datasets: list[str] | None, labels: list[str] | None, seeds: int,
              slices: str, allow_leakage: bool, cache: Path | None, form: Format) -> None:  # fmt: skip
    from fmcache.probe.run import probe_lp

    store = open_store(cache)
    with Bar() as bar:
        run_ids = probe_lp(
            store, models=models, datasets=datasets, labels=labels, seeds=seeds, slices=slices,
            allow_leakage=allow_leakage, progress=bar,
        )  # fmt: skip
    emit([_run_row(store, run_id) for run_id in run_ids], form=form)


def _run_row(store: Cache, run_id: str) -> dict[str, Any]:
    info = store.run(run_id).info
    return {
        "run_id": run_id,
        **{name: info.get(name) for name in ("model", "dataset", "usage", "method")},
        "labels": len(info.get("labels", [])),
    }


@probe_app.callback()
def probe(
    context: typer.Context, cache: CacheDir = None, form: Form = Format.auto, debug: Debug = False
) -> None:
    if context.invoked_subcommand is None:
        _probe_lp(None, None, None, 1, "max", False, cache, form)


@probe_app.command("lp", epilog="Example: fmcache probe lp --model dinov2 --dataset mimic --label no_finding")
def probe_lp_command(
    model: Models = None,
    dataset: Datasets = None,
    label: Annotated[list[str] | None, typer.Option("--label", help="A label; default: all.")] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Seeds of the validation split where the data has none.")
    ] = 1,
    slices: Annotated[
        str, typer.Option(help="How slices of a volume are pooled: max (paper) or mean.")
    ] = "max",
    allow_leakage: Annotated[bool, typer.Option(help="Accept a patient in two splits (recorded).")] = False,
    cache: CacheDir = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """L2-regularised logistic regression of every label, the penalty chosen on validation patients."""
    _probe_lp(model, dataset, label, seeds, slices, allow_leakage, cache, form)
