"""What a decode worker does: bytes → digest check → pixels → the geometry of every model. No torch in here."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fmcache.extract.decode import decode
from fmcache.extract.inputs import read_input
from fmcache.extract.preprocess import Geometry, apply_geometry
from fmcache.extract.reader import ReaderOptions, Undecodable


@dataclass(frozen=True)
class Unit:
    """One thing to embed: slice `slice` of the input with these bytes, and a file that holds them."""

    input_digest: str
    slice: int
    path: str


@dataclass(frozen=True)
class Task:
    """A few units to decode, once, into the geometry of each model.

    Attributes
    ----------
    target : the shortest side that is needed, for JPEG's DCT-scaled decoding; None for exact decoding.
    """

    root: Path
    units: tuple[Unit, ...]
    reader: ReaderOptions
    geometries: tuple[Geometry, ...]
    target: int | None


@dataclass(frozen=True)
class Decoded:
    """A task's outcome: per unit its images ([h, w] or [h, w, 3] uint8, one a geometry) or the reason there are none.

    `seconds` is the work it took, in the process that did it.
    """

    images: tuple[tuple[np.ndarray, ...] | Undecodable, ...]
    seconds: float


def run_task(task: Task) -> Decoded:
    """Decode a task. Every expected failure is a reason in the result; consecutive slices share one read."""
    began = time.perf_counter()
    images: list[tuple[np.ndarray, ...] | Undecodable] = []
    data, held = b"", ""
    for unit in task.units:
        try:
            if unit.input_digest != held:
                held, data = "", read_input(task.root, unit.path)
                if hashlib.sha256(data).hexdigest() != unit.input_digest:
                    raise Undecodable("The file changed during the extraction; run the same command again.")
                held = unit.input_digest
            image = decode(data, slice=unit.slice, reader=task.reader, target=task.target)
            images.append(tuple(apply_geometry(image, geometry) for geometry in task.geometries))
        except Undecodable as error:
            images.append(error)
        except MemoryError:
            images.append(Undecodable("It needs more memory to decode than there is."))
    return Decoded(tuple(images), time.perf_counter() - began)


def split_tasks(task: Task, size: int) -> list[Task]:
    """The same work in tasks of at most `size` units."""
    units: Sequence[Unit] = task.units
    return [
        Task(task.root, tuple(units[i : i + size]), task.reader, task.geometries, task.target)
        for i in range(0, len(units), size)
    ]
