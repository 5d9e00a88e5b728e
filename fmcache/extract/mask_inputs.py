"""Which pictures have a usable ground-truth mask, and which classes there are; every mask is read once."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import polars as pl

from fmcache.errors import DatasetError
from fmcache.extract.dataset import Dataset
from fmcache.extract.masks_reader import MaskCard, mask_bytes, mask_card, read_mask, stored_values
from fmcache.extract.reader import ReaderOptions, Undecodable
from fmcache.progress import Progress, Silent

COLUMN = "mask_path"
_AHEAD = 8
_MOST = 255
_Found = tuple[str | None, list[int], list[str], str | None]


def mask_classes(dataset: Dataset, workers: int = 1) -> MaskCard:
    """The classes of a dataset: its card's section [masks], else what the files hold.

    Without a section, names that the column gives (``CLASS=PATH``) are the classes; files with no more than one value
    beside 0 are masks of one class `mask`; else each value is a class and its number the name.

    Raises
    ------
    DatasetError : there is no mask at all, or there are too many values.
    """
    given = given_masks(dataset)
    if dataset.card.get("masks"):
        return mask_card(dataset.card)
    named = sorted(
        {
            part.partition("=")[0]
            for text in given
            for part in text.split(";")
            if "=" in part.partition("#")[0]
        }
    )
    if named:
        return MaskCard(tuple(named))
    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(lambda path: _values(dataset, path), given))
    if max(map(len, found), default=0) <= 1:
        return MaskCard(("mask",))
    values = sorted(set().union(*found))
    if len(values) > _MOST:
        raise DatasetError(
            f"The masks hold {len(values):,} different values.",
            f"A mask has at most {_MOST} classes; these look like pictures.",
            "Name the column with the masks `mask_path`, or say in a card what the values mean ([masks] values).",
        )
    return MaskCard(tuple(map(str, values)), {str(value): (value,) for value in values})


def inspect_masks(
    dataset: Dataset,
    samples: pl.DataFrame,
    masks: MaskCard,
    reader: ReaderOptions,
    *,
    workers: int,
    progress: Progress | None = None,
) -> pl.DataFrame:
    """One row a sample that has a readable picture and a `mask_path`.

    Parameters
    ----------
    samples : as `inspect_inputs` gives them.

    Returns
    -------
    sample_id, path, mask_path, input_digest (of the picture), unit_digest (of picture and mask together),
    filled : the slices in which any class has a pixel. lacking : the classes of which no slice has a pixel.
    mask_error : why the mask cannot be used, or null.
    """
    progress = progress or Silent()
    usable = samples.filter(
        pl.col(COLUMN).is_not_null() & pl.col("input_digest").is_not_null() & pl.col("input_error").is_null()
    ).select("sample_id", "path", COLUMN, "input_digest")
    progress.start("inspect masks", usable.height, "masks")
    found: list[_Found] = []
    with ThreadPoolExecutor(workers) as pool:
        todo = iter(usable.select("input_digest", COLUMN).rows())
        while part := list(islice(todo, _AHEAD * workers)):
            found += pool.map(lambda row: _inspect(dataset, row[0], row[1], masks, reader), part)
            progress.advance(len(part))
    digests, filled, lacking, errors = zip(*found, strict=True) if found else ((), (), (), ())
    return usable.with_columns(
        pl.Series("unit_digest", digests, pl.String),
        pl.Series("filled", filled, pl.List(pl.Int32)),
        pl.Series("lacking", lacking, pl.List(pl.String)),
        pl.Series("mask_error", errors, pl.String),
    )


def _inspect(dataset: Dataset, picture: str, path: str, masks: MaskCard, reader: ReaderOptions) -> _Found:
    try:
        data = mask_bytes(dataset.root, path)
        unit = hashlib.sha256(f"{picture}:{hashlib.sha256(data).hexdigest()}".encode()).hexdigest()
        values = read_mask(dataset.root, path, masks, reader)
    except Undecodable as error:
        return None, [], [], error.reason
    if values.ndim == 2:
        values = values[None]
    filled = np.flatnonzero(values.reshape(len(values), -1).any(1)).tolist()
    if not filled:
        return unit, [], [], "The mask is empty: no pixel belongs to a class."
    there = np.bincount(values.ravel(), minlength=len(masks.classes) + 1)[1:]
    return unit, filled, [name for name, n in zip(masks.classes, there, strict=True) if not n], None


def given_masks(dataset: Dataset) -> list[str]:
    """What the samples say of their masks, each once.

    Raises
    ------
    DatasetError : there is none.
    """
    if COLUMN not in dataset.samples.columns:
        raise DatasetError(
            f"{dataset.name} has no masks.",
            f"There is no column {COLUMN}.",
            f"Add the column {COLUMN}: the mask's file below the root, like `path`.",
        )
    given: list[str] = dataset.samples[COLUMN].drop_nulls().unique(maintain_order=True).to_list()
    if not given:
        raise DatasetError(
            f"{dataset.name} has no masks.",
            f"The column {COLUMN} is empty in every row.",
            "Give ground-truth masks in that column, or type: --kind image",
        )
    return given


def _values(dataset: Dataset, path: str) -> set[int]:
    try:
        stored = stored_values(dataset.root, path, dataset.reader)
    except Undecodable:
        return set()  # the inspection says why
    return {int(value) for value in np.unique(stored)} - {0}
