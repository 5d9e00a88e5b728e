"""The arrays of a segment: plain Zarr v3, one chunk file a block, written and read whole.

Chunk files are written and read here directly: the raw (or Blosc) bytes, then the four bytes of their CRC-32C. Tests
hold that zarr-python, zarrs and tensorstore read the very same values and that zarr-python writes the same metadata.

Measured, 200,000 x 768 float16 on two cores: see docs/benchmarks.md.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import crc32c
import numpy as np

from fmcache.store.documents import damaged
from fmcache.store.durable import open_regular

CRC_BYTES = 4
_STEP = 1 << 18  # bytes of a file that are read at once to check it: they stay in the processor's own memory
DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class ArrayPlan:
    """Shape [n, ...], stored dtype, rows a chunk, and whether chunks are Blosc-compressed (mask logits)."""

    shape: tuple[int, ...]
    dtype: str
    block_rows: int
    compressed: bool = False

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape[1:], dtype=np.int64)) * np.dtype(self.dtype).itemsize

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        return (self.block_rows, *self.shape[1:])

    @property
    def blocks(self) -> int:
        return -(-self.shape[0] // self.block_rows)

    def chunk_name(self, block: int) -> str:
        """The file of a block in the array's directory; flat, so that one fsync of it covers every chunk."""
        return "c." + ".".join([str(block)] + ["0"] * (len(self.shape) - 1))

    def bounds(self, block: int) -> tuple[int, int]:
        return block * self.block_rows, min((block + 1) * self.block_rows, self.shape[0])


def metadata(plan: ArrayPlan) -> bytes:
    """The bytes of zarr.json, equal to what zarr-python 3.1 writes for this array (a test compares them)."""
    codecs: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    if plan.compressed:
        blosc = {"typesize": np.dtype(plan.dtype).itemsize, "cname": "lz4", "clevel": 5}
        codecs.append({"name": "blosc", "configuration": {**blosc, "shuffle": "bitshuffle", "blocksize": 0}})
    document = {
        "shape": list(plan.shape),
        "data_type": plan.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(plan.chunk_shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": "NaN",
        "codecs": [*codecs, {"name": "crc32c"}],
        "attributes": {},
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
    return json.dumps(document, indent=2).encode()


def parse_metadata(data: bytes) -> ArrayPlan:
    """The plan in a zarr.json that `metadata` wrote.

    Raises
    ------
    CorruptCache : it is not one of the two layouts of format version 1.
    """
    try:
        document: Mapping[str, Any] = json.loads(data)
        codecs = [codec["name"] for codec in document["codecs"]]
        compressed = {("bytes", "crc32c"): False, ("bytes", "blosc", "crc32c"): True}[tuple(codecs)]
        encoding = document["chunk_key_encoding"]
        if encoding["name"] != "default" or encoding["configuration"]["separator"] != ".":
            raise ValueError("chunk keys")
        if document["data_type"] not in DTYPES:
            raise ValueError("dtype")
        chunk = document["chunk_grid"]["configuration"]["chunk_shape"]
        shape = tuple(int(size) for size in document["shape"])
        if list(chunk[1:]) != list(shape[1:]):
            raise ValueError("chunk shape")
        return ArrayPlan(shape, document["data_type"], int(chunk[0]), compressed)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise damaged("zarr.json", f"It is not an array of format version 1 ({error}).") from None


@dataclass(frozen=True)
class Chunk:
    """An encoded chunk file: its parts in order, and the checks that go into journal and manifest."""

    parts: tuple[bytes | memoryview, ...]
    crc32c: int

    @property
    def size(self) -> int:
        return sum(memoryview(part).nbytes for part in self.parts)

    def sha256(self) -> str:
        running = hashlib.sha256()
        for part in self.parts:
            running.update(part)
        return running.hexdigest()


def encode(x: np.ndarray, plan: ArrayPlan) -> Chunk:
    """Encode rows [b, ...] of the stored dtype; a last, shorter block is padded with NaN to a whole chunk."""
    rows = np.ascontiguousarray(x)
    padding = plan.block_rows - rows.shape[0]
    if plan.compressed:
        import numcodecs.blosc as blosc

        if padding:
            rows = np.concatenate([rows, np.full((padding, *rows.shape[1:]), np.nan, rows.dtype)])
        payload: tuple[bytes | memoryview, ...] = (
            blosc.compress(rows, b"lz4", 5, blosc.BITSHUFFLE, typesize=rows.itemsize),
        )
    else:
        payload = (_view(rows),)
        if padding:
            nan = np.full((padding, *rows.shape[1:]), np.nan, rows.dtype)
            payload = (*payload, _view(nan))
    check = 0
    for part in payload:
        check = crc32c.crc32c(part, check)
    return Chunk((*payload, check.to_bytes(CRC_BYTES, "little")), check)


def read_chunk(
    path: Path, plan: ArrayPlan, out: np.ndarray, *, size: int, check: int, sha256: str | None = None
) -> None:
    """Read a chunk file into `out` [b, ...] (its first b rows), verifying size and CRC-32C, and sha256 if given.

    Parameters
    ----------
    size, check : bytes and CRC-32C of the file as the manifest has them.

    Raises
    ------
    CorruptCache : missing, another size, another checksum, or not a regular file.
    """
    try:
        descriptor = open_regular(path)
    except OSError as error:
        what = "It is gone." if isinstance(error, FileNotFoundError) else "It is not a regular file."
        raise damaged(_name(path), what, _REPAIR) from None
    try:
        if os.fstat(descriptor).st_size != size:
            found = f"It has {os.fstat(descriptor).st_size:,} bytes; {size:,} were published."
            raise damaged(_name(path), found, _REPAIR)
        tail = bytearray(CRC_BYTES)
        if plan.compressed:
            body = bytearray(size - CRC_BYTES)
            views = [memoryview(body)]
        else:
            rest = bytearray(size - CRC_BYTES - out.nbytes)
            views = [_view(out)]
            views += [memoryview(rest)] if rest else []
        _fill(descriptor, [*views, memoryview(tail)], path)
    finally:
        os.close(descriptor)
    found_check = 0
    for view in views:
        found_check = crc32c.crc32c(view, found_check)
    intact = found_check == check == int.from_bytes(tail, "little")
    if intact and sha256 is not None:
        running = hashlib.sha256()
        for view in [*views, memoryview(tail)]:
            running.update(view)
        intact = running.hexdigest() == sha256
    if not intact:
        raise damaged(_name(path), "Its bytes do not match the checksum that was published.", _REPAIR)
    if plan.compressed:
        import numcodecs.blosc as blosc

        whole = np.frombuffer(blosc.decompress(bytes(body)), plan.dtype).reshape(plan.chunk_shape)
        out[...] = whole[: out.shape[0]]


_REPAIR = (
    "Type: fmcache cache repair KEY   then extract again: only the rows of damaged blocks are made anew."
)


def _fill(descriptor: int, views: list[memoryview], path: Path) -> None:
    offset = 0
    for view in views:
        done = 0
        while done < view.nbytes:
            step = os.preadv(descriptor, [view[done:]], offset)
            if step == 0:
                raise damaged(_name(path), "It ended early.", _REPAIR)
            done += step
            offset += step


def _not_finite(flat: np.ndarray) -> np.ndarray:
    """Rows of [b, d] with a NaN or an infinity: those where an exponent is all ones. Much faster than isfinite for
    float16, which numpy converts value by value.

    As integers, the finite positive values lie below the exponent's pattern (signed order) and the finite negative
    values below the same pattern with the sign bit (unsigned order), so that two maxima clear a block.
    """
    signed, unsigned, exponent = {
        2: (np.int16, np.uint16, 0x7C00),
        4: (np.int32, np.uint32, 0x7F800000),
    }[flat.itemsize]
    sign = 1 << (8 * flat.itemsize - 1)
    if not flat.size or (flat.view(signed).max() < exponent and flat.view(unsigned).max() < exponent | sign):
        return np.zeros(flat.shape[0], bool)
    return ((flat.view(unsigned) & unsigned(exponent)) == exponent).any(axis=1)


def _view(x: np.ndarray) -> memoryview:
    """The bytes of a contiguous array, without a copy; writable if it is."""
    flat: Any = x.reshape(-1).view(np.uint8)
    return memoryview(flat)


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name} of {path.parent.parent}"


def file_check(path: Path) -> tuple[int, int]:
    """Bytes and CRC-32C of a chunk file's content without its last four bytes, and whether those agree (else -1)."""
    buffer, check, size = memoryview(bytearray(_STEP)), 0, 0
    with open(open_regular(path), "rb", buffering=0) as file:
        rest = os.fstat(file.fileno()).st_size - CRC_BYTES
        while size < rest and (step := file.readinto(buffer[: rest - size])):
            check = crc32c.crc32c(buffer[:step], check)
            size += step
        tail = file.read(CRC_BYTES + 1)
    size += len(tail)
    return size, check if tail == check.to_bytes(CRC_BYTES, "little") else -1


def aligned(shape: tuple[int, ...], dtype: str | np.dtype[Any]) -> np.ndarray:
    """An uninitialised array whose data starts on a 64-byte boundary, which JAX takes without a copy."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(kind).reshape(shape)


def cast(x: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Rows in the stored dtype, the rows that are not finite in it, and the largest relative error of the others.

    Returns
    -------
    y : [b, ...] in `dtype`; bad : bool [b], True where any value overflows or is not finite; error : the largest
    |y - x| / max|x| over the values of a row, over the finite rows (0 where nothing was rounded).
    """
    with np.errstate(over="ignore", invalid="ignore"):
        y = x.astype(dtype, copy=False)
    flat = y.reshape(y.shape[0], -1)
    bad = _not_finite(flat)
    if y.dtype == x.dtype or bad.all():
        return y, bad, 0.0
    sample = np.flatnonzero(~bad)[:256]
    exact = x.reshape(x.shape[0], -1)[sample].astype(np.float32)
    largest = np.abs(exact).max(axis=1)
    difference = np.abs(flat[sample].astype(np.float32) - exact).max(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return y, bad, float(np.nan_to_num(difference / largest).max())
