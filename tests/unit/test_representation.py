"""Are planted groups told apart and mixed ones not, and are the numbers those of independent implementations?"""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import silhouette_score

from fmcache.analyze.representation import chosen_rows, mmd2, separability, silhouette


def study(shift: float, n: int = 200, seed: int = 0) -> tuple[np.ndarray, pl.DataFrame]:
    random = np.random.default_rng(seed)
    sex = random.choice(["female", "male"], n)
    x = random.normal(size=(n, 16))
    x[:, 0] += shift * (sex == "male")
    samples = pl.DataFrame(
        {"sample_id": [f"s{k:04d}" for k in range(n)], "patient_id": [f"p{k:04d}" for k in range(n)],
         "attribute.sex": sex, "attribute.rare": ["a"] * (n - 3) + ["b"] * 3}
    )  # fmt: skip
    return x, samples


def test_planted_groups_are_told_apart_and_mixed_ones_are_not() -> None:
    apart = separability(*study(3.0), ["sex"])
    mixed = separability(*study(0.0), ["sex"])
    assert apart["metric"].to_list() == ["silhouette", "mmd2", "mmd2"]
    assert (apart["p"] < 0.01).all()
    assert (apart["value"] > apart["null_high"]).all()
    assert (mixed["p"] > 0.05).all()


def test_p_values_of_mixed_groups_are_spread_out() -> None:
    p = [
        separability(*study(0.0, 60, seed), ["sex"], permutations=60)["p"].to_list()[:2] for seed in range(80)
    ]
    share = (np.array(p) < 0.1).mean(axis=0)
    assert (share < 0.1 + 4 * np.sqrt(0.09 / 80)).all()
    assert (np.array(p) < 0.5).mean() > 0.3


def test_the_silhouette_is_that_of_scikit_learn() -> None:
    x, samples = study(1.0)
    codes = (samples["attribute.sex"] == "male").to_numpy().astype(np.int64)
    distance = np.sqrt(((x[:, None] - x[None]) ** 2).sum(axis=2))
    assert silhouette(distance, codes, 2) == pytest.approx(silhouette_score(x, codes))


def test_mmd_is_its_definition() -> None:
    x, samples = study(1.0, 40)
    inside = (samples["attribute.sex"] == "male").to_numpy()
    kernel = np.exp(-((x[:, None] - x[None]) ** 2).sum(axis=2) / 20)
    a, b = np.flatnonzero(inside), np.flatnonzero(~inside)
    first = np.mean([kernel[i, j] for i in a for j in a if i != j])
    second = np.mean([kernel[i, j] for i in b for j in b if i != j])
    across = np.mean([kernel[i, j] for i in a for j in b])
    assert mmd2(kernel, inside[:, None])[0] == pytest.approx(first + second - 2 * across)


def test_small_groups_are_left_out_and_said() -> None:
    found = separability(*study(0.0), ["rare"])
    assert found["value"].is_nan().all()
    assert found["reason"][0] == "fewer than two groups; fewer than 10 patients, left out: b"


def test_one_image_a_patient() -> None:
    samples = pl.DataFrame({"sample_id": ["d", "a", "c", "b"], "patient_id": ["p", "p", "q", "q"]})
    assert chosen_rows(samples).tolist() == [1, 3]
    assert len(chosen_rows(study(0.0)[1], most=50)) == 50
    assert chosen_rows(study(0.0)[1], most=50).tolist() == chosen_rows(study(0.0)[1], most=50).tolist()
