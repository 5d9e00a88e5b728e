"""``--kind mask``: the encoder sees every picture once, the decoder answers every prompt of every class.

Blocks are the unit of work and of resumption, as for embeddings: 16 pictures with all their prompts, the array and its
tables durable together. Pictures are decoded in threads, two blocks ahead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from fmcache.errors import UsageError
from fmcache.extract.dataset import Dataset
from fmcache.extract.decode import decode
from fmcache.extract.inputs import read_input
from fmcache.extract.inspect import inspect_inputs
from fmcache.extract.mask_answers import Answerer, Picture
from fmcache.extract.mask_inputs import COLUMN, inspect_masks, mask_classes
from fmcache.extract.mask_options import MaskOptions
from fmcache.extract.mask_prompts import TEXTS, check_prompts
from fmcache.extract.masks_reader import MaskCard, read_mask
from fmcache.extract.meter import Energy, Meter
from fmcache.extract.models.segmenter import Segmenter
from fmcache.extract.options import ExtractOptions, ExtractSummary, ModelSummary
from fmcache.extract.provenance import provenance, refuse_too_many
from fmcache.extract.reader import ReaderOptions, Undecodable
from fmcache.extract.registry import LoadedModel
from fmcache.extract.stopping import Stopping
from fmcache.progress import Progress, Silent
from fmcache.store.cache import Cache
from fmcache.store.entries import Stored
from fmcache.store.keys import digest
from fmcache.store.masks import shape_text
from fmcache.store.schema import MASK_COLUMNS, PROMPT_COLUMNS
from fmcache.store.segment import Rejected, SegmentWriter

KEY_VERSION = 1
BLOCK = 16  # pictures a block
BLOCK_BYTES = 256 << 20  # fewer pictures, where classes, prompts and masks are many
_PAIR = ["input_digest", "slice"]


def extract_masks(
    models: Sequence[LoadedModel],
    dataset: Dataset,
    cache: Cache,
    options: ExtractOptions,
    mask_options: MaskOptions,
    progress: Progress | None = None,
) -> ExtractSummary:
    """Answer the prompts that the cache does not hold yet. Resumes, appends, quarantines as the embeddings do.

    Raises
    ------
    UsageError : a model makes no masks, or does not take a kind of prompt. DatasetError : there are no masks. Else as
    `fmcache.extract.run.extract`.
    """
    progress = progress or Silent()
    for model in models:
        if model.network.segmenter is None:
            raise UsageError(
                f"{model.card.id} makes no masks.",
                "It embeds pictures.",
                "Type: --kind image   or name a segmentation model: fmcache models",
            )
        check_prompts(mask_options.prompts, model.network.segmenter.prompts, model.card.id)
    with Stopping() as stopping:
        classes = mask_classes(dataset, options.workers)
        samples = inspect_inputs(dataset, workers=options.workers, progress=progress)
        cache.publish_dataset(dataset.name, dataset.card, samples)
        summary = ExtractSummary([], [])
        without = int(samples[COLUMN].is_null().sum())
        if without:
            summary.notes.append(f"{without:,} samples have no {COLUMN} and were left out.")
        for model in models:
            stopping.check()
            reader = _reader(dataset.reader, model)
            summary.notes += _spacing(reader, model)
            masks = inspect_masks(
                dataset, samples, classes, reader, workers=options.workers, progress=progress
            )
            broken = masks.filter(pl.col("mask_error").is_not_null() & (pl.col("filled").list.len() == 0))
            empty = broken.filter(pl.col("unit_digest").is_not_null()).height
            unreadable = int(samples["input_error"].is_not_null().sum()) + broken.height - empty
            refuse_too_many(unreadable, samples.height, options)
            job = _Job(model, dataset, classes, reader, samples, masks, cache, options, mask_options)
            summary.models.append(job.run(progress, stopping))
        summary.notes += _lacking(masks) if models else []
    return summary


def _reader(reader: ReaderOptions, model: LoadedModel) -> ReaderOptions:
    """A model of volumes wants every slice."""
    return replace(reader, slices=100_000) if model.card.options.get("volumes") else reader


def _spacing(reader: ReaderOptions, model: LoadedModel) -> list[str]:
    """What is to be said where a model's authors resample volumes and this dataset's card does not."""
    side = model.card.options.get("spacing")
    if side is None or reader.spacing == side:
        return []
    ours = "as stored" if reader.spacing is None else f"of {reader.spacing:g} mm"
    return [
        f"{model.card.id}: its official inference resamples volumes to voxels of {side:g} mm; they are {ours} here. "
        f"Under [reader] in the dataset's card: spacing = {side:g}"
    ]


class _Job:
    """One model over the pictures."""

    def __init__(
        self,
        model: LoadedModel,
        dataset: Dataset,
        classes: MaskCard,
        reader: ReaderOptions,
        samples: pl.DataFrame,
        masks: pl.DataFrame,
        cache: Cache,
        options: ExtractOptions,
        mask_options: MaskOptions,
    ) -> None:
        assert model.network.segmenter is not None
        self.model, self.dataset, self.classes, self.reader = model, dataset, classes, reader
        self.samples, self.masks, self.cache = samples, masks, cache
        self.segmenter: Segmenter = model.network.segmenter
        self.options = options
        prompts = _prompts(mask_options.prompts, self.segmenter, classes.classes)
        self.asked = replace(mask_options, prompts=prompts)
        self.meter = Meter()
        self.answers = Answerer(model, classes.classes, self.asked, options, self.meter)
        self.document = {
            "version": KEY_VERSION,
            "kind": "mask",
            "model": {**model.document(), "segmenter": self.segmenter.document()},
            "reader": reader.document(),
            "classes": list(classes.classes),
            "masks": _plain(classes),
            **self.asked.document(),
            "autocast": options.autocast,
            "dtype": "float16",
        }
        self.key = digest(self.document)
        self.where = {
            unit: (path, mask, picture)
            for unit, path, mask, picture in masks.select(
                "unit_digest", "path", COLUMN, "input_digest"
            ).iter_rows()
            if unit is not None
        }

    def run(self, progress: Progress, stopping: Stopping) -> ModelSummary:
        """Plan, answer, publish."""
        card, name = self.model.card, self.dataset.name
        stored = self.cache.stored(card.id, name, "mask", self.key)
        units, rows, rejected, before = self._plan(stored)
        summary = ModelSummary(
            card.id, name, self.key, self.model.source, self.masks.height, units.height, before
        )
        if self.options.dry_run:
            summary.state = "dry run"
        elif units.height or rows.height or rejected:
            self._write(units, rows, rejected, summary, progress, stopping)
        now = self.cache.stored(card.id, name, "mask", self.key)
        good = now.rows["sample_id"].unique().implode()
        bad = now.quarantine.filter(pl.col("sample_id").is_in(self.samples["sample_id"].implode()))
        summary.rejected = bad.filter(~pl.col("sample_id").is_in(good))["sample_id"].n_unique()
        return summary

    def _plan(self, stored: Stored) -> tuple[pl.DataFrame, pl.DataFrame, list[Rejected], int]:
        usable = self.masks.filter(pl.col("mask_error").is_null())
        if self.answers.volumes:
            usable = usable.with_columns(filled=pl.lit([0], pl.List(pl.Int32)))
        rows = usable.select("sample_id", pl.col("filled").alias("slice"), pl.col("unit_digest")).explode(
            "slice"
        )
        rows = rows.rename({"unit_digest": "input_digest"}).cast({"slice": pl.Int32})
        todo = rows.join(stored.rows, on=["sample_id", *_PAIR], how="anti", maintain_order="left")
        before = rows.height - todo.height
        if not self.options.retry_rejected:
            failed = stored.quarantine.filter(pl.col("row").is_not_null()).select(_PAIR).unique()
            todo = todo.join(failed, on=_PAIR, how="anti", maintain_order="left")
        if shard := self.options.shard:
            number = pl.col("input_digest").str.slice(0, 8).str.to_integer(base=16, dtype=pl.Int64)
            todo = todo.filter(number % shard.count == shard.index - 1)
        units = todo.join(stored.units, on=_PAIR, how="anti", maintain_order="left")
        units = units.select(_PAIR).unique(maintain_order=True)
        unreadable = self.samples.filter(pl.col("input_error").is_not_null()).select(
            "sample_id", "input_digest", stage=pl.lit("read"), reason="input_error"
        )
        broken = self.masks.filter(pl.col("mask_error").is_not_null()).select(
            "sample_id", "input_digest", stage=pl.lit("mask"), reason="mask_error"
        )
        lacking = self.masks.explode("lacking").filter(pl.col("lacking").is_not_null())
        absent = lacking.select(
            "sample_id",
            "input_digest",
            stage=pl.lit("mask"),
            reason=pl.format("The class {} is empty: no pixel of the mask belongs to it.", "lacking"),
        )
        never = pl.concat([unreadable, broken, absent]).join(
            stored.quarantine, on=["sample_id", "reason"], how="anti", maintain_order="left"
        )
        if shard is not None and shard.index > 1:
            never = never.clear()
        rejected = [
            Rejected(stage, reason, picture, 0, sample)
            for sample, picture, stage, reason in never.iter_rows()
        ]
        return units, todo, rejected, before

    def _write(
        self,
        units: pl.DataFrame,
        rows: pl.DataFrame,
        rejected: list[Rejected],
        summary: ModelSummary,
        progress: Progress,
        stopping: Stopping,
    ) -> None:
        row_bytes = 2 * int(np.prod(self.answers.shape))
        self.cache.require_space(units.height * row_bytes // 2 + (16 << 20))
        energy = Energy(self.options.device)
        with self.cache.segment(
            self.model.card.id,
            self.dataset.name,
            "mask",
            self.document,
            units,
            rows,
            d=self.answers.shape,
            dtype="float16",
            block_rows=max(1, min(BLOCK, BLOCK_BYTES // row_bytes)),
            part=str(self.options.shard) if self.options.shard else "",
            lock=self.options.lock,
            compressed=True,
        ) as writer:
            summary.reused_blocks = writer.reused
            writer.reject(rejected)
            todo = [block for block in writer.blocks if not block.done]
            progress.start("masks", sum(block.stop - block.start for block in todo), "pictures")
            with ThreadPoolExecutor(self.options.workers) as readers, ThreadPoolExecutor(1) as other:
                writing: list[Future[Any]] = []
                failed = 0
                for index, read in self._read_ahead(writer, todo, readers):
                    stopping.check()
                    array, bad, tables = self._block(writer, index, read, progress, stopping)
                    failed += len(bad)
                    refuse_too_many(failed, units.height, self.options)
                    with self.meter.stage("write"):
                        for one in writing:
                            one.result()
                    writing = [other.submit(writer.write, index, array, bad, tables)]
                for one in writing:
                    one.result()
            facts = {"batch": self.answers.batch, "classes": len(self.classes.classes)}
            published = writer.publish(provenance(self.model, self.options, self.meter, energy, facts))
        summary.seconds = self.meter.elapsed
        if published is None:
            summary.state = "finished by another process"

    def _read_ahead(
        self, writer: SegmentWriter, todo: Sequence[Any], readers: ThreadPoolExecutor
    ) -> Iterator[tuple[int, list[Future[Picture | Undecodable]]]]:
        """Blocks with their pictures, of which two blocks more are being read."""
        begun: list[tuple[int, list[Future[Picture | Undecodable]]]] = []
        left = iter(todo)
        while True:
            while len(begun) < 3 and (block := next(left, None)) is not None:
                units = writer.units.slice(block.start, block.stop - block.start).rows()
                begun.append((block.index, [readers.submit(self._read, *unit) for unit in units]))
            if not begun:
                return
            yield begun.pop(0)

    def _read(self, unit: str, slice: int) -> Picture | Undecodable:
        """A picture and its mask; whatever is wrong with them is the result, not an error."""
        path, mask, picture = self.where[unit]
        try:
            data = read_input(self.dataset.root, path)
            if hashlib.sha256(data).hexdigest() != picture:
                raise Undecodable("The file changed during the extraction; run the same command again.")
            classes = read_mask(self.dataset.root, mask, self.classes, self.reader)
            if self.answers.volumes:
                from fmcache.extract.cubes import read_volume

                values = read_volume(data, self.reader)
                if values.shape != classes.shape:
                    raise Undecodable(_another_shape(classes, values))
                return Picture(values, values.shape, classes, picture)
            image = decode(data, slice=slice, reader=self.reader)
            if classes.ndim == 3:
                classes = classes[slice]
            if classes.shape != image.shape[:2]:
                raise Undecodable(_another_shape(classes, image))
            return Picture(self.model.preprocess.geometry.apply(image), image.shape[:2], classes, picture)
        except Undecodable as error:
            return error
        except MemoryError:
            return Undecodable("It needs more memory to decode than there is.")

    def _block(
        self,
        writer: SegmentWriter,
        index: int,
        read: Sequence[Future[Picture | Undecodable]],
        progress: Progress,
        stopping: Stopping,
    ) -> tuple[np.ndarray, list[Rejected], dict[str, pl.DataFrame]]:
        """The logits of one block, its rejected units, and the rows of its two tables."""
        start = writer.blocks[index].start
        units = writer.units.slice(start, len(read)).rows()
        array = np.zeros((len(read), *self.answers.shape), np.float16)
        bad: list[Rejected] = []
        truths: list[tuple[Any, ...]] = []
        asked: list[tuple[Any, ...]] = []
        row = 0
        while row < len(read):
            stopping.check()
            with self.meter.stage("decode"):
                batch = [future.result() for future in read[row : row + self.answers.batch]]
            good: list[tuple[int, Picture]] = []
            for place, one in enumerate(batch, row):
                if isinstance(one, Undecodable):
                    bad.append(Rejected("decode", one.reason, *units[place]))
                else:
                    good.append((place, one))
            if good and not self.answers.answer(good, units, array, truths, asked):
                continue  # the batch was halved
            row += len(batch)
            self.meter.images += len(batch)
            progress.advance(len(batch), self.meter.text())
        tables = {
            "masks": pl.DataFrame(truths, schema=dict(MASK_COLUMNS), orient="row"),
            "prompts": pl.DataFrame(asked, schema=dict(PROMPT_COLUMNS), orient="row"),
        }
        return array, bad, tables


def _lacking(masks: pl.DataFrame) -> list[str]:
    """What is to be said of classes that some pictures do not have."""
    names = masks["lacking"].explode().drop_nulls()
    if names.is_empty():
        return []
    most = names.value_counts(sort=True).rows()
    each = ", ".join(f"{name} in {n:,}" for name, n in most[:5]) + (", …" if len(most) > 5 else "")
    return [
        f"Classes without a pixel are not asked for and are named in quarantine.parquet: {each} of "
        f"{masks.height:,} masks."
    ]


def _prompts(asked: tuple[str, ...], segmenter: Segmenter, classes: Sequence[str]) -> tuple[str, ...]:
    """The kinds of prompt; without a choice all that the model takes, sentences only where classes have names."""
    nameless = [name for name in classes if name == "mask" or name.isdigit()]
    if not asked:
        return tuple(kind for kind in segmenter.prompts if not (nameless and kind in TEXTS))
    said = [kind for kind in asked if kind in TEXTS]
    if nameless and said:
        raise UsageError(
            f"--prompt {said[0]} names the classes, and these have no names.",
            f"The masks hold {', '.join(nameless[:8])}.",
            "Write a card with [masks] classes and values, or CLASS=PATH in the column mask_path.",
        )
    return asked


def _plain(masks: MaskCard) -> dict[str, Any]:
    return {
        "values": {name: list(of) for name, of in masks.values.items()},
        "above": float(masks.above),
        "ignore": None if masks.ignore is None else list(masks.ignore),
    }


def _another_shape(mask: np.ndarray, picture: np.ndarray) -> str:
    ours, theirs = shape_text(mask.shape), shape_text(picture.shape[: mask.ndim])
    return f"The mask has another shape than its picture: {ours} and {theirs}."
