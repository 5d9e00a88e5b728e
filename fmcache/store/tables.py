"""Parquet files that know their own sha256, always verified on reading; and a digest of what a table says.

Page checksums do not cover the footer, and DuckDB and polars do not look at them. So the key-value metadata of a file
have a place for a sha256: that of the file's bytes with 64 zeros in this place.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from fmcache.store.documents import damaged
from fmcache.store.durable import put, read_bytes

_OWN = "fmcache.file_sha256"
_BLANK = "0" * 64
_LOOK = 4096  # rows from which it is guessed whether a column repeats itself


def content_digest(table: pl.DataFrame) -> str:
    """sha256 over column names, types and values in row order; independent of how a file stores them."""
    running = hashlib.sha256()
    running.update(repr([(name, str(dtype)) for name, dtype in table.schema.items()]).encode())
    for start in range(0, max(table.height, 1), 1 << 18):
        running.update(
            table.slice(start, 1 << 18).write_csv(None, include_header=False, null_value="\x00").encode()
        )
    return running.hexdigest()


def table_bytes(table: pl.DataFrame) -> bytes:
    """The Parquet file of a table: zstd, page checksums, and the file's own sha256 in its metadata."""
    arrow = table.to_arrow(compat_level=pl.CompatLevel.oldest())
    sink = io.BytesIO()
    repeating = _repeating(table)
    with pq.ParquetWriter(
        sink,
        arrow.schema,
        compression="zstd",
        use_dictionary=repeating,
        write_statistics=repeating,
        write_page_checksum=True,
        store_schema=False,
    ) as writer:
        writer.write_table(arrow)
        writer.add_key_value_metadata(
            {"encoding-type": "fmcache.table", "encoding-version": "1", _OWN: _BLANK}
        )
    data = sink.getvalue()
    place = data.index(_BLANK.encode(), data.rindex(_OWN.encode()))
    own = hashlib.sha256(data).hexdigest().encode()
    return data[:place] + own + data[place + len(own) :]


def _repeating(table: pl.DataFrame) -> list[str]:
    """Columns of which values come again. Of the others (ids, digests, scores) a dictionary is the column over again,
    and the smallest and the largest tell no reader what to skip, for a third of the time that a table takes."""
    first = table.head(_LOOK)
    return [
        name
        for name, dtype in table.schema.items()
        if dtype.is_nested() or 2 * first[name].n_unique() <= max(first.height, 2)
    ]


def write_table(path: Path, table: pl.DataFrame, point: str) -> None:
    """Render and put."""
    put(path, table_bytes(table), point)


def _owned(data: bytes) -> pa.BufferReader:
    """The bytes in memory of Arrow's. Its threads may let go of a file after the reading call has returned, and one
    that lets go of a Python object while the interpreter is ending aborts the process (seen in 3 of 210)."""
    memory = pa.allocate_buffer(len(data))
    memoryview(memory).cast("B")[:] = data
    return pa.BufferReader(memory)


def parse_table(data: bytes, name: str) -> pl.DataFrame:
    """The table in a Parquet file's bytes.

    Raises
    ------
    CorruptCache : any byte is not the one that was written, or it is not a table of the cache.
    """
    found = data.rfind(_OWN.encode())
    place = data.find(
        b"@", found
    )  # thrift: the value's field header and length, 0x18 0x40, stand before the value
    claimed = data[place + 1 : place + 65]
    blank = data[: place + 1] + _BLANK.encode() + data[place + 65 :]
    if found < 0 or place < 0 or hashlib.sha256(blank).hexdigest().encode() != claimed:
        raise damaged(name, "Its bytes do not match the sha256 that it carries.")
    try:
        arrow = pq.ParquetFile(_owned(data), page_checksum_verification=True).read()
        return pl.DataFrame(arrow.replace_schema_metadata(None))
    except (
        OSError,
        ValueError,
        KeyError,
        MemoryError,
        pa.ArrowException,
        pl.exceptions.PolarsError,
    ) as error:
        raise damaged(name, f"It cannot be read as Parquet ({type(error).__name__}).") from None


def read_table(path: Path) -> pl.DataFrame:
    """Read and verify a table; FileNotFoundError if it is not there."""
    return parse_table(read_bytes(path), path.name)
