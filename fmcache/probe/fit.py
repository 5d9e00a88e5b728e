"""One problem solved by one method: the choice on validation patients, and the scores of everybody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fmcache.probe.centred import Matrix
from fmcache.probe.matrix import linear
from fmcache.probe.mitigation.front import choose_front, front_rows
from fmcache.probe.penalties import Choice, choose
from fmcache.probe.pooling import pool
from fmcache.probe.problem import Method, Problem, Rows, Solution
from fmcache.shapes import Float, Int

_ROWS = 8192


@dataclass(frozen=True)
class Outcome:
    """What a method gives for the columns (c) of a problem.

    Attributes
    ----------
    logits : [k, c], of every sample, by the hyper-parameter that was chosen.
    choices : c dicts: hyper-parameters, criterion and its value on validation, whether it lies at the edge.
    w, b : [c, d] and [c] of the chosen probe, where the method is linear; else None.
    baseline : of the usage attribute, `fmcache.probe.attribute.baseline`.
    front : rows of coefficient, label, seed and what was reached; empty for methods without a coefficient.
    prevalence : [c], that the logits were trained at; None where there is no such number.
    """

    logits: Float[np.ndarray, "k c"]
    choices: tuple[Mapping[str, Any], ...]
    w: Float[np.ndarray, "c d"] | None
    b: Float[np.ndarray, " c"] | None
    front: tuple[Mapping[str, Any], ...] = ()
    baseline: tuple[Mapping[str, Any], ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, np.ndarray] = field(default_factory=dict)
    prevalence: Float[np.ndarray, " c"] | None = None


def solve(
    method: Method,
    problem: Problem,
    everyone: Rows,
    *,
    select: str = "auc",
) -> Outcome:
    """Fit, choose, score.

    Parameters
    ----------
    everyone : all rows (train, val, test) to be scored; their y [n, c] is used for the front's test figures only, and
        is NaN for rows that are not test rows.
    select : ``auc`` or ``worst``.
    """
    solution = method.fit(problem)
    see = method.attribute_at_test
    val = problem.val
    rows = np.arange(len(val.group)) if solution.val_used is None else np.flatnonzero(~solution.val_used)
    of_val, first = pooled_rows(val.sample[rows])
    c = len(problem.columns)
    trained = solution if solution.w is None else replace(solution, logits=None)
    z = pool(score(trained, val.x, rows, val.group if see else None, c), of_val, problem.volume)
    group = val.group[rows[first]]
    y_val = val.y[rows[first]]
    choice = choose(z, y_val, group if select == "worst" else None)
    front: tuple[Mapping[str, Any], ...] = ()
    if "coefficient" in solution.hyper[0]:
        criterion = "auc_worst" if select == "worst" else method.criterion
        reached = choose_front(z, y_val, group, len(problem.groups), solution.hyper, criterion)
        choice = Choice(reached.chosen, reached.value, reached.criterion)
        test = np.flatnonzero(np.any(~np.isnan(everyone.y), axis=1))
        of_test, at = pooled_rows(everyone.sample[test])
        all_test = score(trained, everyone.x, test, everyone.group if see else None, c)
        kept = pool(all_test, of_test, problem.volume)[:, reached.kept, np.arange(c)]
        told = (kept, everyone.y[test[at]], everyone.group[test[at]])
        front = tuple(front_rows(reached, problem.columns, solution.hyper, *told, len(problem.groups)))
    choices = tuple(
        {
            **{name: float(value) for name, value in solution.hyper[index].items()},
            "criterion": choice.criterion[column],
            "value": None if np.isnan(choice.value[column]) else float(choice.value[column]),
            "edge": at_edge(solution.hyper, int(index)),
            "converged": None if solution.converged is None else bool(solution.converged[index, column]),
        }
        for column, index in enumerate(choice.index)
    )
    w, b = _chosen(solution, choice)
    every = np.arange(len(everyone.sample))
    if w is not None and b is not None:
        flat = linear(everyone.x, every, w, b, solution.unit_norm)
    else:
        flat = _one_each(solution, choice, everyone, everyone.group if see else None)
    logits = pool(flat, everyone.sample, problem.volume)
    return Outcome(
        logits, choices, w, b, front,
        facts=solution.facts, parameters=solution.parameters, prevalence=solution.prevalence,
    )  # fmt: skip


def at_edge(hyper: Sequence[Mapping[str, float]], index: int) -> bool:
    """Whether one of the values lies at an end of those tried, so that a better one may lie beyond.

    Nothing lies beyond a coefficient of 0, and templates have no order.
    """
    for name, value in hyper[index].items():
        tried = [each[name] for each in hyper]
        ends = {min(tried), max(tried)} if min(tried) < max(tried) and name != "template" else set()
        if value in ends and value != 0:
            return True
    return False


def pooled_rows(
    sample: Int[np.ndarray, " n"],
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " k"]]:
    """For each row the position of its sample among those that are there (in ascending order), and a row of each."""
    _, first, of = np.unique(sample, return_index=True, return_inverse=True)
    return of, first


def score(
    solution: Solution,
    x: Matrix,
    rows: Int[np.ndarray, " r"],
    group: Int[np.ndarray, " n"] | None,
    columns: int,
) -> Float[np.ndarray, "r m c"]:
    """Logits of some rows under every hyper-parameter; without `group`, the attribute stays unknown."""
    if solution.logits is None:
        assert solution.w is not None
        assert solution.b is not None
        m, c, d = solution.w.shape
        flat = linear(x, rows, solution.w.reshape(m * c, d), solution.b.reshape(m * c), solution.unit_norm)
        return flat.reshape(len(rows), m, c)
    parts = []
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        known = np.full(len(part), -1) if group is None else group[part]
        parts.append(np.asarray(solution.logits(np.asarray(x[part], np.float32), known), np.float64))
    return np.concatenate(parts) if parts else np.empty((0, len(solution.hyper), columns))


def _chosen(solution: Solution, choice: Choice) -> tuple[np.ndarray | None, np.ndarray | None]:
    if solution.w is None or solution.b is None or solution.logits is not None:
        return None, None
    which = (choice.index, np.arange(len(choice.index)))
    return solution.w[which], solution.b[which]


def _one_each(
    solution: Solution, choice: Choice, everyone: Rows, group: np.ndarray | None
) -> Float[np.ndarray, "n c"]:
    """Of a method that is a function: every row under the chosen hyper-parameter of each column."""
    n, c = len(everyone.sample), len(choice.index)
    out = np.empty((n, c))
    for start in range(0, n, _ROWS):
        rows = np.arange(start, min(start + _ROWS, n))
        out[rows] = score(solution, everyone.x, rows, group, c)[:, choice.index, np.arange(c)]
    return out
