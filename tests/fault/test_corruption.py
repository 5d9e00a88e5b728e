"""Changed, lost, emptied, foreign and planted files: found before any number is computed from them."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fmcache.errors import CorruptCache, FmcacheError
from fmcache.store.cache import open_cache
from fmcache.store.embeddings import Embeddings
from fmcache.store.keys import digest
from fmcache.store.maintenance import repair, verify
from fmcache.store.tables import parse_table, table_bytes
from tests.fault import worker
from tests.fault.harness import BLOCKS, call, run, run_state, state

KINDS = {
    "identity": "fmcache.json",
    "dataset card": "datasets/*/*/card.json",
    "samples": "datasets/*/*/samples.parquet",
    "dataset manifest": "datasets/*/*/manifest.json",
    "entry": "entries/*/*/image-*/entry.json",
    "chunk": "entries/*/*/image-*/segments/0000/data.zarr/c.1.0",
    "compressed chunk": "entries/*/*/mask-*/segments/0000/data.zarr/c.0.0.0.0",
    "array metadata": "entries/*/*/image-*/segments/0000/data.zarr/zarr.json",
    "rows": "entries/*/*/image-*/segments/0000/rows.parquet",
    "quarantine": "entries/*/*/image-*/segments/0000/quarantine.parquet",
    "manifest": "entries/*/*/image-*/segments/0000/manifest.json",
    "run": "runs/*/run.json",
    "predictions": "runs/*/predictions.parquet",
    "parameters": "runs/*/parameters.npz",
    "run manifest": "runs/*/manifest.json",
    "results": "results/*.parquet",
}
FLIPS = 400


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("sound") / "cache"
    assert run(cache).code == 0
    write_masks(cache)
    return cache


def write_masks(path: Path) -> None:
    """A mask entry beside the embeddings: Blosc-compressed chunks."""
    names = worker.digests(20)
    units = pl.DataFrame({"input_digest": names, "slice": [0] * 20})
    rows = units.select(pl.Series("sample_id", worker.samples(20)["sample_id"]), "slice", "input_digest")
    with open_cache(path).segment(
        "fault-model", "study", "mask", {"kind": "mask"}, units, rows, d=(2, 8, 8), block_rows=20, compressed=True
    ) as writer:  # fmt: skip
        writer.write(0, np.linspace(-3, 3, 20 * 128, dtype=np.float32).reshape(20, 2, 8, 8))
        writer.publish({})


@pytest.fixture
def cache(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "cache")
    return tmp_path / "cache"


def read_everything(path: Path) -> list[bytes]:
    """Every value that stage 2 can read, as bytes."""
    cache = open_cache(path)
    found = []
    for entry in cache.entries():
        embeddings = cache.embeddings(entry.model, entry.dataset, kind=entry.kind)
        found += [embeddings.array().tobytes(), embeddings.samples.write_csv().encode()]
        found += [embeddings.missing.write_csv().encode(), repr(dict(entry.document)).encode()]
        found += [
            cache.stored(entry.model, entry.dataset, entry.kind, entry.key).quarantine.write_csv().encode()
        ]
    for name in cache.datasets():
        found += [repr(dict(cache.dataset(name).card)).encode()]
    for one in cache.runs():
        found += [one.predictions().write_csv().encode(), repr(dict(one.info)).encode()]
        found += [array.tobytes() for array in one.parameters().values()]
    return [*found, cache.results().write_csv().encode()]


def read_kind(path: Path, kind: str, opened: Embeddings | None = None) -> object:
    """What stage 2 reads from a file of this kind, and little else, as a value that can be compared.

    Parameters
    ----------
    opened : embeddings opened before a chunk was changed, which saves the reading of all the rest.
    """
    if kind in ("chunk", "compressed chunk"):
        return (opened or open_embeddings(path, kind)).array().tobytes()
    cache = open_cache(path)
    if kind == "identity":
        return None
    if kind in ("dataset card", "samples", "dataset manifest"):
        version = cache.dataset("study")
        return version.digest, dict(version.card), version.samples.rows()
    if kind in ("entry", "array metadata", "rows", "quarantine", "manifest"):
        entry = cache.entry("fault-model", "study")
        (segment,) = entry.segments
        read: dict[str, Callable[[], object]] = {
            "entry": lambda: dict(entry.document),
            "array metadata": lambda: segment.plan,
            "rows": lambda: segment.rows.rows(),
            "quarantine": lambda: segment.quarantine.rows(),
            "manifest": lambda: dict(segment.published.content),
        }
        return read[kind]()
    if kind == "results":
        return cache.results().rows()
    (one,) = cache.runs()
    if kind == "predictions":
        return one.predictions().rows()
    if kind == "parameters":
        return [array.tobytes() for array in one.parameters().values()]
    return dict(one.info)


def open_embeddings(path: Path, kind: str) -> Embeddings:
    return open_cache(path).embeddings("fault-model", "study", kind="image" if kind == "chunk" else "mask")


@pytest.mark.parametrize("kind", list(KINDS))
def test_of_400_flipped_bits_none_is_silent(cache: Path, kind: str) -> None:
    """Each flip is an error before anything is computed from it."""
    (file,) = cache.glob(KINDS[kind])
    truth, good = read_kind(cache, kind), file.read_bytes()
    opened = open_embeddings(cache, kind) if "chunk" in kind else None
    rng = random.Random(kind)
    for _ in range(FLIPS):
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        file.write_bytes(bad)
        with pytest.raises(CorruptCache):
            read_kind(cache, kind, opened)
    file.write_bytes(good)
    assert read_kind(cache, kind) == truth


def test_every_single_bit_of_a_table_counts() -> None:
    """All bits, not a sample: footer, page headers, statistics and magic included."""
    data = table_bytes(worker.samples(3))
    for bit in range(8 * len(data)):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptCache):
            parse_table(bytes(bad), "samples.parquet")


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "foreign", "directory", "fifo", "link"])
def test_a_damaged_file_is_named(cache: Path, kind: str, damage: str) -> None:
    (file,) = cache.glob(KINDS[kind])
    size = file.stat().st_size
    damages: dict[str, Callable[[], object]] = {
        "gone": file.unlink,
        "empty": lambda: os.truncate(file, 0),
        "cut": lambda: os.truncate(file, size - size // 3),
        "foreign": lambda: file.write_bytes(np.random.default_rng(0).bytes(size)),
        "directory": lambda: (file.unlink(), file.mkdir()),
        "fifo": lambda: (file.unlink(), os.mkfifo(file)),
        "link": lambda: (file.rename(file.with_name("elsewhere")), file.symlink_to("elsewhere")),
    }
    damages[damage]()
    if (kind, damage) == ("results", "gone"):
        assert open_cache(cache).results().height == 0
        return
    with pytest.raises(FmcacheError) as error:
        read_everything(cache)
    assert error.value.exit_code in (2, 5, 6) if kind == "identity" else error.value.exit_code == 5
    assert 2 <= len(str(error.value).splitlines()) <= 3
    if kind != "identity":
        assert [problem.path for problem in verify(open_cache(cache)) if problem.serious]


def test_verify_says_nothing_of_a_sound_cache_and_names_a_stray(cache: Path) -> None:
    assert verify(open_cache(cache)) == []
    (segment,) = cache.glob("entries/*/*/image-*/segments/0000")
    (segment / "notes.txt").write_text("hello")
    (problem,) = verify(open_cache(cache))
    assert problem.path.endswith("0000/notes.txt")
    assert not problem.serious
    assert state(cache) == "complete"


def test_a_swapped_chunk_is_found_without_sha256(cache: Path) -> None:
    """Two chunks whose own checksums are right, each in the other's place."""
    (array,) = cache.glob("entries/*/*/image-*/segments/0000/data.zarr")
    a, b = array / "c.0.0", array / "c.1.0"
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)
    with pytest.raises(CorruptCache):
        open_cache(cache).embeddings("fault-model", "study").array()


def test_repair_computes_only_the_damaged_block_again(cache: Path) -> None:
    (chunk,) = cache.glob(KINDS["chunk"])
    key = chunk.parents[3].name.rpartition("-")[2]
    os.truncate(chunk, 100)
    (row,) = repair(open_cache(cache), key)
    assert (row["kept"], row["lost"]) == (BLOCKS - 1, 1)
    done = run(cache)
    assert done.counts == (1, BLOCKS - 1, 1)
    assert (state(cache), run_state(cache)) == ("complete", "complete")
    assert verify(open_cache(cache)) == []
    assert repair(open_cache(cache), key) == []


@pytest.mark.parametrize("kind", ["rows", "array metadata", "manifest"])
def test_repair_sets_a_segment_without_tables_aside(cache: Path, kind: str) -> None:
    (file,) = cache.glob(KINDS[kind])
    key = file.relative_to(cache).parts[3].rpartition("-")[2]
    os.truncate(file, 10)
    assert [row["kept"] for row in repair(open_cache(cache), key)] == [0]
    done = run(cache)
    assert done.counts == (BLOCKS, 0, 1)
    assert state(cache) == "complete"


def mend(cache: Path, key: str) -> None:
    repair(open_cache(cache), key)


def test_a_repair_killed_at_every_named_point_loses_nothing(sound: Path, tmp_path: Path) -> None:
    """A repair, killed, repaired again and extracted again: complete, and every published byte right."""
    key, points = worker._key()[:12], []
    for number in range(100):
        cache = tmp_path / f"cache{number}"
        shutil.copytree(sound, cache)
        (chunk,) = cache.glob(KINDS["chunk"])
        os.truncate(chunk, 100)
        if number == 0:
            assert call(mend, cache, key, fault=f"trace@{tmp_path / 'trace'}") == 0
            points = list(dict.fromkeys((tmp_path / "trace").read_text().split()))
            assert len(points) > 10
            continue
        assert call(mend, cache, key, fault=f"kill@{points[number - 1]}") == -9, points[number - 1]
        repair(open_cache(cache), key)
        done = run(cache)
        assert done.code == 0, (points[number - 1], done.err)
        assert state(cache) == "complete", points[number - 1]
        assert named(cache) == [], points[number - 1]
        shutil.rmtree(cache)
        if number == len(points):
            return
    raise AssertionError("more points than expected")


@pytest.mark.parametrize(
    "file",
    [
        "plan.json",
        "plan.parquet",
        "journal/00001.json",
        "segment/data.zarr/c.1.0",
        "segment/data.zarr/zarr.json",
    ],
)
@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "flipped"])
def test_a_damaged_workspace_is_not_believed(tmp_path: Path, file: str, damage: str) -> None:
    """A power cut or bit rot in work that is not published: that part is made again, nothing wrong appears."""
    cache = tmp_path / "cache"
    assert run(cache, fault="kill@block:done#3").code == -9
    (path,) = cache.glob(f"staging/*/{file}")
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        data[len(data) // 2] ^= 8
        path.write_bytes({"empty": b"", "cut": bytes(data[: len(data) // 2]), "flipped": bytes(data)}[damage])
    done = run(cache)
    assert done.code == 0, done.err
    computed, reused, published = done.counts
    assert (computed + reused, published) == (BLOCKS, 1)
    assert reused == (2 if "journal" in file or "c.1.0" in file else 0)
    assert state(cache) == "complete"


@pytest.mark.parametrize("kind", ["identity", "manifest"])
def test_a_newer_format_is_refused_with_what_to_install(cache: Path, kind: str) -> None:
    (file,) = cache.glob(KINDS[kind])
    body = json.loads(file.read_text())
    del body["sha256"]
    body["encoding-version"] = 2
    body["sha256"] = digest(body)
    file.write_text(json.dumps(body, sort_keys=True, indent=1, ensure_ascii=False) + "\n")
    with pytest.raises(CorruptCache) as refused:
        read_kind(cache, kind)
    assert "newer fmcache" in str(refused.value)
    assert "pip install --upgrade fmcache" in str(refused.value)


@pytest.mark.parametrize(
    "place", ["staging", "entries", "entries/fault-model", "segments", "segment", "array", "runs"]
)
def test_a_planted_directory_link_is_refused(cache: Path, tmp_path: Path, place: str) -> None:
    """Neither read nor written through: what lies behind the link stays as it was."""
    patterns = {"segments": "entries/*/*/image-*/segments", "segment": "entries/*/*/image-*/segments/0000",
                "array": "entries/*/*/image-*/segments/0000/data.zarr"}  # fmt: skip
    (folder,) = cache.glob(patterns.get(place, place))
    outside = tmp_path / "outside"
    folder.rename(outside)
    folder.symlink_to(outside)
    before = sorted(str(path) for path in outside.rglob("*"))
    flags = () if place == "runs" else ("--units", "400", "--only-extract")
    done = run(cache, *flags)
    assert done.code == 5, done
    assert sorted(str(path) for path in outside.rglob("*")) == before
    assert named(cache)


def named(cache: Path) -> list[str]:
    """What verify names or raises."""
    try:
        return [problem.path for problem in verify(open_cache(cache)) if problem.serious]
    except CorruptCache as error:
        return [error.what]


def test_a_broken_protocol_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: a writer that publishes first and fills in later is seen by the harness."""
    from fmcache.store import segment

    honest = segment.write_manifest

    def early(folder: Path, *arguments: object, **options: object) -> None:
        (folder / "data.zarr" / "c.2.0").write_bytes(b"\0" * (worker.BLOCK * worker.D * 2 + 4))
        honest(folder, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(segment, "write_manifest", early)
    assert worker.work([str(tmp_path / "cache"), "--only-extract"]) == 0
    with pytest.raises(CorruptCache):
        state(tmp_path / "cache")


def test_permissions(cache: Path) -> None:
    for path in [cache, *cache.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
    cache.chmod(0o777)
    with pytest.raises(FmcacheError, match="may write"):
        open_cache(cache)
