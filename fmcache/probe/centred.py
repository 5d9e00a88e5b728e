"""Training rows, centred and in blocks, and the eigenbasis of their covariance: made once, used by every fit."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np

from fmcache.shapes import Float

_BLOCK_ROWS = {"cpu": 2048}  # a block's logits stay in cache; accelerators take larger ones
_BLOCK_ROWS_ACCELERATOR = 32768
STREAMED_ROWS = 8192  # as many as a chunk file of the cache


class Matrix(Protocol):
    """Rows [n, d] that may be an array, or lie on disk: anything that gives rows for a slice."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __getitem__(self, rows: Any) -> np.ndarray: ...


@dataclass(frozen=True)
class Streamed:
    """Blocks that are read when they are asked for, the next one while the last one is used."""

    x: Matrix
    mean: Float[np.ndarray, " d"]
    rows: int

    @property
    def shape(self) -> tuple[int, int, int]:
        n, d = self.x.shape
        return -(-n // self.rows), self.rows, d

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    def _block(self, index: int) -> np.ndarray:
        part = self.x[index * self.rows : (index + 1) * self.rows]
        block = np.zeros((self.rows, self.shape[2]), np.float32)
        np.subtract(part, self.mean, out=block[: len(part)], casting="unsafe")
        return block

    def __iter__(self) -> Iterator[np.ndarray]:
        with ThreadPoolExecutor(1) as reader:
            following = reader.submit(self._block, 0)
            for index in range(self.shape[0]):
                block = following.result()
                if index + 1 < self.shape[0]:
                    following = reader.submit(self._block, index + 1)
                yield block


@dataclass(frozen=True)
class Centred:
    """Training rows, centred and cut into blocks (the last one padded with zeros), and their eigenbasis.

    Attributes
    ----------
    blocks : [B, r, d] float32, in memory or `Streamed`. n : rows that are real.
    mean : [d] float64. basis : [d, d] float64, eigenvectors in columns. variances : [d] float64, their eigenvalues.
    """

    blocks: np.ndarray | Streamed
    n: int
    mean: Float[np.ndarray, " d"]
    basis: Float[np.ndarray, "d d"]
    variances: Float[np.ndarray, " d"]

    @property
    def scale(self) -> float:
        """The mean variance of a feature; penalties in its unit do not depend on the embedding's scale."""
        return float(self.variances.mean())


def centre(x: Matrix, *, stream: bool = False) -> Centred:
    """Centre rows (any float dtype; not changed) and find the eigenbasis of their covariance.

    The Gram matrix is BLAS syrk by blocks, summed in float64; it needs only be good enough to precondition. With
    `stream` no more than two blocks are in memory at any time, and every fit reads x again.
    """
    n, d = x.shape
    if n == 0:
        raise ValueError("no rows to fit")
    usual = _BLOCK_ROWS.get(jax.default_backend(), _BLOCK_ROWS_ACCELERATOR)
    # a few rows are padded to a power of two, so that studies of about one size share one compiled program
    rows = min(STREAMED_ROWS if stream else usual, 1 << (n - 1).bit_length())
    count = -(-n // rows)
    mean = np.zeros(d)
    for start in range(0, n, rows):
        mean += x[start : start + rows].sum(axis=0, dtype=np.float64)
    mean /= n
    gram = np.zeros((d, d))
    blocks: np.ndarray | Streamed
    if stream:
        blocks = Streamed(x, mean, rows)
        for block in blocks:
            gram += block.T @ block
    else:
        blocks = np.zeros((count, rows, d), np.float32)
        for index in range(count):
            part = x[index * rows : (index + 1) * rows]
            block = blocks[index, : len(part)]
            np.subtract(part, mean, out=block, casting="unsafe")
            gram += block.T @ block
    variances, basis = np.linalg.eigh(gram / n)
    return Centred(blocks, n, mean, basis, np.maximum(variances, 0))
