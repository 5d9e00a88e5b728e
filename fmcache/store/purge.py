"""``fmcache cache purge``: take a patient out of a cache, everywhere, for good.

Published directories never change, so each that holds something of the patient is made anew without it and the old one
is deleted: the newest version of a dataset, and segments (the patient's rows become NaN and lose their names). What was
computed *with* the patient cannot be corrected and is deleted: older versions, runs, their results, maps, unfinished
work.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fmcache.errors import CorruptCache, UsageError
from fmcache.store.arrays import encode, read_chunk
from fmcache.store.cache import Cache
from fmcache.store.coordinates import coordinate_files
from fmcache.store.datasets import DatasetVersion, read_version
from fmcache.store.documents import read_document
from fmcache.store.durable import (
    fault_point,
    fsync_path,
    make_directory,
    remove_tree,
    storage_errors,
    write_durably,
)
from fmcache.store.entries import SHORT, Entry, Segment, directories, stored_in
from fmcache.store.maintenance import retire
from fmcache.store.manifest import describe, write_manifest
from fmcache.store.tables import read_table, write_table
from fmcache.store.workspace import ARRAY, PLAN, locked, workspace_name

LOST = "deleted: it was computed with this patient"


@dataclass(frozen=True)
class _Patient:
    """What is to be erased: dataset → sample ids over all its versions, and the versions that hold them."""

    samples: dict[str, set[str]]
    versions: dict[str, list[tuple[Path, DatasetVersion, int]]]


def purge(cache: Cache, patients: list[str], dry_run: bool = True) -> list[dict[str, Any]]:
    """Erase patients (or list what that would change).

    Returns
    -------
    Rows of path, what is done to it, and how many rows of the patients it held.

    Raises
    ------
    UsageError : no dataset of the cache has a sample of one of them. Busy : an entry of theirs is being written.
    """
    with storage_errors("erasing", cache.path):
        found = _find(cache, patients)
        known = {
            one
            for of in found.versions.values()
            for _, version, _ in of
            for one in version.samples["patient_id"]
        }
        if absent := [one for one in patients if one not in known]:
            raise UsageError(
                f"{len(absent)} of {len(patients)} patients are in no dataset of this cache.",
                "Ids are text, exactly as in the column patient_id: 007 is not 7.",
                'Type: fmcache sql "SELECT DISTINCT dataset, patient_id FROM samples"',
            )
        return [
            *_purge_staging(cache, found, dry_run),
            *_purge_runs(cache, found, dry_run),
            *_purge_coordinates(cache, found, dry_run),
            *_purge_entries(cache, found, dry_run),
            *_purge_datasets(cache, found, patients, dry_run),
            *_purge_damaged(cache, dry_run),
        ]


def _find(cache: Cache, patients: list[str]) -> _Patient:
    samples: dict[str, set[str]] = {}
    versions: dict[str, list[tuple[Path, DatasetVersion, int]]] = {}
    for folder in directories(cache.path / "datasets"):
        for place in directories(folder):
            version = read_version(place)
            theirs = version.samples.filter(pl.col("patient_id").is_in(patients))
            if theirs.height:
                samples.setdefault(version.name, set()).update(theirs["sample_id"])
                versions.setdefault(version.name, []).append((place, version, theirs.height))
    return _Patient(samples, versions)


def _row(cache: Cache, path: Path, done: str, rows: int) -> dict[str, Any]:
    return {"path": path.relative_to(cache.path).as_posix(), "done": done, "rows": rows}


# -------------------------------------------------------------------------------------------------- runs and datasets


def _purge_runs(cache: Cache, found: _Patient, dry_run: bool) -> Iterator[dict[str, Any]]:
    everyone = set().union(*found.samples.values())
    for run in cache.runs():
        made_from = {name for name in found.samples if name in _texts(run.info)}
        ids = set().union(*(found.samples[name] for name in made_from)) or everyone
        count = run.predictions().filter(pl.col("sample_id").is_in(list(ids))).height
        if count or made_from:
            results = cache.path / "results" / f"{run.run_id}.parquet"
            if not dry_run:
                results.unlink(missing_ok=True)
                fault_point("purge:run")
                retire(run.published.path)
            yield _row(cache, run.published.path, LOST, count)


def _purge_coordinates(cache: Cache, found: _Patient, dry_run: bool) -> Iterator[dict[str, Any]]:
    for file in coordinate_files(cache.path):
        try:
            table = read_table(file)
        except CorruptCache:  # it may hold their rows, and can be made again
            count = 0
        else:
            ids = found.samples.get(table["dataset"][0])
            if ids is None:
                continue
            count = table.filter(pl.col("sample_id").is_in(list(ids))).height
        if not dry_run:
            file.unlink(missing_ok=True)
            fault_point("purge:coordinates")
        yield _row(cache, file, LOST, count)


def _texts(value: Any) -> Iterator[str]:
    """Every text in a document: a run names the datasets that it was made from in several ways."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _purge_datasets(
    cache: Cache, found: _Patient, patients: list[str], dry_run: bool
) -> Iterator[dict[str, Any]]:
    for name, versions in found.versions.items():
        newest = cache.dataset(name)
        for place, version, count in versions:
            current = version.sequence == newest.sequence
            if current and not dry_run:
                rest = version.samples.filter(~pl.col("patient_id").is_in(patients).fill_null(False))
                cache.publish_dataset(name, version.card, rest)
                fault_point("purge:dataset")
            if not dry_run:
                retire(place)
            yield _row(cache, place, "published anew without them" if current else LOST, count)


def _purge_damaged(cache: Cache, dry_run: bool) -> Iterator[dict[str, Any]]:
    for folder in list(directories(cache.path / "damaged")):
        if not dry_run:
            retire(folder)
        yield _row(cache, folder, "deleted: what repair set aside may hold their rows", 0)


# ---------------------------------------------------------------------------------------------- unfinished work


def _purge_staging(cache: Cache, found: _Patient, dry_run: bool) -> Iterator[dict[str, Any]]:
    """All unfinished work (of array jobs and probes too) but extractions of datasets without the patients."""
    staging = cache.path / "staging"
    for folder in list(directories(staging)):
        if _dataset_of(cache, folder) not in (None, *found.samples):
            continue
        if not dry_run:
            with locked(staging / f"{folder.name}.lock"):
                retire(folder)
            fault_point("purge:staging")
        yield _row(cache, folder, "deleted: unfinished work may hold their rows", 0)


def _dataset_of(cache: Cache, folder: Path) -> str | None:
    """The dataset that an unfinished extraction is about; None if that cannot be told, or it is something else."""
    try:
        key = read_document(folder / PLAN, "plan")["key"]
        for entry in (cache.path / "entries").glob(f"*/*/*-{key[:SHORT]}/entry.json"):
            return str(read_document(entry, "entry")["dataset"])
    except (FileNotFoundError, CorruptCache, KeyError, TypeError):
        pass
    return None


# ---------------------------------------------------------------------------------------------------------- entries


def _purge_entries(cache: Cache, found: _Patient, dry_run: bool) -> Iterator[dict[str, Any]]:
    for entry in cache.entries():
        ids = found.samples.get(entry.dataset)
        if not ids or entry.kind == "text":
            continue
        relative = entry.path.relative_to(cache.path).as_posix()
        staging = cache.path / "staging"
        make_directory(staging, inside=cache.path)
        with locked(staging / f"{workspace_name(relative, '')}.lock"):
            yield from _purge_segments(cache, entry, list(ids), dry_run)


def _purge_segments(cache: Cache, entry: Entry, ids: list[str], dry_run: bool) -> Iterator[dict[str, Any]]:
    unit = ["input_digest", "slice"]
    stored = stored_in(entry.segments)
    theirs = pl.concat([stored.rows.select("sample_id", *unit), stored.quarantine.select("sample_id", *unit)])
    theirs = theirs.filter(pl.col("sample_id").is_in(ids)).select(unit).unique()
    others = stored.rows.filter(~pl.col("sample_id").is_in(ids)).select(unit).unique()
    erased = theirs.join(others, on=unit, how="anti", nulls_equal=True)
    for segment in entry.segments:
        named = sum(
            table.filter(pl.col("sample_id").is_in(ids)).height
            for table in (segment.rows, segment.quarantine)
        )
        held = (
            segment.rows.filter(pl.col("segment") == segment.number).join(erased, on=unit, how="semi").height
        )
        if named or held:
            if not dry_run:
                _rewrite(cache, segment, ids, erased)
            yield _row(cache, segment.path, "made anew without their rows", max(named, held))


def _rewrite(cache: Cache, segment: Segment, ids: list[str], erased: pl.DataFrame) -> None:
    """The segment without these samples and units, in the same place under the same number (others link to it).

    A kill between the two renames leaves the segment absent, never half: it is then extracted again.
    """
    unit = ["input_digest", "slice"]
    raw = segment.published.table("rows.parquet")
    own = raw.filter(pl.col("segment").is_null()).join(erased, on=unit, how="semi")
    gone = np.unique(own["row"].to_numpy())
    work = cache.path / "staging" / f"purge-{uuid.uuid4().hex[:16]}"
    make_directory(work / ARRAY, inside=cache.path)
    files: dict[str, dict[str, Any]] = {}
    for block in range(segment.plan.blocks):
        name = f"{ARRAY}/{segment.plan.chunk_name(block)}"
        start, stop = segment.plan.bounds(block)
        inside = gone[(gone >= start) & (gone < stop)] - start
        if not inside.size:
            os.link(segment.path / name, work / name)
            files[name] = dict(segment.published.files[name])
            continue
        x = np.empty((stop - start, *segment.plan.shape[1:]), segment.plan.dtype)
        file = segment.published.files[name]
        read_chunk(segment.path / name, segment.plan, x, size=file["bytes"], check=file["crc32c"])
        x[inside] = np.nan
        chunk = encode(x, segment.plan)
        write_durably(work / name, chunk.parts, "purge_chunk")
        files[name] = {"bytes": chunk.size, "sha256": chunk.sha256(), "crc32c": chunk.crc32c}
    write_durably(work / ARRAY / "zarr.json", [segment.published.read(f"{ARRAY}/zarr.json")], "purge_array")
    fsync_path(work / ARRAY)
    rows = raw.filter(~pl.col("sample_id").is_in(ids)).join(erased, on=unit, how="anti")
    quarantine = segment.quarantine.filter(~pl.col("sample_id").is_in(ids).fill_null(False))
    write_table(work / "rows.parquet", rows, "purge_rows")
    write_table(work / "quarantine.parquet", quarantine, "purge_quarantine")
    small = [f"{ARRAY}/zarr.json", "rows.parquet", "quarantine.parquet"]
    for name in segment.published.files:
        if name.endswith(".parquet") and "/" in name:
            make_directory((work / name).parent, inside=work)
            table = segment.published.table(name).join(erased, on=unit, how="anti")
            write_table(work / name, table, "purge_table")
            small.append(name)
    content = {
        **segment.published.content,
        "rows": rows.height,
        "quarantined": quarantine.height,
        "files": {**files, **describe(work, small)},
    }
    write_manifest(work, "segment", content)
    fsync_path(work)
    old = cache.path / "staging" / f"deleted-{uuid.uuid4().hex[:16]}"
    fault_point("purge:before_exchange")
    segment.path.rename(old)
    fault_point("purge:between")
    work.rename(segment.path)
    fsync_path(segment.path.parent)
    fsync_path(old.parent)
    fault_point("purge:after_exchange")
    remove_tree(old)
