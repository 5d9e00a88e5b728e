"""``fmcache rank``: are models different over datasets? Friedman's test, average ranks, Nemenyi's critical difference.

Models are ranked within each block (a dataset, label and, for disparities, attribute); rank 1 is best. Blocks of one
dataset are averaged before the test, since they are not independent. With few datasets the test has little power:
that no model is better is no evidence that all are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from scipy.stats import friedmanchisquare, rankdata, studentized_range

from fmcache.analyze.areas import Floats
from fmcache.analyze.disparities import COMPOSITES, DISPARITIES
from fmcache.analyze.metrics import DEFINITION, METRICS
from fmcache.analyze.values import VALUES
from fmcache.errors import UsageError

RANK_COLUMNS = {
    "model": pl.String(), "rank": pl.Float64(), "ci_low": pl.Float64(), "ci_high": pl.Float64(),
    "mean_value": pl.Float64(), "datasets": pl.Int64(), "not_different_from": pl.String(),
}  # fmt: skip


@dataclass(frozen=True)
class Ranking:
    """Average ranks, and what the tests say.

    Attributes
    ----------
    table : RANK_COLUMNS, best first. blocks : dataset → model → value. p : of Friedman's test. cd : Nemenyi's critical
    difference of average ranks at alpha. groups : maximal sets of models no two of which differ by cd or more.
    remark : what a reader should know; empty if nothing.
    """

    table: pl.DataFrame
    models: tuple[str, ...]
    datasets: tuple[str, ...]
    ranks: Floats
    p: float
    cd: float
    groups: tuple[tuple[str, ...], ...]
    remark: str


def nemenyi_cd(models: int, datasets: int, alpha: float = 0.05) -> float:
    """q(alpha; k, ∞)/√2 · √(k(k + 1)/(6 N)): average ranks that differ by as much are different (Demšar 2006).

    >>> round(nemenyi_cd(4, 14), 2)
    1.25
    """
    q = float(studentized_range.ppf(1 - alpha, models, np.inf)) / np.sqrt(2)
    return float(q * np.sqrt(models * (models + 1) / (6 * datasets)))


def split_name(name: str) -> tuple[str, str]:
    """The metric and the disparity of a public name: auc_gap → (auc, gap), auc → (auc, "").

    Raises
    ------
    UsageError : neither a metric nor metric_disparity.
    """
    known = {**METRICS, **VALUES, **COMPOSITES}
    if name in known:
        return name, ""
    metric, _, disparity = name.rpartition("_")
    if metric in known and disparity in {**DISPARITIES, "parity": None}:
        return metric, disparity
    import difflib

    names = [*METRICS, *VALUES, *(f"{m}_{d}" for m in ("auc", "ece", "dsc") for d in DISPARITIES)]
    names += [f"{composite}_gap" for composite in COMPOSITES]
    close = difflib.get_close_matches(name, names, n=1)
    raise UsageError(
        f"There is no metric {name!r}.",
        f"Metrics: {', '.join([*METRICS, *VALUES])}; with _{', _'.join(DISPARITIES)} behind; "
        f"{', '.join(f'{one}_gap' for one in COMPOSITES)}.",
        f"Did you mean {close[0]}?" if close else "",
    )


def lower_is_better(metric: str, disparity: str) -> bool:
    """Whether rank 1 goes to the smallest value.

    Raises
    ------
    UsageError : a metric without a better direction.
    """
    if disparity in ("gap", "std", "skew"):
        return True
    if disparity in ("ratio", "es", "parity"):
        return False
    better = {**METRICS, **VALUES}[metric].better
    if better == "neither":
        raise UsageError(
            f"{metric} has no better direction, so models cannot be ranked by it.",
            "A rank needs a metric of which more, or less, is better.",
            "Type: --metric auc, auc_es, tpr, … ; docs/metrics.md lists the directions.",
        )
    return better == "lower"


def rank_models(
    results: pl.DataFrame,
    name: str,
    *,
    attribute: str | None = None,
    definition: str = DEFINITION,
    usage: str | None = None,
    alpha: float = 0.05,
    draws: int = 1000,
    seed: int = 0,
) -> Ranking:
    """Rank the models of the results of a cache.

    Parameters
    ----------
    results : RESULT_COLUMNS of all runs. name : auc, auc_gap, eqodds_gap, …
    attribute : only this one, for disparities; None: the mean over attributes that every model has.
    usage : only runs of this usage. alpha : of the critical difference. draws, seed : of the intervals of the average
    ranks, a bootstrap over datasets.

    Raises
    ------
    UsageError : an unknown metric, fewer than two models, no dataset that all models share.
    """
    metric, disparity = split_name(name)
    lower = lower_is_better(metric, disparity)
    here = results.filter(
        (pl.col("metric") == metric) & (pl.col("disparity") == disparity) & (pl.col("definition") == definition)
        & pl.col("value").is_not_nan() & pl.col("value").is_not_null()
        & (pl.col("reference").fill_null("") == "")
    )  # fmt: skip
    here = here.filter(pl.col("attribute") != "") if disparity else here.filter(pl.col("group") == "overall")
    if attribute is not None:
        here = here.filter(pl.col("attribute") == attribute)
    if usage is not None:
        here = here.filter(pl.col("usage") == usage)
    if here.is_empty():
        raise UsageError(
            f"The results hold no {name} of the definition {definition}.",
            f"Attributes: {', '.join(sorted(set(results['attribute'].drop_nulls()) - {''})) or 'none'}.",
            "Type: fmcache metrics",
        )
    methods = here.select("usage", "method").unique().height > 1
    titled = here.with_columns(
        pl.concat_str("model", "usage", "method", separator=" · ").str.strip_chars(" ·").alias("_model")
        if methods
        else pl.col("model").alias("_model")
    )
    models = sorted(titled["_model"].unique().to_list())
    if len(models) < 2:
        raise UsageError(
            f"There is one model only: {models[0]}.",
            "A ranking needs two.",
            "Type: fmcache probe lp --model OTHER",
        )
    keys = ["dataset", "label", "attribute", "group", "threshold_policy"]
    cells = titled.group_by("_model", *keys).agg(pl.col("value").mean())  # over seeds
    mixed = titled.group_by("_model", *keys).agg(pl.col("run_id").n_unique()).filter(pl.col("run_id") > 1)
    wide = cells.pivot(on="_model", index=keys, values="value").drop_nulls()
    dropped = cells.select(keys).n_unique() - wide.height
    if wide.is_empty():
        raise UsageError(
            "No dataset, label and attribute has this number for every model.", f"Models: {', '.join(models)}.",
            "Compute the missing ones, or rank fewer with --model.",
        )  # fmt: skip
    ranked = np.stack([rankdata(row if lower else -row) for row in wide.select(models).to_numpy()])
    blocks = wide["dataset"].to_numpy()
    datasets = sorted(set(blocks.tolist()))
    ranks = np.stack([ranked[blocks == one].mean(axis=0) for one in datasets])
    values = np.stack([wide.select(models).to_numpy()[blocks == one].mean(axis=0) for one in datasets])
    found = _ranking(models, datasets, ranks, values, dropped, alpha, draws, seed)
    told = [
        f"{name} is the mean of several runs of one dataset: methods that knew another attribute, or older data"
        for name in sorted(set(mixed["_model"].to_list()))
    ]
    return replace(found, remark="; ".join(part for part in (*told, found.remark) if part))


def _ranking(
    models: Sequence[str], datasets: Sequence[str], ranks: Floats, values: Floats, dropped: int, alpha: float,
    draws: int, seed: int,
) -> Ranking:  # fmt: skip
    n, k = ranks.shape
    average = ranks.mean(axis=0)
    p, cd = float("nan"), float("nan")
    remarks = [f"{dropped} blocks lack a model and are left out"] if dropped else []
    if n >= 2:
        cd = nemenyi_cd(k, n, alpha)
        within = np.stack([rankdata(row) for row in ranks])
        p = friedman_p(within)
    else:
        remarks.append("one dataset only: no test")
    if 2 <= n < 10 or k < 3:
        remarks.append(
            f"{n} datasets and {k} models: little power, and equality is not shown by the lack of a difference"
        )
    random = np.random.default_rng([seed, 3])
    drawn = ranks[random.integers(0, n, (draws, n))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0) if n > 1 else np.full((2, k), np.nan)
    groups = cliques(average, cd)
    order = np.argsort(average, kind="stable")
    same = {
        i: sorted({j for group in groups if i in group for j in group} - {i}, key=lambda j: average[j])
        for i in range(k)
    }
    table = pl.DataFrame(
        {
            "model": [models[i] for i in order],
            "rank": average[order],
            "ci_low": low[order],
            "ci_high": high[order],
            "mean_value": values.mean(axis=0)[order],
            "datasets": [n] * k,
            "not_different_from": [", ".join(models[j] for j in same[i]) for i in order],
        },
        schema=RANK_COLUMNS,
    )
    named = tuple(tuple(models[i] for i in group) for group in groups)
    return Ranking(table, tuple(models), tuple(datasets), ranks, p, cd, named, "; ".join(remarks))


def friedman_p(ranks: Floats) -> float:
    """The p-value of Friedman's test on [datasets, models]; of the sign test's normal form for two models; NaN if all
    are tied."""
    if (np.ptp(ranks, axis=1) == 0).all():
        return float("nan")
    if ranks.shape[1] >= 3:
        return float(friedmanchisquare(*ranks.T).pvalue)
    from scipy.stats import binomtest

    wins = int((ranks[:, 0] < ranks[:, 1]).sum())
    losses = int((ranks[:, 0] > ranks[:, 1]).sum())
    return float(binomtest(wins, wins + losses).pvalue)


def cliques(average: Floats, cd: float) -> tuple[tuple[int, ...], ...]:
    """Maximal runs of models, by average rank, whose ends differ by less than cd: the bars of a CD diagram.

    >>> cliques(np.array([1.0, 1.5, 3.0]), 1.0)
    ((0, 1), (2,))
    """
    if np.isnan(cd):
        return ()
    order = np.argsort(average, kind="stable")
    found: list[tuple[int, ...]] = []
    for start in range(len(order)):
        end = start
        while end + 1 < len(order) and average[order[end + 1]] - average[order[start]] < cd:
            end += 1
        run = tuple(int(i) for i in order[start : end + 1])
        if not found or not set(run) <= set(found[-1]):
            found.append(run)
    return tuple(found)
