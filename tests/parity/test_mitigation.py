"""Group DRO and LAFTR against references written out in NumPy; post-processing against fairlearn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator

from fmcache.probe.methods import METHODS
from fmcache.probe.mitigation import group_dro, laftr, post
from fmcache.probe.mitigation.cells import cells_of
from fmcache.probe.mitigation.minibatch import Recipe, draw_equal_groups, draw_shuffled, standardise, train
from fmcache.probe.problem import Rows
from tests.mitigation_study import problem, rows

RECIPE = Recipe(rate=0.01, decay=0.05, epochs=3, batch=32)


class AdamW:
    """Loshchilov & Hutter, ICLR 2019, algorithm 2, for a dict of arrays."""

    def __init__(self, params: dict[str, np.ndarray], total: int) -> None:
        self.params, self.total, self.t = params, total, 0
        self.first = {name: np.zeros_like(value) for name, value in params.items()}
        self.second = {name: np.zeros_like(value) for name, value in params.items()}

    def step(self, gradient: dict[str, np.ndarray]) -> None:
        rate = RECIPE.rate * 0.5 * (1 + np.cos(np.pi * self.t / self.total))
        self.t += 1
        for name, g in gradient.items():
            self.first[name] = 0.9 * self.first[name] + 0.1 * g
            self.second[name] = 0.999 * self.second[name] + 0.001 * g * g
            m = self.first[name] / (1 - 0.9**self.t)
            v = self.second[name] / (1 - 0.999**self.t)
            self.params[name] = self.params[name] - rate * (
                m / (np.sqrt(v) + 1e-8) + RECIPE.decay * self.params[name]
            )


def _batches(study: Rows, draw: Any) -> Any:
    """The rows of every step, as `train` draws them for one column of seed 0."""
    known = int((~np.isnan(study.y[:, 0])).sum())
    steps, rng = known // RECIPE.batch, np.random.default_rng([0, 11])
    for _ in range(RECIPE.epochs):
        yield from draw(rng, steps * RECIPE.batch).reshape(steps, RECIPE.batch)


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


@pytest.mark.parametrize("by_label", [False, True])
def test_group_dro_is_algorithm_1(by_label: bool) -> None:
    study, adjustments, step = rows(300, 5, labels=1), (0.0, 2.0), 0.1
    cells = cells_of(study.y, study.group, 3)
    n_group = cells.size[0].ravel() if by_label else cells.size[0].sum(axis=1)
    count_of = len(n_group)
    shift, width = standardise(study.x, study.y)
    code = cells.code[:, 0] if by_label else cells.code[:, 0] // 2
    gradient = group_dro.StepByLabel() if by_label else group_dro.Step()
    # Not at 0: there the bias's gradient over balanced cells is 0, and Adam would divide a rounding error by itself.
    begin = np.random.default_rng(4).normal(0, 0.3, 10)
    start = {"w": np.tile(begin, (2, 1, 1)), "b": np.full((2, 1), 0.4)}
    fixed = (
        np.array([[c / np.sqrt(n_group)] for c in adjustments], np.float32),
        np.float32(step),
    )
    params, q = train(
        gradient, start, np.full((2, 1, count_of), 1 / count_of, np.float32), fixed, study, shift, width, RECIPE,
        lambda _, rng, count: draw_equal_groups(code, rng, count), [0],
    )  # fmt: skip

    x = (study.x - shift[0]) / width[0]
    total = RECIPE.epochs * (int((~np.isnan(study.y[:, 0])).sum()) // RECIPE.batch)
    for at, adjustment in enumerate(adjustments):
        weights = np.full(count_of, 1 / count_of)
        adam = AdamW({"w": begin.copy(), "b": np.array(0.4)}, total)
        for drawn in _batches(study, lambda rng, count: draw_equal_groups(code, rng, count)):
            z = x[drawn] @ adam.params["w"] + adam.params["b"]
            y, group = study.y[drawn, 0], code[drawn]
            loss = np.logaddexp(0, z) - y * z
            residual = _sigmoid(z) - y
            there = [g for g in range(count_of) if (group == g).any()]
            for g in there:
                weights[g] *= np.exp(step * (loss[group == g].mean() + adjustment / np.sqrt(n_group[g])))
            weights /= weights.sum()
            by_row = np.zeros(len(drawn))
            for g in there:
                by_row[group == g] = weights[g] / (group == g).sum()
            adam.step({"w": (by_row * residual) @ x[drawn], "b": (by_row * residual).sum()})
        np.testing.assert_allclose(params["w"][at, 0], adam.params["w"], atol=5e-4)
        np.testing.assert_allclose(params["b"][at, 0], adam.params["b"], atol=5e-4)
        np.testing.assert_allclose(q[at, 0], weights, atol=1e-5)


def test_the_published_recipe_of_group_dro_moves_towards_the_worst_group() -> None:
    given = problem(METHODS["group-dro"], n=400, seeds=(0,), protocol="paper")
    solution = METHODS["group-dro"].fit(given)
    assert solution.facts["recipe"].startswith(
        "AdamW, rate 0.00025, decay 0.05, cosine, 100 epochs, batch 128"
    )
    q = np.array(solution.facts["group_weights"])[:, 0]
    assert (q[0] > 0.05).all()
    assert q[2].argmax() == 2  # a large adjustment: the smallest group


def test_laftr_is_the_reversed_gradient_of_the_adversary() -> None:
    study, gamma = rows(300, 6, labels=1), (0.0, 0.7)
    shift, width = standardise(study.x, study.y)
    known = np.flatnonzero(~np.isnan(study.y[:, 0]))
    start = laftr.initial(10, 3, 2, [0])
    params, _ = train(
        laftr.step_gradient, start, (), np.array(gamma, np.float32), study, shift, width, RECIPE,
        lambda _, rng, count: draw_shuffled(known, rng, count), [0],
    )  # fmt: skip

    x = (study.x - shift[0]) / width[0]
    for at, coefficient in enumerate(gamma):
        adam = AdamW(
            {name: value[at, 0].astype(float) for name, value in start.items()},
            RECIPE.epochs * (known.size // RECIPE.batch),
        )
        for drawn in _batches(study, lambda rng, count: draw_shuffled(known, rng, count)):
            adam.step(
                _laftr_gradient(adam.params, x[drawn], study.y[drawn, 0], study.group[drawn], coefficient)
            )
        for name, value in adam.params.items():
            np.testing.assert_allclose(params[name][at, 0], value, atol=2e-4, err_msg=name)


def _laftr_gradient(
    p: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray, group: np.ndarray, gamma: float
) -> dict[str, np.ndarray]:
    """Of L_y - γ L_a for the encoder, of L_y for the classifier, of L_a for the adversary."""
    z = x @ p["encoder"].T + p["shift"]
    logit = z @ p["head"] + p["bias"]
    d_logit = (_sigmoid(logit) - y) / len(y)
    hidden = z @ p["in"].T + p["in_bias"]
    active = np.maximum(hidden, 0)
    told = active @ p["out"].T + p["out_bias"]
    share = np.exp(told - told.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    present = [g for g in range(3) if (group == g).any()]
    d_told = np.zeros_like(told)
    for g in present:
        mine = group == g
        d_told[mine] = (share[mine] - np.eye(3)[g]) / (mine.sum() * len(present))
    d_hidden = (d_told @ p["out"]) * (hidden > 0)
    d_z = np.outer(d_logit, p["head"]) - gamma * d_hidden @ p["in"]
    return {
        "encoder": d_z.T @ x, "shift": d_z.sum(axis=0),
        "head": d_logit @ z, "bias": d_logit.sum(),
        "in": d_hidden.T @ z, "in_bias": d_hidden.sum(axis=0),
        "out": d_told.T @ active, "out_bias": d_told.sum(axis=0),
    }  # fmt: skip


class _Passes(BaseEstimator):
    """An estimator that is fitted already: its scores are its input."""

    def fit(self, x: Any, y: Any) -> _Passes:
        return self

    def predict(self, x: Any) -> np.ndarray:
        return np.asarray(x)[:, 0]

    def __sklearn_is_fitted__(self) -> bool:
        return True


def _scores(seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    group = rng.choice(3, 600, p=[0.5, 0.3, 0.2])
    y = rng.random(600) < np.array([0.5, 0.3, 0.2])[group]
    z = rng.normal(size=600) + np.array([2.0, 1.0, 0.5])[group] * y + 0.5 * group
    return (np.round(z, 1) if ties else z), y, group


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_equalised_odds_post_processing_is_fairlearns(seed: int, ties: bool) -> None:
    from fairlearn.postprocessing import ThresholdOptimizer

    z, y, group = _scores(seed, ties)
    peer = ThresholdOptimizer(
        estimator=_Passes(), constraints="equalized_odds", objective="balanced_accuracy_score", prefit=True,
        predict_method="predict", grid_size=1000,
    ).fit(z[:, None], y.astype(int), sensitive_features=group)  # fmt: skip
    other, _, groups = _scores(seed + 100, ties)
    theirs = peer._pmf_predict(other[:, None], sensitive_features=groups)[:, 1]
    mixtures = post.equal_odds(z, y, group, 3)
    ours = np.empty(len(other))
    for g in range(3):
        ours[groups == g] = mixtures[g](other[groups == g])
    np.testing.assert_allclose(ours, theirs, atol=1e-9)
    # and on the rows that it was fitted on, every group has the same point
    rates = [
        [mixtures[g](z[(group == g) & (y == truth)]).mean() for g in range(3)] for truth in (False, True)
    ]
    assert np.ptp(rates[0]) < 1e-9
    assert np.ptp(rates[1]) < 1e-9


def test_group_thresholds_are_fairlearns_where_its_mixture_is_one_threshold() -> None:
    """With a TPR that one threshold of each group reaches exactly, no mixture is needed and both agree."""
    from fairlearn.metrics import MetricFrame, selection_rate, true_positive_rate

    z, y, group = _scores(4, False)
    thresholds = post.equal_tpr(z, y, group, 3)
    decided = z >= thresholds[group]
    frame = MetricFrame(
        metrics={"tpr": true_positive_rate, "rate": selection_rate},
        y_true=y,
        y_pred=decided,
        sensitive_features=group,
    )
    smallest = min((y & (group == g)).sum() for g in range(3))
    assert frame.difference()["tpr"] < 1.5 / smallest
    before = MetricFrame(
        metrics={"tpr": true_positive_rate}, y_true=y, y_pred=z >= thresholds[3], sensitive_features=group
    )
    assert before.difference()["tpr"] > 0.1
    assert (before.overall["tpr"] - 1e-9 <= frame.by_group["tpr"]).all()
    for g in range(3):  # the highest such threshold
        own = z[y & (group == g)]
        assert (own > thresholds[g]).mean() < before.overall["tpr"]
