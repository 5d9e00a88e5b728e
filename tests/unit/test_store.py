"""The store as a library: keys, chunks that other Zarr readers open, reading, append, changed and duplicate inputs."""

from __future__ import annotations

import json
import os
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fmcache.errors import (
    AmbiguousEntry,
    Busy,
    CorruptCache,
    DatasetError,
    ForeignCache,
    MissingEntry,
    UsageError,
)
from fmcache.store import arrays
from fmcache.store.arrays import ArrayPlan, cast, encode, metadata, parse_metadata
from fmcache.store.cache import Cache, open_cache
from fmcache.store.documents import parse, render
from fmcache.store.keys import canonical_json, digest, path_name
from fmcache.store.segment import Rejected
from fmcache.store.tables import content_digest, parse_table, table_bytes

DOCUMENT = {"model": "m", "weights_sha256": "ab" * 32}


def digest_of(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


def vector(name: str, d: int = 8) -> np.ndarray:
    seed = int(name[:8], 16)
    return np.random.default_rng(seed).standard_normal(d).astype(np.float32)


def table(contents: dict[str, str], slices: int = 1, **columns: object) -> pl.DataFrame:
    """Samples by id → content of the input."""
    n = len(contents)
    base = pl.DataFrame(
        {
            "sample_id": list(contents),
            "patient_id": [f"p{i // 2}" for i in range(n)],
            "path": [f"{i}.png" for i in range(n)],
            "split": ["train"] * n,
            "slices": [slices] * n,
            "input_digest": [digest_of(text) for text in contents.values()],
            "input_error": [None] * n,
        },
        schema_overrides={"input_error": pl.String, "slices": pl.Int32},
    )
    return base.with_columns(**{name: pl.lit(value) for name, value in columns.items()})


def extract(
    cache: Cache, samples: pl.DataFrame, *, block_rows: int = 4, bad: tuple[str, ...] = (), d: int = 8,
    dtype: str = "float16", publish: bool = True,
) -> tuple[int, int]:  # fmt: skip
    """What extraction does with a dataset: blocks written, and 1 if a segment was published."""
    cache.publish_dataset("study", {}, samples)
    rows = samples.select("sample_id", pl.lit(0, pl.Int32).alias("slice"), "input_digest")
    stored = cache.stored("m", "study", "image", digest(DOCUMENT))
    new = rows.join(stored.rows, on=["sample_id", "input_digest"], how="anti", maintain_order="left")
    if not new.height:
        return 0, 0
    units = new.select("input_digest", "slice").unique(maintain_order=True)
    with cache.segment(
        "m", "study", "image", DOCUMENT, units, new, d=d, dtype=dtype, block_rows=block_rows
    ) as writer:
        for block in writer.blocks:
            names = writer.units["input_digest"][block.start : block.stop].to_list()
            rejected = [Rejected("decode", "truncated", name) for name in names if name in bad]
            writer.write(block.index, np.stack([vector(name, d) for name in names]), rejected)
        return writer.written, int(writer.publish({"device": "cpu"}) is not None) if publish else 0


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return open_cache(tmp_path / "cache", create=True)


# -------------------------------------------------------------------------------------------------- keys and documents


def test_canonical_json_is_one_byte_string_a_value() -> None:
    assert canonical_json({"b": [1, 0.5, None, True], "a": "é"}) == '{"a":"é","b":[1,0.5,null,true]}'.encode()
    assert digest({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
    for value, error in (
        (float("nan"), ValueError),
        (b"x", TypeError),
        ({1: 2}, TypeError),
        ({"a": {3}}, TypeError),
    ):
        with pytest.raises(error):
            canonical_json({"x": value} if not isinstance(value, dict) else value)


@pytest.mark.parametrize(
    ("name", "path"), [("timm/vit_x", "timm--vit_x"), ("a@b", "a-at-b"), ("hf/org/n:r", "hf--org--n-at-r")]
)
def test_a_name_becomes_a_directory(name: str, path: str) -> None:
    assert path_name(name) == path


@pytest.mark.parametrize(
    "name", ["..", "a/../b", "", "/etc", "a b", "a\0b", "x" * 121, "~", "é", "a\\b", ".hidden"]
)
def test_no_other_name_does(name: str) -> None:
    with pytest.raises(UsageError):
        path_name(name)


def test_a_document_notices_every_change_and_a_newer_version() -> None:
    data = render("entry", {"x": 1, "text": "é"})
    assert parse(data, "entry", "entry.json") == {"x": 1, "text": "é"}
    for index in range(len(data)):
        for bit in (0, 5):
            changed = bytearray(data)
            changed[index] ^= 1 << bit
            with pytest.raises(CorruptCache):
                parse(bytes(changed), "entry", "entry.json")
    with pytest.raises(CorruptCache, match="belongs"):
        parse(data, "segment", "x")
    body = json.loads(data)
    body.pop("sha256")
    body["encoding-version"] = 2
    body["sha256"] = digest(body)
    with pytest.raises(CorruptCache, match="newer fmcache"):
        parse((json.dumps(body, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode(), "entry", "x")


def test_a_table_survives_and_says_when_it_does_not() -> None:
    frame = table({"007": "a", "1e5": "b", " x ": "c"}, **{"label.a": 1.0})
    data = table_bytes(frame)
    assert parse_table(data, "t").equals(frame)
    assert content_digest(frame) != content_digest(frame.reverse())
    assert content_digest(frame) != content_digest(frame.rename({"label.a": "label.b"}))
    assert content_digest(frame) != content_digest(
        frame.with_columns(pl.col("path").replace({"0.png": None}))
    )
    with pytest.raises(CorruptCache):
        parse_table(data[: len(data) // 2], "t")


# --------------------------------------------------------------------------------------------------------------- chunks


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_other_zarr_readers_open_the_array(
    tmp_path: Path, cache: Cache, dtype: str, compressed: bool
) -> None:
    """zarr-python, tensorstore and zarrs read the very same values; zarr-python writes the same zarr.json."""
    import tensorstore
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    x = np.random.default_rng(0).standard_normal((37, 2, 6, 6)).astype(dtype)
    plan = ArrayPlan(x.shape, dtype, 16, compressed)
    ours, theirs = tmp_path / "ours.zarr", tmp_path / "theirs.zarr"
    ours.mkdir()
    (ours / "zarr.json").write_bytes(metadata(plan))
    for block in range(plan.blocks):
        start, stop = plan.bounds(block)
        (ours / plan.chunk_name(block)).write_bytes(
            b"".join(bytes(p) for p in encode(x[start:stop], plan).parts)
        )
    assert parse_metadata(metadata(plan)) == plan
    blosc = BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=x.itemsize)
    zarr.create_array(
        theirs, shape=x.shape, chunks=plan.chunk_shape, dtype=dtype, fill_value=float("nan"),
        compressors=[blosc, Crc32cCodec()] if compressed else [Crc32cCodec()],
        chunk_key_encoding={"name": "default", "separator": "."},
    )  # fmt: skip
    assert json.loads((ours / "zarr.json").read_bytes()) == json.loads((theirs / "zarr.json").read_bytes())
    assert (zarr.open_array(ours, mode="r")[...] == x).all()
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(ours)}}
    assert (tensorstore.open(spec).result().read().result() == x).all()
    pytest.importorskip("zarrs")
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        assert (zarr.open_array(ours, mode="r")[...] == x).all()


def test_a_cast_says_what_it_loses() -> None:
    x = np.array([[1.0, 0.1], [65520.0, 1.0], [np.nan, 1.0], [np.inf, 0.0], [1e-8, 0.0]], np.float32)
    y, bad, error = cast(x, "float16")
    assert y.dtype == np.float16
    assert bad.tolist() == [False, True, True, True, False]
    assert error == 1.0  # 1e-8 is below the smallest float16, so that row lost everything
    assert cast(x[:1], "float32")[2] == 0.0


# -------------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_was_written_is_read(cache: Cache, dtype: str) -> None:
    samples = table({f"s{i:02}": f"image {i}" for i in range(11)})
    assert extract(cache, samples, dtype=dtype) == (3, 1)
    found = cache.embeddings("m", "study")
    assert (found.n, found.d, found.dtype, found.shape) == (11, 8, dtype, (8,))
    expected = np.stack([vector(name) for name in found.samples["input_digest"]]).astype(dtype)
    assert (found.array() == expected).all()
    assert found.array("float32").dtype == np.float32
    assert (found.rows([7, 0, 7]) == expected[[7, 0, 7]]).all()
    assert found.rows([]).shape == (0, 8)
    assert found.samples["sample_id"].to_list() == samples["sample_id"].to_list()
    assert found.samples.columns[:2] == ["sample_id", "slice"]
    assert found.missing.height == 0


def test_jax_takes_arrays_and_batches_without_a_copy(cache: Cache) -> None:
    import jax

    extract(cache, table({f"s{i:02}": f"image {i}" for i in range(40)}), dtype="float32", d=64)
    found = cache.embeddings("m", "study")
    for x in [found.array(), *(x for _, x in found.batches(16))]:
        taken = jax.dlpack.from_dlpack(x)
        assert taken.unsafe_buffer_pointer() == x.ctypes.data
        assert (np.asarray(taken) == x).all()


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("size", [1, 7, 16, 1000])
def test_batches_hold_every_row_once(cache: Cache, size: int, shuffle: bool) -> None:
    extract(cache, table({f"s{i:03}": f"image {i}" for i in range(150)}), block_rows=16)
    found = cache.embeddings("m", "study")
    whole = found.array()
    batches = list(found.batches(size, seed=3, shuffle=shuffle))
    assert all(len(rows) == size for rows, _ in batches[:-1])
    order = np.concatenate([rows for rows, _ in batches])
    assert sorted(order.tolist()) == list(range(150))
    assert (np.concatenate([x for _, x in batches]) == whole[order]).all()
    again = np.concatenate([rows for rows, _ in found.batches(size, seed=3, shuffle=shuffle)])
    assert (order == again).all()
    if shuffle:
        other = np.concatenate([rows for rows, _ in found.batches(size, seed=4, shuffle=True)])
        assert (order != other).any()
        assert (order != np.arange(150)).any()
    else:
        assert (order == np.arange(150)).all()
    with pytest.raises(ValueError, match="at least 1"):
        next(found.batches(0))


def test_batches_need_a_window_of_blocks_not_the_array(cache: Cache) -> None:
    """40 blocks of 128 kB: two windows of four, the four that are being read, a batch, and the indices of all rows."""
    n, d, block = 40 * 256, 256, 256
    samples = table({f"s{i:05}": f"image {i}" for i in range(n)})
    cache.publish_dataset("study", {}, samples)
    units = samples.select("input_digest", pl.lit(0, pl.Int32).alias("slice"))
    rows = samples.select("sample_id", pl.lit(0, pl.Int32).alias("slice"), "input_digest")
    with cache.segment("m", "study", "image", DOCUMENT, units, rows, d=d, block_rows=block) as writer:
        for part in writer.blocks:
            writer.write(part.index, np.full((part.stop - part.start, d), part.index, np.float32))
        writer.publish({})
    found = cache.embeddings("m", "study")
    block_bytes = found.entry.segments[0].plan.block_rows * d * 2
    assert n * d * 2 > 30 * block_bytes or found.entry.segments[0].plan.blocks >= 16
    tracemalloc.start()
    for _, x in found.batches(256, shuffle=True):
        assert x.shape[1] == d
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * block_bytes < n * d * 2


# -------------------------------------------------------------------------------- append, changed, duplicate, rejected


def test_a_dataset_that_grows_is_appended(cache: Cache) -> None:
    contents = {f"s{i:02}": f"image {i}" for i in range(6)}
    extract(cache, table(contents))
    assert extract(cache, table(contents)) == (0, 0)
    contents |= {f"s{i:02}": f"image {i}" for i in range(6, 9)}
    assert extract(cache, table(contents))[1] == 1
    entry = cache.entry("m", "study")
    assert [segment.n for segment in entry.segments] == [6, 3]
    found = cache.embeddings("m", "study")
    assert (found.array() == np.stack([vector(d) for d in found.samples["input_digest"]]).astype("f2")).all()


def test_a_changed_input_is_made_again_and_the_old_row_is_not_used(cache: Cache) -> None:
    contents = {"a": "one", "b": "two"}
    extract(cache, table(contents))
    contents["b"] = "two, retouched"
    cache.publish_dataset("study", {}, table(contents))
    found = cache.embeddings("m", "study")
    assert found.samples["sample_id"].to_list() == ["a"]
    assert found.missing.rows() == [("b", "p0", "train", "changed since the extraction")]
    extract(cache, table(contents))
    found = cache.embeddings("m", "study")
    by_id = dict(zip(found.samples["sample_id"], found.array(), strict=True))
    assert (by_id["b"] == vector(digest_of("two, retouched")).astype("f2")).all()


def test_a_duplicate_is_embedded_once(cache: Cache) -> None:
    extract(cache, table({"a": "same", "b": "same", "c": "other"}))
    assert cache.entry("m", "study").n == 2
    found = cache.embeddings("m", "study")
    assert found.n == 3
    x = dict(zip(found.samples["sample_id"], found.array(), strict=True))
    assert (x["a"] == x["b"]).all()
    extract(cache, table({"a": "same", "b": "same", "c": "other", "d": "same"}))
    assert cache.entry("m", "study").n == 2
    assert cache.embeddings("m", "study").n == 4


def test_labels_may_change_and_rows_may_be_reordered(cache: Cache) -> None:
    contents = {"a": "one", "b": "two", "c": "three"}
    first = table(contents, **{"label.x": 0.0})
    extract(cache, first)
    version = cache.dataset("study")
    assert cache.publish_dataset("study", {}, first.reverse()).digest == version.digest
    assert extract(cache, table(contents, **{"label.x": 1.0})) == (0, 0)
    found = cache.embeddings("m", "study")
    assert found.samples["label.x"].to_list() == [1.0] * 3
    assert cache.dataset("study").sequence == version.sequence + 1


def test_rejected_rows_are_kept_out_and_told(cache: Cache) -> None:
    contents = {"a": "one", "b": "two", "c": "three"}
    extract(cache, table(contents), bad=(digest_of("two"),))
    found = cache.embeddings("m", "study")
    assert found.samples["sample_id"].to_list() == ["a", "c"]
    assert found.missing["reason"].to_list() == ["rejected: truncated"]
    stored = cache.stored("m", "study", "image", digest(DOCUMENT))
    assert stored.quarantine.select("sample_id", "stage", "reason").rows() == [("b", "decode", "truncated")]


def test_values_that_overflow_the_stored_dtype_are_rejected(cache: Cache) -> None:
    samples = table({"a": "one", "b": "two"})
    cache.publish_dataset("study", {}, samples)
    units = samples.select("input_digest", pl.lit(0, pl.Int32).alias("slice"))
    rows = units.with_columns(sample_id=samples["sample_id"]).select("sample_id", "slice", "input_digest")
    with cache.segment("m", "study", "image", DOCUMENT, units, rows, d=2) as writer:
        (told,) = writer.write(0, np.array([[1.0, 70000.0], [1.0, 2.0]], np.float32))
        assert (told.stage, "overflows float16" in told.reason) == ("store", True)
        writer.publish({})
    assert cache.embeddings("m", "study").samples["sample_id"].to_list() == ["b"]


def test_another_key_is_another_entry(cache: Cache) -> None:
    samples = table({"a": "one"})
    extract(cache, samples)
    units = samples.select("input_digest", pl.lit(0, pl.Int32).alias("slice"))
    rows = samples.select("sample_id", pl.lit(0, pl.Int32).alias("slice"), "input_digest")
    with cache.segment("m", "study", "image", {**DOCUMENT, "pool": "mean"}, units, rows, d=8) as writer:
        writer.write(0, np.zeros((1, 8), np.float32))
        writer.publish({})
    with pytest.raises(AmbiguousEntry):
        cache.embeddings("m", "study")
    keys = [entry.key for entry in cache.entries()]
    assert cache.embeddings("m", "study", key=keys[0][:6]).n == 1


def test_what_is_not_there_is_named_with_its_neighbour(cache: Cache) -> None:
    with pytest.raises(MissingEntry, match="none of any model"):
        cache.embeddings("m", "study")
    extract(cache, table({"a": "one"}))
    with pytest.raises(MissingEntry, match="Did you mean m/study"):
        cache.embeddings("m", "studi")
    with pytest.raises(MissingEntry, match="Did you mean study"):
        cache.dataset("studdy")
    with pytest.raises(UsageError, match="no kind"):
        cache.stored("m", "study", "sound", "0" * 64)
    with pytest.raises(MissingEntry):
        cache.run("ffff")


def test_a_table_that_cannot_be_samples_is_refused(cache: Cache) -> None:
    good = table({"a": "one", "b": "two"})
    with pytest.raises(DatasetError, match="repeated sample_id"):
        cache.publish_dataset("study", {}, good.with_columns(sample_id=pl.lit("a")))
    with pytest.raises(DatasetError, match="lacks the column split"):
        cache.publish_dataset("study", {}, good.drop("split"))


def test_a_second_writer_is_told_that_it_is_busy(cache: Cache) -> None:
    samples = table({"a": "one"})
    units = samples.select("input_digest", pl.lit(0, pl.Int32).alias("slice"))
    rows = samples.select("sample_id", pl.lit(0, pl.Int32).alias("slice"), "input_digest")
    with cache.segment("m", "study", "image", DOCUMENT, units, rows, d=8):
        with pytest.raises(Busy), cache.segment("m", "study", "image", DOCUMENT, units, rows, d=8):
            pass
        with cache.segment("m", "study", "image", DOCUMENT, units, rows, d=8, part="1/2") as other:
            assert other.blocks


def test_a_reader_never_sees_half_a_segment(cache: Cache) -> None:
    """A reader in a loop beside the writer: nothing, or all of it."""
    samples = table({f"s{i:03}": f"image {i}" for i in range(200)})
    cache.publish_dataset("study", {}, samples)
    seen, stop, failed = set(), threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            try:
                found = open_cache(cache.path).embeddings("m", "study")
                seen.add(found.n)
                assert not np.isnan(found.array()).any()
            except MissingEntry:
                seen.add(0)
            except Exception as error:
                failed.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    extract(cache, samples, block_rows=16)
    stop.set()
    reader.join()
    assert failed == []
    assert seen <= {0, 200}


def test_the_umask_does_not_open_anything(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        cache = open_cache(tmp_path / "open" / "cache", create=True)
        extract(cache, table({"a": "one"}))
    finally:
        os.umask(before)
    for path in [cache.path, *cache.path.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
        assert path.stat().st_mode & 0o700 == (0o700 if path.is_dir() else 0o600)


def test_a_cache_of_another_user_is_read_with_a_warning(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(cache, table({"a": "one"}))
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.warns(ForeignCache, match=rf"belongs to another user \(uid {owner}\)"):
        foreign = open_cache(cache.path)
    assert foreign.embeddings("m", "study").array().shape == (1, 8)


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="not an fmcache cache"):
        open_cache(tmp_path, create=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(MissingEntry, match="no cache at"):
        open_cache(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="means nothing"):
        open_cache(tmp_path, verify="none")


def test_aligned_memory_is_aligned() -> None:
    for shape in ((1, 1), (7, 5), (1000, 3)):
        assert arrays.aligned(shape, "float16").ctypes.data % 64 == 0
