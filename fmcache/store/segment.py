"""Writing a segment: blocks in any order, each durable when `write` returns, then one rename publishes them all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fmcache.errors import CorruptCache
from fmcache.store.arrays import cast, encode, file_check
from fmcache.store.documents import write_document
from fmcache.store.durable import (
    PARTIAL,
    discard,
    fault_point,
    fsync_path,
    make_directory,
    storage_errors,
    write_durably,
)
from fmcache.store.manifest import NAME as MANIFEST
from fmcache.store.manifest import describe, write_manifest
from fmcache.store.schema import QUARANTINE_COLUMNS, ROW_COLUMNS, empty
from fmcache.store.tables import write_table
from fmcache.store.workspace import ARRAY, SEGMENT, Block, Workspace, table_name


@dataclass(frozen=True)
class Rejected:
    """An input that could not be used: at which stage (read, decode, model, store), and why, in words without ids.

    A unit of the plan is named by `input_digest` and `slice`; an input that never became a unit by `sample_id`.
    """

    stage: str
    reason: str
    input_digest: str | None = None
    slice: int = 0
    sample_id: str | None = None


class SegmentWriter:
    """Writes the blocks of one segment; made by `Cache.segment`.

    Attributes
    ----------
    units : [input_digest, slice], array order; what block ``b`` has to hold are its rows ``b.start:b.stop``.
    blocks : all blocks; those with ``done`` need nothing.
    reused, written : how many blocks were finished by an earlier process, and by this one.
    """

    def __init__(
        self,
        space: Workspace,
        rows: pl.DataFrame,
        head: Mapping[str, Any],
        segments: Path,
        already_stored: Callable[[pl.DataFrame], bool],
    ) -> None:
        self._space, self._rows, self._head, self._segments = space, rows, head, segments
        self._already_stored = already_stored
        self._never_units: list[Rejected] = []
        self._renamed = False
        self.units = space.units
        self.blocks = [
            Block(index, *space.plan.bounds(index), done=index in space.journal)
            for index in range(space.plan.blocks)
        ]
        self.reused, self.written = len(space.journal), 0

    def write(
        self,
        block: int,
        x: np.ndarray,
        rejected: Sequence[Rejected] = (),
        tables: Mapping[str, pl.DataFrame] | None = None,
    ) -> list[Rejected]:
        """Make a block durable: chunk file, its tables, fsync, journal record.

        Parameters
        ----------
        x : [stop - start, ...] in float32 or the stored dtype; rows of rejected units are stored as NaN.
        rejected : the units of this block that have no result.
        tables : what belongs to the rows of this block beside the array, by name (masks and prompts of a mask entry).

        Returns
        -------
        All rejected units of the block: those given, and those whose values are not finite in the stored dtype.

        Raises
        ------
        DiskFull, StorageError : nothing of this block counts; earlier blocks stay.
        """
        space, plan = self._space, self._space.plan
        start, stop = plan.bounds(block)
        if x.shape != (stop - start, *plan.shape[1:]):
            raise ValueError(f"block {block} has the shape {x.shape}, not {(stop - start, *plan.shape[1:])}")
        reasons = self._rows_of(rejected, start, stop)
        given = x
        if reasons:
            given = x.copy()
            given[list(reasons)] = 0.0
        stored, bad, error = cast(given, plan.dtype)
        for row in np.flatnonzero(bad).tolist():
            finite = bool(np.isfinite(x[row]).all())
            why = (
                f"a value overflows {plan.dtype}; extract with --dtype float32"
                if finite
                else "the model gave a value that is not finite"
            )
            unit = self.units.row(start + row)
            reasons[row] = Rejected("store" if finite else "model", why, *unit)
        if reasons:
            stored = stored.copy()
            stored[sorted(reasons)] = np.nan
        if space.record_path(block).exists() and (record := space.read_record(block)) is not None:
            space.journal[block] = record  # another process without a working lock was faster; its bytes stay
            self.reused += 1
        else:
            with storage_errors("writing a block", space.path):
                self._write_chunk(block, stored, reasons, error, tables or {})
            self.written += 1
        return [reasons[row] for row in sorted(reasons)]

    def _rows_of(self, rejected: Sequence[Rejected], start: int, stop: int) -> dict[int, Rejected]:
        """Row within the block → the rejected unit that stands there."""
        if not rejected:
            return {}
        units = self.units.slice(start, stop - start).rows()
        position = {unit: row for row, unit in enumerate(units)}
        return {position[(item.input_digest, item.slice)]: item for item in rejected}

    def _write_chunk(
        self,
        block: int,
        stored: np.ndarray,
        reasons: Mapping[int, Rejected],
        error: float,
        tables: Mapping[str, pl.DataFrame],
    ) -> None:
        space = self._space
        chunk = encode(stored, space.plan)
        path = space.array / space.plan.chunk_name(block)
        temporary = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
        temporary.unlink(missing_ok=True)
        fault_point("block:before_chunk")
        try:
            with ThreadPoolExecutor(1) as other:
                sha256 = other.submit(chunk.sha256)
                write_durably(temporary, chunk.parts, "block")
            fault_point("block:before_rename")
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        fault_point("block:after_rename")
        written = self._write_tables(block, tables)
        rejected = [
            {
                "row": row,
                "input_digest": item.input_digest,
                "slice": item.slice,
                "stage": item.stage,
                "reason": item.reason,
            }
            for row, item in sorted(reasons.items())
        ]
        file = {"bytes": chunk.size, "sha256": sha256.result(), "crc32c": chunk.crc32c}
        record = {
            "block": block,
            "units": space.units_digest(block),
            "file": file,
            "rejected": rejected,
            "max_relative_error": error,
            **({"tables": written} if written else {}),
        }
        write_document(space.record_path(block), "block", record, "journal")
        # After the record: where a file system has one journal (ext4, XFS) the record's fsync took the chunk's rename
        # with it. A record that a power cut leaves without its chunk is not believed by a resume.
        fsync_path(space.array)
        fault_point("block:after_fsync")
        space.journal[block] = record
        fault_point("block:done")

    def _write_tables(self, block: int, tables: Mapping[str, pl.DataFrame]) -> dict[str, dict[str, Any]]:
        """<name>/00007.parquet for block 7; bytes and sha256 of each."""
        folder = self._space.path / SEGMENT
        for name, table in tables.items():
            make_directory(folder / name, inside=self._space.path)
            write_table(folder / table_name(name, block), table, "block_table")
        return describe(folder, [table_name(name, block) for name in tables])

    def reject(self, rejected: Sequence[Rejected]) -> None:
        """Inputs that never became units (unreadable, not an image); named by `sample_id`."""
        self._never_units += rejected

    def publish(self, provenance: Mapping[str, Any]) -> Path | None:
        """Re-hash everything, write the tables and the manifest, and rename.

        Returns
        -------
        The published segment, or None if another process published these units first (its segment is kept).

        Raises
        ------
        CorruptCache : a chunk file is not what its journal record says. ValueError : a block is missing.
        """
        try:
            with storage_errors("publishing a segment", self._space.path):
                return self._publish(provenance)
        except Exception:
            if not self._renamed and self._already_stored(self.units):
                with suppress(
                    OSError
                ):  # others may still write into it; `fmcache cache gc` takes what is left
                    discard(self._space.path)
                return None
            raise

    def _publish(self, provenance: Mapping[str, Any]) -> Path | None:
        space, folder = self._space, self._space.path / SEGMENT
        if missing := [block.index for block in self.blocks if block.index not in space.journal]:
            raise ValueError(f"blocks {missing[:5]} were never written")
        if self.units.height and self._already_stored(self.units):
            discard(space.path)
            return None
        fault_point("publish:begin")
        chunks = {
            f"{ARRAY}/{space.plan.chunk_name(index)}": record["file"]
            for index, record in sorted(space.journal.items())
        }
        with ThreadPoolExecutor(4) as pool:
            making = pool.submit(self._write_rows, folder)
            checks = list(pool.map(file_check, [folder / name for name in chunks]))
            rows, quarantine = making.result()
        for (name, file), found in zip(chunks.items(), checks, strict=True):
            if found != (file["bytes"], file["crc32c"]):
                raise CorruptCache(
                    f"{name} changed after it was written.",
                    "Another process writes the same staging directory and the lock does not work here.",
                    "Let one process write at a time, then run the same command again.",
                )
        beside = {
            name: file for record in space.journal.values() for name, file in record.get("tables", {}).items()
        }
        if describe(folder, list(beside)) != dict(sorted(beside.items())):
            raise CorruptCache(
                "A table of a block changed after it was written.",
                "Another process writes the same staging directory and the lock does not work here.",
                "Let one process write at a time, then run the same command again.",
            )
        small = describe(folder, [f"{ARRAY}/zarr.json", "rows.parquet", "quarantine.parquet"])
        self._remove_strays(folder, {*small, *chunks, *beside})
        fsync_path(space.array)
        errors = [record["max_relative_error"] for record in space.journal.values()]
        content = {
            **self._head,
            "n": self.units.height,
            "shape": list(space.plan.shape),
            "dtype": space.plan.dtype,
            "block_rows": space.plan.block_rows,
            "rows": rows.height,
            "quarantined": quarantine.height,
            "max_relative_error": max(errors, default=0.0),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "provenance": dict(provenance),
            "files": {**small, **chunks, **beside},
        }
        write_manifest(folder, "segment", content)
        fsync_path(folder)
        fault_point("publish:before_rename")
        final = self._rename(folder)
        if final is not None:
            fault_point("publish:after_rename")
            fsync_path(self._segments)
            fsync_path(space.path)
            fault_point("publish:after_fsync")
        discard(space.path)
        fault_point("publish:end")
        return final

    def _rename(self, folder: Path) -> Path | None:
        while True:
            taken = [int(child.name) for child in self._segments.iterdir() if child.name.isdigit()]
            final = self._segments / f"{max(taken, default=-1) + 1:04d}"
            try:
                os.rename(folder, final)
                self._renamed = True
                return final
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                if self._already_stored(self.units):
                    return None

    def _remove_strays(self, folder: Path, expected: set[str]) -> None:
        """What no manifest will name. A manifest stays: ours replaces it, or another process is about to rename it."""
        expected.add(MANIFEST)
        for file in sorted(folder.rglob("*")):
            if not file.is_dir() and file.relative_to(folder).as_posix() not in expected:
                file.unlink(missing_ok=True)

    def _write_rows(self, folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
        """rows.parquet and quarantine.parquet, durable; returns both."""
        rows, quarantine = self._tables()
        write_table(folder / "rows.parquet", rows, "rows")
        write_table(folder / "quarantine.parquet", quarantine, "quarantine")
        return rows, quarantine

    def _tables(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Which sample owns which array row, and which inputs have none."""
        space = self._space
        place = {"segment": pl.lit(None, pl.Int32), "row": pl.int_range(pl.len(), dtype=pl.Int64)}
        failed = [
            (item["input_digest"], item["slice"], item["stage"], item["reason"])
            for record in space.journal.values()
            for item in record["rejected"]
        ]
        reasons = pl.DataFrame(
            failed,
            schema={"input_digest": pl.String, "slice": pl.Int32, "stage": pl.String, "reason": pl.String},
            orient="row",
        )
        wanted = self._rows.drop("segment", "row")
        linked = self._rows.filter(pl.col("row").is_not_null())
        unit = ["input_digest", "slice"]
        if wanted.select(unit).equals(self.units):  # a sample a unit, in order: the join is known
            here = wanted.with_columns(**place)
        else:
            own = self.units.with_columns(**place)
            here = wanted.join(own, on=unit, how="inner", maintain_order="left")
        good = here.join(reasons, on=unit, how="anti", maintain_order="left")
        rows = pl.concat([good.select(list(ROW_COLUMNS)), linked.select(list(ROW_COLUMNS))])
        bad = here.join(reasons, on=unit, how="inner", maintain_order="left")
        never = pl.DataFrame(
            [
                (item.sample_id, item.slice, item.input_digest, None, item.stage, item.reason)
                for item in self._never_units
            ],
            schema=dict(QUARANTINE_COLUMNS),
            orient="row",
        )
        # what is wrong with a whole unit comes last: it is why a sample is not there
        quarantine = pl.concat([empty(QUARANTINE_COLUMNS), never, bad.select(list(QUARANTINE_COLUMNS))])
        return rows, quarantine
