"""What every mitigation method keeps to, whatever it does: the list is the registry."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from fmcache.probe.methods import METHODS
from fmcache.probe.mitigation.front import CRITERIA
from fmcache.probe.problem import Column, Method, Problem, Rows, Solution
from tests.mitigation_study import problem, rows

DOCS = Path(__file__).parents[2] / "docs"
NAMES = sorted(METHODS)
LINEAR = [name for name in NAMES if not METHODS[name].attribute_at_test]
FAST = 3.0  # one coefficient where a method has a path


def _short(method: Method) -> Problem:
    """The study with two coefficients where the method has a path of them."""
    grid = dict(method.grid)
    if "coefficient" in grid:
        grid["coefficient"] = (1.0, FAST)
    return problem(method, n=400, n_val=400, grid=grid)


@lru_cache
def _solved(name: str) -> tuple[Problem, Solution]:
    given = _short(METHODS[name])
    return given, METHODS[name].fit(given)


def _logits(solution: Solution, of: Rows) -> np.ndarray:
    if solution.logits is not None:
        return solution.logits(of.x, of.group)
    assert solution.w is not None
    assert solution.b is not None
    return np.einsum("nd,mcd->nmc", of.x.astype(float), solution.w) + solution.b


@pytest.mark.parametrize("name", NAMES)
def test_one_probe_for_every_setting_and_column(name: str) -> None:
    given, solution = _solved(name)
    method, m, c = METHODS[name], len(solution.hyper), len(given.columns)
    assert method.name == name
    assert method.criterion in CRITERIA
    assert solution.w is not None  # what is made of scores keeps the probe that was trained: it chooses
    assert (solution.logits is not None) == method.attribute_at_test
    z = _logits(solution, given.val)
    assert z.shape == (len(given.val.x), m, c)
    assert np.isfinite(z).all()
    assert len({tuple(sorted(each.items())) for each in solution.hyper}) == m
    if "coefficient" in method.grid:
        assert {each["coefficient"] for each in solution.hyper} == {1.0, FAST}
    if solution.converged is not None:
        assert solution.converged.shape == (m, c)
        assert solution.converged.all()
    for column in range(c):  # it learned something of each label
        y = given.val.y[:, column]
        assert np.nanmean(z[y == 1, 0, column]) > np.nanmean(z[y == 0, 0, column])


@pytest.mark.parametrize("name", NAMES)
def test_the_same_problem_has_the_same_solution(name: str) -> None:
    given, solution = _solved(name)
    again = METHODS[name].fit(given)
    np.testing.assert_array_equal(_logits(again, given.val), _logits(solution, given.val))


@pytest.mark.parametrize("name", [name for name in NAMES if METHODS[name].needs_attribute])
def test_it_does_not_matter_which_group_comes_first(name: str) -> None:
    given, solution = _solved(name)
    turn = np.array([2, 0, 1, -1])  # the last is for -1

    def turned(of: Rows) -> Rows:
        return replace(of, group=turn[of.group])

    other = METHODS[name].fit(replace(given, train=turned(given.train), val=turned(given.val)))
    if METHODS[name].stochastic and name != "eqodds-post":  # other draws: close, not equal
        assert (
            np.corrcoef(_logits(other, turned(given.val)).ravel(), _logits(solution, given.val).ravel())[0, 1]
            > 0.9
        )
        return
    np.testing.assert_allclose(
        _logits(other, turned(given.val)), _logits(solution, given.val), atol=5e-3, rtol=1e-3
    )


@pytest.mark.parametrize("name", NAMES)
def test_columns_do_not_influence_each_other(name: str) -> None:
    given, solution = _solved(name)

    def other_labels(of: Rows) -> Rows:
        y = of.y.copy()
        known = ~np.isnan(y[:, 1])
        y[known, 1] = np.random.default_rng(5).permutation(y[known, 1])
        return replace(of, y=y)

    changed = METHODS[name].fit(replace(given, train=other_labels(given.train), val=other_labels(given.val)))
    z, before = _logits(changed, given.val), _logits(solution, given.val)
    np.testing.assert_allclose(z[:, :, 0], before[:, :, 0], atol=5e-3, rtol=1e-3)
    assert np.abs(z[:, :, 1] - before[:, :, 1]).max() > 0.1


@pytest.mark.parametrize("name", ["group-dro", "group-dro-label", "ind", "dfr"])
def test_rows_of_unknown_group_are_not_trained_on_where_the_page_says_so(name: str) -> None:
    given, solution = _solved(name)

    def known(of: Rows) -> Rows:
        return replace(of, y=np.where(of.group[:, None] >= 0, of.y, np.nan).astype(np.float32))

    other = METHODS[name].fit(replace(given, train=known(given.train), val=known(given.val)))
    np.testing.assert_allclose(_logits(other, given.val), _logits(solution, given.val), atol=5e-3, rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_the_rows_count_where_the_method_says_so_and_only_there(name: str) -> None:
    given, solution = _solved(name)
    heavy = np.where(given.train.y == 1, 5.0, 1.0)
    other = METHODS[name].fit(replace(given, weights=heavy))
    change = np.abs(_logits(other, given.val) - _logits(solution, given.val)).max()
    assert (change > 0.05) == METHODS[name].class_weights


@pytest.mark.parametrize("name", NAMES)
def test_scores_of_one_prevalence_say_which(name: str) -> None:
    given, solution = _solved(name)
    assert (solution.prevalence is not None) == METHODS[name].has_prior
    if solution.prevalence is None:
        return
    at_rest = replace(
        given, penalties=np.array([1e6])
    )  # nothing but the intercept is left: it is that prevalence
    head = METHODS[name].fit(at_rest)
    assert head.w is not None
    assert head.prevalence is not None
    z = _logits(head, given.train)[:, 0].mean(axis=0)
    np.testing.assert_allclose(1 / (1 + np.exp(-z)), head.prevalence, atol=1e-3)


@pytest.mark.parametrize("name", [name for name in NAMES if METHODS[name].stochastic])
def test_what_calls_itself_stochastic_depends_on_the_seed_and_the_rest_does_not(name: str) -> None:
    given, _ = _solved(name)
    twice = replace(given, columns=(Column("finding0", 0), Column("finding0", 1)))

    def same(of: Rows) -> Rows:
        return replace(of, y=of.y[:, [0, 0]])

    z = _logits(METHODS[name].fit(replace(twice, train=same(given.train), val=same(given.val))), given.val)
    assert np.abs(z[:, :, 0] - z[:, :, 1]).max() > 1e-3


@pytest.mark.parametrize("name", ["erm", "resampling", "group-dro", "eqodds", "leace", "ind"])
def test_a_single_patient_of_the_validation_rows_changes_nothing_in_training(name: str) -> None:
    given, solution = _solved(name)
    other = METHODS[name].fit(replace(given, val=rows(300, 9)))
    assert other.w is not None
    np.testing.assert_array_equal(other.w, solution.w)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "erm"])
def test_every_method_has_its_page(name: str) -> None:
    method = METHODS[name]
    text = (DOCS / "mitigation" / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {name}\n")
    for heading in ("## Formula", "## Source", "## Hyper-parameters", "## When it fails"):
        assert heading in text
    for key, values in method.grid.items():
        assert f"`{key}`" in text
        for value in values:
            assert f"{value:g}" in text
    needed = "**The attribute is needed at test.**"
    assert (needed in text) == method.attribute_at_test
    assert f"[{name}](mitigation/{name}.md)" in (DOCS / "mitigation.md").read_text(encoding="utf-8")
