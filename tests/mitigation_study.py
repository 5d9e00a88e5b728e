"""Problems for the mitigation tests: embeddings with three groups, of which one is small and one is badly served."""

from __future__ import annotations

from typing import Any

import numpy as np

from fmcache.probe.centred import centre
from fmcache.probe.problem import Column, Method, Problem, Rows

GROUPS = ("a", "b", "c")


def rows(n: int, seed: int, d: int = 10, labels: int = 2, unknown: float = 0.1) -> Rows:
    """Labels with three groups (60, 30, 10 %); feature 0 tells label 0 in a, feature 1 in b and c; feature 5 the group.

    One patient has two rows; 5 % of the labels and the share `unknown` of the groups are not known.
    """
    rng = np.random.default_rng(seed)
    group = rng.choice(3, n, p=[0.6, 0.3, 0.1])
    y = (rng.random((n, labels)) < 0.4).astype(np.float32)
    x = rng.normal(size=(n, d)) + 1
    for label in range(labels):
        x[np.arange(n), 2 * label + (group > 0)] += 2.5 * y[:, label]
    x[:, 5] += 2 * group
    y[rng.random(y.shape) < 0.05] = np.nan
    group = np.where(rng.random(n) < unknown, -1, group)
    return Rows(x.astype(np.float32), y, group, np.arange(n), np.arange(n) // 2)


def problem(
    method: Method, n: int = 600, n_val: int = 400, seeds: tuple[int, ...] = (0, 0), **more: Any
) -> Problem:
    """What the engine would hand to the method; `more` replaces fields."""
    train, val = rows(n, 1, labels=len(seeds)), rows(n_val, 2, labels=len(seeds))
    data = centre(train.x)
    fields: dict[str, Any] = {
        "train": train,
        "val": val,
        "weights": np.ones(train.y.shape),
        "data": data,
        "columns": tuple(Column(f"finding{at}", seed) for at, seed in enumerate(seeds)),
        "groups": GROUPS,
        "attribute": "site",
        "penalties": np.array([1e-2, 1e-1]) * data.scale,
        "grid": dict(method.grid),
    }
    fields |= more
    if "train" in more and "data" not in more:
        fields["data"] = centre(fields["train"].x)
    return Problem(**fields)
