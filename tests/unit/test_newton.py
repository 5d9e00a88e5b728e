"""Columns of few rows: the optimum in the span of their rows is the optimum."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import check_grad, minimize

from fmcache.probe import logistic
from fmcache.probe.logistic import fit_logistic
from fmcache.probe.newton import AT_ONCE, newton

LAM = np.array([1e-6, 1e-3, 1.0])


def _study(n: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * np.linspace(2, 0.1, d) + rng.normal(size=d)
    return x, (x[:, 0] - x[:, 1] + rng.logistic(size=n) > 0).astype(float)


def _objective(v: np.ndarray, x: np.ndarray, y: np.ndarray, weight: np.ndarray, lam: float) -> float:
    z = x @ v[:-1] + v[-1]
    return float((weight * (np.logaddexp(0, z) - y * z)).sum() + lam / 2 * (v[:-1] ** 2).sum())


def _gradient(v: np.ndarray, x: np.ndarray, y: np.ndarray, weight: np.ndarray, lam: float) -> np.ndarray:
    residual = weight * (1 / (1 + np.exp(-(x @ v[:-1] + v[-1]))) - y)
    return np.append(x.T @ residual + lam * v[:-1], residual.sum())


@pytest.mark.parametrize(("n", "d"), [(12, 40), (30, 30), (60, 7)])
def test_nothing_is_lower_in_the_whole_space(n: int, d: int) -> None:
    """SciPy's BFGS over all d + 1 numbers, from the end and from zero."""
    x, y = _study(n, d)
    weight = np.random.default_rng(1).uniform(0.5, 2, n)
    weight /= weight.sum()
    assert check_grad(_objective, _gradient, np.ones(d + 1) / 9, x, y, weight, 0.1) < 1e-5
    w, b, decrement, steps = newton(x, y, weight, LAM, np.zeros((3, d)), np.zeros(3), 1e-9)
    assert (decrement <= 1e-9).all()
    assert 3 < steps < 60
    for k, lam in enumerate(LAM):
        mine = np.append(w[k], b[k])
        value = _objective(mine, x, y, weight, lam)
        for start in (mine, np.zeros(d + 1)):
            peer = minimize(_objective, start, (x, y, weight, lam), jac=_gradient, options={"gtol": 1e-10})
            assert value <= peer.fun + 1e-12


def test_it_comes_down_from_a_start_that_is_far() -> None:
    x, y = _study(20, 50)
    weight = np.full(20, 1 / 20)
    near = newton(x, y, weight, LAM, np.zeros((3, 50)), np.zeros(3), 1e-9)
    far = newton(x, y, weight, LAM, np.full((3, 50), 30.0), np.full(3, -200.0), 1e-9)
    np.testing.assert_allclose(near[0], far[0], atol=1e-5)
    assert (far[2] <= 1e-9).all()


def test_repeated_rows_have_a_smaller_span_and_the_same_optimum() -> None:
    x, y = _study(15, 40)
    once = newton(x, y, np.full(15, 1 / 15), LAM, np.zeros((3, 40)), np.zeros(3), 1e-9)
    twice = newton(
        np.tile(x, (2, 1)), np.tile(y, 2), np.full(30, 1 / 30), LAM, np.zeros((3, 40)), np.zeros(3), 1e-9
    )
    np.testing.assert_allclose(once[0], twice[0], atol=1e-6)


@pytest.mark.parametrize("rows", [60, AT_ONCE + 40])
def test_both_ways_into_the_span_end_where_refinement_ends(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column of 60 rows is solved from the start; one of 168 comes from float32; beside columns of many rows."""
    x, truth = _study(400, 200)
    y = np.stack([truth, truth, np.where(np.arange(400) < rows, truth, np.nan)], axis=1).astype(np.float32)
    penalties = (LAM * 0.1).tolist()
    asked = []

    def counted(*given: object) -> object:
        asked.append(len(given[0]))  # type: ignore[arg-type]
        return newton(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(logistic, "newton", counted)
    fit = fit_logistic(x.astype(np.float32), y, penalties)
    assert asked == [rows]
    assert fit.converged.all()
    monkeypatch.setattr(logistic, "AT_ONCE", 0)
    monkeypatch.setattr(logistic, "_finish_late", _by_refinement)
    other = fit_logistic(x.astype(np.float32), y, penalties)
    assert other.converged.all()
    for j, lam in enumerate(penalties):
        known = ~np.isnan(y[:, 2])
        told = (x.astype(np.float32).astype(float)[known], truth[known], np.full(rows, 1 / rows), lam)
        values = [_objective(np.append(of.w[j, 2], of.b[j, 2]), *told) for of in (fit, other)]
        assert values[0] == pytest.approx(values[1], abs=1e-10)


def _by_refinement(ask: logistic._Ask, late: tuple[np.ndarray, ...], w: np.ndarray, b: np.ndarray,
                   gradient: np.ndarray, tolerance: float) -> int:  # fmt: skip
    def told(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return ask.truth[:, late[1][columns]].astype(np.float64), ask.weight[:, late[1][columns]]

    w[late], b[late], gradient[late], passes = logistic.refine(
        logistic._loss, ask.data, told, w[late], b[late], ask.lam[late[0]], tolerance
    )
    return passes
