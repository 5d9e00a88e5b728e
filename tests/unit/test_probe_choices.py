"""What a run says of its choices, and options that a method or a pair of datasets cannot follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from fmcache.analyze.run import run_metrics
from fmcache.errors import UsageError
from fmcache.probe.fit import at_edge
from fmcache.probe.methods import METHODS
from fmcache.probe.options import Options
from fmcache.probe.run import probe
from fmcache.store.cache import Cache, open_cache
from fmcache.store.runs import Run
from tests.probe_study import samples, store
from tests.unit.test_probe_run import Notes


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """A noisy study in which women's findings show less."""
    made = open_cache(tmp_path / "cache", create=True)
    table, x = samples()
    women = (table["attribute.sex"] == "female").to_numpy()
    x[women, :, 0] *= 0.3
    rng = np.random.default_rng(7)
    x += rng.normal(size=x.shape) * 1.5
    store(made, "net", table, x)
    return made


def _one(cache: Cache, **how: Any) -> Run:
    (run_id,) = probe(cache, Options(**how))
    return cache.run(run_id)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.attribute_at_test])
def test_what_is_made_of_erms_scores_keeps_erms_penalty(cache: Cache, name: str) -> None:
    erm = _one(cache)
    made = _one(cache, methods=(name,), attribute="sex")
    for key in ("penalty", "criterion", "value", "edge"):
        assert made.info["penalties"][0][key] == erm.info["penalties"][0][key]
    both = erm.predictions().join(made.predictions(), on="sample_id", suffix="_made")
    if name == "group-thresholds":  # within a group the scores are moved, and no ranking changes
        shift = both.with_columns(d=pl.col("logit") - pl.col("logit_made")).group_by("attribute.sex")
        assert shift.agg(pl.col("d").max() - pl.col("d").min())["d"].max() < 1e-9
        assert shift.agg(pl.col("d").mean())["d"].n_unique() == 2


def test_what_really_chose_is_what_the_run_says(cache: Cache) -> None:
    alone, beside = _one(cache, methods=("jtt",)), _one(cache, methods=("jtt",), attribute="sex")
    assert beside.info["penalties"][0]["criterion"] == "auc_worst"
    choice = alone.info["penalties"][0]
    assert choice["criterion"] == "auc"  # without groups there is no worst one
    assert choice["value"] == pytest.approx(alone.info["summary"][0]["val_auc"], abs=1e-12)


@pytest.mark.parametrize("name", ["dp", "jtt"])
def test_one_class_in_validation_chooses_by_the_log_loss(tmp_path: Path, name: str) -> None:
    cache = open_cache(tmp_path / "cache", create=True)
    table, x = samples()
    negative = pl.when(pl.col("split") == "val").then(0.0).otherwise(pl.col("label.finding"))
    store(cache, "net", table.with_columns(negative.alias("label.finding")), x)
    run = _one(cache, methods=(name,), attribute="sex", grid={"coefficient": (3.0, 1000.0)})
    choice = run.info["penalties"][0]
    assert choice["criterion"] == "log_loss"
    val = run.predictions().filter(pl.col("split") == "val")
    assert choice["value"] == pytest.approx(np.log1p(np.exp(val["logit"].to_numpy())).mean(), abs=1e-9)


def test_an_edge_is_that_of_any_hyper_parameter_with_an_order_and_something_beyond() -> None:
    hyper = [{"penalty": p, "coefficient": c} for c in (0.0, 1.0, 10.0) for p in (0.1, 1.0, 3.0)]
    assert [at_edge(hyper, at) for at in range(9)] == [True, False, True, True, False, True, True, True, True]
    assert not at_edge([{"coefficient": 1.0}], 0)
    assert not any(at_edge([{"template": t} for t in (0.0, 1.0, -1.0)], at) for at in range(3))
    assert at_edge([{"neighbours": k} for k in (10.0, 20.0, 100.0)], 2)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.streams])
def test_every_method_that_streams_gives_the_scores_that_it_gives_in_memory(cache: Cache, name: str) -> None:
    how: dict[str, Any] = {"methods": (name,), "attribute": "sex"}
    in_memory = _one(cache, **how).predictions().sort("sample_id")
    from_disk = _one(cache, **how, memory=0.0, allow_leakage=True).predictions().sort("sample_id")
    decided = METHODS[name].attribute_at_test
    np.testing.assert_allclose(from_disk["logit"], in_memory["logit"], atol=2e-3 if decided else 1e-4)


def test_a_prior_moves_scores_from_the_prevalence_that_they_were_trained_at(cache: Cache) -> None:
    table = cache.dataset("cohort").samples
    for name, expected in (("erm", None), ("resampling-label", 0.5), ("dfr", 0.5)):
        told = _one(cache, methods=(name,), attribute="sex", prior="0.2").info["priors"][0]
        train = table.filter((pl.col("split") == "train") & pl.col("label.finding").is_not_nan())
        share = expected or train["label.finding"].mean()
        assert told["trained"] == pytest.approx(share)
        assert told["moved_to"] == 0.2
    ridge = _one(cache, solver="ridge", prior="0.2").info["priors"][0]  # its logit is fitted on validation
    val = table.filter((pl.col("split") == "val") & pl.col("label.finding").is_not_nan())
    assert ridge["trained"] == pytest.approx(val["label.finding"].mean())


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.has_prior])
def test_scores_of_no_one_prevalence_are_not_moved(cache: Cache, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        probe(cache, Options(methods=(name,), attribute="sex", prior="0.2"))
    assert str(caught.value) == (
        f"--prior cannot move the scores of the method {name}.\n"
        "Its logits are not those of one prevalence of training.\n"
        "--prior goes with erm, resampling, resampling-label, reweighing, dfr, leace."
    )


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.class_weights])
def test_class_weights_that_would_do_nothing_are_refused(cache: Cache, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        probe(cache, Options(methods=(name,), attribute="sex", class_weight="balanced"))
    assert str(caught.value).startswith(f"--class-weight changes nothing of the method {name}.\n")
    with pytest.raises(UsageError, match="--class-weight changes nothing of clip-zs"):
        probe(cache, Options(usage="clip-zs", class_weight="balanced"))


def test_across_datasets_the_policy_for_uncertain_findings_holds_and_nothing_made_up_is_measured(
    cache: Cache,
) -> None:
    here, x = samples(seed=1)
    there, z = samples(seed=5, split=False)
    unsure = pl.int_range(pl.len()) % 9 == 0
    made_up = pl.int_range(pl.len()) % 5 == 0
    store(cache, "net", here.with_columns(unsure.alias("uncertain.finding")), x, dataset="home")
    there = there.with_columns(unsure.alias("uncertain.finding"), made_up.alias("synthetic"))
    store(cache, "net", there, z, dataset="clinic")
    pair: dict[str, Any] = {"train_dataset": "home", "eval_dataset": "clinic"}
    told = {}
    for policy in ("", "u-zero", "u-one"):
        table = _one(cache, **pair, uncertain=policy).predictions()
        for name in ("home/s036", "s036"):
            told[policy, name] = table.filter(pl.col("sample_id") == name)["y"][0]
    assert [told["u-zero", name] for name in ("home/s036", "s036")] == [0.0, 0.0]
    assert [told["u-one", name] for name in ("home/s036", "s036")] == [1.0, 1.0]
    measured = table.filter(pl.col("split") == "test")
    assert set(measured["sample_id"]) == set(there.filter(~made_up)["sample_id"])
    with pytest.raises(UsageError, match="training patients would be measured"):
        probe(cache, Options(train_dataset="clinic", eval_dataset="clinic"))


def test_a_methods_own_arrays_come_with_the_change_of_features_that_they_need(cache: Cache) -> None:
    run = _one(cache, methods=("leace",), attribute="sex", standardize=True, pca=4)
    told = {name.removeprefix("method."): value for name, value in run.parameters().items()}
    embeddings = cache.embeddings("net", "cohort")
    table = embeddings.samples.select("sample_id").join(
        cache.dataset("cohort").samples, on="sample_id", how="left", maintain_order="left"
    )
    x = embeddings.array("float32").astype(float)
    x = (x - told["transform_shift"]) / told["transform_width"] @ told["transform_turn"]
    read, write, mean = (told[f"eraser_{name}"][0] for name in ("read", "write", "mean"))
    train = ((table["split"] == "train") & table["label.finding"].is_not_nan()).to_numpy()
    sex = (table["attribute.sex"] == "male").to_numpy()[train].astype(float)

    def readable(x: np.ndarray) -> float:
        return float(np.abs((x - x.mean(axis=0)).T @ (sex - sex.mean())).max() / len(sex))

    erased = x - (x - mean) @ read.T @ write.T
    assert readable(erased[train]) < 1e-4 * readable(x[train])


def test_the_record_says_what_was_minimised(cache: Cache) -> None:
    for name in ("erm", "laftr", "dfr"):
        objective = _one(cache, methods=(name,), attribute="sex").info["objective"]
        assert objective.startswith("mean BCE + lambda/2" if name == "erm" else METHODS[name].summary)


def test_metrics_leave_out_runs_without_scores_and_say_so(cache: Cache) -> None:
    kept, bare = _one(cache), _one(cache, class_weight="balanced", save="none")
    notes = Notes()
    results = run_metrics(cache, by=["sex"], draws=20, progress=notes)
    assert set(results["run_id"]) == {kept.run_id}
    assert "1 run made with --save none holds no scores: left out." in notes.notes
    assert not (cache.path / "results" / f"{bare.run_id}.parquet").exists()


def test_metrics_leave_out_rows_without_label_and_say_what_share(cache: Cache) -> None:
    run = _one(cache)
    notes = Notes()
    results = run_metrics(cache, by=["sex"], draws=20, progress=notes)
    test = run.predictions().filter(pl.col("split") == "test")
    known = test.filter(pl.col("y").is_not_nan())
    assert 0 < known.height < test.height
    assert f"note: net / cohort: finding: {1 - known.height / test.height:.1%}".replace("%", " %") in "".join(
        note for note in notes.notes if "of the rows have no label and are left out." in note
    )
    counts = results.filter((pl.col("metric") == "prevalence") & (pl.col("disparity") == ""))
    told = {group: (n, positive) for group, n, positive in counts.select("group", "n", "n_pos").iter_rows()}
    for group in ("overall", "female", "male"):
        mine = known if group == "overall" else known.filter(pl.col("attribute.sex") == group)
        assert told[group] == (mine.height, int(mine["y"].sum()))
    undefined = results.filter(pl.col("value").is_nan() | pl.col("value").is_null())
    assert undefined.height > 0
    assert (undefined["reason"].str.len_chars() > 0).all()
