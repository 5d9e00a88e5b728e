"""What there is to do: which units of a dataset an entry does not hold yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from fmcache.errors import UsageError
from fmcache.store.cache import Cache
from fmcache.store.segment import Rejected

KEY_VERSION = 1


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`; units are dealt out by their digest, so that the parts never overlap."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def parse_shard(text: str) -> Shard:
    """``2/8`` is the second of eight parts, counted from 1.

    Raises
    ------
    UsageError : anything else.
    """
    first, _, second = text.partition("/")
    if first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second):
        return Shard(int(first), int(second))
    raise UsageError(
        f"--shard {text} means nothing.",
        "It is i/n with 1 ≤ i ≤ n, as in 2/8.",
        "Type: --shard 1/8 … --shard 8/8",
    )


@dataclass(frozen=True)
class Plan:
    """The work of one model.

    Attributes
    ----------
    units : [input_digest, slice] to embed, in the order of the samples.
    rows : [sample_id, slice, input_digest] to link to them or to what is stored.
    rejected : inputs that cannot be read and are not in the quarantine yet.
    stored : rows that the entry holds already.
    quarantined : units left alone because the same bytes were rejected before.
    """

    units: pl.DataFrame
    rows: pl.DataFrame
    rejected: tuple[Rejected, ...]
    stored: int
    quarantined: int

    @property
    def empty(self) -> bool:
        return not (self.units.height or self.rows.height or self.rejected)


def key_document(
    model: Mapping[str, Any], reader: Mapping[str, Any], *, autocast: str, dtype: str, decode: str
) -> dict[str, Any]:
    """All that decides the numbers of an image entry; devices and library versions are provenance."""
    return {
        "version": KEY_VERSION,
        "kind": "image",
        "model": dict(model),
        "reader": dict(reader),
        "autocast": autocast,
        "dtype": dtype,
        "decode": decode,
    }


def expand(samples: pl.DataFrame) -> pl.DataFrame:
    """[sample_id, slice, input_digest]: one row per sample and slice, readable samples only."""
    readable = samples.filter(pl.col("input_digest").is_not_null() & pl.col("input_error").is_null())
    return (
        readable.select("sample_id", pl.int_ranges(0, pl.col("slices")).alias("slice"), "input_digest")
        .explode("slice", empty_as_null=False)
        .with_columns(pl.col("slice").cast(pl.Int32))
    )


def plan_model(
    cache: Cache,
    model: str,
    dataset: str,
    key: str,
    samples: pl.DataFrame,
    *,
    shard: Shard | None = None,
    retry_rejected: bool = False,
) -> Plan:
    """Compare the samples with what is published under `key`.

    Parameters
    ----------
    samples : SAMPLE_COLUMNS of the newest version.
    retry_rejected : also try inputs again whose unchanged bytes were rejected before.
    """
    stored = cache.stored(model, dataset, "image", key)
    pair = ["input_digest", "slice"]
    rows = expand(samples)
    failed = stored.quarantine.filter(pl.col("row").is_not_null()).select(pair).unique()
    todo = rows.join(stored.rows, on=["sample_id", *pair], how="anti", maintain_order="left")
    before = todo.height
    if not retry_rejected:
        todo = todo.join(failed, on=pair, how="anti", maintain_order="left")
    quarantined = before - todo.height
    units = todo.join(stored.units, on=pair, how="anti", maintain_order="left")
    units = units.select(pair).unique(maintain_order=True)
    unreadable = samples.filter(pl.col("input_error").is_not_null()).join(
        stored.quarantine,
        on=["sample_id", "input_digest"],
        how="anti",
        nulls_equal=True,
        maintain_order="left",
    )
    if shard is not None:
        units, todo = _part(units, shard), _part(todo, shard)
        unreadable = unreadable if shard.index == 1 else unreadable.clear()
    rejected = tuple(
        Rejected("read", reason, input_digest, 0, sample_id)
        for sample_id, input_digest, reason in unreadable.select(
            "sample_id", "input_digest", "input_error"
        ).iter_rows()
    )
    return Plan(units, todo, rejected, rows.height - before, quarantined)


def _part(table: pl.DataFrame, shard: Shard) -> pl.DataFrame:
    """The rows whose digest, read as a number, leaves the shard's remainder."""
    number = pl.col("input_digest").str.slice(0, 8).str.to_integer(base=16, dtype=pl.Int64)
    return table.filter(number % shard.count == shard.index - 1)
