"""``fmcache metrics``: evaluate every run of a cache and publish its results beside it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from fmcache.analyze.called import beyond_plain
from fmcache.analyze.evaluate import evaluate
from fmcache.analyze.where import MEASURED, Where
from fmcache.errors import MissingEntry, UsageError
from fmcache.progress import Progress, Silent
from fmcache.store.cache import Cache
from fmcache.store.groups import attribute_names, attributes_in
from fmcache.store.runs import Run, holds_no_scores, without_scores
from fmcache.store.schema import ATTRIBUTE


def run_metrics(
    cache: Cache,
    *,
    models: list[str] | None = None,
    datasets: list[str] | None = None,
    by: Sequence[str] | None = None,
    threshold_policy: str = "youden",
    curves: Path | None = None,
    where: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> pl.DataFrame:
    """Results (RESULT_COLUMNS) of the chosen runs, all runs by default; each run's are published in the cache.

    A run that was audited from a table keeps the threshold policy of its audit: it may have no validation rows.
    where : a condition in SQL on the samples that are measured (`fmcache.analyze.where`); such results are of a part of
    the run, so they are returned and not published.
    options : definition, draws, level, seed, reference, …; see `evaluate`. curves : a file for the curves by group.
    An attribute of `by` that a run's dataset lacks is left out for that run; one that no run has is an error, before
    anything is computed, as it is in `reference` and `bins`.

    Raises
    ------
    MissingEntry : no run, or none of the named models and datasets.
    UsageError : no chosen run holds scores; see `evaluate`.
    """
    progress = progress or Silent()
    runs = _scored(chosen_runs(cache.runs(), models, datasets), progress)
    check_attributes(runs, by, options)
    part = None if where is None else Where(cache, where)
    progress.start("metrics", len(runs), "runs")
    tables: list[pl.DataFrame] = []
    used: set[str] = set()
    for run in runs:
        predictions = run.predictions() if part is None else part.rows(run, run.predictions())
        mine = present(predictions, by)
        used.update(mine or [])
        name = _called(run)
        if part is not None and not (predictions["split"] == MEASURED).any():
            progress.note(f"{name} has no measured sample that fulfils the condition.")
            progress.advance(1, name)
            continue
        if by is not None and (absent := [one for one in by if one not in (mine or [])]):
            progress.note(f"{name} has no {', '.join(absent)}.")
        policy = str(run.info.get("threshold_policy") or threshold_policy)
        outcome = evaluate(
            predictions, by=mine, threshold_policy=policy, info={**run.info, "run_id": run.run_id},
            curves=_file_of(curves, run, len(runs)), **_fitting(options, mine),
        )  # fmt: skip
        if part is None:
            cache.publish_results(run.run_id, outcome.results)
        for finding in outcome.findings:
            progress.note(f"{finding.severity}: {name}: {finding.text}")
        tables.append(outcome.results)
        progress.advance(1, name)
    if part is not None and not tables:
        raise part.nothing()
    if by and not used:
        there = f"Attributes of the runs, not all in one: {', '.join(_attributes(runs)) or 'none'}."
        raise UsageError(f"No run has all of {' or of '.join(by)}.", there, "Type: --by with one of these.")
    return pl.concat(tables)


def _called(run: Run) -> str:
    """``dinov2 / mimic / group-dro``: of usage and method what is not the plain linear probe."""
    usage, method = (str(run.info.get(key) or "") for key in ("usage", "method"))
    parts = [str(run.info.get("model")), str(run.info.get("dataset"))]
    return " / ".join(parts + beyond_plain(usage, "" if method == usage else method))


def _scored(runs: list[Run], progress: Progress) -> list[Run]:
    """Those that hold scores: a probe made with ``--save none`` keeps a summary only."""
    bare = [run for run in runs if holds_no_scores(run.info)]
    if bare and len(bare) == len(runs):
        raise without_scores([run.run_id for run in bare])
    if bare:
        many = (
            "1 run made with --save none holds"
            if len(bare) == 1
            else f"{len(bare)} runs made with --save none hold"
        )
        progress.note(f"{many} no scores: left out.")
    return [run for run in runs if run not in bare]


def _file_of(curves: Path | None, run: Run, runs: int) -> Path | None:
    """One file a run; with several runs their ids are part of the name."""
    if curves is None or runs == 1:
        return curves
    return curves.with_name(f"{curves.stem}-{run.run_id}{curves.suffix}")


def _fitting(options: Mapping[str, Any], by: Sequence[str] | None) -> dict[str, Any]:
    """The options without references to attributes that this run lacks."""
    if by is None or not options.get("reference"):
        return dict(options)
    here = {part.strip() for one in by for part in (one, *one.split("*"))}
    return {**options, "reference": {k: v for k, v in options["reference"].items() if k in here}}


def chosen_runs(runs: list[Run], models: list[str] | None, datasets: list[str] | None) -> list[Run]:
    """The runs of the named models and datasets; MissingEntry with the nearest name if there are none."""
    if not runs:
        raise MissingEntry("The cache holds no runs.", "", "Type: fmcache probe lp")
    for field, wanted in (("model", models), ("dataset", datasets)):
        known = sorted({str(run.info.get(field)) for run in runs})
        for name in wanted or ():
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                raise MissingEntry(
                    f"No run is of the {field} {name}.",
                    f"Runs are of: {', '.join(known)}.",
                    f"Did you mean {close[0]}?" if close else "Type: fmcache probe lp",
                )
        runs = [run for run in runs if not wanted or str(run.info.get(field)) in wanted]
    if not runs:
        raise MissingEntry("No run is of this model and this dataset.", "", "Type: fmcache probe lp")
    return runs


def present(predictions: pl.DataFrame, by: Sequence[str] | None) -> list[str] | None:
    """Those of `by` whose attributes the run has."""
    if by is None:
        return None
    columns = {*attributes_in(predictions), *attribute_names(predictions)}
    return [
        one for one in by if all(part.strip().removeprefix(ATTRIBUTE) in columns for part in one.split("*"))
    ]


def check_attributes(runs: Sequence[Run], by: Sequence[str] | None, options: Mapping[str, Any]) -> None:
    """Refuse an attribute in `by`, or among the keys of the options `reference` and `bins`, that no run has.

    Raises
    ------
    UsageError : with the nearest name that a run has.
    """
    known: list[str] = []
    for option, asked in (("by", by), ("reference", options.get("reference")), ("bins", options.get("bins"))):
        for name in (part.strip().removeprefix(ATTRIBUTE) for one in asked or () for part in one.split("*")):
            known = known or _attributes(runs)
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                raise UsageError(
                    f"No run has the attribute {name or repr(name)}.",
                    f"Attributes of the runs: {', '.join(known) or 'none'}.",
                    f"Did you mean {close[0]}?" if close else f"Type: --{option} with some of these.",
                )


def _attributes(runs: Iterable[Run]) -> list[str]:
    """The attributes of the runs, sorted; a run that others published need not name them, so its table does."""
    names = {
        str(name) for run in runs for name in run.info.get("attributes") or attributes_in(run.predictions())
    }
    return sorted(names | ({"age_group"} if "age" in names else set()))  # which is cut from ages
