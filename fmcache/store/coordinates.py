"""Maps of an entry's embeddings: where each sample lies in two dimensions. One file an entry and projection.

A map is made anew by whoever wants another one, so its file is replaced in one step, like results.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from fmcache.store.durable import HOUR, make_directory, put, sweep_partials
from fmcache.store.keys import digest
from fmcache.store.schema import COORDINATE_COLUMNS, conform, empty
from fmcache.store.tables import read_table, table_bytes

FOLDER = "coordinates"
_IDENTITY = ("model", "dataset", "key", "projection")


def publish_coordinates(root: Path, coordinates: pl.DataFrame) -> list[Path]:
    """Store COORDINATE_COLUMNS (then ``attribute.*``), each entry and projection in a file of its own, replacing an
    earlier map of it; the files."""
    table = conform(coordinates, COORDINATE_COLUMNS, "coordinates", extra=True)
    make_directory(root / FOLDER, inside=root)
    sweep_partials(root / FOLDER, older_than=HOUR)
    files = []
    for part in table.partition_by(*_IDENTITY, maintain_order=True):
        identity = part.select(_IDENTITY).row(0, named=True)
        file = root / FOLDER / f"{digest(identity)[:16]}.parquet"
        put(file, table_bytes(part), "coordinates")
        files.append(file)
    return files


def coordinate_files(root: Path) -> list[Path]:
    """The files of all maps, in the order of their names."""
    return sorted((root / FOLDER).glob("[0-9a-f]*.parquet"))


def read_coordinates(root: Path) -> pl.DataFrame:
    """All maps, every byte checked; an attribute that a map lacks is null."""
    tables = [empty(COORDINATE_COLUMNS), *(read_table(file) for file in coordinate_files(root))]
    return pl.concat(tables, how="diagonal_relaxed")
