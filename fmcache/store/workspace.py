"""Where a segment is made: its plan, its blocks, and one journal record per finished block. Survives any kill.

staging/<name>.lock            flock; an optimisation only, some network file systems grant it to everyone
staging/<name>/plan.json       key, sha256 of plan.parquet
staging/<name>/plan.parquet    the units [input_digest, slice] in array order
staging/<name>/journal/00007.json   written after the chunk file was fsynced
staging/<name>/segment/<table>/00007.parquet   tables of a block, if it has any; in its journal record too
staging/<name>/segment/        becomes segments/NNNN by one rename
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from fmcache.errors import Busy, CorruptCache
from fmcache.store.arrays import ArrayPlan, metadata, parse_metadata
from fmcache.store.documents import read_document, write_document
from fmcache.store.durable import (
    discard,
    fault_point,
    is_real_directory,
    make_directory,
    put,
    storage_errors,
)
from fmcache.store.keys import digest, file_digest
from fmcache.store.schema import UNIT_COLUMNS
from fmcache.store.tables import content_digest, read_table, write_table

ARRAY = "data.zarr"
PLAN, UNITS, JOURNAL, SEGMENT = "plan.json", "plan.parquet", "journal", "segment"


@dataclass(frozen=True)
class Block:
    """Rows start:stop of the plan's units. `done`: finished by an earlier process, and its bytes verified."""

    index: int
    start: int
    stop: int
    done: bool


@dataclass
class Workspace:
    """An open staging directory.

    Attributes
    ----------
    units : [input_digest, slice] in array order, one row a unit.
    journal : the verified records of finished blocks by block index.
    """

    path: Path
    plan: ArrayPlan
    units: pl.DataFrame
    journal: dict[int, dict[str, Any]]

    @property
    def array(self) -> Path:
        return self.path / SEGMENT / ARRAY

    def units_digest(self, block: int) -> str:
        start, stop = self.plan.bounds(block)
        return content_digest(self.units.slice(start, stop - start))

    def record_path(self, block: int) -> Path:
        return self.path / JOURNAL / f"{block:05d}.json"

    def read_record(self, block: int) -> dict[str, Any] | None:
        """The journal record of a block if it is about these units and its chunk file has these bytes."""
        try:
            record = read_document(self.record_path(block), "block")
            chunk = self.array / self.plan.chunk_name(block)
            if (
                record["units"] == self.units_digest(block)
                and os.lstat(chunk).st_size == record["file"]["bytes"]
                and file_digest(chunk) == record["file"]["sha256"]
                and all(
                    file_digest(self.path / SEGMENT / name) == file["sha256"]
                    for name, file in record.get("tables", {}).items()
                )
            ):
                return record
        except (FileNotFoundError, CorruptCache, OSError, KeyError):
            pass
        return None


@contextmanager
def locked(file: Path, use: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on a file of staging/.

    Raises
    ------
    Busy : another process holds it. DiskFull, StorageError : the lock file cannot be made.
    """
    with storage_errors("taking a lock", file.parent):
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if use:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy(
                    "Another process is writing this very entry.",
                    "Its finished blocks will be used; nothing was changed by this process.",
                    "Wait for it to end, then run the same command again if anything is left to do.",
                ) from None
        yield
    finally:
        os.close(descriptor)


def open_workspace(path: Path, *, key: str, wanted: pl.DataFrame, plan: ArrayPlan) -> Workspace:
    """Resume the staging directory `path`, or begin it.

    Parameters
    ----------
    wanted : the units [input_digest, slice] that this segment has to hold, in the order of a fresh run.
    plan : shape[0] is the number of wanted units.

    Returns
    -------
    The workspace. With the same units as before every finished block is kept; with other units, each finished block
    of which all units are still wanted keeps its place, and the others are planned around it.
    """
    make_directory(path.parent, inside=path.parent.parent)
    earlier = _read_plan(path, key, plan) if is_real_directory(path) else None
    if earlier is None:
        discard(path)
        make_directory(path / SEGMENT / ARRAY, inside=path.parent)
        make_directory(path / JOURNAL, inside=path.parent)
        fault_point("workspace:created")
        space = Workspace(path, plan, wanted, {})
        _write_plan(space, key)
    elif earlier.units.equals(wanted):
        space = earlier
    else:
        space = _replan(earlier, wanted, plan)
        _write_plan(space, key)
    space.journal = {
        block: record
        for block in range(space.plan.blocks)
        if (record := space.read_record(block)) is not None
    }
    fault_point("workspace:opened")
    return space


def _read_plan(path: Path, key: str, plan: ArrayPlan) -> Workspace | None:
    try:
        document = read_document(path / PLAN, "plan")
        units = read_table(path / UNITS)
        if not (is_real_directory(path / SEGMENT / ARRAY) and is_real_directory(path / JOURNAL)):
            return None
        found = parse_metadata((path / SEGMENT / ARRAY / "zarr.json").read_bytes())
    except (FileNotFoundError, CorruptCache):
        return None
    same = (
        document["key"] == key
        and document["units"] == file_digest(path / UNITS)
        and list(units.columns) == list(UNIT_COLUMNS)
        and found.shape == (units.height, *plan.shape[1:])
        and (found.dtype, found.compressed) == (plan.dtype, plan.compressed)
    )
    return Workspace(path, found, units, {}) if same else None


def _write_plan(space: Workspace, key: str) -> None:
    write_table(space.path / UNITS, space.units, "plan_units")
    put(space.array / "zarr.json", metadata(space.plan), "array_metadata")
    units = file_digest(space.path / UNITS)
    write_document(space.path / PLAN, "plan", {"key": key, "units": units}, "plan_document")


def _replan(earlier: Workspace, wanted: pl.DataFrame, plan: ArrayPlan) -> Workspace:
    """Keep finished whole blocks in their places and fill the places between and after them with the rest."""
    rows = earlier.plan.block_rows
    total = wanted.height
    still = set(wanted.rows())
    kept: dict[int, list[Any]] = {}
    for block in range(earlier.plan.blocks):
        start, stop = earlier.plan.bounds(block)
        block_units = earlier.units.slice(start, stop - start).rows()
        whole = stop - start == rows and block < total // rows
        if whole and earlier.read_record(block) is not None and all(unit in still for unit in block_units):
            kept[block] = block_units
            still.difference_update(block_units)
    rest = iter([unit for unit in wanted.rows() if unit in still])
    order: list[Any] = []
    for block in range(-(-total // rows)):
        order += kept.get(block) or [next(rest) for _ in range(min(rows, total - block * rows))]
    units = pl.DataFrame(order, schema=dict(UNIT_COLUMNS), orient="row")
    shape = (total, *plan.shape[1:])
    return Workspace(earlier.path, ArrayPlan(shape, plan.dtype, rows, plan.compressed), units, {})


def block_rows_for(n: int, largest: int) -> int:
    """Rows a block for n units: about sixteen blocks, so that little is lost with a kill; at most `largest`."""
    step = min(256, largest)
    return max(1, min(n, largest, max(step, -(-n // 16 // step) * step)))


def table_name(name: str, block: int) -> str:
    """The file of a block's table `name`, relative to its segment."""
    return f"{name}/{block:05d}.parquet"


def workspace_name(entry: str, part: str) -> str:
    """The staging directory of an entry and a part of it; hex only."""
    return digest({"entry": entry, "part": part})[:16]
