"""Ranks, Friedman and critical differences: by hand, and from results as a cache holds them."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from fmcache.analyze.rank import cliques, friedman_p, lower_is_better, rank_models, split_name
from fmcache.errors import UsageError
from fmcache.store.schema import RESULT_COLUMNS


def results(values: dict[tuple[str, str], float], metric: str = "auc", disparity: str = "") -> pl.DataFrame:
    """(model, dataset) → value."""
    rows = [
        {
            "model": model, "dataset": dataset, "usage": "lp", "method": "erm", "seed": 0, "label": "y",
            "attribute": "sex" if disparity else "", "group": "" if disparity else "overall", "reference": "",
            "metric": metric, "disparity": disparity, "definition": "fmcache", "value": value, "threshold_policy": "",
        }
        for (model, dataset), value in values.items()
    ]  # fmt: skip
    columns = {name: [row.get(name) for row in rows] for name in RESULT_COLUMNS}
    return pl.DataFrame(columns, schema=dict(RESULT_COLUMNS))


def planted(datasets: int = 12, models: int = 4, seed: int = 0) -> dict[tuple[str, str], float]:
    random = np.random.default_rng(seed)
    return {
        (f"m{k}", f"d{i:02d}"): 0.9 - 0.05 * k + 0.01 * random.normal() + 0.1 * random.random() * 0
        for i in range(datasets)
        for k in range(models)
    }


def test_ranks_by_hand() -> None:
    values = {
        ("a", "x"): 0.9,
        ("b", "x"): 0.8,
        ("c", "x"): 0.7,
        ("a", "y"): 0.6,
        ("b", "y"): 0.6,
        ("c", "y"): 0.7,
    }
    found = rank_models(results(values), "auc")
    assert dict(zip(found.table["model"], found.table["rank"], strict=True)) == {
        "a": 1.75,
        "b": 2.25,
        "c": 2.0,
    }
    assert found.table["model"].to_list() == ["a", "c", "b"]
    assert "little power" in found.remark


def test_the_smallest_gap_is_best_and_the_largest_es() -> None:
    gaps = {("a", "x"): 0.1, ("b", "x"): 0.2, ("a", "y"): 0.0, ("b", "y"): 0.1}
    assert rank_models(results(gaps, "auc", "gap"), "auc_gap").table["model"][0] == "a"
    assert rank_models(results(gaps, "auc", "es"), "auc_es").table["model"][0] == "b"
    assert [lower_is_better(*split_name(name)) for name in ("ece", "auc", "eqodds_gap", "auc_ratio", "ece_worst")] == [
        True, False, True, False, True,
    ]  # fmt: skip


def test_planted_models_are_told_apart_and_equal_ones_are_not() -> None:
    found = rank_models(results(planted()), "auc")
    assert found.p < 1e-4
    assert found.table["model"].to_list() == ["m0", "m1", "m2", "m3"]
    assert found.table["not_different_from"][0] == "m1"
    assert (found.table["ci_low"] <= found.table["rank"]).all()
    p = []
    for seed in range(200):
        random = np.random.default_rng(seed)
        ranks = np.argsort(np.argsort(random.normal(size=(15, 5)), axis=1), axis=1) + 1.0
        p.append(friedman_p(ranks))
    assert 0.01 < np.mean(np.array(p) < 0.05) < 0.11


def test_seeds_are_averaged_and_incomplete_blocks_left_out_and_said() -> None:
    values = planted(6, 3)
    del values["m2", "d00"]
    once = results(values)
    again = once.with_columns(seed=pl.lit(1, pl.Int32), value=pl.col("value") + 0.001)
    found = rank_models(pl.concat([once, again]), "auc")
    assert found.datasets == ("d01", "d02", "d03", "d04", "d05")
    assert found.remark.startswith("1 blocks lack a model")


def test_several_runs_of_one_name_are_not_averaged_in_silence() -> None:
    once = results({("a", "x"): 0.9, ("b", "x"): 0.8}).with_columns(run_id=pl.lit("1"))
    twice = results({("a", "x"): 0.7}).with_columns(run_id=pl.lit("2"))
    assert "mean of several runs" not in rank_models(once, "auc").remark
    assert (
        "a is the mean of several runs of one dataset" in rank_models(pl.concat([once, twice]), "auc").remark
    )


def test_one_dataset_has_ranks_and_no_test() -> None:
    found = rank_models(results({("a", "x"): 0.9, ("b", "x"): 0.8}), "auc")
    assert math.isnan(found.p)
    assert found.groups == ()
    assert "no test" in found.remark


def test_cliques_are_maximal() -> None:
    assert cliques(np.array([3.0, 1.0, 1.4, 2.2]), 1.0) == ((1, 2), (2, 3), (3, 0))
    assert cliques(np.array([1.0, 1.2]), 1.0) == ((0, 1),)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("auk", "Did you mean auc?"),
        ("auc_gapp", "Did you mean auc_gap?"),
        ("prevalence", "no better direction"),
    ],
)
def test_names_that_cannot_be_ranked(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        rank_models(results(planted()), name)
