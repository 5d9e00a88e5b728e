"""Parquet with page checksums, always verified on reading; and a digest of what a table says."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from fmcache.store.documents import damaged
from fmcache.store.durable import put, read_bytes

_DIGEST = b"fmcache.content_sha256"


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
    """The Parquet file of a table: zstd, page checksums, the content digest in its metadata."""
    arrow = table.to_arrow(compat_level=pl.CompatLevel.oldest())
    arrow = arrow.replace_schema_metadata(
        {
            _DIGEST: content_digest(table).encode(),
            b"encoding-type": b"fmcache.table",
            b"encoding-version": b"1",
        }
    )
    sink = io.BytesIO()
    pq.write_table(arrow, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def write_table(path: Path, table: pl.DataFrame, point: str) -> None:
    """Render and put."""
    put(path, table_bytes(table), point)


def parse_table(data: bytes, name: str) -> pl.DataFrame:
    """The table in a Parquet file's bytes.

    Raises
    ------
    CorruptCache : a page checksum or the content digest does not match, or it is not Parquet.
    """
    try:
        arrow = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
        frame = pl.DataFrame(arrow.replace_schema_metadata(None))
        claimed = (arrow.schema.metadata or {}).get(_DIGEST, b"").decode("ascii")
        intact = claimed == content_digest(frame)
    except (
        OSError,
        ValueError,
        KeyError,
        MemoryError,
        pa.ArrowException,
        pl.exceptions.PolarsError,
    ) as error:
        raise damaged(name, f"It cannot be read as Parquet ({type(error).__name__}).") from None
    if not intact:
        raise damaged(name, "Its content does not match its digest.")
    return frame


def read_table(path: Path) -> pl.DataFrame:
    """Read and verify a table; FileNotFoundError if it is not there."""
    return parse_table(read_bytes(path), path.name)
