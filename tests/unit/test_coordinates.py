"""Are maps of embeddings those of independent implementations, and are they kept and guarded like the rest?"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness
from sklearn.metrics import silhouette_score

from fmcache.analyze import coordinates as module
from fmcache.analyze.coordinates import coordinates, parse_projections
from fmcache.errors import CorruptCache, MissingExtra, UsageError
from fmcache.store.cache import Cache, open_cache
from fmcache.store.entries import Entry
from fmcache.store.maintenance import verify
from fmcache.store.schema import COORDINATE_COLUMNS
from fmcache.store.sql import query
from tests import probe_study
from tests.e2e.command import fmcache


def entry(key: str = "ab" * 32, dataset: str = "d") -> Entry:
    return Entry("m", dataset, "image", key, {}, Path("nowhere"), ())


def study(n: int, d: int, shift: float = 8.0) -> tuple[np.ndarray, pl.DataFrame]:
    """Two groups that differ along the first value; all values differ in spread."""
    random = np.random.default_rng(0)
    sex = random.choice(["female", "male"], n)
    x = random.normal(size=(n, d)) * np.linspace(3, 0.5, d) + 7
    x[:, 0] += shift * (sex == "male")
    ids = [f"s{k:03d}" for k in range(n)]
    return x, pl.DataFrame({"sample_id": ids, "patient_id": ids, "split": ["test"] * n, "attribute.sex": sex})


@pytest.mark.parametrize(("n", "d"), [(90, 16), (20, 64), (30, 1)])
def test_principal_components_are_those_of_scikit_learn(n: int, d: int) -> None:
    x, samples = study(n, d)
    table = coordinates(x, samples, entry(), ["pca"])
    assert table.columns == [*COORDINATE_COLUMNS, "attribute.sex"]
    theirs = PCA(min(2, d)).fit(x)
    ours = table.select("x", "y").to_numpy()
    assert np.abs(ours[:, : min(2, d)]) == pytest.approx(np.abs(theirs.transform(x)), abs=1e-8)
    shares = [*theirs.explained_variance_ratio_, 0.0][:2]
    assert table.select("x_share", "y_share").row(0) == pytest.approx(shares, abs=1e-12)
    assert table["sample_id"].to_list() == samples["sample_id"].to_list()
    turned = coordinates(-x, samples, entry(), ["pca"])  # the largest loading is positive, whatever comes in
    assert np.abs(turned["x"].to_numpy()) == pytest.approx(np.abs(ours[:, 0]), abs=1e-8)


def test_tsne_keeps_neighbours_and_says_how_it_was_made() -> None:
    x, samples = study(90, 16, shift=20.0)
    table = coordinates(x, samples, entry(), ["pca", "tsne"], seed=3)
    drawn = table.filter(projection="tsne")
    xy = drawn.select("x", "y").to_numpy()
    assert trustworthiness(x, xy, n_neighbors=5) > 0.85
    assert silhouette_score(xy, (samples["attribute.sex"] == "male").to_numpy()) > 0.3
    made = json.loads(drawn["parameters"][0])
    assert (made["n"], made["components"]) == (90, 16)
    assert made["perplexity"] == pytest.approx(89 / 3)
    assert drawn["kl_divergence"][0] > 0
    assert drawn["x_share"].null_count() == table.filter(projection="pca")["kl_divergence"].null_count() == 90
    again = coordinates(x, samples, entry(), ["tsne"], seed=3)
    assert again.equals(drawn)


def test_what_cannot_be_mapped_is_said() -> None:
    x, samples = study(4, 8)
    with pytest.raises(UsageError, match="m on d has 4 patients"):
        coordinates(x, samples, entry())
    x, samples = study(20, 8)
    with pytest.raises(UsageError, match="All 20 patients of m on d have the same embedding"):
        coordinates(np.ones_like(x) * 7.3, samples, entry())


def test_a_projection_is_named_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_projections("tsne, PCA,t-sne") == ("tsne", "pca")
    assert parse_projections(None) == ("pca", "tsne")
    for wrong in ("umap", ","):
        with pytest.raises(UsageError, match=r"Projections: pca, tsne\."):
            parse_projections(wrong)
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    assert parse_projections(None) == ("pca",)
    with pytest.raises(MissingExtra) as missing:
        parse_projections("pca,tsne")
    assert str(missing.value).splitlines() == [
        "The projection tsne needs scikit-learn.",
        "It is not installed; pca works without it.",
        'Type: pip install "fmcache[maps]"   or: --projection pca',
    ]


# -------------------------------------------------------------------------------------------------------- the cache


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    made = open_cache(tmp_path / "cache", create=True)
    x, samples = study(30, 8)
    made.publish_coordinates(coordinates(x, samples, entry(), ["pca"]))
    older = samples.with_columns(pl.int_range(pl.len()).alias("attribute.age"))
    made.publish_coordinates(coordinates(x, older, entry("cd" * 32), ["pca"]))
    text = samples.with_columns(pl.lit("old").alias("attribute.age"))
    made.publish_coordinates(coordinates(x, text, entry(dataset="e"), ["pca"]))
    return made


def test_each_entry_and_projection_has_one_map_and_a_new_one_replaces_it(cache: Cache) -> None:
    assert cache.coordinates().height == 90
    x, samples = study(20, 8)
    cache.publish_coordinates(coordinates(x, samples, entry(), ["pca"], seed=5))
    table = cache.coordinates().filter(dataset="d", key="ab" * 32)
    assert (table.height, table["seed"].unique().to_list()) == (20, [5])
    assert len(list((cache.path / "coordinates").iterdir())) == 3


def test_sql_has_the_maps_with_attributes_by_their_names(cache: Cache) -> None:
    found = query(
        cache, "SELECT sex, avg(x), count(*) FROM coordinates WHERE dataset = 'e' GROUP BY sex ORDER BY sex"
    )
    ours = cache.coordinates().filter(dataset="e").group_by("attribute.sex").agg(pl.col("x").mean(), pl.len())
    for mine, (sex, mean, count) in zip(ours.sort("attribute.sex").iter_rows(), found.rows, strict=True):
        assert mine == (sex, pytest.approx(mean), count)


def test_a_flipped_bit_of_a_map_is_found(cache: Cache) -> None:
    file = next((cache.path / "coordinates").iterdir())
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    for read in (cache.coordinates, lambda: query(cache, "SELECT count(*) FROM coordinates")):
        with pytest.raises(CorruptCache):
            read()
    (problem,) = [one for one in verify(cache) if one.path.startswith("coordinates/")]
    assert problem.serious
    assert problem.do == "Type: fmcache represent"


def test_the_command_measures_and_maps_every_entry(tmp_path: Path) -> None:
    table, x = probe_study.samples()
    store = open_cache(tmp_path / "cache", create=True)
    for model in ("one", "two"):
        probe_study.store(store, model, table, x)
    done = fmcache(
        "represent", "--cache", "cache", "--by", "sex", "--projection", "pca", "--out", "m.csv", cwd=tmp_path
    )
    assert [(row["model"], row["metric"]) for row in done.rows] == [
        (model, metric) for model in ("one", "two") for metric in ("silhouette", "mmd2", "mmd2")
    ]
    assert "two on cohort: 120 of 240 images, one a patient." in done.err
    held = open_cache(tmp_path / "cache").coordinates()
    assert held.group_by("model").len()["len"].to_list() == [120, 120]
    assert held["patient_id"].n_unique() == 120
    assert pl.read_csv(tmp_path / "m.csv")["x"].to_list() == pytest.approx(held.sort("model")["x"].to_list())
    wrong = fmcache("represent", "--cache", "cache", "--model", "onn", cwd=tmp_path, code=6)
    assert "Did you mean one?" in wrong.err


def test_an_entry_that_cannot_be_mapped_does_not_stop_the_others(tmp_path: Path) -> None:
    table, x = probe_study.samples()
    store = open_cache(tmp_path / "cache", create=True)
    probe_study.store(store, "flat", table, np.ones_like(x))
    alone = fmcache("represent", "--cache", "cache", "--projection", "pca", cwd=tmp_path, code=2)
    assert "All 120 patients of flat on cohort have the same embedding." in alone.err
    probe_study.store(store, "good", table, x)
    done = fmcache("represent", "--cache", "cache", "--projection", "pca", cwd=tmp_path)
    assert {row["model"] for row in done.rows} == {"good"}
    assert "warning: left out. All 120 patients of flat" in done.err
    assert open_cache(tmp_path / "cache").coordinates()["model"].unique().to_list() == ["good"]
