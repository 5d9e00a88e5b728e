"""Critical-difference diagrams over datasets (FairMedFM fig. 15; Demšar 2006), from what may be shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
from markupsafe import Markup

from fmcache.analyze.export_results import protected
from fmcache.analyze.rank import Ranking, rank_models
from fmcache.analyze.report.figures import WIDTH, short_name
from fmcache.analyze.report.svg import Scale, figure, label, line, mark
from fmcache.analyze.report.wording import p_value
from fmcache.errors import UsageError

RANKED = {
    "auc": "Overall AUC",
    "ece": "Overall calibration error",
    "eqodds_gap": "Equalised odds gap",
    "auc_es": "Equity-scaled AUC",
    "auc_gap": "AUC gap",
    "ece_gap": "Calibration error gap",
}
FEWEST_MODELS, MOST_MODELS, FEWEST_DATASETS = 3, 24, 2
_LEFT, _RIGHT, _AXIS, _ROW = 24, 336, 62, 36


@dataclass(frozen=True)
class Ranked:
    """One diagram: what was ranked, by whom, and what the test says in words."""

    caption: str
    ranking: Ranking
    reading: str


def rankings(results: pl.DataFrame, run_ids: Sequence[str], min_cell: int) -> list[Ranked]:
    """Those of RANKED that can be made: three models on two datasets at least."""
    mine = results.filter(
        pl.col("run_id").is_in(run_ids)
        & pl.col("metric").is_in(["auc", "ece", "eqodds", "tpr", "fpr"])
        & pl.col("disparity").is_in(["", "gap", "es"])
    )
    if mine["dataset"].n_unique() < FEWEST_DATASETS:
        return []
    shown = protected(mine, min_cell)
    found = []
    for name, caption in RANKED.items():
        try:
            ranking = rank_models(shown, name)
        except UsageError:  # the results lack this number for some model
            continue
        if FEWEST_MODELS <= len(ranking.models) <= MOST_MODELS and len(ranking.datasets) >= FEWEST_DATASETS:
            found.append(Ranked(caption, ranking, _reading(ranking)))
    return found


def _reading(ranking: Ranking) -> str:
    size = f"{len(ranking.models)} models and methods on {len(ranking.datasets)} datasets"
    if math.isnan(ranking.p):
        return f"{size}: no test."
    joined = max((len(group) for group in ranking.groups), default=0)
    apart = "no two differ" if joined == len(ranking.models) else "those without a common bar differ"
    p = ("" if ranking.p < 0.001 else "= ") + p_value(ranking.p)
    told = f"{size}. Friedman p {p}; by Nemenyi {apart}."
    return f"{told} {ranking.remark[:1].upper()}{ranking.remark[1:]}." if ranking.remark else told


def rank_figure(one: Ranked, identity: str) -> Markup:
    """Average ranks with intervals, best first; bars join those that do not differ, below the critical difference.

    The classic diagram hangs the names on elbows below the axis; in so little room they cross, so each gets a row.
    """
    ranking = one.ranking
    names = dict(zip(ranking.models, _short(ranking.models), strict=True))
    rows = list(ranking.table.iter_rows(named=True))
    k = len(rows)
    average = {row["model"]: float(row["rank"]) for row in rows}
    x = Scale(1, k, _LEFT, _RIGHT)
    bars = [group for group in ranking.groups if len(group) > 1]
    top = _AXIS + 8 * len(bars) + 10
    bottom = top + _ROW * k
    parts = []
    for tick in range(1, k + 1):
        if k <= 12 or tick % 2:
            parts.append(line(x(tick), _AXIS, x(tick), bottom, "grid"))
            parts.append(label(x(tick), _AXIS - 8, str(tick), "tick", "middle"))
    parts.append(line(_LEFT, _AXIS, _RIGHT, _AXIS, "axis"))
    if math.isfinite(ranking.cd):
        end = min(x(1 + ranking.cd), _RIGHT)
        parts.append(line(_LEFT, 28, end, 28, "bar-cd"))
        parts += [line(at, 24, at, 32, "bar-cd") for at in (_LEFT, end)]
        parts.append(label(_LEFT, 18, f"critical difference {ranking.cd:.2f}", "tick"))
    for i, group in enumerate(bars):
        ends = [x(average[name]) for name in group]
        y = _AXIS + 9 + 8 * i
        parts.append(line(min(ends) - 2, y, max(ends) + 2, y, "clique"))
    for i, row in enumerate(rows):
        y, at = top + _ROW * i, average[row["model"]]
        if math.isfinite(row["ci_low"]) and math.isfinite(row["ci_high"]):
            parts.append(line(x(row["ci_low"]), y + 24, x(row["ci_high"]), y + 24, "whisker s0"))
        parts.append(label(14, y + 12, names[row["model"]], "name"))
        parts.append(label(_RIGHT + 12, y + 12, f"{at:.1f}", "value", "end"))
        parts.append(mark(0, x(at), y + 24, "mark s0", 5, f"{names[row['model']]}: average rank {at:.2f}"))
    told = ", ".join(f"{names[name]} {at:.2f}" for name, at in average.items())
    description = f"Average ranks, 1 is best: {told}. {one.reading}"
    return figure(WIDTH, bottom + 8, one.caption, description, identity, *parts)


def _short(models: Sequence[str]) -> list[str]:
    """Without what all names share: the usage, say."""
    parts = [name.split(" · ") for name in models]
    if len({len(part) for part in parts}) != 1:
        return [short_name(name, 24) for name in models]
    differing = [i for i in range(len(parts[0])) if len({part[i] for part in parts}) > 1]
    return [short_name(" · ".join(part[i] for i in differing or [0]), 24) for part in parts]
