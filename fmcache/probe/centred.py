"""Training rows, centred and in blocks, and the eigenbasis of their covariance: made once, used by every fit."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from fmcache.shapes import Float

_BLOCK_ROWS = {"cpu": 1024}  # a block and its logits stay in cache; accelerators take larger ones
_BLOCK_ROWS_ACCELERATOR = 32768
STREAMED_ROWS = 8192  # as many as a chunk file of the cache
_GRAM_ROWS = 32  # rows a feature that give the eigenbasis: more of them save no pass (docs/decisions/144)
_LINE = 64  # bytes; JAX on a CPU takes an array as it is, without a copy, if it begins at a multiple of this


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
        np.subtract(part, self.mean.astype(np.float32), out=block[: len(part)], casting="unsafe")
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
    mean : [d] float64. basis : [d, d] float64, eigenvectors in columns. variances : [d] float64, their eigenvalues;
        of every k-th row where rows are many, so good for preconditioning and not exact.
    scale : the mean variance of a feature, of all rows: penalties in its unit do not depend on the embedding's scale.
    """

    blocks: np.ndarray | Streamed
    n: int
    mean: Float[np.ndarray, " d"]
    basis: Float[np.ndarray, "d d"]
    variances: Float[np.ndarray, " d"]
    scale: float

    def on_device(self, dtype: Any) -> Any:
        """The blocks as JAX has them; without a copy where device and dtype allow it."""
        if isinstance(self.blocks, Streamed):
            raise TypeError("streamed blocks do not fit in memory")
        if dtype == self.blocks.dtype and jax.default_backend() == "cpu":
            return jax.device_put(self.blocks, may_alias=True)
        return jnp.asarray(self.blocks, dtype)


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
    with ThreadPoolExecutor(1 if stream else 2) as threads:
        # what is subtracted: it need not be the mean to the last digit
        mean = sum(threads.map(lambda at: x[at : at + rows].sum(axis=0, dtype=np.float32), range(0, n, rows)))
        mean = (mean / n).astype(np.float32).astype(np.float64)
        blocks = Streamed(x, mean, rows) if stream else _blocks(x, mean, count, rows, threads)
    gram, total, used = np.zeros((d, d)), 0.0, 0
    every = max(1, n // (_GRAM_ROWS * d))
    for start, part in _parts(blocks, n):
        total += float(np.vdot(part, part))
        some = part[-start % every :: every]
        gram += some.T @ some
        used += len(some)
    variances, basis = np.linalg.eigh(gram / used)
    return Centred(blocks, n, mean, basis, np.maximum(variances, 0), total / (n * d))


def _parts(blocks: np.ndarray | Streamed, n: int) -> Iterator[tuple[int, np.ndarray]]:
    """The real rows in pieces of `STREAMED_ROWS`, each with the number of its first row."""
    if isinstance(blocks, Streamed):
        for index, block in enumerate(blocks):
            yield index * blocks.rows, block[: n - index * blocks.rows]
    else:
        rows = blocks.reshape(-1, blocks.shape[2])[:n]
        for start in range(0, n, STREAMED_ROWS):
            yield start, rows[start : start + STREAMED_ROWS]


def _blocks(
    x: Matrix, mean: Float[np.ndarray, " d"], count: int, rows: int, threads: ThreadPoolExecutor
) -> Float[np.ndarray, "B r d"]:
    """Blocks of x - mean, the last one padded with zeros; by two threads, as memory is slow when first touched."""
    d, shift = len(mean), mean.astype(np.float32)
    memory = np.zeros(count * rows * d + _LINE // 4, np.float32)
    first = -memory.ctypes.data % _LINE // 4
    blocks = memory[first : first + count * rows * d].reshape(count, rows, d)

    def fill(index: int) -> None:
        part = x[index * rows : (index + 1) * rows]
        np.subtract(part, shift, out=blocks[index, : len(part)], casting="unsafe")

    list(threads.map(fill, range(count)))
    return blocks
