"""Rows that may lie on disk, be selected, joined or transformed: each is an array, or gives rows when it is asked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fmcache.probe.centred import Matrix
from fmcache.shapes import Float, Int
from fmcache.store.embeddings import Embeddings

_CGROUP = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
_CHUNK = 8192


@dataclass(frozen=True)
class OnDisk:
    """Some rows of an entry, read when they are asked for.

    Attributes
    ----------
    rows : [n], positions in `embeddings.samples`.
    """

    embeddings: Embeddings
    rows: Int[np.ndarray, " n"]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), self.embeddings.d

    def __getitem__(self, rows: Any) -> np.ndarray:
        wanted = self.rows[rows]
        order = np.argsort(wanted, kind="stable")  # each chunk file is then read once
        out = np.empty((len(wanted), self.embeddings.d), np.float32)
        out[order] = self.embeddings.rows(wanted[order], "float32")
        return out


@dataclass(frozen=True)
class Beside:
    """The features of several matrices, side by side."""

    parts: tuple[Matrix, ...]

    @property
    def shape(self) -> tuple[int, int]:
        return self.parts[0].shape[0], sum(part.shape[1] for part in self.parts)

    def __getitem__(self, rows: Any) -> np.ndarray:
        return np.concatenate([part[rows] for part in self.parts], axis=1)


@dataclass(frozen=True)
class Below:
    """The rows of two matrices, one after the other."""

    first: Matrix
    second: Matrix

    @property
    def shape(self) -> tuple[int, int]:
        return self.first.shape[0] + self.second.shape[0], self.first.shape[1]

    def __getitem__(self, rows: Any) -> np.ndarray:
        wanted = np.arange(self.shape[0])[rows]
        n = self.first.shape[0]
        out = np.empty((len(wanted), self.shape[1]), np.float32)
        early = wanted < n
        out[early], out[~early] = self.first[wanted[early]], self.second[wanted[~early] - n]
        return out


@dataclass(frozen=True)
class Selected:
    """Some rows of a matrix."""

    x: Matrix
    rows: Int[np.ndarray, " n"]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), self.x.shape[1]

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self.x[self.rows[rows]]


@dataclass(frozen=True)
class Linear:
    """``((x - shift) / width) @ turn`` of rows; `turn` [d, k] may be None."""

    x: Matrix
    shift: Float[np.ndarray, " d"]
    width: Float[np.ndarray, " d"]
    turn: Float[np.ndarray, "d k"] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.x.shape[0], self.x.shape[1] if self.turn is None else self.turn.shape[1]

    def __getitem__(self, rows: Any) -> np.ndarray:
        out = (self.x[rows] - self.shift) / self.width
        return (out if self.turn is None else out @ self.turn).astype(np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        """What is needed to do it again."""
        told = {"transform_shift": self.shift, "transform_width": self.width}
        return told if self.turn is None else told | {"transform_turn": self.turn}

    def unfold(
        self, w: Float[np.ndarray, "*c k"], b: Float[np.ndarray, "*c"]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients of the transformed rows as coefficients of the rows themselves."""
        w = (w if self.turn is None else w @ self.turn.T) / self.width
        return w, b - w @ self.shift


def take(x: Matrix, rows: Int[np.ndarray, " n"]) -> Any:
    """Rows of an array (a view where they follow each other), or of a matrix on disk (unread)."""
    if not isinstance(x, np.ndarray):
        return Selected(x, rows)
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
        return x[rows[0] : rows[-1] + 1]
    return x[rows]


def loaded(x: Matrix) -> Float[np.ndarray, "n d"]:
    """The whole matrix as an array."""
    if isinstance(x, np.ndarray):
        return x
    if isinstance(x, OnDisk):
        return x.embeddings.rows(x.rows, "float32")
    out = np.empty(x.shape, np.float32)
    for start in range(0, len(out), _CHUNK):
        out[start : start + _CHUNK] = x[start : start + _CHUNK]
    return out


def linear(
    x: Matrix,
    rows: Int[np.ndarray, " r"],
    w: Float[np.ndarray, "c d"],
    b: Float[np.ndarray, " c"],
    unit_norm: bool = False,
) -> Float[np.ndarray, "r c"]:
    """Logits of some rows in float64; with `unit_norm` the rows are scaled to it first."""
    out = np.empty((len(rows), len(w)))
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        values = x[rows[part]].astype(np.float64)
        if unit_norm:
            norm = np.linalg.norm(values, axis=1, keepdims=True)
            values /= np.where(norm > 0, norm, 1)
        out[part] = values @ w.T + b
    return out


def moments(
    x: Matrix, rows: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """Mean and standard deviation of some rows, in float64; a constant feature has deviation 1."""
    d = x.shape[1]
    shift = x[rows[:1]][0].astype(np.float64)
    first, second = np.zeros(d), np.zeros(d)
    for start in range(0, len(rows), _CHUNK):
        part = x[rows[start : start + _CHUNK]] - shift
        first += part.sum(axis=0)
        second += (part**2).sum(axis=0)
    first /= len(rows)
    deviation = np.sqrt(np.maximum(second / len(rows) - first**2, 0))
    return first + shift, np.where(deviation > 1e-6 * np.abs(first + shift) + 1e-30, deviation, 1.0)


def components(x: Matrix, rows: Int[np.ndarray, " n"], count: int) -> Float[np.ndarray, "d k"]:
    """The directions of largest variance of some rows that have mean 0, [d, count]."""
    d = x.shape[1]
    gram = np.zeros((d, d))
    for start in range(0, len(rows), _CHUNK):
        part = x[rows[start : start + _CHUNK]]
        gram += part.T @ part
    return np.linalg.eigh(gram / len(rows))[1][:, ::-1][:, :count].copy()


def free_gigabytes() -> float:
    """Memory that can still be used, in GB: what the machine has left, or the container's limit."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                free = int(line.split()[1]) * 1024 / 1e9
        limit, used = (path.read_text().strip() for path in _CGROUP)
        if limit.isdigit():
            free = min(free, (int(limit) - int(used)) / 1e9)
    except (OSError, ValueError):
        pass
    return free


def beside(parts: Sequence[Matrix]) -> Matrix:
    """One matrix as it is, several side by side."""
    return parts[0] if len(parts) == 1 else Beside(tuple(parts))
