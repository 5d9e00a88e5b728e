"""The solver's own promises: optimality, centring, what it refuses; and how a penalty is chosen."""

from __future__ import annotations

import numpy as np
import pytest

from fmcache.probe.centred import centre
from fmcache.probe.logistic import fit_logistic
from fmcache.probe.penalties import choose


def _study(n: int = 300, d: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, d)).astype(np.float32) + 3
    y = (x[:, :2] + rng.logistic(size=(n, 2)) > 3).astype(np.float32)
    return x, y


def test_the_gradient_is_zero_at_the_fit() -> None:
    x, y = _study()
    fit = fit_logistic(x, y, [0.05])
    for label in range(2):
        z = x.astype(np.float64) @ fit.w[0, label] + fit.b[0, label]
        residual = 1 / (1 + np.exp(-z)) - y[:, label]
        assert abs(residual.mean()) < 1e-5
        assert np.abs(x.T.astype(np.float64) @ residual / len(x) + 0.05 * fit.w[0, label]).max() < 1e-5


def test_an_infinite_penalty_leaves_the_prevalence() -> None:
    x, y = _study()
    fit = fit_logistic(x, y, [1e6])
    assert np.abs(fit.w).max() < 1e-5
    np.testing.assert_allclose(1 / (1 + np.exp(-fit.b[0])), y.mean(axis=0), atol=1e-5)


def test_labels_do_not_influence_each_other_nor_do_penalties() -> None:
    x, y = _study()
    both = fit_logistic(x, y, [1e-3, 1e-1])
    one = fit_logistic(x, y[:, 1:], [1e-1])
    np.testing.assert_allclose(both.w[1, 1], one.w[0, 0], atol=2e-5)


def test_rows_are_not_changed_and_blocks_are_padded_with_zeros() -> None:
    x, _ = _study(2100, 4)
    before = x.copy()
    data = centre(x)
    np.testing.assert_array_equal(x, before)
    flat = data.blocks.reshape(-1, 4)
    assert len(flat) > 2100 or data.blocks.shape[0] == 1
    assert not flat[2100:].any()
    np.testing.assert_allclose(flat[:2100], x - x.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(data.scale, x.var(axis=0).mean(), rtol=1e-5)


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (np.array([[0.0], [0.0], [np.nan]]), "both classes"),
        (np.array([[0.0], [1.0], [-1.0]]), "0, 1 or NaN"),
        (np.array([[0.0], [1.0]]), "2 rows of labels for 3 rows"),
    ],
)
def test_what_cannot_be_fitted_is_refused(y: np.ndarray, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        fit_logistic(np.zeros((3, 2), np.float32), y, [1.0])


def test_a_penalty_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        fit_logistic(*_study(), [0.0])


def test_the_best_auc_wins_and_the_larger_penalty_among_equals() -> None:
    good, bad = np.array([0.0, 1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0, 0.0])
    y = np.array([[0.0], [0.0], [1.0], [1.0]])
    assert choose(np.stack([good, good, bad], axis=1)[:, :, None], y).index.tolist() == [1]
    outcome = choose(np.stack([bad, bad, good], axis=1)[:, :, None], y)
    assert (outcome.index.tolist(), outcome.value.tolist(), outcome.criterion) == ([2], [1.0], ("auc",))


def test_log_loss_decides_where_validation_has_one_class() -> None:
    logits = np.stack([np.full(3, 2.0), np.full(3, -3.0), np.full(3, 0.0)], axis=1)[:, :, None]
    outcome = choose(logits, np.zeros((3, 1)))
    assert (outcome.index.tolist(), outcome.criterion) == ([1], ("log_loss",))
    assert outcome.value[0] == pytest.approx(np.log1p(np.exp(-3)))


def test_nothing_known_in_validation_is_said() -> None:
    outcome = choose(np.zeros((3, 13, 1)), np.full((3, 1), np.nan))
    assert (outcome.index.tolist(), outcome.criterion) == ([6], ("none",))
    assert np.isnan(outcome.value).all()


def test_a_row_of_weight_two_counts_twice_and_one_of_weight_zero_not_at_all() -> None:
    x, y = _study()
    weights = np.random.default_rng(2).integers(0, 3, size=y.shape).astype(np.float64)
    fit = fit_logistic(x, y, [1e-2, 1.0], weights=weights)
    for label in range(2):
        rows = np.repeat(np.arange(len(x)), weights[:, label].astype(int))
        plain = fit_logistic(x[rows], y[rows, label : label + 1], [1e-2, 1.0])
        np.testing.assert_allclose(fit.w[:, label], plain.w[:, 0], atol=2e-5)
        np.testing.assert_allclose(fit.b[:, label], plain.b[:, 0], atol=1e-4)


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    x, y = _study()
    with pytest.raises(ValueError, match="weights"):
        fit_logistic(x, y, [1.0], weights=np.full(y.shape, weight))
