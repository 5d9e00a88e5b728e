"""Runs: predictions of one probe, prototype or foreign model, with all that made them."""

from __future__ import annotations

import errno
import io
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fmcache.errors import MissingEntry
from fmcache.store.documents import damaged, parse, write_document
from fmcache.store.durable import fault_point, fsync_path, make_directory, put, remove_tree
from fmcache.store.keys import digest
from fmcache.store.manifest import Published, describe, open_published, write_manifest
from fmcache.store.schema import PREDICTION_COLUMNS, conform
from fmcache.store.tables import content_digest, write_table

ID_LENGTH = 16
_NOT_IDENTITY = ("created", "versions", "seconds")


@dataclass(frozen=True)
class Run:
    """A published run.

    Attributes
    ----------
    info : model, dataset, usage, method, key, dataset_digest, seeds, labels, attributes, … (docs/format.md).
    """

    run_id: str
    info: Mapping[str, Any]
    published: Published

    def predictions(self) -> pl.DataFrame:
        """PREDICTION_COLUMNS and ``attribute.*``, every byte checked."""
        return self.published.table("predictions.parquet")

    def parameters(self) -> dict[str, np.ndarray]:
        """The arrays of the probe (weights, intercepts, …); empty for foreign predictions."""
        data = self.published.read("parameters.npz")
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except ValueError as error:
            raise damaged("parameters.npz", str(error)) from None


def holds_no_scores(info: Mapping[str, Any]) -> bool:
    """Whether a run was made with ``--save none``: it keeps a summary only."""
    return (info.get("configuration") or {}).get("save") == "none"


def without_scores(run_ids: Sequence[str]) -> MissingEntry:
    """The error of a command that measures, where none of the runs holds scores."""
    one = len(run_ids) == 1
    named = ", ".join(run_ids[:4]) + (" …" if len(run_ids) > 4 else "")
    return MissingEntry(
        f"{'The run holds' if one else f'The {len(run_ids)} runs hold'} no scores to measure.",
        f"{'It was' if one else 'They were'} made with --save none, which keeps a summary: {named}.",
        "Type: fmcache probe … --save scores",
    )


def publish_run(
    cache: Path,
    info: Mapping[str, Any],
    predictions: pl.DataFrame,
    parameters: Mapping[str, np.ndarray],
    key: str | None = None,
) -> str:
    """Publish by one rename; an equal run that is there already is left as it is.

    `key` (64 hex digits, over all that a run depends on) gives its id; without one the id is over what came out.
    """
    predictions = conform(predictions, PREDICTION_COLUMNS, "predictions", extra=True)
    identity = {key: value for key, value in info.items() if key not in _NOT_IDENTITY}
    run_id = (key or digest({"info": identity, "predictions": content_digest(predictions)}))[:ID_LENGTH]
    final = cache / "runs" / run_id
    make_directory(final.parent, inside=cache)
    if final.exists():
        read_run(final)
        return run_id
    work = cache / "staging" / f"run-{uuid.uuid4().hex[:16]}"
    make_directory(work, inside=cache)
    try:
        write_document(work / "run.json", "run", {"run_id": run_id, "info": dict(info)}, "run_document")
        write_table(work / "predictions.parquet", predictions, "predictions")
        sink = io.BytesIO()
        np.savez(sink, **{name: np.asarray(array) for name, array in parameters.items()})  # type: ignore[arg-type]
        put(work / "parameters.npz", sink.getvalue(), "parameters")
        files = describe(work, ["run.json", "predictions.parquet", "parameters.npz"])
        write_manifest(work, "run_manifest", {"run_id": run_id, "files": files}, "run_manifest")
        fault_point("run:before_rename")
        os.rename(work, final)
    except OSError as error:
        remove_tree(work)
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        read_run(final)
    except BaseException:
        remove_tree(work)
        raise
    fault_point("run:after_rename")
    fsync_path(final.parent)
    return run_id


def read_run(folder: Path) -> Run:
    """A published run; run.json is checked now, the tables when they are read."""
    published = open_published(folder, "run_manifest")
    body = parse(published.read("run.json"), "run", "run.json")
    if body["run_id"] != folder.name:
        raise damaged(f"run.json of {folder}", f"It belongs to the run {body['run_id']}.")
    return Run(body["run_id"], body["info"], published)
