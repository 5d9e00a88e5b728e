"""The extraction engine: several models, one decoding of the images, block by block into the cache.

    decode (workers) → geometry → device → normalise → encode (autocast) → host → block → journal

Blocks are the unit of work and of resumption; batches never cross a block, and are the same for any executor and any
number of workers, so the stored bytes are too (on one kind of device).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import polars as pl

from fmcache.extract.dataset import Dataset
from fmcache.extract.encode import Encoder
from fmcache.extract.executors.executor import Executor, make_executor
from fmcache.extract.inspect import inspect_inputs
from fmcache.extract.meter import Energy, Meter
from fmcache.extract.options import ExtractOptions, ExtractSummary, ModelSummary
from fmcache.extract.pixels import Decoded, Task, Unit, split_tasks
from fmcache.extract.plan import Plan, key_document, plan_model
from fmcache.extract.preprocess import shortest_side
from fmcache.extract.provenance import provenance, refuse_too_many
from fmcache.extract.reader import Undecodable
from fmcache.extract.registry import LoadedModel
from fmcache.extract.stopping import Stopping
from fmcache.progress import Progress, Silent
from fmcache.store.cache import Cache
from fmcache.store.keys import digest
from fmcache.store.segment import Rejected, SegmentWriter

TASK = 8  # units a decode task: small enough to spread, large enough that passing it on costs nothing
SAMPLE = 16  # images on which scaled decoding is compared with exact decoding


@dataclass
class _Job:
    """One model in the pass."""

    model: LoadedModel
    document: Mapping[str, Any]
    plan: Plan
    summary: ModelSummary
    encoder: Encoder
    meter: Meter
    writer: SegmentWriter | None = None
    spread: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def extract(
    models: Sequence[LoadedModel],
    dataset: Dataset,
    cache: Cache,
    options: ExtractOptions,
    progress: Progress | None = None,
) -> ExtractSummary:
    """Embed what the cache does not hold yet. Resumes, appends, quarantines; labels may change freely.

    Raises
    ------
    Interrupted : SIGINT or SIGTERM; finished blocks are kept. RejectedInputs : more than ``max_reject`` of the inputs
    cannot be used. Busy, DiskFull, StorageError, CorruptCache : from the store; nothing that was published is lost.
    """
    progress = progress or Silent()
    with Stopping() as stopping:
        samples = inspect_inputs(dataset, workers=options.workers, progress=progress)
        stopping.check()
        unreadable = int(samples["input_error"].is_not_null().sum())
        refuse_too_many(unreadable, samples.height, options)
        cache.publish_dataset(dataset.name, dataset.card, samples)
        summary = ExtractSummary([], _duplicates(samples))
        jobs = []
        for model in models:
            job = _plan_job(cache, dataset, samples, model, options)
            summary.models.append(job.summary)
            if options.dry_run:
                job.summary.state = "dry run"
            elif not job.plan.empty:
                jobs.append(job)
        need = sum(job.plan.units.height * job.model.d for job in jobs) * np.dtype(options.dtype).itemsize
        cache.require_space(int(1.1 * need) + (16 << 20 if jobs else 0))
        if jobs:
            _run(jobs, dataset, samples, cache, options, progress, stopping)
        for entry in summary.models:
            stored = cache.stored(entry.model, dataset.name, "image", entry.key)
            entry.rejected = _rejected_now(samples, stored.quarantine, stored.rows)
        return summary


def _plan_job(
    cache: Cache, dataset: Dataset, samples: pl.DataFrame, model: LoadedModel, options: ExtractOptions
) -> _Job:
    document = key_document(
        model.document(),
        dataset.reader.document(),
        autocast=options.autocast,
        dtype=options.dtype,
        decode=options.decode,
    )
    key = digest(document)
    plan = plan_model(
        cache,
        model.card.id,
        dataset.name,
        key,
        samples,
        shard=options.shard,
        retry_rejected=options.retry_rejected,
    )
    summary = ModelSummary(
        model.card.id, dataset.name, key, model.source, samples.height, plan.units.height, plan.stored
    )
    meter = Meter()
    encoder = Encoder(model, options.device, options.autocast, options.batch, meter)
    return _Job(model, document, plan, summary, encoder, meter)


def _run(
    jobs: list[_Job],
    dataset: Dataset,
    samples: pl.DataFrame,
    cache: Cache,
    options: ExtractOptions,
    progress: Progress,
    stopping: Stopping,
) -> None:
    """Open a segment for every model, embed, publish."""
    paths = dict(samples.select("input_digest", "path").drop_nulls().unique("input_digest").iter_rows())
    part = str(options.shard) if options.shard else ""
    energy = Energy(options.device)
    with ExitStack() as stack:
        for job in jobs:
            job.writer = stack.enter_context(
                cache.segment(
                    job.model.card.id,
                    dataset.name,
                    "image",
                    job.document,
                    job.plan.units,
                    job.plan.rows,
                    d=job.model.d,
                    dtype=options.dtype,
                    block_rows=options.block_rows,
                    part=part,
                    lock=options.lock,
                )
            )
            job.summary.reused_blocks = job.writer.reused
            job.writer.reject(job.plan.rejected)
        pending = sum(
            block.stop - block.start for job in jobs for block in _writer(job).blocks if not block.done
        )
        progress.start("embed", pending, "images" if len(jobs) == 1 else "embeddings")
        executor = stack.enter_context(make_executor(options.executor, options.workers))
        for group in _groups(jobs):
            _embed_group(group, dataset, paths, executor, options, progress, stopping)
        for job in jobs:
            facts = {
                "batch": job.encoder.batch,
                "batch_halved": job.encoder.halved,
                **job.facts,
                "constant": bool(job.spread) and max(job.spread) == 0.0,
            }
            published = _writer(job).publish(provenance(job.model, options, job.meter, energy, facts))
            job.summary.seconds = job.meter.elapsed
            if published is None:
                job.summary.state = "finished by another process"


def _writer(job: _Job) -> SegmentWriter:
    assert job.writer is not None
    return job.writer


def _groups(jobs: list[_Job]) -> Iterator[list[_Job]]:
    """Models with the same units in the same blocks go through the images together."""
    left = list(jobs)
    while left:
        first = _writer(left[0])
        same = [
            job
            for job in left
            if _writer(job).units.equals(first.units) and len(_writer(job).blocks) == len(first.blocks)
        ]
        left = [job for job in left if job not in same]
        yield same


def _embed_group(
    group: list[_Job],
    dataset: Dataset,
    paths: Mapping[str, str],
    executor: Executor,
    options: ExtractOptions,
    progress: Progress,
    stopping: Stopping,
) -> None:
    units = [Unit(item, number, paths[item]) for item, number in _writer(group[0]).units.iter_rows()]
    geometries = tuple(dict.fromkeys(job.model.preprocess.geometry for job in group))
    target = shortest_side(geometries) if options.decode == "scaled" else None
    wanted = [
        block.index
        for block in _writer(group[0]).blocks
        if any(not _writer(job).blocks[block.index].done for job in group)
    ]
    bounds = {block.index: (block.start, block.stop) for block in _writer(group[0]).blocks}

    def tasks() -> Iterator[Task]:
        for index in wanted:
            start, stop = bounds[index]
            for first in range(start, stop, options.batch):
                batch = tuple(units[first : min(first + options.batch, stop)])
                yield from split_tasks(Task(dataset.root, batch, dataset.reader, geometries, target), TASK)

    failed = 0
    ahead = max(2 * options.workers, -(-2 * options.batch // TASK))
    decoded = executor.map(tasks(), ahead)
    with ThreadPoolExecutor(1) as writer_thread:
        writing: list[Future[Any]] = []
        for index in wanted:
            active = [job for job in group if not _writer(job).blocks[index].done]
            arrays = _embed_block(
                active, units, bounds[index], geometries, decoded, options, progress, stopping
            )
            _wait(writing, active)
            failed += len(arrays[0][1])
            refuse_too_many(failed, len(units), options)
            for job, (array, rejected) in zip(active, arrays, strict=True):
                if options.decode == "scaled" and "decode_scaled" not in job.facts:
                    job.facts["decode_scaled"] = _compare_decoding(
                        job, dataset, units[slice(*bounds[index])], array
                    )
                if len(array) > 1:
                    job.spread.append(float(np.ptp(array, axis=0).max()))
                writing.append(writer_thread.submit(_writer(job).write, index, array, rejected))
        _wait(writing, group)


def _wait(writing: list[Future[Any]], jobs: list[_Job]) -> None:
    with jobs[0].meter.stage("write"):
        while writing:
            writing.pop(0).result()


def _embed_block(
    jobs: list[_Job],
    units: Sequence[Unit],
    bounds: tuple[int, int],
    geometries: Sequence[Any],
    decoded: Iterator[Decoded],
    options: ExtractOptions,
    progress: Progress,
    stopping: Stopping,
) -> list[tuple[np.ndarray, list[Rejected]]]:
    """The embeddings [stop - start, d] of one block for each job, and the units that have none."""
    start, stop = bounds
    arrays = [np.zeros((stop - start, job.model.d), np.float32) for job in jobs]
    rejected: list[Rejected] = []
    for first in range(start, stop, options.batch):
        stopping.check()
        last = min(first + options.batch, stop)
        images: list[tuple[np.ndarray, ...] | Undecodable] = []
        with jobs[0].meter.stage("decode"):
            for part in islice(decoded, -(-(last - first) // TASK)):
                images += part.images
                jobs[0].meter.decode_work += part.seconds
        rows = []
        for row, image in enumerate(images, first):
            if isinstance(image, Undecodable):
                rejected.append(Rejected("decode", image.reason, units[row].input_digest, units[row].slice))
            else:
                rows.append(row)
        good = [image for image in images if not isinstance(image, Undecodable)]
        where = np.array(rows, np.int64) - start
        for job, array in zip(jobs, arrays, strict=True):
            geometry = geometries.index(job.model.preprocess.geometry)
            if good:
                job.encoder.submit([image[geometry] for image in good], where, array)
            job.meter.images += last - first
            progress.advance(last - first, jobs[0].meter.text())
    for job in jobs:
        job.encoder.finish()
    return [(array, rejected) for array in arrays]


def _compare_decoding(
    job: _Job, dataset: Dataset, units: Sequence[Unit], array: np.ndarray
) -> dict[str, Any]:
    """How far scaled decoding moves the embeddings: cosine distance to exact decoding on the first images."""
    from fmcache.extract.pixels import run_task

    sample = tuple(units[:SAMPLE])
    exact = run_task(
        Task(dataset.root, sample, dataset.reader, (job.model.preprocess.geometry,), None)
    ).images
    rows = np.array([row for row, image in enumerate(exact) if not isinstance(image, Undecodable)], np.int64)
    if not rows.size:
        return {"images": 0}
    out = np.zeros((len(sample), job.model.d), np.float32)
    images = [image[0] for image in exact if not isinstance(image, Undecodable)]
    job.encoder.submit(images, rows, out)
    job.encoder.finish()
    a, b = out[rows].astype(np.float64), array[rows].astype(np.float64)
    cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return {
        "images": int(rows.size),
        "mean_cosine_distance": float(np.mean(1 - cosine)),
        "largest_cosine_distance": float(np.max(1 - cosine)),
    }


def _duplicates(samples: pl.DataFrame) -> list[str]:
    """Byte-identical inputs of different patients: leakage, if they are in different splits."""
    readable = samples.filter(pl.col("input_digest").is_not_null())
    shared = readable.group_by("input_digest").agg(
        n=pl.len(), patients=pl.col("patient_id").n_unique(), splits=pl.col("split").drop_nulls().n_unique()
    )
    many = shared.filter(pl.col("patients") > 1).height
    across = shared.filter(pl.col("splits") > 1).height
    notes = []
    if many:
        notes.append(f"Warning: {many:,} images appear under several patients, byte for byte.")
    if across:
        notes.append(
            f"Warning: {across:,} images appear in more than one split, byte for byte: that is leakage."
        )
    return notes


def _rejected_now(samples: pl.DataFrame, quarantine: pl.DataFrame, rows: pl.DataFrame) -> int:
    """Samples of the newest version that have a rejected input and no row."""
    rejected = quarantine.select("sample_id", "input_digest", "slice").unique()
    here = samples.select("sample_id", "input_digest").join(
        rejected, on=["sample_id", "input_digest"], how="inner", nulls_equal=True
    )
    return here.join(rows, on=["sample_id", "input_digest", "slice"], how="anti", nulls_equal=True).height
