"""The solver against scikit-learn's Newton solver, label by label and penalty by penalty."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from fmcache.probe.logistic import fit_logistic
from fmcache.probe.penalties import auc, log_loss

PENALTIES = [1e-4, 1e-2, 1.0]


def _study(
    n: int, d: int, *, offset: float = 0, slope: float = 0.0, prevalence: tuple[float, ...] = (0.5, 0.15)
):
    rng = np.random.default_rng(n + d)
    x = rng.normal(size=(n, d)) * np.arange(1, d + 1.0) ** (-slope / 2) + offset
    z = (x - x.mean(axis=0)) @ rng.normal(size=(d, len(prevalence)))
    z = 2 * z / z.std(axis=0) + rng.logistic(size=z.shape)
    y = np.stack([z[:, l] > np.quantile(z[:, l], 1 - p) for l, p in enumerate(prevalence)], axis=1)
    return x.astype(np.float32), y.astype(np.float32)


def _objective(x: np.ndarray, y: np.ndarray, w: np.ndarray, b: float, lam: float) -> float:
    z = x.astype(np.float64) @ w + b
    return float((np.logaddexp(0, z) - y * z).mean() + lam / 2 * (w @ w))


def _compare(x: np.ndarray, y: np.ndarray, penalties: list[float] = PENALTIES) -> None:
    fit = fit_logistic(x, y, penalties)
    assert fit.converged.all()
    wide = x.astype(np.float64)
    for j, lam in enumerate(penalties):
        for label in range(y.shape[1]):
            known = ~np.isnan(y[:, label])
            peer = LogisticRegression(
                C=1 / (lam * known.sum()), solver="newton-cholesky", tol=1e-10, max_iter=1000
            ).fit(wide[known], y[known, label])
            ours = 1 / (1 + np.exp(-(wide @ fit.w[j, label] + fit.b[j, label])))
            np.testing.assert_allclose(ours, peer.predict_proba(wide)[:, 1], atol=1e-4, rtol=0)
            mine = _objective(x[known], y[known, label], fit.w[j, label], fit.b[j, label], lam)
            best = _objective(x[known], y[known, label], peer.coef_[0], peer.intercept_[0], lam)
            assert abs(mine - best) < 1e-6


def test_plain() -> None:
    _compare(*_study(2000, 40))


def test_rows_far_from_the_origin_with_a_steep_spectrum() -> None:
    _compare(*_study(3000, 60, offset=20, slope=2))


def test_unknown_labels_are_left_out_label_by_label() -> None:
    x, y = _study(1500, 20)
    y[np.random.default_rng(0).random(y.shape) < 0.4] = np.nan
    _compare(x, y)


def test_more_features_than_rows() -> None:
    _compare(*_study(150, 300, slope=1))


@pytest.mark.parametrize("d", [60, 300])
def test_classes_that_come_apart_under_the_smallest_penalties(d: int) -> None:
    """No passes in float32 reach these optima: all probabilities are 0 or 1 to three digits."""
    x, y = _study(100, d, slope=1)
    y[:3, 1] = np.nan
    penalties = [1e-7, 1e-5, 1e-3]
    fit = fit_logistic(x, y, penalties)
    assert fit.converged.all()
    assert fit.passes < 300
    wide = x.astype(np.float64)
    for j, lam in enumerate(penalties):
        for label in range(y.shape[1]):
            known = ~np.isnan(y[:, label])
            peer = LogisticRegression(
                C=1 / (lam * known.sum()), solver="newton-cholesky", tol=1e-12, max_iter=1000
            ).fit(wide[known], y[known, label])
            assert np.abs(fit.w[j, label] - peer.coef_[0]).max() < 1e-3 * np.abs(peer.coef_).max()
            mine = _objective(x[known], y[known, label], fit.w[j, label], fit.b[j, label], lam)
            best = _objective(x[known], y[known, label], peer.coef_[0], peer.intercept_[0], lam)
            assert abs(mine - best) < 1e-10


def test_a_constant_column_and_repeated_rows() -> None:
    x, y = _study(500, 20)
    x[:, 3] = 7
    _compare(np.concatenate([x, x[:200]]), np.concatenate([y, y[:200]]))


def test_one_percent_positives() -> None:
    _compare(*_study(4000, 30, prevalence=(0.01,)))


def test_coefficients_and_auc_on_new_rows_are_the_peers() -> None:
    x, y = _study(6000, 40)
    fit = fit_logistic(x[:2000], y[:2000], PENALTIES)
    for j, lam in enumerate(PENALTIES):
        for label in range(y.shape[1]):
            peer = LogisticRegression(C=1 / (lam * 2000), solver="newton-cholesky", tol=1e-12, max_iter=1000)
            peer.fit(x[:2000].astype(np.float64), y[:2000, label])
            np.testing.assert_allclose(fit.w[j, label], peer.coef_[0], atol=1e-4, rtol=0)
            np.testing.assert_allclose(fit.b[j, label], peer.intercept_[0], atol=1e-4, rtol=0)
            ours = roc_auc_score(y[2000:, label], x[2000:] @ fit.w[j, label])
            assert ours == pytest.approx(roc_auc_score(y[2000:, label], x[2000:] @ peer.coef_[0]), abs=1e-6)


def test_half_precision_rows_are_taken_as_they_are() -> None:
    x, y = _study(600, 12)
    x = x.astype(np.float16)
    np.testing.assert_array_equal(
        fit_logistic(x, y, [1e-2]).w, fit_logistic(x.astype(np.float32), y, [1e-2]).w
    )


def test_the_result_does_not_depend_on_the_users_jax_settings() -> None:
    x, y = _study(400, 10)
    plain = fit_logistic(x, y, PENALTIES)
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        strict = fit_logistic(x, y, PENALTIES)
    np.testing.assert_allclose(strict.w, plain.w, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_auc_and_log_loss(seed: int) -> None:
    from sklearn.metrics import log_loss as sklearn_log_loss

    rng = np.random.default_rng(seed)
    z = rng.integers(-4, 5, size=(80, 2)).astype(float)
    y = (rng.random(80) < 0.3).astype(np.float32)
    for column in range(2):
        assert auc(z, y)[column] == pytest.approx(roc_auc_score(y, z[:, column]), abs=1e-12)
        probability = 1 / (1 + np.exp(-z[:, column]))
        assert log_loss(z, y)[column] == pytest.approx(sklearn_log_loss(y, probability), abs=1e-9)
