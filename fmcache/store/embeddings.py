"""Reading embeddings: whole, or in batches that never hold more than a few blocks in memory."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from fmcache.store.arrays import aligned, read_chunk
from fmcache.store.entries import Entry, Segment
from fmcache.store.workspace import ARRAY

THREADS = 4
WINDOW = 4  # blocks that are shuffled together


@dataclass(frozen=True)
class _Part:
    """The wanted rows of one block: array rows `source` of it go to the rows `target` of the result."""

    segment: Segment
    block: int
    source: np.ndarray
    target: np.ndarray


class Embeddings:
    """The rows of one entry that belong to the newest version of its dataset.

    Attributes
    ----------
    entry : where they come from.
    samples : one row per array row, in the same order: ``slice`` and every column of samples.parquet.
    missing : samples of the dataset that have no row here, with ``reason`` (not extracted, changed since the
        extraction, rejected: …).
    n, d : rows, and values a row (the product of the row's shape).
    """

    def __init__(
        self, entry: Entry, samples: pl.DataFrame, missing: pl.DataFrame, where: np.ndarray, verify: str
    ) -> None:
        self.entry, self.samples, self.missing = entry, samples, missing
        self.n, self.shape = samples.height, entry.shape
        self.d = int(np.prod(self.shape))
        self.dtype = entry.dtype
        self._where, self._verify = where, verify

    def array(self, dtype: Any = None) -> np.ndarray:
        """All rows, [n, d] (or [n, prompts, h, w]), in the order of `samples`.

        Parameters
        ----------
        dtype : None for the stored dtype, or ``"float32"``. The memory is 64-byte aligned: JAX takes it without a copy.

        Raises
        ------
        CorruptCache : a byte on disk is not the published one. MemoryError : use `batches`.
        """
        return self._gather(np.arange(self.n), dtype)

    def rows(self, rows: Any, dtype: Any = None) -> np.ndarray:
        """Some rows, [len(rows), ...], by their positions in `samples`; reads only the blocks that hold them."""
        return self._gather(np.asarray(rows, dtype=np.int64), dtype)

    def batches(
        self, size: int, seed: int = 0, shuffle: bool = False, dtype: Any = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches ``(rows [b], x [b, d])``; ``samples[rows]`` are their samples; the last one may be shorter.

        With `shuffle` the blocks come in a seeded random order and rows are mixed within a window of four blocks.
        At most two windows are in memory, the second being read while the first is used. Same seed, same batches.
        """
        if size < 1:
            raise ValueError("size must be at least 1")
        windows = self._windows(np.random.default_rng(seed) if shuffle else None)
        rows, x = np.empty(0, np.int64), aligned((0, *self.shape), dtype or self.dtype)
        with ThreadPoolExecutor(1) as reader:
            following = reader.submit(self._gather, windows[0], dtype) if windows else None
            for number, window in enumerate(windows):
                assert following is not None
                fresh = following.result()
                following = (
                    reader.submit(self._gather, windows[number + 1], dtype)
                    if number + 1 < len(windows)
                    else None
                )
                if rows.size:
                    rows, x = np.concatenate([rows, window]), np.concatenate([x, fresh])
                else:
                    rows, x = window, fresh
                whole = rows.size // size * size if following is not None else rows.size
                for start in range(0, whole, size):
                    batch = aligned((min(size, whole - start), *self.shape), x.dtype)
                    batch[...] = x[start : start + size]
                    yield rows[start : start + size], batch
                rows, x = rows[whole:].copy(), x[whole:].copy()  # a view would keep the whole window
                del fresh, window

    def _windows(self, random: np.random.Generator | None) -> list[np.ndarray]:
        blocks = [part.target for part in self._parts(np.arange(self.n))]
        if random is None:
            together = [np.concatenate(blocks[i : i + WINDOW]) for i in range(0, len(blocks), WINDOW)]
            return [np.sort(window) for window in together]
        order = random.permutation(len(blocks))
        return [
            random.permutation(np.concatenate([blocks[index] for index in order[i : i + WINDOW]]))
            for i in range(0, len(order), WINDOW)
        ]

    def _parts(self, rows: np.ndarray) -> list[_Part]:
        """Group these result rows by the block that holds them; `target` counts within `rows`."""
        parts = []
        for segment in self.entry.segments:
            inside = np.flatnonzero(self._where[rows, 0] == segment.number)
            if not inside.size:
                continue
            source = self._where[rows[inside], 1]
            block = source // segment.plan.block_rows
            order = np.argsort(block, kind="stable")
            edges = np.flatnonzero(np.diff(block[order])) + 1
            for group in np.split(order, edges):
                index = int(block[group[0]])
                parts.append(
                    _Part(segment, index, source[group] - index * segment.plan.block_rows, inside[group])
                )
        return parts

    def _gather(self, rows: np.ndarray, dtype: Any) -> np.ndarray:
        out = aligned((rows.size, *self.shape), dtype or self.dtype)
        parts = self._parts(rows)
        if len(parts) == 1:
            self._read(parts[0], out)
        else:
            with ThreadPoolExecutor(THREADS) as pool:
                for done in [pool.submit(self._read, part, out) for part in parts]:
                    done.result()
        return out

    def _read(self, part: _Part, out: np.ndarray) -> None:
        plan, files = part.segment.plan, part.segment.published.files
        name = f"{ARRAY}/{plan.chunk_name(part.block)}"
        start, stop = plan.bounds(part.block)
        first = int(part.target[0])
        direct = (
            out.dtype == plan.dtype
            and part.source.size == stop - start
            and bool((part.source == np.arange(stop - start)).all())
            and bool((part.target == np.arange(first, first + stop - start)).all())
        )
        block = (
            out[first : first + stop - start] if direct else np.empty((stop - start, *self.shape), plan.dtype)
        )
        file = files[name]
        read_chunk(
            part.segment.path / name,
            plan,
            block,
            size=file["bytes"],
            check=file["crc32c"],
            sha256=file["sha256"] if self._verify == "sha256" else None,
        )
        if not direct:
            out[part.target] = block[part.source]
