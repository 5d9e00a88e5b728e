"""Prototypes at the sizes of real studies, with several vectors an image, and under methods that know groups."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from fmcache.errors import UsageError
from fmcache.probe.fit import score
from fmcache.probe.methods import METHODS
from fmcache.probe.mitigation.adapt import Logits, Penalised
from fmcache.probe.options import Options
from fmcache.probe.problem import Column, Problem, Prototypes
from fmcache.probe.prototypes import ZERO_SHOT, unit
from tests.mitigation_study import problem, rows

ADAPTABLE = [name for name, method in METHODS.items() if method.adapts]


def _by_hand(x: np.ndarray, p: np.ndarray, tokens: int, scale: float) -> np.ndarray:
    """The logit of one row and one pair of prototypes [2, d], as the docs define it."""
    parts = x.reshape(tokens, -1).astype(float)
    cosine = [
        max(float(part @ t) / (np.linalg.norm(part) * np.linalg.norm(t)) for part in parts) for t in p.astype(float)
    ]  # fmt: skip
    return np.asarray(scale * (cosine[1] - cosine[0]))


@pytest.mark.parametrize("tokens", [1, 32])
def test_zero_shot_of_fourteen_labels_and_several_templates(tokens: int) -> None:
    """512 values, 14 labels, five templates and their ensemble, as BLIP-2's 32 queries or CLIP's one vector."""
    rng = np.random.default_rng(0)
    d, n, labels, templates = 512 // (1 + (tokens > 1)), 300, 14, 6
    start = rng.normal(size=(templates, labels, 2, d))
    of = Prototypes(start, (*range(templates - 1), -1), 100.0, tokens)
    x = rng.normal(size=(n, tokens * d)).astype(np.float32)
    given = replace(problem(METHODS["erm"], seeds=(0,)), prototypes=of)
    solution = ZERO_SHOT.fit(given)
    z = score(solution, x, np.arange(n), None, labels)
    assert z.shape == (n, templates, labels)
    assert (solution.w is None) == (tokens > 1)
    for i, t, l in ((0, 0, 0), (7, 3, 13), (299, 5, 6), (150, 2, 9)):
        assert z[i, t, l] == pytest.approx(_by_hand(x[i], start[t, l], tokens, 100.0), rel=1e-5, abs=1e-4)


def _study(tokens: int = 1, d: int = 10, **more: Any) -> Problem:
    """The mitigation study, each row's vectors beside `tokens` - 1 copies that point elsewhere."""
    rng = np.random.default_rng(3)

    def widened(seed: int, n: int) -> Any:
        of = rows(n, seed, d=d, labels=1)
        others = [0.1 * rng.normal(size=of.x.shape) - np.arange(d) for _ in range(tokens - 1)]
        return replace(of, x=np.concatenate([of.x, *others], axis=1).astype(np.float32))

    train, val = widened(1, 600), widened(2, 400)
    start = np.eye(2, d)[::-1][None, None] + 0.05 * rng.normal(size=(1, 1, 2, d))
    fields = {
        "train": train,
        "val": val,
        "weights": np.ones(train.y.shape),
        "seeds": (0,),
        "protocol": "paper",
    }
    return problem(METHODS["erm"], prototypes=Prototypes(start, (-1,), 10.0, tokens), **(fields | more))


def _risks(given: Problem, z: np.ndarray, cells: bool = False) -> np.ndarray:
    """Mean cross-entropy of the training rows of each group, or group × label, [m, g]."""
    y, group = given.train.y[:, 0], given.train.group
    loss = np.logaddexp(0, z) - np.nan_to_num(y)[:, None] * z
    wanted = [[0], [1]] if cells else [[0, 1]]
    parts = [(group == g) & np.isin(y, truth) for g in range(3) for truth in wanted]
    return np.stack([loss[part].mean(axis=0) for part in parts], axis=1)


@pytest.mark.parametrize(
    ("name", "tokens"), [(name, 1) for name in ADAPTABLE] + [("erm", 3), ("group-dro", 3), ("eqodds", 3)]
)
def test_every_method_trains_prototypes_to_a_lower_loss(name: str, tokens: int) -> None:
    given = _study(tokens)
    grid = {key: values[:1] for key, values in METHODS[name].grid.items()}
    solution = METHODS[name].fit(replace(given, grid=grid))
    every = np.arange(len(given.train.y))
    before, after = (
        _risks(given, score(one, given.train.x, every, None, 1)[:, :, 0], name == "group-dro-label")[-1]
        for one in (ZERO_SHOT.fit(given), solution)
    )
    assert after.max() < before.max() - 0.1


def test_the_worst_group_has_a_lower_loss_under_group_dro_than_under_erm() -> None:
    given = _study()
    every = np.arange(len(given.train.y))
    worst = {}
    for name, grid in (("erm", {}), ("group-dro", {"coefficient": (0.0,), "step": (0.1,)})):
        solution = METHODS[name].fit(replace(given, grid=grid))
        worst[name] = _risks(given, score(solution, given.train.x, every, None, 1)[:, :, 0])[-1].max()
    assert worst["group-dro"] < worst["erm"] - 0.005


@pytest.mark.parametrize("name", ["dp", "eqodds"])
def test_a_larger_coefficient_leaves_a_smaller_gap(name: str) -> None:
    given = _study(grid={"coefficient": (0.0, 300.0)})
    solution = METHODS[name].fit(given)
    z = score(solution, given.train.x, np.arange(len(given.train.y)), None, 1)[:, :, 0]
    share, y, group = 1 / (1 + np.exp(-z)), given.train.y[:, 0], given.train.group
    wanted = [[0, 1]] if name == "dp" else [[0], [1]]
    gap = sum(
        np.var([share[(group == g) & np.isin(y, truth)].mean(axis=0) for g in range(3)], axis=0)
        for truth in wanted
    )
    assert gap[1] < 0.8 * gap[0]


def test_the_penalty_of_a_batch_by_hand() -> None:
    """Two groups in the batch, a third that is absent, one row of no group."""
    p = np.array([[[[1.0, 0.0], [0.0, 1.0]]]])  # q, c, 2, d
    x = np.array([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 2.0]]])
    y, group = np.array([[1.0, 1.0, 0.0, 1.0]]), np.array([[0, 1, 1, -1]])
    z = np.array([-2.0, 2.0, 0.0, 2.0])
    score_ = 1 / (1 + np.exp(-z))
    loss = (np.logaddexp(0, z) - y[0] * z).mean()
    dp = np.var([score_[0], score_[1:3].mean()])
    eqodds = np.var(
        [score_[0], score_[1]]
    )  # positives of both groups; negatives of one group have no variance
    batch = tuple(map(jnp.asarray, (x, y, group)))
    for by_label, penalty in ((False, dp), (True, eqodds)):
        step = Penalised(Logits(2.0, 1), 3, by_label)
        told = step.losses({"p": jnp.asarray(p)}, batch, jnp.asarray([6.0]))
        assert float(told[0, 0]) == pytest.approx(loss + 3 * penalty, rel=1e-5)


@pytest.mark.parametrize(
    ("method", "protocol", "says"),
    [
        ("jtt", "paper", "The method jtt does not train prototypes.\nclip-adapt knows erm, resampling,"),
        ("leace", "paper", "The method leace does not train prototypes.\n"),
        (
            "dp",
            "fairmedfm",
            "The method dp trains no prototypes under protocol fairmedfm.\nIt does under paper.\n",
        ),
        ("erm", "convex", "clip-adapt has no protocol convex.\n"),
    ],
)
def test_what_trains_no_prototypes_is_refused(method: str, protocol: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        Options(usage="clip-adapt", methods=(method,), protocol=protocol, attribute="sex").check()
    assert str(caught.value).startswith(says)


def test_prototypes_of_unit_norm_do_not_know_their_length() -> None:
    given = _study()
    assert given.prototypes is not None
    longer = replace(given, prototypes=replace(given.prototypes, start=3 * given.prototypes.start))
    one, other = (ZERO_SHOT.fit(each) for each in (given, longer))
    assert one.w is not None
    assert other.w is not None
    np.testing.assert_allclose(one.w, other.w, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(unit(given.prototypes.start), axis=-1), 1)
    assert given.columns == (Column("finding0", 0),)
