"""``fmcache represent``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmcache.cli.options import CacheDir, Datasets, Debug, Form, Models, open_store
from fmcache.cli.root import app
from fmcache.output import Format, emit, say


@app.command(epilog="Example: fmcache represent --model dinov2 --dataset mimic --by sex,race")
def represent(
    model: Models = None,
    dataset: Datasets = None,
    by: Annotated[str | None, typer.Option(help="Attributes: sex,race. Default: all.")] = None,
    projection: Annotated[
        str | None,
        typer.Option(
            help="Maps to store: pca,tsne. Default: both; t-SNE needs scikit-learn (the extra maps)."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the maps to a file too: .parquet or .csv.")] = None,
    most: Annotated[int, typer.Option(min=20, help="Most patients; a seeded choice beyond.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of the choice of patients, the permutations and t-SNE.")] = 0,
    cache: CacheDir = None,
    form: Form = Format.auto,
    debug: Debug = False,
) -> None:
    """Can groups be told apart in the embeddings? Silhouette and MMD between groups, against permuted groups.

    The maps (PCA, t-SNE; one image a patient) are stored in the cache: the report draws them, fmcache sql has them as
    the table coordinates.
    """
    import polars as pl

    from fmcache.analyze.coordinates import coordinates, parse_projections
    from fmcache.analyze.representation import chosen_rows, separability
    from fmcache.errors import UsageError
    from fmcache.probe.asked import entries_of
    from fmcache.store.sql_export import write_result

    if out is not None and out.suffix not in (".parquet", ".csv"):
        raise UsageError(
            f"{out} has an unknown ending.", "Known: .parquet, .csv.", "Type: --out maps.parquet"
        )
    wanted = parse_projections(projection)
    if projection is None and "tsne" not in wanted:
        say('No t-SNE: scikit-learn is not installed. For it: pip install "fmcache[maps]"')
    names = [part.strip() for part in by.split(",") if part.strip()] if by else None
    store = open_store(cache)
    tables, maps, refused = [], [], None
    for entry in entries_of(store, model, dataset):
        held = store.embeddings(entry.model, entry.dataset, key=entry.key)
        rows = chosen_rows(held.samples, most, seed)
        x, samples = held.rows(rows, "float32").reshape(len(rows), -1), held.samples[rows.tolist()]
        say(f"{entry.model} on {entry.dataset}: {len(rows):,} of {held.n:,} images, one a patient.")
        try:
            made = coordinates(x, samples, entry, wanted, seed)
            found = separability(x, samples, names, seed=seed)
        except UsageError as error:  # of this entry; the others can still be mapped
            refused = error
            say(f"warning: left out. {error.what} {error.found}")
            continue
        tables.append(
            found.select(pl.lit(entry.model).alias("model"), pl.lit(entry.dataset).alias("dataset"), pl.all())
        )
        store.publish_coordinates(made)
        maps.append(made)
    if refused is not None and not tables:
        raise refused
    say(
        f'Stored: {" and ".join(wanted)}. fmcache report draws them; fmcache sql "SELECT * FROM coordinates" has them.'
    )
    if out is not None:
        write_result(pl.concat(maps, how="diagonal_relaxed").to_arrow(), out)
        say(f"Maps: {out}")
    emit(pl.concat(tables).to_dicts(), form=form)
