"""What a call of ``fmcache probe`` plans, shares, keeps and finds again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from fmcache.analyze.report.build import build_report
from fmcache.analyze.run import run_metrics
from fmcache.cli import app
from fmcache.errors import MissingEntry, UsageError
from fmcache.probe import plan as plan_module
from fmcache.probe import run as run_module
from fmcache.probe.logistic import fit_logistic
from fmcache.probe.methods import METHODS
from fmcache.probe.options import Options
from fmcache.probe.plan import make_plan
from fmcache.probe.run import describe_plan, probe
from fmcache.probe.truth import truth_of
from fmcache.store.cache import Cache, open_cache
from tests.probe_study import D, samples, store, store_texts


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    made = open_cache(tmp_path / "cache", create=True)
    store(made, "net/small", *samples())
    return made


def _two_labels(cache: Cache, model: str = "net/two", split: bool = True) -> tuple[pl.DataFrame, np.ndarray]:
    table, x = samples(split=split)
    sex = (table["attribute.sex"] == "male").to_numpy()
    x[:, :, 1] += 2.0 * sex[:, None]
    table = table.drop("label.never").with_columns(
        pl.Series("label.second", (x[:, 0, 2] > 0).astype(np.float32))
    )
    store(cache, model, table, x, dataset="pair")
    return table, x


def _info(cache: Cache, *ids: str) -> list[Any]:
    return [cache.run(one).info for one in ids]


def test_a_run_is_keyed_by_its_configuration_and_found_again(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = probe(cache, Options())
    monkeypatch.setattr(run_module, "solve", None)  # nothing may be computed again
    assert probe(cache, Options()) == [first]
    rows = describe_plan(cache, Options())
    assert [(row["run_id"], row["state"], row["labels"], row["probes"]) for row in rows] == [
        (first, "there", 1, 16)
    ]
    (other,) = describe_plan(cache, Options(volume="mean"))
    assert other["run_id"] != first
    assert other["state"] == "new"
    assert len(cache.runs()) == 1


def test_erm_is_one_run_whatever_attribute_stands_beside_it(cache: Cache) -> None:
    alone, beside = (describe_plan(cache, Options(attribute=attribute)) for attribute in ("", "sex"))
    assert alone[0]["run_id"] == beside[0]["run_id"]
    (worst,) = describe_plan(cache, Options(attribute="sex", select="worst"))
    assert worst["run_id"] != alone[0]["run_id"]


def test_a_recipe_that_hardly_leaves_its_random_start_says_so(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AdamW moves a coefficient by its rates at most; half a cosine of 2.5e-4 over 100 epochs is .0126."""
    said: list[str] = []
    plan_module.make_plan(cache, Options(protocol="paper"), said.append)
    (told,) = [text for text in said if "the start may say more than the images" in text]
    assert "moves a coefficient by 0.025 at most with" in told  # two batches an epoch
    said.clear()
    plan_module.make_plan(cache, Options(), said.append)
    long = replace(plan_module.RECIPES["paper"], epochs=100_000)
    monkeypatch.setattr(plan_module, "RECIPES", {"paper": long})
    plan_module.make_plan(cache, Options(protocol="paper"), said.append)
    assert not any("start" in text for text in said)


def test_another_label_value_is_another_run(cache: Cache) -> None:
    (first,) = probe(cache, Options())
    table, _ = samples()
    flipped = table.with_columns(pl.when(pl.col("sample_id") == "s001").then(1 - pl.col("label.finding"))
                                 .otherwise(pl.col("label.finding")).alias("label.finding"))  # fmt: skip
    cache.publish_dataset("cohort", {}, flipped)
    assert describe_plan(cache, Options())[0]["run_id"] != first


def test_an_interrupted_sweep_goes_on_at_its_block(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    _two_labels(cache)
    options = Options(datasets=("pair",))
    whole = cache.run(probe(cache, options)[0]).predictions()
    monkeypatch.setattr(plan_module, "COLUMNS", 16)  # one label a block
    again = Options(datasets=("pair",), save="none")
    calls, real = [], run_module.solve

    def stop_at_second(*args: Any, **more: Any) -> Any:
        calls.append(args[1].columns[0].label)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **more)

    monkeypatch.setattr(run_module, "solve", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        probe(cache, again)
    assert describe_plan(cache, again)[0]["state"] == "1 of 2 blocks"
    (run_id,) = probe(cache, again)
    assert calls == ["finding", "second", "second"]
    summary = {row["label"]: row["test_auc"] for row in cache.run(run_id).info["summary"]}
    from sklearn.metrics import roc_auc_score

    for label, auc in summary.items():
        mine = whole.filter(
            (pl.col("label") == label) & (pl.col("split") == "test") & pl.col("y").is_not_nan()
        )
        assert auc == pytest.approx(roc_auc_score(mine["y"], mine["score"]), abs=1e-4)
    assert cache.run(run_id).predictions().height == 0
    with pytest.raises(MissingEntry, match="--save none, which keeps a summary"):
        build_report(cache, cache.path / "report.html", runs=[run_id])
    assert not list((cache.path / "staging").glob("probe-*/"))


def test_an_interrupted_sweep_keeps_the_methods_that_are_finished(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, real = Options(methods=("erm", "resampling"), attribute="sex"), run_module.solve

    def stop_at_second(method: Any, *args: Any, **more: Any) -> Any:
        if method.name == "resampling":
            raise KeyboardInterrupt
        return real(method, *args, **more)

    monkeypatch.setattr(run_module, "solve", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        probe(cache, options)
    assert [row["state"] for row in describe_plan(cache, options)] == ["there", "new"]
    assert [run.info["method"] for run in cache.runs()] == ["erm"]


def test_a_run_is_the_same_to_the_bit_alone_and_beside_others(tmp_path: Path) -> None:
    """Docs/decisions/145: methods share rows and eigenbasis; nothing of that enters a result."""
    files = []
    for name, methods in (("alone", ("erm",)), ("beside", ("resampling-label", "erm"))):
        cache = open_cache(tmp_path / name, create=True)
        _two_labels(cache, split=False)
        ids = probe(cache, Options(datasets=("pair",), methods=methods, attribute="sex", seeds=2))
        run = next(run for run in map(cache.run, ids) if run.info["method"] == "erm")
        files.append(
            {
                p.name: p.read_bytes()
                for p in (cache.path / "runs" / run.run_id).iterdir()
                if p.suffix in (".parquet", ".npz")
            }
        )
    assert files[0].keys() == files[1].keys() >= {"predictions.parquet", "parameters.npz"}
    assert files[0] == files[1]


def test_a_damaged_block_is_made_again(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    _two_labels(cache)
    monkeypatch.setattr(plan_module, "COLUMNS", 16)
    options = Options(datasets=("pair",))
    job = plan_module.make_plan(cache, options, lambda text: None)[0]
    folder = cache.path / "staging" / f"probe-{job.key[:12]}"
    folder.mkdir(parents=True)
    (folder / "0000.npz").write_bytes(b"PK\x03\x04 half of a file")
    (run_id,) = probe(cache, options)
    assert cache.run(run_id).info["labels"] == ["finding", "second"]


def test_streamed_rows_give_the_same_scores(cache: Cache) -> None:
    (in_memory,) = probe(cache, Options())
    streamed = Options(
        memory=0.0, standardize=False, save="scores", select="auc", class_weight="none", prior="0.5"
    )
    (from_disk,) = probe(cache, streamed)
    one, two = (cache.run(run_id).predictions().sort("sample_id") for run_id in (in_memory, from_disk))
    not_moved = one["split"] != "test"
    np.testing.assert_allclose(two.filter(not_moved)["logit"], one.filter(not_moved)["logit"], atol=1e-4)
    moved = (two["logit"] - one["logit"]).filter(~not_moved)
    trained = cache.run(from_disk).info["priors"][0]["trained"]
    np.testing.assert_allclose(moved, np.log((1 - trained) / trained), atol=1e-4)
    with pytest.raises(UsageError, match="needs them all at once"):
        probe(cache, Options(memory=0.0, protocol="paper"))


def test_seeds_are_columns_of_one_problem_and_equal_single_fits(tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "cache", create=True)
    store(cache, "net", *samples(split=False))
    run = cache.run(probe(cache, Options(seeds=2))[0])
    table, weights = run.predictions(), run.parameters()
    embeddings = cache.embeddings("net", "cohort")
    x, ids = embeddings.array("float32"), embeddings.samples["sample_id"].to_list()
    for seed in (0, 1):
        rows = table.filter(
            (pl.col("seed") == seed) & (pl.col("split") == "train") & pl.col("y").is_not_nan()
        )
        y = dict(rows.select("sample_id", "y").iter_rows())
        at = [position for position, name in enumerate(ids) if name in y]
        lam = run.info["penalties"][seed]["penalty"]
        alone = fit_logistic(x[at], np.array([[y[ids[p]]] for p in at]), [lam])
        np.testing.assert_allclose(weights["w"][seed, 0], alone.w[0, 0], atol=1e-3 * np.abs(alone.w).max())


def test_fractions_are_nested_and_counted_and_the_balance_has_its_control(tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "cache", create=True)
    table, x = samples()
    few = (pl.col("attribute.sex") == "male") & (pl.int_range(pl.len()) % 3 > 0)  # men are rarer in training
    table = table.with_columns(
        pl.when(few & (pl.col("split") == "train")).then(None).otherwise(pl.col("split")).alias("split")
    )
    store(cache, "net", table, x)
    ids = probe(cache, Options(fractions=(0.25, 1.0), balance="sex", save="none"))
    infos = _info(cache, *ids)
    assert [info["method"] for info in infos] == [
        "erm[fraction=0.25,balance=sex]", "erm[fraction=0.25,control=sex]", "erm[balance=sex]", "erm[control=sex]",
    ]  # fmt: skip
    n = [info["summary"][0]["n_train"] for info in infos]
    assert n[0] == n[1]
    assert n[2] == n[3]
    known = table.filter((pl.col("split") == "train") & pl.col("label.finding").is_not_nan())
    per_sex = known["attribute.sex"].value_counts()["count"]
    assert n[2] == 2 * per_sex.min()
    assert n[0] < n[2] < per_sex.sum()


def test_fused_models_are_standardised_side_by_side(cache: Cache) -> None:
    table, x = samples()
    store(cache, "net/other", table, 1000 * x[:, :, :4] + 7)
    run = cache.run(probe(cache, Options(fuse=("net/small", "net/other")))[0])
    assert run.info["model"] == "net/small+net/other"
    assert run.info["d"] == D + 4
    both = np.concatenate(
        [
            cache.embeddings(name, "cohort").array("float32").astype(float)
            for name in ("net/small", "net/other")
        ],
        axis=1,
    )
    z = dict(zip(cache.embeddings("net/small", "cohort").samples["sample_id"],
                 both @ run.parameters()["w"][0, 0] + run.parameters()["b"][0, 0], strict=True))  # fmt: skip
    predictions = run.predictions()
    np.testing.assert_allclose(
        predictions["logit"], [z[name] for name in predictions["sample_id"]], atol=1e-3
    )
    shrunk = cache.run(probe(cache, Options(fuse=("net/small", "net/other"), pca=3, save="none"))[0]).info
    assert shrunk["configuration"]["pca"] == 3
    assert shrunk["summary"][0]["test_auc"] > 0.8


def test_train_here_measure_there(cache: Cache) -> None:
    table, x = samples(seed=5, split=False)
    store(cache, "net/small", table.rename({"label.never": "label.else"}), x, dataset="clinic")
    run = cache.run(probe(cache, Options(train_dataset="cohort", eval_dataset="clinic"))[0])
    predictions = run.predictions()
    assert run.info["dataset"] == "clinic"
    assert run.info["train_dataset"] == "cohort"
    assert run.info["labels"] == ["finding"]
    told = predictions.group_by("split").len().sort("split")
    assert dict(told.iter_rows()) == {"test": 240, "train": 144, "val": 48}
    trained = predictions.filter(pl.col("split") != "test")
    assert trained["sample_id"].str.starts_with("cohort/").all()
    assert run.info["summary"][0]["test_auc"] > 0.95
    with pytest.raises(MissingEntry, match="nowhere"):
        probe(cache, Options(train_dataset="cohort", eval_dataset="nowhere"))


def test_synthetic_samples_are_trained_on_and_never_measured(tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "cache", create=True)
    table, x = samples()
    made_up = np.arange(table.height) % 5 == 0  # in every split of the table
    store(cache, "net", table.with_columns(pl.Series("synthetic", made_up)), x)
    run = cache.run(probe(cache, Options())[0])
    predictions = run.predictions()
    names = set(table.filter(pl.Series(made_up))["sample_id"])
    seen = predictions.filter(pl.col("sample_id").is_in(names))
    assert set(seen["split"]) == {"train"}
    assert seen.height > 0
    assert run.info["n_synthetic"] == int(made_up.sum())


def test_attributes_that_can_be_read_and_those_that_cannot(cache: Cache) -> None:
    _two_labels(cache)
    (run_id,) = probe(cache, Options(usage="attribute", datasets=("pair",), labels=("sex", "age"), draws=19))
    rows = {row["label"]: row for row in cache.run(run_id).info["baseline"]}
    assert list(rows) == ["sex=male", "age=0-39", "age=40-59", "age=60+"]
    assert rows["sex=male"]["test_auc"] > 0.8
    assert rows["sex=male"]["p_value"] == pytest.approx(1 / 20)
    assert rows["sex=male"]["null_high"] < rows["sex=male"]["test_auc"]
    assert min(rows[f"age={band}"]["p_value"] for band in ("0-39", "40-59", "60+")) > 1 / 20
    with pytest.raises(UsageError, match="no attribute sexx"):
        probe(cache, Options(usage="attribute", labels=("sexx",)))


def test_text_prompts_as_classes(cache: Cache) -> None:
    with pytest.raises(MissingEntry, match="--kind text"):
        probe(cache, Options(usage="clip-zs"))
    store_texts(cache, "net/small", "cohort", ["finding", "never"])
    run = cache.run(probe(cache, Options(usage="clip-zs"))[0])
    assert (run.info["usage"], run.info["method"]) == ("clip-zs", "none")
    assert run.info["labels"] == [
        "finding",
        "never",
    ]  # nothing is trained, so one class in training is no obstacle
    texts = cache.texts("net/small", "cohort").array("finding").astype(float)
    ensemble = (texts / np.linalg.norm(texts, axis=-1, keepdims=True)).mean(axis=0)
    ensemble /= np.linalg.norm(ensemble, axis=-1, keepdims=True)
    embeddings = cache.embeddings("net/small", "cohort")
    x = embeddings.array("float32").astype(float)
    cosine = x / np.linalg.norm(x, axis=1, keepdims=True) @ ensemble.T
    expected = dict(zip(embeddings.samples["sample_id"], 20 * (cosine[:, 1] - cosine[:, 0]), strict=True))
    mine = run.predictions().filter(pl.col("label") == "finding")
    np.testing.assert_allclose(mine["logit"], [expected[name] for name in mine["sample_id"]], rtol=1e-6)
    with pytest.raises(UsageError, match="no template 5"):
        probe(cache, Options(usage="clip-zs", template="5"))
    store_texts(cache, "net/small", "cohort", ["finding"], prompt_set="chexzero")
    with pytest.raises(MissingEntry, match="several prompt sets"):
        probe(cache, Options(usage="clip-zs", volume="mean"))
    (chosen,) = _info(cache, *probe(cache, Options(usage="clip-zs", prompts="chexzero", template="val")))
    assert chosen["labels"] == ["finding"]
    assert chosen["penalties"][0]["template"] in (-1, 0, 1)


def test_prototypes_begin_as_text_and_are_trained(cache: Cache) -> None:
    store_texts(cache, "net/small", "cohort", ["finding"], scale=5.0)
    zero, adapted = _info(
        cache, *probe(cache, Options(usage="clip-zs")),
        *probe(cache, Options(usage="clip-adapt", protocol="paper", attribute="sex", methods=("erm",))),
    )  # fmt: skip
    assert adapted["penalties"][0]["epoch"] in range(5, 101, 5)
    assert adapted["summary"][0]["test_auc"] >= zero["summary"][0]["test_auc"] - 0.01
    run = cache.run(probe(cache, Options(usage="clip-adapt", protocol="paper", attribute="sex"))[0])
    x = cache.embeddings("net/small", "cohort").array("float32").astype(float)
    z = x / np.linalg.norm(x, axis=1, keepdims=True) @ run.parameters()["w"][0, 0]
    ids = cache.embeddings("net/small", "cohort").samples["sample_id"]
    told = dict(zip(ids, z, strict=True))
    np.testing.assert_allclose(
        run.predictions()["logit"], [told[name] for name in run.predictions()["sample_id"]], rtol=1e-6
    )


def test_uncertain_labels_follow_the_policy(tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "cache", create=True)
    table, x = samples()
    unsure = pl.int_range(pl.len()) % 11 == 0
    raw = table.with_columns(
        pl.when(unsure).then(-1.0).otherwise(pl.col("label.finding")).alias("label.finding")
    )
    store(cache, "net", raw, x)
    with pytest.raises(UsageError, match="--uncertain u-ignore"):
        probe(cache, Options())
    values = {}
    for policy in ("u-ignore", "u-zero", "u-one"):
        run = cache.run(probe(cache, Options(uncertain=policy))[0])
        mine = run.predictions().filter(pl.col("sample_id") == "s011")
        values[policy] = mine["y"][0]
    assert np.isnan(values["u-ignore"])
    assert (values["u-zero"], values["u-one"]) == (0.0, 1.0)
    flagged = table.with_columns(
        unsure.alias("uncertain.finding")
    )  # as extraction stores it, labels by its own policy
    np.testing.assert_array_equal(
        truth_of(flagged, ["finding"], "u-one"), truth_of(raw, ["finding"], "u-one")
    )
    np.testing.assert_array_equal(truth_of(flagged, ["finding"])[:, 0], table["label.finding"].to_numpy())


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"methods": ("group-dor",)}, "There is no method group-dor.\n"),
        ({"methods": ("group-dro",)}, "The method group-dro needs an attribute.\nNone is named.\n"),
        ({"usage": "lpp"}, "usage='lpp' means nothing.\n"),
        ({"protocol": "papper"}, "protocol='papper' means nothing.\nIt is convex, paper or fairmedfm.\n"),
        ({"fractions": (0.0, 1.0)}, "A fraction of 0 means nothing.\n"),
        ({"fuse": ("a",)}, "--fuse a joins nothing.\n"),
        ({"train_dataset": "a"}, "--train-dataset and --eval-dataset belong together.\n"),
        ({"prior": "half"}, "--prior half means nothing.\n"),
        ({"select": "worst"}, "select=worst needs groups.\n"),
        ({"usage": "clip-adapt"}, "clip-adapt has no protocol convex.\n"),
        ({"grid": {"coefficient": (1.0,)}}, "No method has the hyper-parameter coefficient.\n"),
        ({"grid": {"coeficient": (1.0,)}, "methods": ("dp",), "attribute": "sex"},
         "No method has the hyper-parameter coeficient.\nThese have coefficient.\nDid you mean --grid coefficient=…?"),
        ({"attribute": "sx", "methods": ("reweighing",)}, "There is no attribute sx.\n"),
        ({"attribute": "sex*", "methods": ("reweighing",)},
         "--attribute 'sex*' names no attribute beside its *.\nAttributes: sex, age.\n"
         "Type: --attribute sex   or, for an intersection: --attribute 'sex*age_group'"),
        ({"balance": "label*sex*"}, "--balance 'sex*' names no attribute beside its *.\nAttributes: sex, age.\n"),
        ({"balance": "label*sxe"}, "There is no attribute sxe.\nAttributes: sex, age.\nDid you mean sex?"),
        ({"pca": 100_000}, "--pca 100000 asks for more components than there are features.\n"
                           "net/small on cohort has 8 features.\nType: --pca 2   or leave --pca out to keep all"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_said(cache: Cache, how: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        probe(cache, Options(**how))
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize(
    ("how", "who"),
    [({"methods": (name,)}, name) for name, method in METHODS.items() if method.needs_attribute]
    + [({"select": "worst"}, "select=worst"), ({"balance": "sex"}, "--balance sex")],
)
def test_one_group_is_none_to_be_fair_to(tmp_path: Path, how: dict[str, Any], who: str) -> None:
    """They were erm under another name, without a word."""
    cache = open_cache(tmp_path / "cache", create=True)
    table, x = samples()
    known = pl.Series(["female", None] * (table.height // 2))
    store(cache, "net", table.with_columns(known.alias("attribute.sex")), x)
    with pytest.raises(UsageError) as caught:
        probe(cache, Options(attribute="sex", **how))
    first, second, third = str(caught.value).splitlines()
    assert (first, second) == (f"{who} needs two groups.", "sex of net on cohort has one group, female.")
    assert third.startswith("Name another attribute, or ")
    assert not cache.runs()


def test_one_group_in_training_is_said(tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "cache", create=True)
    table, x = samples()
    sex = pl.when(pl.col("split") == "train").then(pl.lit("female")).otherwise(pl.col("attribute.sex"))
    store(cache, "net", table.with_columns(sex.alias("attribute.sex")), x)
    said: list[str] = []
    make_plan(cache, Options(methods=("erm", "group-dro"), attribute="sex"), said.append)
    (warning,) = [text for text in said if text.startswith("warning")]
    assert warning == (
        "warning: net on cohort: its training samples have one group, female, of sex; "
        "what group-dro does about groups while it trains is without effect."
    )


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["--attribute", "sex", "--attribute", "age_group"],
         "--attribute is given 2 times: sex, age_group.\n"
         "The groups of a run are those of one attribute, or of one intersection.\n"
         "Type: --attribute 'sex*age_group'   or run the command once for each"),
        (["--grid", "coefficient=a,b"], "--grid coefficient=a,b is not a list of numbers.\n"
         "Finite numbers, separated by commas, are needed.\nType: --grid coefficient=0.1,1"),
        (["--grid", "coefficient="], "--grid coefficient= is not a list of numbers.\n"
         "Finite numbers, separated by commas, are needed.\nType: --grid coefficient=0.1,1"),
        (["--grid", "coefficient=nan"], "--grid coefficient=nan is not a list of numbers.\n"
         "Finite numbers, separated by commas, are needed.\nType: --grid coefficient=0.1,1"),
        (["--grid", "coefficient=1", "--grid", "coefficient=2,3"], "--grid coefficient=… is given twice.\n"
         "One list holds all values of a hyper-parameter.\nType: --grid coefficient=1,2,3"),
        (["--fraction", "0.1,x"], "--fraction 0.1,x is not a list of numbers.\n"
         "Finite numbers, separated by commas, are needed.\nType: --fraction 0.1,1"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_from_the_command_line(cache: Cache, typed: list[str], says: str) -> None:
    outcome = CliRunner().invoke(app, ["probe", "lp", "--cache", str(cache.path), *typed])
    assert str(outcome.exception) == says


def test_the_configuration_is_plain_json(cache: Cache) -> None:
    (info,) = _info(cache, *probe(cache, Options(methods=("group-dro",), attribute="sex", save="none")))
    assert json.loads(json.dumps(info))["configuration"]["method"] == "group-dro"
    assert info["attribute_in_training"] is True
    assert {row["split"] for row in info["front"]} == {"val", "test"}
    assert any(row["chosen"] for row in info["front"])
    with pytest.raises(MissingEntry) as caught:
        run_metrics(cache)
    assert str(caught.value).startswith("The run holds no scores to measure.\n")
    assert str(caught.value).endswith("\nType: fmcache probe … --save scores")


def test_the_worst_group_is_read_from_the_stored_scores(cache: Cache) -> None:
    from sklearn.metrics import roc_auc_score

    (run_id,) = probe(cache, Options())
    test = cache.run(run_id).predictions().filter((pl.col("split") == "test") & pl.col("y").is_not_nan())
    by_hand = [roc_auc_score(part["y"], part["logit"]) for part in test.partition_by("attribute.sex")]
    assert run_module.worst_groups(cache, run_id, "sex") == pytest.approx(min(by_hand))
