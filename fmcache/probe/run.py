"""``fmcache probe``: from cached embeddings to runs of predictions. Planned first, then made, block of labels by block.

Methods that work on the same rows share them and their eigenbasis. A run is published as soon as it is made; what its
earlier blocks of labels gave is kept in staging until then, so that an interrupted sweep goes on where it stopped.
"""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from fmcache.errors import UsageError
from fmcache.probe.attribute import baseline
from fmcache.probe.fit import Outcome, solve
from fmcache.probe.matrix import free_gigabytes
from fmcache.probe.methods import METHODS
from fmcache.probe.options import Options
from fmcache.probe.penalties import worst_auc
from fmcache.probe.plan import Job, make_plan
from fmcache.probe.publish import Done, publish
from fmcache.probe.study import Study, read, seed_groups
from fmcache.probe.truth import groups_of
from fmcache.progress import Progress, Silent
from fmcache.store.cache import Cache
from fmcache.store.durable import make_directory, put, remove_tree, storage_errors
from fmcache.store.entries import SHORT
from fmcache.store.workspace import locked

_SHARE = 0.3  # of the free memory, that rows may take before they are streamed (they are needed about twice)


def probe(cache: Cache, options: Options, progress: Progress | None = None) -> list[str]:
    """All runs of a call.

    Returns
    -------
    The runs' ids, in the order of the plan; the same inputs give the same ids.

    Raises
    ------
    MissingEntry : nothing was extracted. UsageError : an unknown name, a patient in two splits, a label that is not
    0/1, or no label that can be fitted. Busy : another process makes one of the runs.
    """
    progress = progress or Silent()
    jobs = make_plan(cache, options, progress.note)
    there = {job.key for job in jobs if (cache.path / "runs" / job.run_id).exists()}
    for job in jobs:
        if job.key in there:
            progress.note(f"{job.study.source.name}: {job.name} is already there ({job.run_id}).")
    todo = [job for job in jobs if job.key not in there]
    progress.start("probe", sum(job.probes for job in todo), "probes")
    for together in _together(todo):
        _work(cache, together, progress)
    return list(dict.fromkeys(job.run_id for job in jobs))


def probe_lp(
    cache: Cache,
    *,
    models: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    progress: Progress | None = None,
    **more: Any,
) -> list[str]:
    """`probe` with the usage lp: names as lists, None for all; `more` are fields of `Options`."""
    named = {"models": models, "datasets": datasets, "labels": labels}
    more |= {name: None if value is None else tuple(value) for name, value in named.items()}
    return probe(cache, Options(usage="lp", **more), progress)


def worst_groups(cache: Cache, run_id: str, attribute: str) -> float | None:
    """The worst group's AUC on the test samples, its mean over labels and seeds; None where there are no scores."""
    predictions = cache.run(run_id).predictions().filter(pl.col("split") == "test", pl.col("y").is_not_nan())
    found = []
    for part in predictions.partition_by("label", "seed"):
        group, _ = groups_of(part, attribute)
        worst = worst_auc(part["logit"].to_numpy()[:, None], part["y"].to_numpy(), group)
        if worst is not None:
            found.append(float(worst[0]))
    return sum(found) / len(found) if found else None


def describe_plan(cache: Cache, options: Options, progress: Progress | None = None) -> list[dict[str, Any]]:
    """What `probe` would do: a row a run, with its size. Reads tables only."""
    limit = _limit(options)
    rows = []
    for job in make_plan(cache, options, (progress or Silent()).note):
        source = job.study.source
        n, d = source.x.shape
        staging = cache.path / "staging" / _workplace(job)
        done = len(list(staging.glob("*.npz"))) if staging.exists() else 0
        scored = sum(sum(count.values()) for count in source.counts[: len(job.seeds)])
        published = (cache.path / "runs" / job.run_id).exists()
        rows.append(
            {
                "run_id": job.run_id,
                "model": source.model,
                "dataset": source.dataset,
                "usage": job.study.options.usage,
                "method": job.name,
                "labels": len(job.labels),
                "seeds": len(job.seeds),
                "probes": job.probes,
                "rows": n,
                "d": d,
                "matrix_GB": round(source.gigabytes, 3),
                "memory": "streamed" if source.gigabytes > limit else "in memory",
                "predictions": scored * len(job.labels) if job.study.options.save == "scores" else 0,
                "state": "there" if published else f"{done} of {len(job.blocks)} blocks" if done else "new",
            }
        )
    return rows


def _limit(options: Options) -> float:
    return options.memory if options.memory is not None else _SHARE * free_gigabytes()


def _streaming() -> str:
    return ", ".join(name for name, method in METHODS.items() if method.streams)


def _together(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs that can share one problem: the same rows, subset, seeds and labels."""
    groups: dict[Any, list[Job]] = {}
    for job in jobs:
        groups.setdefault((id(job.study), job.subset, job.seeds, job.labels), []).append(job)
    return list(groups.values())


# ------------------------------------------------------------------------------------------------------- the work


def _work(cache: Cache, jobs: Sequence[Job], progress: Progress) -> None:
    study = jobs[0].study
    options, source = study.options, study.source
    limit = _limit(options)
    if source.gigabytes > limit:
        for job in jobs:
            if not job.method.streams or options.protocol != "convex" or options.solver == "ridge":
                raise UsageError(
                    f"The rows of {source.name} take {source.gigabytes:,.1f} GB; {job.name} needs them all at once.",
                    f"{limit:,.1f} GB may be used; lp under convex streams larger ones with {_streaming()}.",
                    f"Type: --memory {source.gigabytes:,.0f}   on a machine that has it",
                )
        progress.note(f"{source.name}: {source.gigabytes:,.1f} GB of rows are streamed from the disk.")
    staging = cache.path / "staging"
    with ExitStack() as stack, storage_errors("probing", cache.path):
        make_directory(staging, inside=cache.path)
        for job in jobs:
            stack.enter_context(locked(staging / f"{_workplace(job)}.lock"))
        began = time.perf_counter()
        done: dict[str, list[Done]] = {job.key: [] for job in jobs}

        def add(job: Job, number: int, made: Done) -> None:
            done[job.key].append(made)
            if number + 1 == len(job.blocks):
                publish(cache, job, done.pop(job.key), time.perf_counter() - began)
                remove_tree(staging / _workplace(job))

        x = None
        for number, labels in enumerate(jobs[0].blocks):
            missing = []
            for job in jobs:
                kept = _recall(cache, job, number)
                if kept is None:
                    missing.append(job)
                else:
                    add(job, number, kept)
                    progress.advance(job.probes * len(labels) // len(job.labels), "kept from an earlier call")
            if missing and x is None:
                x = read(source, limit)
            for job, outcome in _block(study, missing, x, labels, progress):
                if number + 1 < len(job.blocks):
                    _keep(cache, job, number, outcome)
                add(job, number, outcome)


def _block(
    study: Study, jobs: Sequence[Job], x: Any, labels: Sequence[str], progress: Progress
) -> Iterator[tuple[Job, Done]]:
    """One block of labels by every method, each as soon as it is there: seeds that share a matrix share the problem."""
    if not jobs:
        return
    first = jobs[0]
    parts: dict[str, list[tuple[Sequence[int], Outcome]]] = {job.key: [] for job in jobs}
    groups = list(seed_groups(study, first.seeds))
    for seeds in groups:
        turned = study.transform(x, seeds[0])
        rows: Any = x
        if turned is not None:
            rows = turned[:] if isinstance(x, np.ndarray) else turned
        problem = study.problem(rows, first.subset, seeds, labels, any(job.method.trains for job in jobs))
        everyone = study.everyone(rows, seeds, labels)
        for job in jobs:
            outcome = solve(
                job.method, replace(problem, grid=job.grid), everyone, select=study.options.select
            )
            if turned is not None and outcome.w is not None and outcome.b is not None:
                w, b = turned.unfold(outcome.w, outcome.b)
                outcome = replace(outcome, w=w, b=b)
            if turned is not None and outcome.parameters:  # a method's own are of the rows as it saw them
                outcome = replace(outcome, parameters={**outcome.parameters, **turned.arrays()})
            if study.options.usage == "attribute":
                y = study.y[:, [study.labels.index(name) for name in labels]]
                rows_of = (outcome, problem, everyone, y, study.source.splits, study.patient)
                outcome = replace(outcome, baseline=tuple(baseline(*rows_of, study.options.draws)))
            parts[job.key].append((seeds, outcome))
            share = len(labels) * len(seeds) / (len(job.labels) * len(job.seeds))
            progress.advance(round(job.probes * share), f"{study.source.name}, {job.name}")
            if seeds == groups[-1]:
                yield job, _merge(job, labels, parts[job.key])


def _merge(job: Job, labels: Sequence[str], parts: Sequence[tuple[Sequence[int], Outcome]]) -> Done:
    """The columns of all seeds, seed by seed: arrays are [seeds, labels, …]."""
    size = len(labels)

    def stacked(get: Any) -> np.ndarray:
        by_seed = {
            seed: get(outcome)[s * size : (s + 1) * size]
            for seeds, outcome in parts
            for s, seed in enumerate(seeds)
        }
        return np.stack([by_seed[seed] for seed in job.seeds])

    arrays = {"logits": stacked(lambda outcome: outcome.logits.T)}
    if all(outcome.w is not None for _, outcome in parts):
        arrays |= {"w": stacked(lambda outcome: outcome.w), "b": stacked(lambda outcome: outcome.b)}
    if all(outcome.prevalence is not None for _, outcome in parts):
        arrays["prevalence"] = stacked(lambda outcome: outcome.prevalence)
    for at, (_, outcome) in enumerate(parts):
        more = f"_{at}" if len(parts) > 1 else ""
        arrays |= {f"method.{name}{more}": np.asarray(value) for name, value in outcome.parameters.items()}
    choices = {
        (seed, label): outcome.choices[s * size + l]
        for seeds, outcome in parts
        for s, seed in enumerate(seeds)
        for l, label in enumerate(labels)
    }
    remarks = {
        "penalties": [
            {"seed": seed, "label": label, **choices[seed, label]} for seed in job.seeds for label in labels
        ],
        "front": [row for _, outcome in parts for row in outcome.front],
        "baseline": [row for _, outcome in parts for row in outcome.baseline],
        "facts": [dict(outcome.facts) for _, outcome in parts],
    }
    return Done(arrays, remarks)


# ------------------------------------------------------------------------------------------- blocks that are kept


def _workplace(job: Job) -> str:
    return f"probe-{job.key[:SHORT]}"


def _keep(cache: Cache, job: Job, number: int, done: Done) -> None:
    folder = cache.path / "staging" / _workplace(job)
    make_directory(folder, inside=cache.path)
    sink = io.BytesIO()
    text = np.frombuffer(json.dumps(done.remarks).encode(), np.uint8)
    np.savez(sink, **done.arrays, remarks=text)  # type: ignore[arg-type]
    put(folder / f"{number:04d}.npz", sink.getvalue(), "probe_block")


def _recall(cache: Cache, job: Job, number: int) -> Done | None:
    """A block of an interrupted call; one that cannot be read is made again."""
    path = cache.path / "staging" / _workplace(job) / f"{number:04d}.npz"
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as kept:
            arrays = {name: kept[name] for name in kept.files}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        path.unlink(missing_ok=True)
        return None
    return Done(arrays, json.loads(arrays.pop("remarks").tobytes()))
