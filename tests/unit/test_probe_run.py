"""``probe_lp`` on a small cache: what it predicts, what it may look at, and what it says."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fmcache.errors import MissingEntry, UsageError
from fmcache.probe.run import probe_lp
from fmcache.store.cache import Cache, open_cache
from tests.probe_study import PATIENTS, D, samples, store


class Notes:
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def start(self, stage: str, total: int | None, unit: str) -> None:
        pass

    def advance(self, n: int, detail: str = "") -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    cache = open_cache(tmp_path / "cache", create=True)
    store(cache, "net/small", *samples())
    return cache


def _auc(table: pl.DataFrame) -> float:
    from sklearn.metrics import roc_auc_score

    known = table.filter(pl.col("y").is_not_nan())
    return float(roc_auc_score(known["y"], known["score"]))


def test_one_row_a_sample_and_label_with_all_that_is_known_of_it(cache: Cache) -> None:
    notes = Notes()
    (run_id,) = probe_lp(cache, progress=notes)
    run = cache.run(run_id)
    table = run.predictions()
    assert table.columns == [
        *("sample_id", "patient_id", "split", "label", "seed", "y", "score", "logit", "method"),
        *("attribute.sex", "attribute.age"),
    ]
    assert table.height == 2 * PATIENTS
    assert table["y"].is_nan().sum() == math.ceil(2 * PATIENTS / 17)
    known = cache.dataset("cohort").samples.sort("sample_id")
    mine = table.sort("sample_id")
    for name in ("patient_id", "split", "attribute.sex", "attribute.age"):
        assert mine[name].to_list() == known[name].to_list()
    np.testing.assert_array_equal(mine["y"].to_numpy(), known["label.finding"].to_numpy())
    np.testing.assert_allclose(table["score"], 1 / (1 + np.exp(-table["logit"])), rtol=1e-12)
    assert _auc(table.filter(pl.col("split") == "test")) > 0.95
    info = run.info
    assert info["labels"] == ["finding"]
    assert info["attributes"] == ["sex", "age"]
    assert info["n"] == [{"train": 144, "val": 48, "test": 48}]
    assert (info["usage"], info["method"], info["protocol"]) == ("lp", "erm", "convex")
    assert (info["model"], info["dataset"], info["kind"]) == ("net/small", "cohort", "image")
    assert info["dataset_digest"] == cache.dataset("cohort").digest
    assert info["source"] == "test"
    assert info["skipped"] == {"never": "its training samples have 0 positives and 144 negatives"}
    assert notes.notes == [
        "net/small on cohort: never is skipped, its training samples have 0 positives and 144 negatives."
    ]


def test_the_stored_probe_gives_the_stored_logits(cache: Cache) -> None:
    run = cache.run(probe_lp(cache)[0])
    weights = run.parameters()
    embeddings = cache.embeddings("net/small", "cohort")
    z = embeddings.array("float32").astype(float) @ weights["w"][0, 0] + weights["b"][0, 0]
    told = dict(zip(embeddings.samples["sample_id"], z, strict=True))
    table = run.predictions()
    np.testing.assert_allclose(table["logit"], [told[name] for name in table["sample_id"]], rtol=1e-10)


def test_the_same_inputs_are_the_same_run(cache: Cache) -> None:
    assert probe_lp(cache) == probe_lp(cache)
    assert len(cache.runs()) == 1


def test_test_labels_change_nothing_but_themselves(tmp_path: Path) -> None:
    logits = []
    for flip in (False, True):
        cache = open_cache(tmp_path / str(flip), create=True)
        table, x = samples()
        if flip:
            test = pl.col("split") == "test"
            table = table.with_columns(
                pl.when(test)
                .then(1 - pl.col("label.finding"))
                .otherwise(pl.col("label.finding"))
                .alias("label.finding")
            )
        store(cache, "net", table, x)
        logits.append(cache.run(probe_lp(cache)[0]).predictions()["logit"].to_numpy())
    np.testing.assert_array_equal(*logits)


def test_validation_labels_do_choose(cache: Cache) -> None:
    penalty = cache.run(probe_lp(cache)[0]).info["penalties"][0]
    assert penalty["criterion"] == "auc"
    assert penalty["value"] > 0.9
    assert penalty["converged"] is True


def test_slices_inherit_the_label_and_are_pooled_by_the_maximum_or_the_mean(tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "cache", create=True)
    store(cache, "net", *samples(slices=4))
    embeddings = cache.embeddings("net", "cohort")
    for how in ("max", "mean"):
        run = cache.run(probe_lp(cache, volume=how)[0])
        table, weights = run.predictions(), run.parameters()
        assert table.height == 2 * PATIENTS
        z = embeddings.array("float32").astype(float) @ weights["w"][0, 0] + weights["b"][0, 0]
        pooled = (
            pl.DataFrame({"sample_id": embeddings.samples["sample_id"], "z": z})
            .group_by("sample_id")
            .agg(getattr(pl.col("z"), how)())
        )
        both = table.join(pooled, on="sample_id")
        np.testing.assert_allclose(both["logit"], both["z"], rtol=1e-10)


def test_seeds_draw_splits_where_there_are_none_and_models_share_them(tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "cache", create=True)
    table, x = samples(split=False)
    store(cache, "a", table, x)
    store(cache, "b", table, x[:, :, ::-1])
    first, second = (cache.run(run_id) for run_id in probe_lp(cache, seeds=3))
    assert first.info["seeds"] == [0, 1, 2]
    assert first.info["split_policy"] == "drawn 60/20/20"
    assert first.parameters()["w"].shape == (3, 1, D)
    one, two = (run.predictions().sort("seed", "sample_id") for run in (first, second))
    assert one["split"].to_list() == two["split"].to_list()
    by_seed = [one.filter(pl.col("seed") == seed)["split"].to_list() for seed in range(3)]
    assert by_seed[0] != by_seed[1] != by_seed[2]


def test_given_splits_make_one_seed_of_three(cache: Cache) -> None:
    notes = Notes()
    run = cache.run(probe_lp(cache, seeds=3, progress=notes)[0])
    assert run.info["seeds"] == [0]
    assert "cohort gives its own splits: one seed says it all." in notes.notes


def test_a_patient_in_two_splits_is_refused_or_recorded(tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "cache", create=True)
    table, x = samples()
    table = table.with_columns(patient_id=pl.Series([f"p{i % 97}" for i in range(table.height)]))
    store(cache, "net", table, x)
    with pytest.raises(UsageError, match="in more than one split"):
        probe_lp(cache)
    info = cache.run(probe_lp(cache, allow_leakage=True)[0]).info
    assert info["allow_leakage"] is True
    assert info["leaking_patients"] > 0


def test_an_empty_cache_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(MissingEntry) as caught:
        probe_lp(open_cache(tmp_path / "cache", create=True))
    assert str(caught.value) == (
        "The cache holds no image embeddings.\nType: fmcache extract --model MODEL --dataset DATASET"
    )


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (
            {"models": ["net/smal"]},
            "The cache holds no embeddings of the model net/smal.\nIt holds net/small.\nDid you mean net/small?",
        ),
        (
            {"datasets": ["cohrt"]},
            "The cache holds no embeddings of the dataset cohrt.\nIt holds cohort.\nDid you mean cohort?",
        ),
        (
            {"labels": ["findin"]},
            "The cache holds no label findin.\nIt holds finding, never.\nDid you mean finding?",
        ),
        (
            {"labels": ["never"]},
            "No label of cohort can be fitted.\nnever: its training samples have 0 positives and 144 negatives.\n"
            "A label needs both classes among the training patients that have an embedding.",
        ),
        (
            {"volume": "median"},
            "volume='median' means nothing.\nIt is max (the paper's) or mean.\nType: --volume max",
        ),
    ],
)
def test_errors_word_for_word(cache: Cache, how: dict[str, object], says: str) -> None:
    with pytest.raises((MissingEntry, UsageError)) as caught:
        probe_lp(cache, **how)
    assert str(caught.value) == says


def test_a_label_that_is_not_zero_or_one_is_refused(tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "cache", create=True)
    table, x = samples()
    store(cache, "net", table.with_columns(pl.col("label.finding") * -1), x)
    with pytest.raises(UsageError, match="finding has the value -1"):
        probe_lp(cache)


def test_a_model_may_be_named_with_its_key(cache: Cache) -> None:
    key = cache.entry("net/small", "cohort").key
    (run_id,) = probe_lp(cache, models=[f"net/small@{key[:6]}"])
    assert cache.run(run_id).info["key"] == key
    with pytest.raises(MissingEntry):
        probe_lp(cache, models=["net/small@ffffffffffff"])
