"""Mask entries: logits, prompts and ground truth of every picture and class, read without a picture and without torch.

A mask entry's array is [n, classes, prompts, masks, h, w] (or one axis more for volumes). Where a class is not in a
picture there is no row in either table and the array holds zeros. Two tables lie beside each block:

* masks: the ground truth of a picture and class, lossless at the picture's size;
* prompts: what the model was asked, with coordinates, and the IoU it predicted for each of its masks.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from fmcache.store.embeddings import Embeddings
from fmcache.store.entries import Entry
from fmcache.store.schema import MASK_COLUMNS, PROMPT_COLUMNS, empty

UNIT = ["input_digest", "slice"]


def pack_mask(inside: np.ndarray) -> str:
    """bool [...] as text: eight pixels a byte in C order (the first in the highest bit), zlib, base64."""
    return base64.b64encode(zlib.compress(np.packbits(inside).tobytes(), 6)).decode("ascii")


def unpack_mask(text: str, shape: tuple[int, ...]) -> np.ndarray:
    """What `pack_mask` was given."""
    bits = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    return np.unpackbits(bits, count=int(np.prod(shape))).view(bool).reshape(shape)


def shape_text(shape: tuple[int, ...]) -> str:
    """``300x420``."""
    return "x".join(str(size) for size in shape)


def parse_shape(text: str) -> tuple[int, ...]:
    """The opposite of `shape_text`."""
    return tuple(int(size) for size in text.split("x"))


@dataclass(frozen=True)
class Answer:
    """One prompt and what the model answered.

    Attributes
    ----------
    sample : row of `Masks.samples`. name, prompt : the class and the kind of prompt.
    truth : bool, at the picture's size.
    logits : float16 [masks, h, w], as stored (one mask with ``--multimask best``).
    iou : predicted IoU of each mask of the model, NaN beyond those it has. chosen : the largest.
    coordinates : [k, 2] (x, y) in pixels of the picture.
    """

    sample: int
    name: str
    prompt: str
    truth: np.ndarray
    logits: np.ndarray
    iou: np.ndarray
    chosen: int
    coordinates: np.ndarray


class Masks:
    """The rows of one mask entry that belong to the newest version of its dataset.

    Attributes
    ----------
    entry : where they come from.
    samples : one row a picture (or slice), with every column of samples.parquet. missing : as that of Embeddings.
    classes, prompts : in the order of the array's axes.
    frame : the model's square (fit, side), for `fmcache.analyze.masks.upsample`. form : logits or probabilities.
    """

    def __init__(self, entry: Entry, array: Embeddings) -> None:
        self.entry, self._array = entry, array
        self.samples, self.missing = array.samples, array.missing
        document = entry.document
        self.classes: tuple[str, ...] = tuple(document["classes"])
        self.prompts: tuple[str, ...] = tuple(document["prompts"])
        self.frame: Mapping[str, Any] = document["model"]["preprocess"]["geometry"]
        self.form = str(document["model"]["segmenter"]["upsample"])
        self.multimask = str(document["multimask"])

    @cached_property
    def truth_table(self) -> pl.DataFrame:
        """MASK_COLUMNS: one row a picture and class."""
        return self._beside("masks", MASK_COLUMNS)

    @cached_property
    def prompt_table(self) -> pl.DataFrame:
        """PROMPT_COLUMNS: one row a picture, class and prompt."""
        return self._beside("prompts", PROMPT_COLUMNS)

    def __iter__(self) -> Iterator[Answer]:
        """Every answer, picture by picture; sixteen pictures are in memory at a time."""
        truths = self._by_unit(self.truth_table)
        asked = self._by_unit(self.prompt_table)
        units = list(self.samples.select("unit_digest", "slice").iter_rows())
        for rows, logits in self._array.batches(16):
            for row, stored in zip(rows.tolist(), logits, strict=True):
                truth = {
                    one["class"]: unpack_mask(one["bits"], parse_shape(one["shape"]))
                    for one in truths.get(units[row], [])
                }
                for one in asked.get(units[row], []):
                    place = self.classes.index(one["class"]), self.prompts.index(one["prompt"])
                    yield Answer(
                        sample=row,
                        name=one["class"],
                        prompt=one["prompt"],
                        truth=truth[one["class"]],
                        logits=stored[place],
                        iou=np.array([one[f"iou_{i}"] for i in (1, 2, 3)], float),
                        chosen=int(one["chosen"]),
                        coordinates=np.array(json.loads(one["coordinates"]), float),
                    )

    def _beside(self, name: str, columns: Mapping[str, pl.DataType]) -> pl.DataFrame:
        found = [table for segment in self.entry.segments if (table := segment.table(name)) is not None]
        both = pl.concat([empty(columns), *found])
        return both.unique(
            [key for key in (*UNIT, "class", "prompt") if key in columns], keep="last", maintain_order=True
        )

    def _by_unit(self, table: pl.DataFrame) -> dict[tuple[str, int], list[dict[str, Any]]]:
        found: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for row in table.iter_rows(named=True):
            found.setdefault((row["input_digest"], row["slice"]), []).append(row)
        return found
