"""``fmcache represent``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmcache.cli.options import CacheDir, Debug, Form, open_store
from fmcache.cli.root import app
from fmcache.output import Format, emit, say


@app.command(
    epilog="Example: fmcache represent --model dinov2 --dataset mimic --by sex,race --out coordinates.parquet"
)
def represent(
    model: Annotated[str, typer.Option("--model", "-m", help="A model.")],
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="A dataset.")],
    by: Annotated[str | None, typer.Option(help="Attributes: sex,race. Default: all.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write PCA and t-SNE coordinates of one image a patient: .parquet or .csv."),
    ] = None,
    tsne: Annotated[bool, typer.Option(help="t-SNE coordinates too (needs scikit-learn).")] = True,
    most: Annotated[int, typer.Option(min=20, help="Most patients; a seeded choice beyond.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of the choice of patients, the permutations and t-SNE.")] = 0,
    cache: CacheDir = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """Can groups be told apart in the embeddings? Silhouette and MMD between groups, against permuted groups."""
    from fmcache.analyze.representation import chosen_rows, coordinates, separability
    from fmcache.errors import UsageError

    if out is not None and out.suffix not in (".parquet", ".csv"):
        raise UsageError(
            f"{out} has an unknown ending.", "Known: .parquet, .csv.", "Type: --out coordinates.parquet"
        )
    entry = open_store(cache).embeddings(model, dataset)
    rows = chosen_rows(entry.samples, most, seed)
    x, samples = entry.rows(rows, "float32"), entry.samples[rows.tolist()]
    names = [part.strip() for part in by.split(",") if part.strip()] if by else None
    found = separability(x, samples, names, seed=seed)
    say(f"{len(rows):,} of {entry.n:,} images: one a patient.")
    if out is not None:
        table = coordinates(x, samples, tsne=tsne, seed=seed)
        (table.write_parquet if out.suffix == ".parquet" else table.write_csv)(out)
        say(f"Coordinates: {out}")
    emit(found.to_dicts(), form=form)
