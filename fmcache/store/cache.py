"""The cache: the one thing that the stages share. `open_cache` is the way in."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fmcache.errors import AmbiguousEntry, DiskFull, ForeignCache, MissingEntry, StorageError, UsageError
from fmcache.store.arrays import ArrayPlan
from fmcache.store.catalog import write_catalog
from fmcache.store.coordinates import publish_coordinates, read_coordinates
from fmcache.store.datasets import DatasetVersion, publish_dataset, read_newest
from fmcache.store.documents import read_document, write_document
from fmcache.store.durable import (
    HOUR,
    free_bytes,
    fsync_path,
    make_directory,
    put,
    storage_errors,
    sweep_partials,
)
from fmcache.store.embeddings import Embeddings
from fmcache.store.entries import SHORT, Entry, Stored, directories, read_entry, read_segments, stored_in
from fmcache.store.keys import digest, path_name
from fmcache.store.masks import Masks
from fmcache.store.runs import Run, publish_run, read_run
from fmcache.store.schema import MASK_COLUMNS, RESULT_COLUMNS, ROW_COLUMNS, UNIT_COLUMNS, conform, empty
from fmcache.store.segment import SegmentWriter
from fmcache.store.tables import read_table, table_bytes
from fmcache.store.texts import Texts
from fmcache.store.workspace import block_rows_for, locked, open_workspace, workspace_name

IDENTITY = "fmcache.json"
_LINK = ("sample_id", "slice", "input_digest")
VERIFY = ("crc32c", "sha256")


def open_cache(path: str | Path, *, create: bool = False, verify: str = "crc32c") -> Cache:
    """Open a cache directory.

    Parameters
    ----------
    create : make it (mode 0700) if nothing is there.
    verify : how chunk files are held to the manifest when they are read: size and ``crc32c`` (15 GB/s a core), or
        also ``sha256`` (2 GB/s). Tables and documents are held to their sha256 always.

    Raises
    ------
    MissingEntry : there is no cache at `path`. UsageError : something else is there. CorruptCache : it is damaged, or
    of a newer format. StorageError : everyone may write to it.

    Warns
    -----
    ForeignCache : it belongs to another user, who can write any number into it.
    """
    if verify not in VERIFY:
        raise UsageError(
            f"verify={verify!r} means nothing.",
            f"It is one of {', '.join(VERIFY)}.",
            "Call open_cache(path, verify=…) with one of them.",
        )
    where = Path(path).absolute()
    identity = where / IDENTITY
    if not identity.exists() and not identity.is_symlink():
        occupied = where.exists() and (not where.is_dir() or any(_not_ours(where)))
        if occupied:
            raise UsageError(
                f"{where} is not an fmcache cache.",
                f"It has no {IDENTITY}, but it is not empty.",
                "Name another directory: --cache DIR",
            )
        if not create:
            raise MissingEntry(
                f"There is no cache at {where}.",
                "Nothing was extracted or audited into it yet.",
                "Type: fmcache extract --model M --dataset D   or name the cache: --cache DIR",
            )
        with storage_errors("making the cache", where):
            where.mkdir(mode=0o700, parents=True, exist_ok=True)
            sweep_partials(where, older_than=HOUR)
            write_document(identity, "cache", {}, "identity")
            fsync_path(where.parent)
    where = where.resolve()
    if create:
        with storage_errors("writing the catalog", where):
            write_catalog(where)
    info = os.stat(where)
    if info.st_mode & stat.S_IWOTH:
        raise StorageError(
            f"Every user of this machine may write to {where}.",
            "Its numbers could not be trusted, and patients' data lie in it.",
            f"Type: chmod 700 {where}",
        )
    read_document(where / IDENTITY, "cache")
    if info.st_uid != os.geteuid():
        told = f"The cache {where} belongs to another user (uid {info.st_uid}): trust its numbers as you trust them. "
        warnings.warn(told + "Files that you write into it only you can read.", ForeignCache, stacklevel=2)
    return Cache(where, verify)


def _not_ours(folder: Path) -> Iterator[Path]:
    return (child for child in folder.iterdir() if not child.name.startswith(f".{IDENTITY}."))


class Cache:
    """An open cache. Reading is safe while others write: what is published never changes."""

    def __init__(self, path: Path, verify: str = "crc32c") -> None:
        self.path, self._verify = path, verify

    # ------------------------------------------------------------------------------------------------------ datasets

    def publish_dataset(self, name: str, card: Mapping[str, Any], samples: pl.DataFrame) -> DatasetVersion:
        """Store a dataset's table (SAMPLE_COLUMNS, then ``label.*``, ``attribute.*`` and raw columns).

        Rows are kept in the order of sample_id, so another order of the same rows is the same version; nothing is
        written if the newest version is equal.
        """
        with storage_errors("publishing a dataset", self.path):
            return publish_dataset(self.path, name, card, samples)

    def dataset(self, name: str) -> DatasetVersion:
        """The newest version.

        Raises
        ------
        MissingEntry : no such dataset, with the nearest name.
        """
        version = read_newest(self.path, name)
        if version is None:
            raise _missing("dataset", name, self.datasets())
        return version

    def datasets(self) -> list[str]:
        """Names of all datasets."""
        found = []
        for folder in directories(self.path / "datasets"):
            versions = list(directories(folder))
            if versions:
                found.append(read_document(versions[-1] / "card.json", "card")["name"])
        return found

    # ------------------------------------------------------------------------------------------------------- entries

    def entries(
        self, model: str | None = None, dataset: str | None = None, kind: str | None = None
    ) -> list[Entry]:
        """All entries with a published segment, in path order."""
        found = []
        for first in directories(self.path / "entries"):
            if model is not None and first.name != path_name(model):
                continue
            for second in directories(first):
                if dataset is not None and second.name != path_name(dataset):
                    continue
                for third in directories(second):
                    if kind is None or third.name.startswith(f"{kind}-"):
                        entry = read_entry(third)
                        if entry is not None:
                            found.append(entry)
        return found

    def entry(self, model: str, dataset: str, kind: str = "image", key: str | None = None) -> Entry:
        """The one entry of a model, dataset and kind (and the first characters of its key).

        Raises
        ------
        MissingEntry : none, with the nearest name. AmbiguousEntry : several keys.
        """
        found = [entry for entry in self.entries(model, dataset, kind) if entry.key.startswith(key or "")]
        if len(found) == 1:
            return found[0]
        if found:
            keys = ", ".join(entry.key[:SHORT] for entry in found)
            raise AmbiguousEntry(
                f"{model} has several {kind} entries of {dataset}.",
                f"Their keys are {keys}; they differ in weights, preprocessing or dtype.",
                "Name one: --model MODEL@KEY, or key= in Python; fmcache cache show MODEL/DATASET tells them apart.",
            )
        known = sorted({f"{entry.model}/{entry.dataset}" for entry in self.entries(kind=kind)})
        near = get_close_matches(f"{model}/{dataset}", known, n=1, cutoff=0.5)
        raise MissingEntry(
            f"The cache holds no {kind} embeddings of {model} on {dataset}"
            + (f" with a key that begins with {key}." if key else "."),
            f"It holds {', '.join(known[:6]) or 'none of any model'}{' …' if len(known) > 6 else ''}.",
            f"Did you mean {near[0]}?"
            if near
            else f"Type: fmcache extract --model {model} --dataset {dataset}"
            + ("" if kind == "image" else f" --kind {kind}"),
        )

    def stored(self, model: str, dataset: str, kind: str, key: str) -> Stored:
        """What is published under a key (64 hex digits); empty tables if nothing is."""
        return stored_in(read_segments(self._entry_path(model, dataset, kind, key)))

    def embeddings(
        self,
        model: str,
        dataset: str,
        *,
        kind: str = "image",
        key: str | None = None,
        verify: str | None = None,
    ) -> Embeddings:
        """The embeddings of a model on the newest version of a dataset.

        Raises
        ------
        MissingEntry, AmbiguousEntry, CorruptCache.
        """
        entry = self.entry(model, dataset, kind, key)
        samples = self.dataset(entry.dataset).samples
        stored = stored_in(entry.segments)
        here = samples.join(
            stored.rows, on=["sample_id", "input_digest"], how="inner", maintain_order="left"
        ).sort("segment", "row", "sample_id", maintain_order=True)
        where = here.select("segment", "row").to_numpy().astype(np.int64)
        order = ["sample_id", "slice", *(name for name in samples.columns if name != "sample_id")]
        missing = _missing_samples(samples, stored, here)
        return Embeddings(entry, here.select(order), missing, where, verify or self._verify)

    def texts(self, model: str, dataset: str, *, key: str | None = None, verify: str | None = None) -> Texts:
        """The embedded text prompts of a model for the labels of a dataset.

        Raises
        ------
        MissingEntry, AmbiguousEntry, CorruptCache.
        """
        return Texts(self.entry(model, dataset, "text", key), verify or self._verify)

    def masks(self, model: str, dataset: str, *, key: str | None = None, verify: str | None = None) -> Masks:
        """The masks of a model on the newest version of a dataset; a picture whose file has changed is left out.

        Raises
        ------
        MissingEntry, AmbiguousEntry, CorruptCache.
        """
        entry = self.entry(model, dataset, "mask", key)
        samples = self.dataset(entry.dataset).samples
        stored = stored_in(entry.segments)
        images = pl.concat(
            [table for segment in entry.segments if (table := segment.table("masks")) is not None]
            or [empty(MASK_COLUMNS)]
        )
        images = images.select("input_digest", "slice", "image_digest").unique()
        rows = stored.rows.join(images, on=["input_digest", "slice"], how="inner", maintain_order="left")
        newest = rows.unique(["sample_id", "slice", "image_digest"], keep="last", maintain_order=True)
        newest = newest.rename({"input_digest": "unit_digest", "image_digest": "input_digest"})
        here = samples.join(
            newest, on=["sample_id", "input_digest"], how="inner", maintain_order="left"
        ).sort("segment", "row", "sample_id", maintain_order=True)
        where = here.select("segment", "row").to_numpy().astype(np.int64)
        order = [
            "sample_id",
            "slice",
            "unit_digest",
            *(name for name in samples.columns if name != "sample_id"),
        ]
        # a mask unit has a digest of its own; the reason of a rejection belongs to the sample
        why = stored.quarantine.drop("input_digest").join(
            samples.select("sample_id", "input_digest"), on="sample_id", how="inner", maintain_order="left"
        )
        missing = _missing_samples(samples, replace(stored, quarantine=why), here)
        return Masks(entry, Embeddings(entry, here.select(order), missing, where, verify or self._verify))

    @contextmanager
    def segment(
        self,
        model: str,
        dataset: str,
        kind: str,
        document: Mapping[str, Any],
        units: pl.DataFrame,
        rows: pl.DataFrame,
        *,
        d: int | tuple[int, ...],
        dtype: str = "float16",
        block_rows: int = 8192,
        part: str = "",
        lock: bool = True,
        compressed: bool = False,
    ) -> Iterator[SegmentWriter]:
        """Write one segment; what was finished by an interrupted process is kept.

        Parameters
        ----------
        document : the key document; its digest is the entry's key.
        units : [input_digest, slice], unique: what the array has to hold, in array order. May be empty.
        rows : [sample_id, slice, input_digest] to link to these units or to units that are stored already.
        d : values a row, or the row's shape.
        block_rows : at most so many rows a block; small segments get smaller blocks.
        part : ``i/n`` for one job of an array; each part is a segment of its own.

        Raises
        ------
        Busy : another process writes this part. DiskFull, StorageError.
        """
        key = digest(document)
        folder = self._entry_path(model, dataset, kind, key)
        relative = folder.relative_to(self.path).as_posix()
        shape = (d,) if isinstance(d, int) else tuple(d)
        name = workspace_name(relative, part)
        staging = self.path / "staging"
        with storage_errors("preparing a segment", self.path):
            make_directory(staging, inside=self.path)
            make_directory(folder / "segments", inside=self.path)
            identity = {"model": model, "dataset": dataset, "kind": kind, "document": dict(document)}
            if not (folder / "entry.json").exists():
                sweep_partials(folder, older_than=HOUR)
                write_document(folder / "entry.json", "entry", identity, "entry")
        with locked(staging / f"{name}.lock", lock):
            stored = self.stored(model, dataset, kind, key)
            units = conform(units, UNIT_COLUMNS, "units")
            rows = conform(rows, {name: ROW_COLUMNS[name] for name in _LINK}, "rows")
            wanted = units.join(stored.units, on=["input_digest", "slice"], how="anti", maintain_order="left")
            linked = rows.join(stored.units, on=["input_digest", "slice"], how="left", maintain_order="left")
            plan = ArrayPlan(
                (wanted.height, *shape), dtype, block_rows_for(wanted.height, block_rows), compressed
            )
            with storage_errors("preparing a segment", self.path):
                space = open_workspace(staging / name, key=key, wanted=wanted, plan=plan)
            if lock:
                for place in (space.array, space.path / "journal", space.path / "segment", space.path):
                    sweep_partials(place)
            yield SegmentWriter(
                space,
                linked.select(list(ROW_COLUMNS)),
                {"model": model, "dataset": dataset, "kind": kind, "key": key},
                folder / "segments",
                lambda mine: self._holds(model, dataset, kind, key, mine),
            )

    def _holds(self, model: str, dataset: str, kind: str, key: str, units: pl.DataFrame) -> bool:
        if not units.height:
            return False
        stored = self.stored(model, dataset, kind, key).units
        return not units.join(stored, on=["input_digest", "slice"], how="anti").height

    def _entry_path(self, model: str, dataset: str, kind: str, key: str) -> Path:
        if kind not in ("image", "text", "mask"):
            raise UsageError(
                f"{kind!r} is no kind of entry.", "It is image, text or mask.", "Choose one of them."
            )
        return self.path / "entries" / path_name(model) / path_name(dataset) / f"{kind}-{key[:SHORT]}"

    def require_space(self, need: int) -> None:
        """Refuse before the work begins if the device has less than `need` bytes free.

        Raises
        ------
        DiskFull : with both figures.
        """
        free = free_bytes(self.path)
        if free < need:
            raise DiskFull(
                f"The cache needs {need / 1e9:,.3g} GB.",
                f"{free / 1e9:,.3g} GB are free on the device of {self.path}.",
                "Free some space, or name a cache on another device: --cache DIR",
            )

    # ----------------------------------------------------------------------------------------------- runs and results

    def publish_run(
        self,
        info: Mapping[str, Any],
        predictions: pl.DataFrame,
        parameters: Mapping[str, np.ndarray] | None = None,
        key: str | None = None,
    ) -> str:
        """Store predictions (PREDICTION_COLUMNS, then ``attribute.*``) and what made them.

        Parameters
        ----------
        key : 64 hex digits over all that the run depends on; its first 16 are then the id, known before the work.

        Returns
        -------
        The run's id, 16 hex digits of what went in and came out: the same run twice is one run.
        """
        with storage_errors("publishing a run", self.path):
            return publish_run(self.path, info, predictions, parameters or {}, key)

    def run(self, run_id: str) -> Run:
        """A run by its id (or its first characters).

        Raises
        ------
        MissingEntry : none or several begin so.
        """
        known = [folder.name for folder in directories(self.path / "runs")]
        found = [name for name in known if name.startswith(run_id)]
        if len(found) != 1:
            raise _missing("run", run_id, known)
        return read_run(self.path / "runs" / found[0])

    def runs(self) -> list[Run]:
        """All runs, oldest first."""
        found = [read_run(folder) for folder in directories(self.path / "runs")]
        return sorted(found, key=lambda run: (str(run.info.get("created", "")), run.run_id))

    def publish_results(self, run_id: str, results: pl.DataFrame) -> None:
        """Store the tidy metrics (RESULT_COLUMNS) of a run, replacing earlier ones in one step."""
        self.run(run_id)
        with storage_errors("writing results", self.path):
            make_directory(self.path / "results", inside=self.path)
            sweep_partials(self.path / "results", older_than=HOUR)
            data = table_bytes(conform(results, RESULT_COLUMNS, "results"))
            put(self.path / "results" / f"{run_id}.parquet", data, "results")

    def results(self) -> pl.DataFrame:
        """The metrics of all runs, RESULT_COLUMNS."""
        files = sorted((self.path / "results").glob("[0-9a-f]*.parquet"))
        tables = [empty(RESULT_COLUMNS), *(read_table(file) for file in files)]
        return pl.concat(tables, how="diagonal")  # results from before a column was added lack it

    def publish_coordinates(self, coordinates: pl.DataFrame) -> None:
        """Store maps of embeddings (COORDINATE_COLUMNS, then ``attribute.*``), replacing earlier ones of the same entry
        and projection in one step."""
        with storage_errors("writing coordinates", self.path):
            publish_coordinates(self.path, coordinates)

    def coordinates(self) -> pl.DataFrame:
        """The maps of all entries: where each sample lies; COORDINATE_COLUMNS, then ``attribute.*``."""
        return read_coordinates(self.path)


def _missing(what: str, name: str, known: list[str]) -> MissingEntry:
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return MissingEntry(
        f"The cache holds no {what} {name}.",
        f"It holds {', '.join(known[:8]) or 'none'}{' …' if len(known) > 8 else ''}.",
        f"Did you mean {near[0]}?" if near else "",
    )


def _missing_samples(samples: pl.DataFrame, stored: Stored, here: pl.DataFrame) -> pl.DataFrame:
    absent = samples.join(
        here.select("sample_id").unique(), on="sample_id", how="anti", maintain_order="left"
    )
    rejected = stored.quarantine.unique(["sample_id", "input_digest"], keep="last").select(
        "sample_id", "input_digest", "stage", pl.col("reason").alias("_why")
    )
    absent = absent.join(
        rejected, on=["sample_id", "input_digest"], how="left", nulls_equal=True, maintain_order="left"
    )
    earlier = stored.rows.select("sample_id").unique().with_columns(_earlier=pl.lit(True))
    absent = absent.join(earlier, on="sample_id", how="left", maintain_order="left")
    reason = (
        pl.when(pl.col("_why").is_not_null())
        .then(pl.format("rejected: {}", "_why"))
        .when(pl.col("input_error").is_not_null())
        .then(pl.format("rejected: {}", "input_error"))
        .when(pl.col("_earlier"))
        .then(pl.lit("changed since the extraction"))
        .otherwise(pl.lit("not extracted"))
    )
    return absent.with_columns(reason=reason).select("sample_id", "patient_id", "split", "reason")
