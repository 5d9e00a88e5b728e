"""What makes writing fast does not change what is written: each short cut against the long way."""

from __future__ import annotations

import errno
import io
import os
import threading
from contextlib import AbstractContextManager
from pathlib import Path

import crc32c
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from fmcache.errors import StorageError
from fmcache.store import arrays, segment
from fmcache.store.arrays import cast, file_check
from fmcache.store.cache import open_cache
from fmcache.store.durable import remove_tree
from fmcache.store.segment import Rejected, SegmentWriter
from fmcache.store.tables import parse_table, table_bytes
from tests.unit.test_store import digest_of


def test_every_float16_pattern_is_finite_or_not() -> None:
    """All 65,536, alone and together."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(-1, 1)
    finite = np.isfinite(every[:, 0])
    assert (cast(every, "float16")[1] == ~finite).all()
    alone = [bool(cast(every[i : i + 1], "float16")[1][0]) for i in range(len(every))]
    assert (np.array(alone) == ~finite).all()


def test_float32_patterns_are_finite_or_not() -> None:
    drawn = np.random.default_rng(0).integers(0, 1 << 32, 100_000, dtype=np.uint32).view(np.float32)
    ends = [np.inf, -np.inf, np.nan, -np.nan, 0.0, -0.0, np.finfo("f4").max, np.finfo("f4").min, 1e-45]
    for values in (drawn, *np.array(ends, np.float32)[:, None]):
        assert (cast(values.reshape(-1, 1), "float32")[1] == ~np.isfinite(values)).all()


@pytest.mark.parametrize(
    "size", [0, 1, 3, 4, 5, arrays._STEP - 1, arrays._STEP + 3, arrays._STEP + 4, 3 * arrays._STEP + 5]
)
def test_a_file_is_checked_in_steps(tmp_path: Path, size: int) -> None:
    """Bytes and CRC-32C of the whole file at once; and -1 where the last four bytes are another sum."""
    file, data = tmp_path / "chunk", np.random.default_rng(size).bytes(max(size - 4, 0))
    check = crc32c.crc32c(data)
    file.write_bytes((data + check.to_bytes(4, "little"))[-size:] if size else b"")
    assert file_check(file) == ((size, check) if size >= 4 else (size, -1))
    if size > 4:
        with file.open("r+b") as changed:
            changed.seek(size // 2)
            byte = file.read_bytes()[size // 2]
            changed.write(bytes([byte ^ 1]))
        assert file_check(file)[1] != check


@pytest.mark.parametrize("bad", [(), (3, 17)])
def test_rows_in_the_order_of_the_units_are_those_of_the_join(tmp_path: Path, bad: tuple[int, ...]) -> None:
    names = [digest_of(f"image {i}") for i in range(20)]
    units = pl.DataFrame({"input_digest": names, "slice": [0] * 20}, schema_overrides={"slice": pl.Int32})
    rows = units.select(pl.Series("sample_id", [f"s{i:02}" for i in range(20)]), "slice", "input_digest")
    found = []
    for order in (rows, rows.reverse()):
        cache = open_cache(tmp_path / str(len(found)), create=True)
        with cache.segment("m", "study", "image", {"k": 1}, units, order, d=2, block_rows=8) as writer:
            for block in writer.blocks:
                here = range(block.start, block.stop)
                rejected = [Rejected("decode", "truncated", names[i]) for i in bad if i in here]
                writer.write(block.index, np.ones((len(here), 2), np.float32), rejected)
            writer.publish({})
        stored = cache.stored("m", "study", "image", cache.entry("m", "study").key)
        found.append((stored.rows.sort("sample_id"), stored.quarantine.sort("sample_id")))
    assert found[0][0].equals(found[1][0])
    assert found[0][1].equals(found[1][1])
    assert found[0][0]["row"].to_list() == [i for i in range(20) if i not in bad]
    assert found[0][1]["row"].to_list() == list(bad)


def test_a_second_publisher_leaves_the_first_its_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a working lock: one stands before its rename while the other clears the directory and then fails."""
    cache = open_cache(tmp_path / "cache", create=True)
    units = pl.DataFrame({"input_digest": [digest_of("a"), digest_of("b")], "slice": [0, 0]})
    rows = units.select(pl.Series("sample_id", ["a", "b"]), "slice", "input_digest")
    honest = segment.fault_point

    def begin() -> AbstractContextManager[SegmentWriter]:
        return cache.segment("m", "study", "image", {"k": 1}, units, rows, d=2, lock=False)

    with begin() as first, begin() as second:
        for writer in (first, second):
            writer.write(0, np.ones((2, 2), np.float32))

        def meanwhile(name: str) -> None:
            if name == "publish:before_rename":
                monkeypatch.setattr(segment, "fault_point", honest)
                with monkeypatch.context() as broken:
                    broken.setattr(segment, "write_manifest", refuse)
                    with pytest.raises(StorageError):
                        second.publish({})

        monkeypatch.setattr(segment, "fault_point", meanwhile)
        assert first.publish({}) is not None
    assert cache.entry("m", "study").segments[0].rows.height == 2


def refuse(*_: object) -> None:
    raise OSError(errno.EIO, "injected")


def test_only_columns_that_repeat_have_a_dictionary() -> None:
    n = 5000
    frame = pl.DataFrame(
        {
            "sample_id": [f"s{i}" for i in range(n)],
            "split": ["train", "test"] * (n // 2),
            "label.a": [float(i % 3) for i in range(n)],
            "score": np.random.default_rng(0).random(n),
            "none": pl.Series([None] * n, dtype=pl.String),
            "list": [[i, i + 1] for i in range(n)],
        }
    )
    data = table_bytes(frame)
    assert parse_table(data, "t").equals(frame)
    group = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    coded = {name for name, column in columns.items() if "RLE_DICTIONARY" in column.encodings}
    assert {"split", "label.a"} <= coded
    assert not {"sample_id", "score"} & coded
    assert columns["split"].statistics.min == "test"
    assert columns["sample_id"].statistics is None


@pytest.mark.parametrize("height", [0, 1, 2])
def test_a_table_of_no_or_few_rows_survives(height: int) -> None:
    frame = pl.DataFrame({"sample_id": ["a", "b"], "y": [1.0, None]}).head(height)
    assert parse_table(table_bytes(frame), "t").equals(frame)


def test_two_processes_may_delete_the_same_tree(tmp_path: Path) -> None:
    """The two that lose a race for publishing withdraw at the same moment."""
    for trial in range(5):
        tree = tmp_path / str(trial)
        for folder in range(10):
            (tree / str(folder)).mkdir(parents=True)
            for file in range(40):
                (tree / str(folder) / str(file)).touch()
        failed: list[BaseException] = []

        def remove(tree: Path = tree, failed: list[BaseException] = failed) -> None:
            try:
                remove_tree(tree)
            except OSError as error:
                failed.append(error)

        both = [threading.Thread(target=remove) for _ in range(3)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        assert failed == []
        assert not os.path.lexists(tree)
