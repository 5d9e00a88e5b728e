"""Reads every input once before anything is embedded: its digest, how many slices it has, or why it cannot be read."""

from __future__ import annotations

import hashlib
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import polars as pl

from fmcache.extract.dataset import Dataset
from fmcache.extract.decode import count_slices
from fmcache.extract.inputs import read_input
from fmcache.extract.reader import ReaderOptions, Undecodable
from fmcache.progress import Progress, Silent

_AHEAD = 8  # files in flight a worker: bounds memory, whatever the size of the dataset
_Found = tuple[str | None, int, str | None]


def inspect_inputs(dataset: Dataset, *, workers: int, progress: Progress | None = None) -> pl.DataFrame:
    """The samples with three more columns. A path that several samples share is read once.

    Returns
    -------
    ``dataset.samples`` in its order, and
    ``input_digest`` : sha256 of the file's bytes, hex; null where it cannot be read.
    ``slices`` : Int32, how many slices are used; 0 where the file or its header cannot be read.
    ``input_error`` : null where all is well, else one line without an id or path.
    """
    progress = progress or Silent()
    paths = dataset.samples["path"].unique(maintain_order=True)
    progress.start("inspect", len(paths), "files")
    found: list[_Found] = []
    # the filter is set here, once: setting it in the threads would race
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore")
        todo = iter(paths)
        while part := list(islice(todo, _AHEAD * workers)):
            found += pool.map(lambda path: inspect_file(dataset.root, path, dataset.reader), part)
            progress.advance(len(part))
    digests, slices, errors = zip(*found, strict=True)
    table = pl.DataFrame(
        {"path": paths, "input_digest": digests, "slices": slices, "input_error": errors},
        schema_overrides={"input_digest": pl.String, "slices": pl.Int32, "input_error": pl.String},
    )
    return dataset.samples.join(table, on="path", how="left", maintain_order="left")


def inspect_file(root: Path, path: str, reader: ReaderOptions) -> _Found:
    """(digest, slices, error) of one file."""
    try:
        data = read_input(root, path)
    except Undecodable as error:
        return None, 0, error.reason
    digest = hashlib.sha256(data).hexdigest()
    try:
        return digest, count_slices(data, reader), None
    except Undecodable as error:
        return digest, 0, error.reason
