"""Subgroup AUC by CUBE over many predictions: fmcache sql, the plain duckdb macros, Polars and scikit-learn.

    python bench/sql.py                              # 10,000,000 predictions
    python bench/sql.py --rows 1000000 --repeats 3

All contenders compute the same 36 AUCs (CUBE over model, sex and race: 2, 2 and 3 values and their totals), equal to
1e-12. The plain macros and scikit-learn run on --slow-rows of them, and are compared with fmcache on those same rows.
Medians over repeats in which the contenders take turns; each starts from the same table in memory.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import statistics
import time
from collections.abc import Callable

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from fmcache.store.catalog import macros
from fmcache.store.sql import add_functions

KEYS = ["model", "sex", "race"]
CUBE = "SELECT model, sex, race, auc(y, score) AS auc FROM predictions GROUP BY CUBE (model, sex, race)"
Answers = dict[tuple[str | None, ...], float]


def predictions(rows: int) -> pa.Table:
    """Scores of two models with six digits, 5 % positives, unequal groups; seeded."""
    rng = np.random.default_rng(0)
    y = rng.random(rows) < 0.05
    score = np.round(1 / (1 + np.exp(-rng.normal(-2 + 1.5 * y, 1.0))), 6)
    columns = {"y": y.astype(np.float32), "score": score}
    for name, values, shares in (
        ("model", ["dinov2", "clip"], [0.5, 0.5]),
        ("sex", ["female", "male"], [0.45, 0.55]),
        ("race", ["black", "white", "other"], [0.18, 0.72, 0.1]),
    ):
        columns[name] = np.array(values)[rng.choice(len(values), rows, p=shares)]
    return pa.table(columns)


def connection(table: pa.Table, vectorised: bool) -> duckdb.DuckDBPyConnection:
    made = duckdb.connect()
    made.register("arrow", table)
    made.execute("CREATE TABLE predictions AS FROM arrow")
    made.execute(macros())
    if vectorised:
        add_functions(made)
    return made


def by_sql(made: duckdb.DuckDBPyConnection) -> Answers:
    return {tuple(row[:-1]): row[-1] for row in made.sql(CUBE).fetchall()}


def by_polars(frame: pl.DataFrame) -> Answers:
    """The Mann-Whitney form with average ranks, once a grouping set."""
    positive = pl.col("y") == 1
    p, n = (
        positive.sum().cast(pl.Float64),
        (~positive).sum().cast(pl.Float64),
    )  # 32-bit counts overflow in p * n
    ranks = pl.col("score").rank("average").filter(positive).sum()
    auc = (ranks - p * (p + 1) / 2) / (p * n)
    found: Answers = {}
    for size in range(len(KEYS) + 1):
        for keys in itertools.combinations(KEYS, size):
            table = frame.group_by(keys).agg(auc.alias("auc")) if keys else frame.select(auc.alias("auc"))
            for row in table.iter_rows(named=True):
                found[tuple(row.get(key) for key in KEYS)] = row["auc"]
    return found


def by_scikit_learn(frame: pl.DataFrame) -> Answers:
    from sklearn.metrics import roc_auc_score

    found: Answers = {}
    for size in range(len(KEYS) + 1):
        for keys in itertools.combinations(KEYS, size):
            for values, part in frame.group_by(keys) if keys else [((), frame)]:
                name = dict(zip(keys, values, strict=True))
                found[tuple(name.get(key) for key in KEYS)] = roc_auc_score(part["y"], part["score"])
    return found


def compare(contenders: dict[str, Callable[[], Answers]], repeats: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    answers: dict[str, Answers] = {}
    for _ in range(repeats):
        for name, run in contenders.items():
            began = time.perf_counter()
            answers[name] = run()
            seconds[name].append(time.perf_counter() - began)
    first = next(iter(answers.values()))
    ours = statistics.median(seconds["fmcache sql"])
    for name, values in seconds.items():
        assert answers[name].keys() == first.keys(), name
        worst = max(abs(answers[name][key] - first[key]) for key in first)
        assert worst < 1e-12, (name, worst)
        median = statistics.median(values)
        print(
            f"  {name:<22}{median:9.2f} s   {median / ours:7.2f} x fmcache sql   largest difference {worst:.0e}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--slow-rows", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.repeats} repeats, medians")
    small = predictions(options.slow_rows)
    frame = pl.DataFrame(small)
    fast, plain = connection(small, True), connection(small, False)
    print(f"\n36 AUCs of {options.slow_rows:,} predictions")
    compare(
        {
            "fmcache sql": lambda: by_sql(fast),
            "plain duckdb": lambda: by_sql(plain),
            "Polars": lambda: by_polars(frame),
            "scikit-learn": lambda: by_scikit_learn(frame),
        },
        options.repeats,
    )
    table = predictions(options.rows)
    large, frame = connection(table, True), pl.DataFrame(table)
    print(f"\n36 AUCs of {options.rows:,} predictions")
    compare({"fmcache sql": lambda: by_sql(large), "Polars": lambda: by_polars(frame)}, options.repeats)
    print(
        f"  peak memory of the whole process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB"
    )


if __name__ == "__main__":
    main()
