"""Are two runs that were asked for differently ever called the same?"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from fmcache.analyze.report.checklists import _mitigates
from fmcache.probe.departures import departures
from fmcache.probe.options import Options

# what says which data or runs are asked for (a column of its own), how fast, or how much is kept
ELSEWHERE = {
    "usage", "models", "datasets", "labels", "methods", "attribute", "seeds", "fractions", "balance", "fuse",
    "eval_dataset", "allow_leakage", "save", "memory", "draws",
}  # fmt: skip
OTHER: dict[str, Any] = {
    "protocol": "paper", "solver": "ridge", "volume": "mean", "select": "worst", "class_weight": "balanced",
    "uncertain": "u-one", "standardize": True, "precision": "bfloat16", "prior": "em", "pca": 8, "train_dataset": "a",
    "grid": {"coefficient": (0.0, 0.5)}, "prompts": "chexzero", "template": "val",
}  # fmt: skip


def test_the_plain_call_has_a_plain_name() -> None:
    assert departures(Options()) == []
    assert departures(Options(usage="clip-adapt", protocol="paper")) == []


@pytest.mark.parametrize("name", sorted({field.name for field in fields(Options)} - ELSEWHERE))
def test_every_option_that_changes_a_number_is_in_the_name(name: str) -> None:
    told = departures(Options(**{name: OTHER[name]}), hyper=("coefficient",))
    assert len(told) == 1
    assert not set(told[0]) & set("[], ")


def test_names_are_as_documented() -> None:
    options = Options(train_dataset="A", protocol="paper", class_weight="balanced", standardize=True)
    assert departures(options) == ["train=A", "protocol=paper", "class-weight=balanced", "standardize"]
    assert departures(Options(usage="clip-adapt", protocol="fairmedfm")) == ["protocol=fairmedfm"]
    assert departures(Options(fuse=("a", "b"), standardize=True)) == []
    grid = Options(grid={"coefficient": (0.0, 0.5)})
    assert departures(grid, ("coefficient",)) == ["coefficient=0/0.5"]
    assert departures(grid) == []


@pytest.mark.parametrize("name", ["", "erm", "none", "knn", "erm[protocol=paper]", "erm[control=sex]"])
def test_a_recipe_is_no_approach_to_fairness(name: str) -> None:
    assert not _mitigates(name)


@pytest.mark.parametrize("name", ["group-dro", "erm[balance=sex]", "dp[coefficient=0/1]"])
def test_a_mitigation_is_one(name: str) -> None:
    assert _mitigates(name)
