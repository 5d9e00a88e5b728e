"""What of an attribute can be read from an embedding, and what a probe would read if there were nothing to read.

Each group is a label of its own (``sex=male``: that group against the others; two groups make one label). Beside the
probe stands a permutation baseline: patients of a split exchange their attribute values, the probe is trained again and
measured against the exchanged values. The p-value counts the real one as a draw: (1 + #{null ≥ real}) / (1 + draws).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from fmcache.errors import UsageError
from fmcache.probe.fit import Outcome, pooled_rows
from fmcache.probe.logistic import fit_logistic
from fmcache.probe.matrix import linear
from fmcache.probe.penalties import auc
from fmcache.probe.pooling import pool
from fmcache.probe.problem import Problem, Rows
from fmcache.probe.truth import groups_of
from fmcache.shapes import Float, Int
from fmcache.store.schema import ATTRIBUTE

LEVEL = 0.95  # of the null's upper limit


def labels_of_attributes(
    table: pl.DataFrame, asked: Sequence[str] | None
) -> tuple[list[str], Float[np.ndarray, "k L"]]:
    """Names such as ``sex=male`` and their 0, 1 or NaN; None: every attribute that has groups.

    Raises
    ------
    UsageError : no such attribute, or none with two groups.
    """
    names = [
        name.removeprefix(ATTRIBUTE)
        for name in (asked or table.columns)
        if asked or name.startswith(ATTRIBUTE)
    ]
    if asked is None and "age_group" in names and "age" in names:
        names.remove("age")  # the same people, cut in the same way
    labels, columns = [], []
    for name in names:
        try:
            code, groups = groups_of(table, name)
        except UsageError:
            if asked is not None:
                raise
            continue
        if len(groups) < 2:
            continue
        for number, group in enumerate(groups):
            if number == 0 and len(groups) == 2:
                continue
            labels.append(f"{name}={group}")
            columns.append(np.where(code < 0, np.nan, code == number).astype(np.float32))
    if not labels:
        raise UsageError(
            "No attribute has two groups.",
            f"Attributes: {', '.join(names) or 'none'}.",
            "Add a column attribute.NAME.",
        )
    return labels, np.stack(columns, axis=1)


def exchange(
    y: Float[np.ndarray, "k c"],
    split: np.ndarray,
    patient: Int[np.ndarray, " k"],
    random: np.random.Generator,
) -> Float[np.ndarray, "k c"]:
    """Every patient gets the values of another one of the same split (those of that one's first sample)."""
    out = np.full_like(y, np.nan)
    for name in ("train", "val", "test"):
        rows = np.flatnonzero(split == name)
        who, first, of = np.unique(patient[rows], return_index=True, return_inverse=True)
        donor = random.permutation(len(who))
        out[rows] = y[rows[first[donor]]][of]
    return out


def baseline(
    outcome: Outcome,
    problem: Problem,
    everyone: Rows,
    y: Float[np.ndarray, "k L"],
    splits: Sequence[np.ndarray],
    patient: Int[np.ndarray, " k"],
    draws: int,
) -> list[dict[str, Any]]:
    """A row a column: AUC on the test samples, the null's mean and upper limit, and the p-value.

    All draws are columns of one fit, under the median of the penalties that were chosen. y: of the labels of the
    problem's columns, for every sample; columns are seeds × labels.
    """
    seeds = list(dict.fromkeys(column.seed for column in problem.columns))
    size = len(problem.columns) // len(seeds)
    lam = float(np.median([choice["penalty"] for choice in outcome.choices]))
    test_rows = np.flatnonzero(np.any(~np.isnan(everyone.y), axis=1))
    of, first = pooled_rows(everyone.sample[test_rows])
    who = everyone.sample[test_rows[first]]
    rows = []
    for s, seed in enumerate(seeds):
        split = splits[seed]
        moved = [exchange(y, split, patient, np.random.default_rng([seed, 5, draw])) for draw in range(draws)]
        every = np.concatenate(moved, axis=1)  # [k, draws × L]
        train = np.where((split == "train")[:, None], every, np.nan)[problem.train.sample]
        usable = np.array([np.isin((0, 1), column[~np.isnan(column)]).all() for column in train.T])
        fit = fit_logistic(problem.data, train[:, usable], [lam], precision=problem.precision)
        null = np.full((len(who), every.shape[1]), np.nan)
        null[:, usable] = pool(linear(everyone.x, test_rows, fit.w[0], fit.b[0]), of, problem.volume)
        truth = np.where((split == "test")[:, None], every, np.nan)[who]
        for l in range(size):
            column = s * size + l
            real = _auc(outcome.logits[who, column], everyone.y[test_rows[first], column])
            others = np.array([_auc(null[:, d * size + l], truth[:, d * size + l]) for d in range(draws)])
            others = others[~np.isnan(others)]
            known = not np.isnan(real) and len(others) > 0
            rows.append(
                {
                    "label": problem.columns[column].label,
                    "seed": seed,
                    "test_auc": real if known else None,
                    "null_mean": float(others.mean()) if known else None,
                    "null_high": float(np.quantile(others, LEVEL)) if known else None,
                    "p_value": float((1 + (others >= real).sum()) / (1 + len(others))) if known else None,
                    "draws": len(others),
                    "penalty": lam,
                }
            )
    return rows


def _auc(z: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    known = ~(np.isnan(y) | np.isnan(z))
    y = y[known]
    return float(auc(z[known][:, None], y)[0]) if 0 < y.sum() < len(y) else float("nan")
