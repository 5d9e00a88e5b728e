"""The tables of SQL: which files each is made of, and ``catalog.sql``, which shows them to the plain duckdb client.

The text of the views and macros is one and the same for both (views.sql, macros.sql); only the lists of files differ:
globs in catalog.sql, verified files in `fmcache sql`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache as once
from importlib.resources import files
from pathlib import Path
from typing import Any

import polars as pl

from fmcache.store import schema
from fmcache.store.coordinates import coordinate_files
from fmcache.store.durable import put, read_bytes
from fmcache.store.entries import directories
from fmcache.store.manifest import Published, open_published
from fmcache.store.tables import read_table

CATALOG = "catalog.sql"

# Variable of views.sql → the glob of its files. Of the versions of a dataset only the newest is a table.
GLOBS: Mapping[str, str] = {
    "run_files": "runs/*/run.json",
    "prediction_files": "runs/*/predictions.parquet",
    "result_files": "results/*.parquet",
    "coordinate_files": "coordinates/*.parquet",
    "sample_files": "datasets/*/*/samples.parquet",
    "card_files": "datasets/*/*/card.json",
    "manifest_files": "entries/*/*/*/segments/*/manifest.json",
    "mask_row_files": "entries/*/*/mask-*/segments/*/rows.parquet",
    "mask_files": "entries/*/*/mask-*/segments/*/masks/*.parquet",
    "prompt_files": "entries/*/*/mask-*/segments/*/prompts/*.parquet",
}

_HEAD = f"""\
-- fmcache's tables and aggregates for the plain duckdb client:  cd <cache> && duckdb -init {CATALOG}
-- Made by fmcache; it may be replaced by a later version. The client does not verify what it reads: fmcache sql does.
"""


@dataclass(frozen=True)
class Table:
    """A table of SQL: the variables that its view needs, and what it says in one line."""

    name: str
    variables: tuple[str, ...]
    about: str


TABLES = (
    Table("samples", ("sample_files", "card_files"), "the newest version of every dataset: one row a sample"),
    Table("entries", ("manifest_files",), "what is extracted: one row a model, dataset, kind and key"),
    Table("segments", ("manifest_files",), "the segments of the entries, with provenance"),
    Table(
        "masks",
        ("mask_row_files", "mask_files", "prompt_files", "manifest_files", "sample_files", "card_files"),
        "one row a picture, class and prompt of a segmentation model, with the sample's columns",
    ),
    Table("runs", ("run_files",), "one row a run: what made its predictions"),
    Table("predictions", ("prediction_files", "run_files"), "one row a run, sample, label and seed"),
    Table("results", ("result_files",), "the tidy metrics of all runs"),
    Table("metrics", ("result_files",), "another name of results"),
    Table(
        "coordinates",
        ("coordinate_files",),
        "maps of embeddings: one row a sample and projection (pca, tsne)",
    ),
)


@once
def views() -> str:
    """views.sql, with the columns of empty tables filled in from the schema."""
    text = _read("views.sql")
    for name in _SCHEMAS:
        columns: Mapping[str, pl.DataType] = getattr(schema, name)
        nulls = [f'NULL::{_TYPES[dtype.base_type()]} AS "{column}"' for column, dtype in columns.items()]
        text = text.replace(f"{{{name}}}", ", ".join(nulls))
    return text


def macros() -> str:
    """macros.sql."""
    return _read("macros.sql")


def _read(name: str) -> str:
    return files("fmcache.store").joinpath(name).read_text(encoding="utf-8")


_SCHEMAS = (
    "SAMPLE_COLUMNS", "PREDICTION_COLUMNS", "RESULT_COLUMNS", "COORDINATE_COLUMNS", "ROW_COLUMNS", "MASK_COLUMNS",
    "PROMPT_COLUMNS",
)  # fmt: skip
_TYPES: Mapping[Any, str] = {
    pl.String: "VARCHAR",
    pl.Int32: "INTEGER",
    pl.Int64: "BIGINT",
    pl.Float32: "FLOAT",
    pl.Float64: "DOUBLE",
}


def catalog_text() -> str:
    """What catalog.sql holds: variables by glob, then the views and macros."""
    lines = [_HEAD]
    for variable, pattern in GLOBS.items():
        if pattern.startswith(
            "datasets/"
        ):  # the newest version of each dataset: the last name in its directory
            newest = f"SELECT max(file) AS file FROM glob('{pattern}') GROUP BY parse_path(file)[-3]"
            lines.append(f"SET VARIABLE {variable} = (SELECT list(file ORDER BY file) FROM ({newest}));")
        else:
            lines.append(
                f"SET VARIABLE {variable} = (SELECT list(file ORDER BY file) FROM glob('{pattern}'));"
            )
    return "\n".join([*lines, "", views(), macros()])


def write_catalog(root: Path) -> None:
    """Put catalog.sql into a cache if it is not there as this version writes it."""
    text = catalog_text().encode()
    path = root / CATALOG
    try:
        current = read_bytes(path)
    except FileNotFoundError:
        current = b""
    if current != text:
        put(path, text, "catalog")


def verified_files(root: Path, variables: set[str]) -> dict[str, list[Path]]:
    """The published files of these variables, each with the bytes that its manifest names.

    Raises
    ------
    CorruptCache : a file is not as it was published.
    """
    return {variable: list(_FINDERS[variable](root)) for variable in sorted(variables)}


def _checked(published: Published, name: str) -> Path:
    published.check(name)
    return published.path / name


def _runs(name: str) -> Callable[[Path], Iterator[Path]]:
    return lambda root: (
        _checked(open_published(folder, "run_manifest"), name) for folder in directories(root / "runs")
    )


def _newest(name: str) -> Callable[[Path], Iterator[Path]]:
    def find(root: Path) -> Iterator[Path]:
        for dataset in directories(root / "datasets"):
            if versions := list(directories(dataset)):
                yield _checked(open_published(versions[-1], "dataset"), name)

    return find


def _segments(root: Path) -> Iterator[Published]:
    for model in directories(root / "entries"):
        for dataset in directories(model):
            for entry in directories(dataset):
                for folder in directories(entry / "segments"):
                    if folder.name.isdigit():
                        yield open_published(folder, "segment")


def _manifests(root: Path) -> Iterator[Path]:
    return (segment.path / "manifest.json" for segment in _segments(root))


def _masks(begins: str) -> Callable[[Path], Iterator[Path]]:
    return lambda root: (
        _checked(segment, name)
        for segment in _segments(root)
        if segment.content["kind"] == "mask"
        for name in sorted(segment.files)
        if name.startswith(begins)
    )


def _results(root: Path) -> Iterator[Path]:
    return _own_digest(sorted((root / "results").glob("[0-9a-f]*.parquet")))


def _coordinates(root: Path) -> Iterator[Path]:
    return _own_digest(coordinate_files(root))


def _own_digest(files: Iterable[Path]) -> Iterator[Path]:
    for file in files:
        read_table(file)  # has no manifest; its content digest is in the file
        yield file


_FINDERS: Mapping[str, Callable[[Path], Iterator[Path]]] = {
    "run_files": _runs("run.json"),
    "prediction_files": _runs("predictions.parquet"),
    "result_files": _results,
    "coordinate_files": _coordinates,
    "sample_files": _newest("samples.parquet"),
    "card_files": _newest("card.json"),
    "manifest_files": _manifests,
    "mask_row_files": _masks("rows.parquet"),
    "mask_files": _masks("masks/"),
    "prompt_files": _masks("prompts/"),
}
