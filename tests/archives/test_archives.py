"""Caches of released format versions, kept as bytes, read by today's code: every value, every table, every command."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from fmcache.store.cache import open_cache
from fmcache.store.documents import FORMAT_VERSION
from fmcache.store.maintenance import collect_garbage, list_entries, repair, verify
from fmcache.store.masks import unpack_mask
from fmcache.store.sql import query
from tests.archives.make import DATASET, IMAGES, MODEL, embedding, sha

HERE = Path(__file__).parent
VERSIONS = [1]


@pytest.fixture(params=VERSIONS, ids=lambda version: f"format {version}")
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy with the permissions of a cache (git does not keep them)."""
    copy = tmp_path / "cache"
    shutil.copytree(HERE / f"format-{request.param}", copy)
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o700 if path.is_dir() else 0o600)
    return copy


def test_there_is_an_archive_of_every_version() -> None:
    assert list(range(1, FORMAT_VERSION + 1)) == VERSIONS


def test_every_byte_is_in_place(archive: Path) -> None:
    assert [problem.row() for problem in verify(open_cache(archive)) if problem.serious] == []


def test_embeddings_are_read(archive: Path) -> None:
    cache = open_cache(archive, verify="sha256")
    found = cache.embeddings(MODEL, DATASET)
    assert sorted(found.samples["sample_id"]) == ["000", "001", "003", "004", "005", "006", "007"]
    expected = np.stack([embedding(name) for name in found.samples["input_digest"]]).astype(np.float16)
    assert (found.array() == expected).all()
    assert found.missing.rows() == [("002", "p1", "test", "rejected: truncated")]
    assert found.samples["ward"].unique().to_list() == ["second"]
    assert cache.dataset(DATASET).card["title"] == "archive, second version"
    assert [segment.n for segment in cache.entry(MODEL, DATASET).segments] == [4, 5]


def test_texts_and_masks_are_read(archive: Path) -> None:
    cache = open_cache(archive)
    texts = cache.texts(MODEL, DATASET)
    expected = np.stack([embedding(sha(text)) for text in ("no effusion", "effusion")])[None]
    assert (texts.array("effusion") == expected).all()
    masks = cache.masks(MODEL, DATASET)
    answers = list(masks)
    assert [(answer.name, answer.prompt, answer.chosen) for answer in answers] == [("lung", "bbox", 0)] * 2
    assert answers[0].truth.sum() == 15
    assert (answers[0].logits[0, :6] > 0).tolist() == answers[0].truth.tolist()
    assert masks.truth_table["pixels"].to_list() == [15, 15]
    assert unpack_mask(masks.truth_table["bits"][0], (6, 8)).sum() == 15


def test_runs_and_results_are_read(archive: Path) -> None:
    cache = open_cache(archive)
    (run,) = cache.runs()
    assert run.info["usage"] == "lp"
    assert run.predictions()["score"].to_list() == [i * 0.125 for i in range(8)]
    assert run.parameters()["w"].tolist() == list(range(6))
    assert cache.results().select("run_id", "metric", "value").rows() == [(run.run_id, "auc", 0.5)]


def test_sql_and_the_commands_work(archive: Path) -> None:
    cache = open_cache(archive)
    assert query(cache, "SELECT sex, count(*) FROM predictions GROUP BY sex ORDER BY sex NULLS LAST").rows == [
        ("female", 3), ("male", 3), (None, 2)]  # fmt: skip
    assert query(cache, "SELECT kind, n FROM entries ORDER BY kind").rows == [
        ("image", 9),
        ("mask", 2),
        ("text", 2),
    ]
    assert query(cache, "SELECT sample_id, pixels FROM masks ORDER BY 1").rows == [("000", 15), ("001", 15)]
    assert [row["kind"] for row in list_entries(cache)] == ["image", "mask", "text"]
    assert [row["why"] for row in collect_garbage(cache)] == [
        "a superseded version that no run was made from"
    ]
    for entry in cache.entries():
        assert repair(cache, entry.key) == []


def test_it_can_be_appended_to(archive: Path) -> None:
    """A new segment beside the old ones, by today's code."""
    import polars as pl

    cache = open_cache(archive)
    entry = cache.entry(MODEL, DATASET)
    old = cache.dataset(DATASET)
    more = old.samples.tail(1).with_columns(sample_id=pl.lit("008"), input_digest=pl.lit(sha("image 8")))
    cache.publish_dataset(DATASET, dict(old.card), pl.concat([old.samples, more]))
    units = more.select("input_digest", pl.lit(0, pl.Int32).alias("slice"))
    rows = more.select("sample_id", pl.lit(0, pl.Int32).alias("slice"), "input_digest")
    with cache.segment(MODEL, DATASET, "image", dict(entry.document), units, rows, d=6) as writer:
        writer.write(0, embedding(sha("image 8"))[None])
        assert writer.publish({}) is not None
    assert cache.embeddings(MODEL, DATASET).n == 8
    assert len(IMAGES) == 7
