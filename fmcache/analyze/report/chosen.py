"""Which runs a report is about, and what of them may be shown."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import polars as pl

from fmcache.analyze.called import beyond_plain
from fmcache.analyze.report.views import View, told_apart, views, warnings
from fmcache.analyze.report.wording import clean
from fmcache.errors import MissingEntry, UsageError
from fmcache.store.runs import holds_no_scores, without_scores


class RunLike(Protocol):
    @property
    def run_id(self) -> str: ...
    @property
    def info(self) -> Mapping[str, Any]: ...
    def predictions(self) -> pl.DataFrame: ...


class CacheLike(Protocol):
    """What the report reads of a cache."""

    def runs(self) -> Sequence[RunLike]: ...
    def results(self) -> pl.DataFrame: ...


@dataclass(frozen=True)
class Chosen:
    """The runs of a report, their views, and what was found wrong with their data."""

    views: Sequence[View]
    predictions: Mapping[str, RunLike]
    warnings: Sequence[tuple[str, str, str]]  # run, problem or warning, sentence
    without: int  # runs that have no results yet


def choose_runs(cache: CacheLike, runs: Sequence[str] | None, min_cell: int) -> Chosen:
    """The views of the runs that are asked for, small cells hidden; see `build_report`."""
    if min_cell < 1:
        raise UsageError(
            f"min_cell is {min_cell}.", "The smallest is 1: nothing is hidden.", "Type: --min-cell 11"
        )
    results = cache.results()
    chosen, without = _choose(cache.runs(), results, runs)
    found: list[View] = []
    told = []
    for run in chosen:
        mine = views(results, run.run_id, run.info, min_cell)
        found += mine
        about = f"{mine[0].text('model')} on {mine[0].text('dataset')}"
        how = " · ".join(beyond_plain(mine[0].text("usage"), mine[0].text("method")))
        about = f"{about} ({how})" if how else about
        told += [(about, *warning) for warning in warnings(results, mine)]
    told = sorted(dict.fromkeys(told), key=lambda one: one[1] != "problem")
    return Chosen(told_apart(found), {run.run_id: run for run in chosen}, told, len(without))


def _choose(
    available: Sequence[RunLike], results: pl.DataFrame, asked: Sequence[str] | None
) -> tuple[list[RunLike], list[RunLike]]:
    """The runs to report, in reading order, and those that have no results yet."""
    if not available:
        raise MissingEntry(
            "The cache holds no runs to report on.", "A probe or an audit makes one.", "Type: fmcache probe"
        )
    if asked:
        available = [_named(name, available) for name in dict.fromkeys(asked)]
    evaluated = set(results["run_id"].unique())
    ready = [run for run in available if run.run_id in evaluated]
    without = [run for run in available if run.run_id not in evaluated]
    if not ready and all(holds_no_scores(run.info) for run in without):
        raise without_scores([run.run_id for run in without])
    if not ready:
        many = f"{len(available)} runs are" if len(available) > 1 else f"The run {available[0].run_id} is"
        raise MissingEntry(
            "There are no results to report on.", f"{many} there, not evaluated yet.", "Type: fmcache metrics"
        )
    ready.sort(
        key=lambda run: [
            *(str(run.info.get(k, "")) for k in ("dataset", "model", "usage", "method")),
            run.run_id,
        ]
    )
    return ready, [run for run in without if not holds_no_scores(run.info)]


def _named(name: str, available: Sequence[RunLike]) -> RunLike:
    fitting = [run for run in available if name and run.run_id.startswith(name)]
    if len(fitting) == 1:
        return fitting[0]
    ids = [run.run_id for run in available]
    near = difflib.get_close_matches(name, ids, n=3) or ids[:3]
    what = f"{len(fitting)} runs begin with {clean(name)}." if fitting else f"There is no run {clean(name)}."
    raise MissingEntry(
        what,
        f"Did you mean {' or '.join(near)}?",
        'Type: fmcache sql "SELECT run_id, model, dataset FROM runs"',
    )
