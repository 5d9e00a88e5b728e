"""``fmcache cache ls|show|verify|gc|repair``: look at a cache, prove it, tidy it, mend it."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import polars as pl

from fmcache.errors import Busy, CorruptCache, MissingEntry, UsageError
from fmcache.progress import Progress, Silent
from fmcache.store.arrays import file_check
from fmcache.store.cache import IDENTITY, Cache
from fmcache.store.catalog import CATALOG, catalog_text
from fmcache.store.datasets import read_version
from fmcache.store.documents import read_document, write_document
from fmcache.store.durable import (
    fault_point,
    fsync_path,
    make_directory,
    read_bytes,
    remove_tree,
    storage_errors,
    write_durably,
)
from fmcache.store.entries import SHORT, Entry, Segment, directories, read_entry
from fmcache.store.keys import file_digest
from fmcache.store.manifest import NAME, open_published
from fmcache.store.schema import UNIT_COLUMNS
from fmcache.store.tables import content_digest, read_table, write_table
from fmcache.store.workspace import ARRAY, JOURNAL, PLAN, SEGMENT, UNITS, locked, table_name, workspace_name

KINDS = {"datasets": "dataset", "entries": "segment", "runs": "run_manifest"}
# folders of tables without a manifest, and what makes such a table anew
_LOOSE = {"results": "Type: fmcache metrics", "coordinates": "Type: fmcache represent"}


@dataclass(frozen=True)
class Problem:
    """One thing that `verify` found. `serious`: published bytes are not what they were."""

    path: str
    problem: str
    do: str
    serious: bool = True

    def row(self) -> dict[str, Any]:
        return {"path": self.path, "problem": self.problem, "do": self.do}


def list_entries(cache: Cache) -> list[dict[str, Any]]:
    """One row an entry: model, dataset, kind, key, rows, shape, dtype, segments, quarantined, bytes."""
    return [
        {
            "model": entry.model,
            "dataset": entry.dataset,
            "kind": entry.kind,
            "key": entry.key[:SHORT],
            "rows": entry.n,
            "d": " × ".join(str(size) for size in entry.shape),
            "dtype": entry.dtype,
            "segments": len(entry.segments),
            "quarantined": sum(int(s.published.content["quarantined"]) for s in entry.segments),
            "MB": round(sum(s.published.size for s in entry.segments) / 1e6, 2),
        }
        for entry in cache.entries()
    ]


def find_entry(cache: Cache, name: str) -> Entry:
    """An entry by the first characters of its key or by MODEL/DATASET.

    Raises
    ------
    MissingEntry : none. UsageError : several keys begin so.
    """
    entries = cache.entries()
    found = [entry for entry in entries if entry.key.startswith(name)] or [
        entry for entry in entries if f"{entry.model}/{entry.dataset}" == name
    ]
    if len(found) == 1:
        return found[0]
    if found:
        keys = ", ".join(entry.key[:SHORT] for entry in found)
        raise UsageError(
            f"{name} names {len(found)} entries.", f"Their keys: {keys}.", "Give more of the key."
        )
    names = [f"{entry.model}/{entry.dataset}" for entry in entries]
    near = get_close_matches(name, [*names, *(entry.key[:SHORT] for entry in entries)], n=1)
    raise MissingEntry(
        f"No entry is called {name}.",
        f"The cache holds {', '.join(names[:6]) or 'no entry'}.",
        f"Did you mean {near[0]}?" if near else "Type: fmcache cache ls",
    )


def show_entry(cache: Cache, name: str) -> list[dict[str, Any]]:
    """Everything an entry says of itself, as rows of field and value."""
    entry = find_entry(cache, name)
    rows = [
        {"field": field, "value": getattr(entry, field)} for field in ("model", "dataset", "kind", "key", "n")
    ]
    rows += [{"field": f"key.{field}", "value": value} for field, value in _flat(entry.document)]
    for segment in entry.segments:
        content = {key: value for key, value in segment.published.content.items() if key != "files"}
        rows += [
            {"field": f"segment.{segment.number:04d}.{field}", "value": value}
            for field, value in _flat(content)
            if field not in ("model", "dataset", "kind", "key")
        ]
        why = segment.quarantine.group_by("reason").len().sort("len", "reason", descending=[True, False])
        rows += [
            {"field": f"segment.{segment.number:04d}.rejected", "value": f"{n:,} x {reason}"}
            for reason, n in why.rows()
        ]
    return rows


def _flat(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


# ------------------------------------------------------------------------------------------------------------ verify


def verify(cache: Cache, key: str | None = None, progress: Progress | None = None) -> list[Problem]:
    """Re-hash every published byte; name every file that was changed, lost or added.

    Parameters
    ----------
    key : only this entry (the first characters of its key, or MODEL/DATASET).
    """
    progress = progress or Silent()
    if key is not None:
        folders = [("segment", segment.path) for segment in find_entry_folders(cache, key)]
        problems: list[Problem] = []
    else:
        folders = list(_published_folders(cache.path))
        problems = list(_other_files(cache))
    progress.start("verify", len(folders), "directories")
    for kind, folder in folders:
        problems += _verify_folder(cache.path, kind, folder)
        progress.advance(1)
    return problems


def find_entry_folders(cache: Cache, name: str) -> list[Segment]:
    """The segments of an entry by name."""
    return list(find_entry(cache, name).segments)


def _published_folders(root: Path) -> Iterator[tuple[str, Path]]:
    for dataset in directories(root / "datasets"):
        yield from (("dataset", folder) for folder in directories(dataset))
    for entry in _entry_folders(root):
        yield from (("segment", folder) for folder in directories(entry / "segments"))
    yield from (("run_manifest", folder) for folder in directories(root / "runs"))


def _entry_folders(root: Path) -> Iterator[Path]:
    for model in directories(root / "entries"):
        for dataset in directories(model):
            yield from directories(dataset)


def _verify_folder(root: Path, kind: str, folder: Path) -> list[Problem]:
    advice = {
        "segment": f"fmcache cache repair {folder.parent.parent.name.rpartition('-')[2]}, then extract again",
        "dataset": "extract again: the table is published anew",
        "run_manifest": f"delete {folder.relative_to(root)}, then probe again",
    }[kind]
    try:
        published = open_published(folder, kind)
    except CorruptCache as error:
        return [Problem(_relative(root, folder), f"{error.what} {error.found}", advice)]
    problems = []
    for name, file in published.files.items():
        if file_digest(folder / name) != file["sha256"]:
            where = _relative(root, folder / name)
            problems.append(Problem(where, "its sha256 is not the published one", advice))
    expected = {NAME, *published.files}
    problems += _strays(root, folder, expected)
    if not problems:
        try:  # what the hashes cannot say: that the tables are tables and belong together
            if kind == "dataset":
                read_version(folder)
            elif kind == "segment":
                segment = Segment(int(folder.name), published)
                _ = segment.plan, segment.rows, segment.quarantine
        except (CorruptCache, ValueError) as error:
            problems.append(Problem(_relative(root, folder), str(error).replace("\n", " "), advice))
    return problems


def _strays(root: Path, folder: Path, expected: set[str]) -> list[Problem]:
    problems = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_symlink() and path.is_dir():
            continue
        if name not in expected:
            what = "a symbolic link that fmcache did not make" if path.is_symlink() else "not fmcache's file"
            advice = "readers ignore it; look at it and remove it"
            problems.append(Problem(_relative(root, path), what, advice, path.is_symlink()))
    return problems


def _other_files(cache: Cache) -> Iterator[Problem]:
    root = cache.path
    known = {"datasets", "entries", "runs", "staging", "damaged", IDENTITY, CATALOG, *_LOOSE}
    for path in sorted(root.iterdir()):
        if path.is_symlink():
            yield Problem(path.name, "a symbolic link that fmcache did not make", "remove it")
        elif path.name == CATALOG and read_bytes(path) != catalog_text().encode():
            yield Problem(
                path.name,
                "not as this fmcache writes it",
                "look at it, then delete it: it is made anew",
                False,
            )
        elif path.name not in known:
            yield Problem(path.name, "not fmcache's file", "readers ignore it; move it away", False)
    for entry in _entry_folders(root):
        try:
            read_entry(entry)
        except CorruptCache as error:
            if "entry.json" in error.what or "belongs" in error.what:
                yield Problem(_relative(root, entry), f"{error.what} {error.found}", error.do)
    for folder, advice in _LOOSE.items():
        for path in sorted((root / folder).iterdir()) if (root / folder).is_dir() else ():
            where = _relative(root, path)
            if path.suffix != ".parquet" or not stat.S_ISREG(path.lstat().st_mode):
                planted = path.is_symlink() or path.suffix == ".parquet"
                yield Problem(where, "not fmcache's file", "move it away", planted)
                continue
            try:
                read_table(path)
            except CorruptCache as error:
                yield Problem(where, error.found, advice)


def _relative(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


# ---------------------------------------------------------------------------------------------------------------- gc


def collect_garbage(cache: Cache, dry_run: bool = True) -> list[dict[str, Any]]:
    """Delete (or list) what nothing needs: staging nobody writes, old dataset versions, damaged files set aside.

    A dataset version stays while it is the newest, or while a run was made from it.

    Returns
    -------
    Rows of path, why, MB and deleted (yes, no, or busy).
    """
    rows = []
    with storage_errors("collecting garbage", cache.path):
        for path, why in _garbage(cache):
            size = sum(file.lstat().st_size for file in [path, *path.rglob("*")] if not file.is_dir())
            deleted = "no" if dry_run else _delete(cache.path / "staging", path)
            rows.append(
                {
                    "path": _relative(cache.path, path),
                    "why": why,
                    "MB": round(size / 1e6, 2),
                    "deleted": deleted,
                }
            )
    return rows


def _garbage(cache: Cache) -> Iterator[tuple[Path, str]]:
    staging = cache.path / "staging"
    for folder in directories(staging):
        if not _is_locked(staging / f"{folder.name}.lock"):
            yield folder, "an interrupted write; the same command would go on from it"
    if staging.is_dir():
        for lock in sorted(staging.glob("*.lock")):
            if not (staging / lock.stem).exists() and not _is_locked(lock):
                yield lock, "a lock nobody holds"
    used = {str(run.info.get("dataset_digest")) for run in cache.runs()}
    for dataset in directories(cache.path / "datasets"):
        for folder in list(directories(dataset))[:-1]:
            if open_published(folder, "dataset").content["digest"] not in used:
                yield folder, "a superseded version that no run was made from"
    for folder in directories(cache.path / "damaged"):
        yield folder, "set aside by repair"


def _is_locked(lock: Path) -> bool:
    if not lock.exists():
        return False
    try:
        with locked(lock):
            return False
    except Busy:
        return True


def _delete(staging: Path, path: Path) -> str:
    try:
        with (
            locked(staging / f"{path.name}.lock") if path.parent == staging and path.is_dir() else _nothing()
        ):
            fault_point("gc:before_delete")
            path.unlink() if not path.is_dir() else retire(path)
    except Busy:
        return "busy"
    return "yes"


def retire(path: Path) -> None:
    """Delete a directory so that a kill never leaves half a published one: rename it out of sight first."""
    if path.parent.name != "staging":
        staging = next(parent for parent in path.parents if (parent / IDENTITY).exists()) / "staging"
        make_directory(staging, inside=staging.parent)
        target = staging / f"deleted-{path.parent.name}-{path.name}"
        remove_tree(target)
        path.rename(target)
        fsync_path(path.parent)
        path = target
    remove_tree(path)


class _nothing:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


# ------------------------------------------------------------------------------------------------------------ repair


def repair(cache: Cache, name: str) -> list[dict[str, Any]]:
    """Take damaged segments of an entry out of sight, keeping their intact blocks for the next extraction.

    `name` is the first characters of the entry's key (or MODEL/DATASET). A segment whose tables are intact becomes a
    staging directory in which the intact blocks count as finished, so that only the damaged ones are computed again;
    any other damaged segment is moved to damaged/ and computed again whole.

    Returns
    -------
    Rows of path, what was done, and how many blocks were kept and lost.
    """
    with storage_errors("repairing", cache.path):
        folders = [path for path in _entry_folders(cache.path) if _is_called(path, name)]
        if len(folders) != 1:
            find_entry(cache, name)
            raise UsageError(f"{name} names {len(folders)} entries.", "", "Give more of the key.")
        rows = []
        for folder in directories(folders[0] / "segments"):
            if folder.name.isdigit() and _verify_folder(cache.path, "segment", folder):
                rows.append(_repair_segment(cache.path, folders[0], folder))  # noqa: PERF401
    return rows


def _is_called(path: Path, name: str) -> bool:
    return path.name.rpartition("-")[2].startswith(name[:SHORT]) or (
        f"{path.parent.parent.name}/{path.parent.name}" == name
    )


def _repair_segment(root: Path, entry: Path, folder: Path) -> dict[str, Any]:
    part = f"repair-{folder.name}"
    relative = entry.relative_to(root).as_posix()
    staging = root / "staging"
    make_directory(staging, inside=root)
    # the place where the next extraction of this entry looks first; a repair must not disturb one that is going on
    name = workspace_name(relative, "")
    with locked(staging / f"{name}.lock"):
        plan = None if (staging / name).exists() else _salvage(root, entry, folder, staging / name)
        if plan is not None:
            return {"path": _relative(root, folder), "done": "damaged blocks will be made again", **plan}
        damaged = root / "damaged" / f"{entry.name}-{part}"
        make_directory(damaged.parent, inside=root)
        remove_tree(damaged)
        folder.rename(damaged)
        fsync_path(folder.parent)
        fsync_path(damaged.parent)
        return {"path": _relative(root, folder), "done": "set aside; all of it will be made again", "kept": 0}


def _salvage(root: Path, entry: Path, folder: Path, target: Path) -> dict[str, int] | None:
    """Build the workspace beside, then move the segment's array into it; None if the tables are not intact."""
    try:
        published = open_published_loosely(folder)
        segment = Segment(int(folder.name), published)
        rows, quarantine, plan = segment.rows, segment.quarantine, segment.plan
    except (CorruptCache, KeyError):
        return None
    own = rows.filter(pl.col("segment") == segment.number).select(*UNIT_COLUMNS, "row")
    lost = quarantine.filter(pl.col("row").is_not_null()).select(*UNIT_COLUMNS, "row")
    units = pl.concat([own, lost]).unique(["row"]).sort("row")
    if units["row"].to_list() != list(range(segment.n)):
        return None
    document = read_document(entry / "entry.json", "entry")["document"]
    work = root / "staging" / f"repair-{target.name}"
    remove_tree(work)
    array = work / SEGMENT / ARRAY
    make_directory(array, inside=root)
    make_directory(work / JOURNAL, inside=root)
    units = units.select(list(UNIT_COLUMNS))
    kept = 0
    for block in range(plan.blocks):
        name = plan.chunk_name(block)
        file = published.files[f"{ARRAY}/{name}"]
        source = folder / ARRAY / name
        beside = {
            name: published.files[name] for name in published.files if name.endswith(table_name("", block))
        }
        try:
            intact = (
                file_check(source) == (file["bytes"], file["crc32c"])
                and file_digest(source) == file["sha256"]
                and all(file_digest(folder / name) == of["sha256"] for name, of in beside.items())
            )
        except OSError:
            intact = False
        if not intact:
            continue
        start, stop = plan.bounds(block)
        os.link(source, array / name)
        for table in beside:
            make_directory((work / SEGMENT / table).parent, inside=root)
            os.link(folder / table, work / SEGMENT / table)
        members = units.slice(start, stop - start)
        place = {unit: row for row, unit in enumerate(members.rows())}
        rejected = [
            {"row": place[(row["input_digest"], row["slice"])], **{k: row[k] for k in _REJECTED}}
            for row in quarantine.unique(["input_digest", "slice"], maintain_order=True).to_dicts()
            if (row["input_digest"], row["slice"]) in place
        ]
        record = {
            "block": block,
            "units": content_digest(members),
            "file": dict(file),
            "rejected": rejected,
            "max_relative_error": published.content["max_relative_error"],
            **({"tables": {name: dict(of) for name, of in beside.items()}} if beside else {}),
        }
        write_document(work / JOURNAL / f"{block:05d}.json", "block", record, "repair_journal")
        kept += 1
    write_durably(array / "zarr.json", [published.read(f"{ARRAY}/zarr.json")], "repair_array")
    fsync_path(array)
    write_table(work / UNITS, units, "repair_units")
    from fmcache.store.keys import digest

    plan_document = {"key": digest(document), "units": file_digest(work / UNITS)}
    write_document(work / PLAN, "plan", plan_document, "repair_plan")
    work.rename(target)
    fsync_path(target.parent)
    fault_point("repair:before_retire")
    aside = root / "damaged" / f"{entry.name}-{folder.name}"
    make_directory(aside.parent, inside=root)
    if aside.exists():
        shutil.rmtree(aside)
    folder.rename(aside)
    fsync_path(folder.parent)
    fsync_path(aside.parent)
    return {"kept": kept, "lost": plan.blocks - kept}


_REJECTED = ("input_digest", "slice", "stage", "reason")


def open_published_loosely(folder: Path) -> Any:
    """A published directory whose manifest is intact, whatever became of its files."""
    from fmcache.store.manifest import Published

    try:
        return Published(folder, read_document(folder / NAME, "segment"))
    except FileNotFoundError:
        raise CorruptCache(
            f"{folder} has no manifest.",
            "It is the folder of a segment whose list of files was lost.",
            "Type: fmcache cache repair",
        ) from None
