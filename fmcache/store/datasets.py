"""Versions of a dataset's table: ``datasets/<name>/<sequence>-<digest12>/``, immutable; the newest one counts."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from fmcache.errors import DatasetError
from fmcache.store.documents import parse, write_document
from fmcache.store.durable import fault_point, fsync_path, make_directory, remove_tree
from fmcache.store.entries import directories
from fmcache.store.keys import digest, path_name
from fmcache.store.manifest import describe, open_published, write_manifest
from fmcache.store.schema import SAMPLE_COLUMNS, conform
from fmcache.store.tables import content_digest, write_table


@dataclass(frozen=True)
class DatasetVersion:
    """One version: `digest` is over the card and every value of `samples` (ordered by sample_id)."""

    name: str
    sequence: int
    digest: str
    card: Mapping[str, Any]
    samples: pl.DataFrame


def publish_dataset(cache: Path, name: str, card: Mapping[str, Any], samples: pl.DataFrame) -> DatasetVersion:
    """Publish a version unless the newest one is equal; two processes that publish at once both succeed."""
    samples = conform(samples, SAMPLE_COLUMNS, "samples", extra=True).sort("sample_id")
    if samples["sample_id"].has_nulls() or samples["sample_id"].n_unique() != samples.height:
        raise DatasetError(
            "The samples table has an empty or a repeated sample_id.", "", "Make each id unique."
        )
    identity = digest({"name": name, "card": dict(card), "samples": content_digest(samples)})
    folder = cache / "datasets" / path_name(name)
    while True:
        newest = read_newest(cache, name)
        if newest is not None and newest.digest == identity:
            return newest
        sequence = 0 if newest is None else newest.sequence + 1
        work = cache / "staging" / f"dataset-{uuid.uuid4().hex[:16]}"
        make_directory(folder, inside=cache)
        make_directory(work, inside=cache)
        try:
            head = {"name": name, "sequence": sequence, "digest": identity}
            write_document(work / "card.json", "card", {"name": name, "card": dict(card)}, "dataset_card")
            write_table(work / "samples.parquet", samples, "dataset_samples")
            files = describe(work, ["card.json", "samples.parquet"])
            write_manifest(work, "dataset", {**head, "files": files}, "dataset_manifest")
            fault_point("dataset:before_rename")
            os.rename(work, folder / f"{sequence:04d}-{identity[:12]}")
        except OSError as error:
            remove_tree(work)
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                continue
            raise
        except BaseException:
            remove_tree(work)
            raise
        fault_point("dataset:after_rename")
        fsync_path(folder)
        return DatasetVersion(name, sequence, identity, dict(card), samples)


def read_newest(cache: Path, name: str) -> DatasetVersion | None:
    """The version with the highest sequence number, verified; None if there is no version."""
    versions = list(directories(cache / "datasets" / path_name(name)))
    return read_version(versions[-1]) if versions else None


def read_version(folder: Path) -> DatasetVersion:
    """A published version, every byte checked."""
    published = open_published(folder, "dataset")
    card = parse(published.read("card.json"), "card", "card.json")
    content = published.content
    return DatasetVersion(
        content["name"],
        content["sequence"],
        content["digest"],
        card["card"],
        published.table("samples.parquet"),
    )
