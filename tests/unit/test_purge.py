"""Erasing a patient: nothing of them is left in any byte of the cache, and everything of the others is."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from fmcache.errors import Busy, UsageError
from fmcache.store.cache import Cache, open_cache
from fmcache.store.keys import digest
from fmcache.store.maintenance import verify
from fmcache.store.purge import purge
from tests.archives.make import DATASET, MODEL, embedding, make, sha
from tests.fault.harness import call


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """The archive's cache: p1 has the samples 002 (rejected) and 003; 003 changed between the two dataset versions."""
    make(tmp_path / "cache")
    return open_cache(tmp_path / "cache")


def everything(cache: Cache) -> bytes:
    """All that can be read of a cache: bytes of chunks and documents, and tables as text."""
    found = []
    for path in sorted(cache.path.rglob("*")):
        if path.is_file():
            found.append(path.read_bytes())
            if path.suffix == ".parquet":
                found.append(pl.read_parquet(path).write_csv().encode())
    return b"\n".join(found)


def traces(contents: list[str]) -> list[bytes]:
    """What embeddings and digests of these inputs leave behind."""
    names = [sha(text) for text in contents]
    return [*(name.encode() for name in names), *(embedding(name).astype("f2").tobytes() for name in names)]


def erase(path: Path) -> None:
    purge(open_cache(path), ["p1"], dry_run=False)


def test_without_yes_nothing_changes(cache: Cache) -> None:
    before = everything(cache)
    rows = purge(cache, ["p1"])
    assert {row["path"].split("/")[0] for row in rows} == {"runs", "coordinates", "entries", "datasets"}
    assert everything(cache) == before


def test_nothing_of_the_patient_is_left(cache: Cache) -> None:
    gone = [b"p1", b"002", b"003", *traces(["image 2", "image 3", "image 3, retouched"])]
    before = everything(cache)
    assert all(trace in before for trace in [gone[0], *gone[3:6]])
    others = cache.embeddings(MODEL, DATASET)
    rest = others.samples["patient_id"] != "p1"
    expected = dict(
        zip(others.samples["sample_id"].filter(rest), others.array()[rest.to_numpy()], strict=True)
    )
    purge(cache, ["p1"], dry_run=False)
    after = everything(cache)
    assert [trace for trace in gone[3:] if trace in after] == []
    for path in cache.path.rglob("*.parquet"):
        table = pl.read_parquet(path)
        for column in ("patient_id", "sample_id"):
            if column in table.columns:
                assert not table[column].is_in(["p1", "002", "003"]).any(), path
    assert [problem.row() for problem in verify(cache) if problem.serious] == []
    found = cache.embeddings(MODEL, DATASET)
    assert dict(zip(found.samples["sample_id"], found.array().tolist(), strict=True)) == {
        name: row.tolist() for name, row in expected.items()
    }
    assert found.missing.height == 0
    assert cache.runs() == []
    assert cache.results().height == 0
    assert cache.coordinates().height == 0
    assert len(cache.dataset(DATASET).samples) == 6
    assert not list((cache.path / "staging").glob("[pd]*"))


def test_an_input_that_another_patient_shares_stays(cache: Cache) -> None:
    """p3 has 007, the same bytes as p0's 000."""
    purge(cache, ["p3"], dry_run=False)
    found = cache.embeddings(MODEL, DATASET)
    assert "007" not in found.samples["sample_id"].to_list()
    row = found.array()[found.samples["sample_id"].to_list().index("000")]
    assert (row == embedding(sha("image 0")).astype("f2")).all()


def test_masks_go_with_their_pictures(cache: Cache) -> None:
    assert len(list(cache.masks(MODEL, DATASET))) == 2
    purge(cache, ["p0"], dry_run=False)
    masks = cache.masks(MODEL, DATASET)
    assert (masks.truth_table.height, masks.prompt_table.height, len(list(masks))) == (0, 0, 0)
    assert cache.texts(MODEL, DATASET).labels == {"effusion": ("no", "yes")}
    assert [problem.row() for problem in verify(cache) if problem.serious] == []


def test_an_unknown_patient_is_refused_and_nothing_is_erased(cache: Cache) -> None:
    before = everything(cache)
    with pytest.raises(UsageError, match="1 of 2 patients") as refused:
        purge(cache, ["p1", "1"], dry_run=False)
    assert "p1" not in str(refused.value)
    assert everything(cache) == before


def test_an_entry_that_is_being_written_is_not_touched(cache: Cache) -> None:
    entry = cache.entry(MODEL, DATASET)
    units = pl.DataFrame({"input_digest": [sha("new")], "slice": [0]})
    rows = units.with_columns(sample_id=pl.lit("009")).select("sample_id", "slice", "input_digest")
    with cache.segment(MODEL, DATASET, "image", dict(entry.document), units, rows, d=6), pytest.raises(Busy):
        purge(cache, ["p1"], dry_run=False)


def begin(cache: Cache, dataset: str, part: str) -> Path:
    """An extraction of p1's image that ends before it is published; returns its staging directory."""
    document = {**cache.entry(MODEL, DATASET).document, "of": f"{dataset} {part}"}
    units = pl.DataFrame({"input_digest": [sha("image 3")], "slice": [0]})
    rows = units.with_columns(sample_id=pl.lit("003")).select("sample_id", "slice", "input_digest")
    before = set((cache.path / "staging").glob("*"))
    with cache.segment(MODEL, dataset, "image", document, units, rows, d=6, part=part) as writer:
        writer.write(0, embedding(sha("image 3"))[None].astype("f4"))
    (made,) = (path for path in set((cache.path / "staging").glob("*")) - before if path.is_dir())
    return made


def test_unfinished_work_of_array_jobs_and_probes_goes_too(cache: Cache) -> None:
    """Also that of an entry of which nothing is published yet; work on a dataset without the patient stays."""
    theirs = [begin(cache, DATASET, part) for part in ("", "0/2", "1/2")]
    another = begin(cache, "another-study", "0/2")
    probe = cache.path / "staging" / ("ab" * 8)
    probe.mkdir()
    (probe / "0.npz").write_bytes(b"scores of p1")
    rows = purge(cache, ["p1"])
    assert all(path.exists() for path in [*theirs, another, probe])
    assert {row["path"] for row in rows if row["path"].startswith("staging")} == {
        path.relative_to(cache.path).as_posix() for path in [*theirs, probe]
    }
    purge(cache, ["p1"], dry_run=False)
    assert not any(path.exists() for path in [*theirs, probe])
    assert another.exists()


def test_a_purge_killed_at_every_named_point_can_be_repeated(tmp_path: Path) -> None:
    """After the kill: what is published is whole. After the repetition: nothing of the patient is left."""
    points: list[str] = []
    for number in range(100):
        make(tmp_path / f"cache{number}")
        cache = open_cache(tmp_path / f"cache{number}")
        action = f"kill@{points[number - 1]}" if number else f"trace@{tmp_path / 'trace'}"
        code = call(erase, cache.path, fault=action)
        if number == 0:
            assert code == 0
            points = [
                name for name in dict.fromkeys((tmp_path / "trace").read_text().split()) if "purge" in name
            ]
            assert {
                "purge:run",
                "purge:coordinates",
                "purge:dataset",
                "purge:before_exchange",
                "purge:between",
            } <= set(points)
            continue
        assert code == -9, points[number - 1]
        assert [problem.row() for problem in verify(cache) if problem.serious] == [], points[number - 1]
        try:
            purge(cache, ["p1"], dry_run=False)
        except UsageError:  # all versions of the dataset were done before the kill: it was the last step
            assert points[number - 1] == "purge:dataset"
        from fmcache.store.maintenance import collect_garbage

        collect_garbage(cache, dry_run=False)
        left = everything(cache)
        assert [trace for trace in traces(["image 2", "image 3, retouched"]) if trace in left] == [], points[
            number - 1
        ]
        if number == len(points):
            return


def test_the_key_of_an_entry_does_not_change(cache: Cache) -> None:
    before = [entry.key for entry in cache.entries()]
    purge(cache, ["p1"], dry_run=False)
    assert [entry.key for entry in cache.entries()] == before
    assert all(digest(entry.document) == entry.key for entry in cache.entries())
