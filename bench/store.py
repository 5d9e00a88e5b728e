"""The store against np.save/np.load, tensorstore, zarr-python and Parquet, in the same run.

    python bench/store.py                     # 200,000 x 768 float16 and 500 x 3 x 256 x 256 logits
    python bench/store.py --rows 50000 --images 100 --repeats 3
    python bench/store.py --without-fast      # fmcache and NumPy alone, where zarrs and tensorstore cannot be imported

Every figure is a median over repeats in which the contenders take turns, each on a disk that has settled (sync). Writes
are durable: what a contender does not fsync itself is fsynced after it. Reads are of a warm page cache, verification
included, into a fresh array. The whole run ends with ``--without-fast`` in a process of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from turns import in_turn, medians

from fmcache.store.cache import open_cache
from fmcache.store.segment import SegmentWriter


def fsync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for name in [*names, "."]:
            descriptor = os.open(Path(root) / name, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


class Refuse:
    """A finder that lets nobody import what the extra ``[fast]`` installs, or tensorstore."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in ("zarrs", "tensorstore"):
            raise ImportError(f"{name} is refused: this run is without [fast]")


def show(title: str, seconds: dict[str, float], peer: str, megabytes: float) -> None:
    print(f"\n{title} ({megabytes:,.0f} MB)")
    for name, value in sorted(seconds.items(), key=lambda item: item[1]):
        print(
            f"  {name:<34}{value:8.3f} s{megabytes / value:9,.0f} MB/s{seconds[peer] / value:8.2f} x {peer}"
        )


def goal(seconds: dict[str, float], name: str, peer: str, least: float) -> None:
    share = seconds[peer] / seconds[name]
    print(f"  goal, {name}: {least:.2f} x {peer}: {'met' if share >= least else 'MISSED'} ({share:.2f})")


def units_of(n: int) -> pl.DataFrame:
    digests = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(n)]
    return pl.DataFrame({"input_digest": digests, "slice": np.zeros(n, np.int32)})


def write_blocks(writer: SegmentWriter, x: np.ndarray) -> None:
    with ThreadPoolExecutor(4) as pool:
        for done in [
            pool.submit(writer.write, block.index, x[block.start : block.stop]) for block in writer.blocks
        ]:
            done.result()


def write_fmcache(
    where: Path, x: np.ndarray, units: pl.DataFrame, shape: int | tuple[int, ...], **options: object
) -> None:
    """The segment, published: blocks, journal, rows, second look at every chunk, manifest."""
    cache = open_cache(where, create=True)
    ids = pl.Series("sample_id", [f"s{i}" for i in range(units.height)])
    rows = units.select(ids, "slice", "input_digest")
    with cache.segment("m", "d", "image", {"bench": 1}, units, rows, d=shape, **options) as writer:  # type: ignore[arg-type]
        write_blocks(writer, x)
        writer.publish({})


def write_samples(where: Path, units: pl.DataFrame) -> None:
    """The table of the samples: once a dataset, for all models."""
    cache = open_cache(where, create=True)
    ids, ones = [f"s{i}" for i in range(units.height)], [1] * units.height
    table = {"sample_id": ids, "patient_id": ids, "path": ids, "split": ids, "slices": ones}
    samples = pl.DataFrame(table).with_columns(
        input_digest=units["input_digest"], input_error=pl.lit(None, pl.String)
    )
    cache.publish_dataset("d", {}, samples)


def tensorstore_array(where: Path, shape: tuple[int, ...], chunk: int, create: bool) -> object:
    import tensorstore as ts

    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(where)}}
    if create:
        spec["metadata"] = {
            "shape": list(shape),
            "data_type": "float16",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [chunk, *shape[1:]]}},
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
        }
    return ts.open(spec, create=create, delete_existing=create, open=not create).result()


def zarr_array(where: Path, shape: tuple[int, ...], chunk: int) -> object:
    import zarr
    from zarr.codecs import Crc32cCodec

    return zarr.create_array(
        where, shape=shape, chunks=(chunk, *shape[1:]), dtype="float16", compressors=[Crc32cCodec()],
        fill_value=float("nan"), overwrite=True,
    )  # fmt: skip


def embeddings(folder: Path, rows: int, d: int, repeats: int, fast: bool) -> None:
    x = np.random.default_rng(0).standard_normal((rows, d), dtype=np.float32).astype(np.float16)
    units, megabytes = units_of(rows), x.nbytes / 1e6
    npy, ours, parquet, zarrs = (folder / name for name in ("x.npy", "cache", "x.parquet", "z.zarr"))
    tensor = folder / "t.zarr"

    def save() -> None:
        with npy.open("wb") as file:
            np.save(file, x)
            file.flush()
            os.fsync(file.fileno())

    def settle() -> None:
        for path in (ours, zarrs, tensor):
            shutil.rmtree(path, ignore_errors=True)
        for path in (npy, parquet):
            path.unlink(missing_ok=True)
        os.sync()

    def blocks_only() -> None:
        """What extraction waits for: the blocks, without the tables around them."""
        cache = open_cache(ours, create=True)
        with cache.segment(
            "m", "d", "image", {}, units, units.with_columns(sample_id="input_digest"), d=d
        ) as writer:
            write_blocks(writer, x)

    def with_tensorstore() -> None:
        tensorstore_array(tensor, x.shape, 8192, True)[...] = x  # type: ignore[index]
        fsync_tree(tensor)

    def with_zarr() -> None:
        zarr_array(zarrs, x.shape, 8192)[...] = x  # type: ignore[index]
        fsync_tree(zarrs)

    def with_parquet() -> None:
        column = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), d)
        pq.write_table(pa.table({"x": column}), parquet, compression="none", write_page_checksum=True)
        descriptor = os.open(parquet, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    writers: dict[str, Callable[[], object]] = {
        "np.save + fsync": save,
        "fmcache (blocks, journal)": blocks_only,
        "fmcache (published)": lambda: write_fmcache(ours, x, units, d),
    }
    if fast:
        writers |= {
            "fmcache (table of samples)": lambda: write_samples(ours, units),
            "tensorstore zarr3 + crc32c + fsync": with_tensorstore,
            "zarr-python + crc32c + fsync": with_zarr,
            "parquet + crc + fsync": with_parquet,
        }
    peer = "np.save + fsync"
    seconds = medians(in_turn(writers, repeats, settle))
    show(f"durable write, {rows:,} x {d} float16", seconds, peer, megabytes)
    for name in ("fmcache (blocks, journal)", "fmcache (published)"):
        goal(seconds, name, peer, 0.7 if fast else 0.4)
    settle()
    for write in writers.values():
        if write is not blocks_only:
            write()
    write_samples(ours, units)
    cache = open_cache(ours)
    entry = cache.embeddings("m", "d")

    def read_zarr(pipeline: str) -> np.ndarray:
        """The very files of fmcache, through zarr-python."""
        import zarr

        with zarr.config.set({"codec_pipeline.path": pipeline}):
            array = zarr.open_array(entry.entry.segments[0].published.path / "data.zarr", mode="r")
            return array[...]  # type: ignore[no-any-return,return-value]

    def read_parquet() -> np.ndarray:
        column = pq.read_table(parquet, page_checksum_verification=True)["x"].combine_chunks()
        return np.asarray(column.flatten())

    readers: dict[str, Callable[[], object]] = {
        "np.load": lambda: np.load(npy),
        "fmcache array(), crc32c": entry.array,
        "fmcache array(), crc32c + sha256": cache.embeddings("m", "d", verify="sha256").array,
    }
    if fast:
        readers |= {
            "zarr-python, same files": lambda: read_zarr("zarr.core.codec_pipeline.BatchedCodecPipeline"),
            "zarr-python [fast], same files": lambda: read_zarr("zarrs.ZarrsCodecPipeline"),
            "tensorstore": lambda: tensorstore_array(tensor, x.shape, 8192, False).read().result(),  # type: ignore[attr-defined]
            "parquet + crc": read_parquet,
        }
    assert (entry.array() == x).all()
    seconds = medians(in_turn(readers, repeats))
    show(f"read, {rows:,} x {d} float16", seconds, "np.load", megabytes)
    goal(seconds, "fmcache array(), crc32c", "np.load", 0.75 if fast else 0.45)


def logits(folder: Path, images: int, repeats: int) -> None:
    shape = (images, 3, 256, 256)
    smooth = np.random.default_rng(0).standard_normal((images, 3, 16, 16)).astype(np.float32)
    x = smooth.repeat(16, axis=2).repeat(16, axis=3).astype(np.float16)
    x += (np.random.default_rng(1).standard_normal(shape[2:]) * 0.05).astype(np.float16)
    npy, ours, megabytes = folder / "l.npy", folder / "logits", x.nbytes / 1e6
    np.save(npy, x)
    shutil.rmtree(ours, ignore_errors=True)
    write_fmcache(ours, x, units_of(images), shape[1:], block_rows=16, compressed=True)
    write_samples(ours, units_of(images))
    entry = open_cache(ours).embeddings("m", "d")
    assert (entry.array() == x).all()
    stored = entry.entry.segments[0].published.size / 1e6
    readers = {"np.load": lambda: np.load(npy), "fmcache array(), verified": entry.array}
    seconds = medians(in_turn(readers, repeats))
    show(f"read, logits {shape}, stored {stored:,.0f} MB", seconds, "np.load", megabytes)
    one = medians(in_turn({"one image": lambda: entry.rows([images // 2])}, 4 * repeats))["one image"]
    speed = megabytes / seconds["fmcache array(), verified"]
    print(f"  goal, read: 1,000 MB/s: {'met' if speed >= 1000 else 'MISSED'} ({speed:,.0f})")
    print(f"  goal, one image: 10 ms: {'met' if one < 0.01 else 'MISSED'} ({1e3 * one:.2f} ms)")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--d", type=int, default=768)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary directory")
    parser.add_argument("--without-fast", action="store_true", help="refuse zarrs and tensorstore")
    options = parser.parse_args()
    if options.without_fast:
        sys.meta_path.insert(0, Refuse())  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        kind = "without [fast]: zarrs and tensorstore are refused" if options.without_fast else "with [fast]"
        print(
            f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.repeats} repeats, medians, {kind}"
        )
        embeddings(Path(scratch), options.rows, options.d, options.repeats, not options.without_fast)
        logits(Path(scratch), options.images, options.repeats)
    if not options.without_fast:
        print(flush=True)
        subprocess.run([sys.executable, *sys.argv, "--without-fast"], check=True)


if __name__ == "__main__":
    main()
