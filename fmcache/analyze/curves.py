"""Curves by group, as a table: ROC, precision-recall, calibration, and net benefit over thresholds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from fmcache.analyze.areas import Bools, Floats, Ints
from fmcache.analyze.calibration import BINS, bin_of
from fmcache.analyze.cases import Case
from fmcache.errors import UsageError

CURVE_COLUMNS = {
    "label": pl.String(), "seed": pl.Int32(), "attribute": pl.String(), "group": pl.String(), "curve": pl.String(),
    "threshold": pl.Float64(), "x": pl.Float64(), "y": pl.Float64(), "n": pl.Int64(),
}  # fmt: skip
MOST_POINTS = 400  # of a curve; the points between them are left out
DECISIONS = np.round(np.arange(0.01, 1.0, 0.01), 2)  # thresholds of the decision curve


def curves(cases: list[Case]) -> pl.DataFrame:
    """The curves of every group of every case, CURVE_COLUMNS.

    ``roc``: x FPR, y TPR. ``pr``: x recall, y precision. ``calibration``: x mean score, y share of positives, n
    samples of the bin, threshold its lower edge. ``decision``: x the threshold t, y the net benefit
    TP/n − FP/n · t/(1 − t); ``decision_all``: that of calling everyone (Vickers and Elkin 2006). `threshold` is that
    of the decision score >= threshold. Groups without both classes have no roc and no pr; scores that are no
    probabilities have neither calibration nor decision.
    """
    tables = [
        pl.DataFrame({**dict(zip(("curve", "threshold", "x", "y", "n"), one, strict=True))}).with_columns(
            label=pl.lit(case.label), seed=pl.lit(case.seed, pl.Int32), attribute=pl.lit(grouping.attribute),
            group=pl.lit(grouping.names[g]),
        )
        for case in cases
        for _, _, grouping, g in case.cells()
        for mine in [grouping.codes == g]
        for one in _curves(case.y[mine], case.score[mine], case.probability)
    ]  # fmt: skip
    if not tables:
        return pl.DataFrame(schema=CURVE_COLUMNS)
    return pl.concat(tables).select([pl.col(name).cast(kind) for name, kind in CURVE_COLUMNS.items()])


def _curves(y: Bools, score: Floats, probability: bool) -> Iterator[tuple[str, Floats, Floats, Floats, Ints]]:
    positives, negatives = int(y.sum()), int((~y).sum())
    if positives and negatives:
        order = np.argsort(-score, kind="stable")
        last = np.append(np.flatnonzero(np.diff(score[order])), len(y) - 1)
        if len(last) > MOST_POINTS:
            last = last[np.unique(np.linspace(0, len(last) - 1, MOST_POINTS).round().astype(int))]
        tp = np.cumsum(y[order])[last].astype(np.float64)
        fp = last + 1 - tp
        cut = score[order][last]
        count = np.full(len(cut) + 1, len(y))
        yield (
            "roc", np.append(np.inf, cut), np.append(0, fp / negatives), np.append(0, tp / positives), count,
        )  # fmt: skip
        yield "pr", cut, tp / positives, tp / (tp + fp), count[1:]
    if probability and len(y):
        b = bin_of(score)
        n = np.bincount(b, minlength=BINS)
        some = np.flatnonzero(n)
        mean, share = (np.bincount(b, w, BINS)[some] / n[some] for w in (score, y))
        yield "calibration", some / BINS, mean, share, n[some]
        above, hits = np.sort(score), np.sort(score[y])
        called = len(y) - np.searchsorted(above, DECISIONS, "left")
        true = positives - np.searchsorted(hits, DECISIONS, "left")
        odds = DECISIONS / (1 - DECISIONS)
        count = np.full(len(DECISIONS), len(y))
        yield "decision", DECISIONS, DECISIONS, (true - (called - true) * odds) / len(y), count
        yield "decision_all", DECISIONS, DECISIONS, (positives - negatives * odds) / len(y), count


def write_curves(table: pl.DataFrame, path: Path) -> None:
    """Write .parquet or .csv.

    Raises
    ------
    UsageError : another ending.
    """
    if path.suffix == ".parquet":
        table.write_parquet(path)
    elif path.suffix == ".csv":
        table.write_csv(path)
    else:
        raise UsageError(
            f"{path} has an unknown ending.", "Known: .parquet, .csv.", "Type: --curves curves.parquet"
        )
