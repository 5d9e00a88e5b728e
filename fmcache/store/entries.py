"""Entries and their segments: one model × dataset × kind, and what of it is published."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from fmcache.errors import CorruptCache
from fmcache.store.arrays import ArrayPlan, parse_metadata
from fmcache.store.documents import damaged, read_document
from fmcache.store.durable import is_real_directory
from fmcache.store.keys import digest
from fmcache.store.manifest import Published, open_published
from fmcache.store.schema import QUARANTINE_COLUMNS, ROW_COLUMNS, empty
from fmcache.store.workspace import ARRAY

SHORT = 12  # hex digits of a key in a directory name


@dataclass(frozen=True)
class Segment:
    """A published segment. Rows ``0:n`` of its array are embeddings; `rows` says whose."""

    number: int
    published: Published

    @property
    def path(self) -> Path:
        return self.published.path

    @property
    def n(self) -> int:
        return int(self.published.content["n"])

    @cached_property
    def plan(self) -> ArrayPlan:
        return parse_metadata(self.published.read(f"{ARRAY}/zarr.json"))

    @cached_property
    def rows(self) -> pl.DataFrame:
        """ROW_COLUMNS, with `segment` filled in for its own rows."""
        table = self.published.table("rows.parquet")
        return table.with_columns(pl.col("segment").fill_null(self.number).cast(pl.Int32))

    def table(self, name: str) -> pl.DataFrame | None:
        """The tables `name` of all blocks put together; None if there is none."""
        files = [file for file in sorted(self.published.files) if file.startswith(f"{name}/")]
        return pl.concat([self.published.table(file) for file in files]) if files else None

    @cached_property
    def quarantine(self) -> pl.DataFrame:
        return self.published.table("quarantine.parquet")


@dataclass(frozen=True)
class Entry:
    """One model × dataset × kind under one key.

    Attributes
    ----------
    document : the key document; ``key == digest(document)``, 64 hex digits.
    segments : the published segments in the order of their numbers.
    """

    model: str
    dataset: str
    kind: str
    key: str
    document: Mapping[str, Any]
    path: Path
    segments: tuple[Segment, ...]

    @property
    def n(self) -> int:
        """Array rows over all segments."""
        return sum(segment.n for segment in self.segments)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row: ``(d,)`` or ``(prompts, h, w)``."""
        return tuple(self.segments[0].published.content["shape"][1:])

    @property
    def dtype(self) -> str:
        return str(self.segments[0].published.content["dtype"])


@dataclass(frozen=True)
class Stored:
    """What the segments of an entry hold.

    Attributes
    ----------
    units : [input_digest, slice, segment, row], one row a unit (its first copy).
    rows : ROW_COLUMNS, one row a (sample, slice, input digest).
    quarantine : QUARANTINE_COLUMNS.
    """

    units: pl.DataFrame
    rows: pl.DataFrame
    quarantine: pl.DataFrame


def stored_in(segments: tuple[Segment, ...]) -> Stored:
    """Collect rows and quarantine; links into a segment that is gone count as not stored."""
    present = [segment.number for segment in segments]
    rows = pl.concat([empty(ROW_COLUMNS), *(segment.rows for segment in segments)])
    rows = rows.filter(pl.col("segment").is_in(present)).unique(
        ["sample_id", "slice", "input_digest"], keep="first", maintain_order=True
    )
    quarantine = pl.concat([empty(QUARANTINE_COLUMNS), *(segment.quarantine for segment in segments)])
    units = rows.select("input_digest", "slice", "segment", "row").unique(
        ["input_digest", "slice"], keep="first", maintain_order=True
    )
    return Stored(units, rows, quarantine)


def directories(parent: Path) -> Iterator[Path]:
    """The real sub-directories in name order; a symbolic link among them is refused."""
    if is_real_directory(parent):
        for child in sorted(parent.iterdir()):
            mode = child.lstat().st_mode
            if stat.S_ISLNK(mode):
                is_real_directory(child)
            if stat.S_ISDIR(mode):
                yield child


def read_segments(entry: Path) -> tuple[Segment, ...]:
    """The published segments of an entry directory, sizes checked."""
    return tuple(
        Segment(int(child.name), open_published(child, "segment"))
        for child in directories(entry / "segments")
        if child.name.isdigit()
    )


def read_entry(path: Path) -> Entry | None:
    """The entry in a directory, or None where nothing was published yet.

    Raises
    ------
    CorruptCache : entry.json is gone or changed, or does not belong to this directory.
    """
    segments = read_segments(path)
    try:
        body = read_document(path / "entry.json", "entry")
    except FileNotFoundError:
        if not segments:
            return None
        raise damaged(f"entry.json of {path}", "It is gone.") from None
    if not segments:
        return None
    key = digest(body["document"])
    if path.name != f"{body['kind']}-{key[:SHORT]}":
        raise CorruptCache(
            f"{path} is not where its entry.json belongs.",
            f"Its key is {key[:SHORT]}…; the directory was renamed or copied.",
            "Give it its old name back.",
        )
    return Entry(body["model"], body["dataset"], body["kind"], key, body["document"], path, segments)
