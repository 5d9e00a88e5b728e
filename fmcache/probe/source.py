"""What a run works on: the rows of an entry (or of several, fused; or of two datasets) and the table of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from fmcache.errors import MissingEntry, UsageError
from fmcache.probe.centred import Matrix
from fmcache.probe.matrix import Below, OnDisk, beside
from fmcache.probe.pooling import samples_of
from fmcache.probe.splits import SPLITS, make_splits
from fmcache.probe.truth import UNSURE
from fmcache.shapes import Bool, Int
from fmcache.store.cache import Cache
from fmcache.store.embeddings import Embeddings
from fmcache.store.entries import Entry
from fmcache.store.keys import digest
from fmcache.store.schema import ATTRIBUTE, LABEL
from fmcache.store.tables import content_digest

SYNTHETIC = "synthetic"  # a column of the samples table: rows that are only trained on


@dataclass(frozen=True)
class Source:
    """k samples in n rows (a row is an image or a slice); what training leaves out is in no split.

    Attributes
    ----------
    model, dataset : as recorded; ``a+b`` for fused models, the measured dataset where it is not the trained one.
    entries : where the rows come from. train_dataset : "" or the dataset that is trained on.
    table : [k], sample_id, patient_id (its sample_id where it is missing), ``label.*``, ``attribute.*``, …
    sample : [n], rows → 0..k-1.
    splits : one [k] a seed, of train, val, test, "". policy, leaking : of the first; see `fmcache.probe.splits`.
    digest : of the data: samples' table, splits and which inputs the rows were made from.
    dataset_digest : of the samples table that the measured rows come from.
    x : [n, d] when it is read.
    """

    model: str
    dataset: str
    entries: tuple[Entry, ...]
    train_dataset: str
    table: pl.DataFrame
    sample: Int[np.ndarray, " n"]
    splits: tuple[np.ndarray, ...]
    policy: str
    leaking: int
    n_missing: int
    n_synthetic: int
    digest: str
    dataset_digest: str
    x: Matrix

    @property
    def name(self) -> str:
        if self.train_dataset:
            return f"{self.model} on {self.train_dataset} → {self.dataset}"
        return f"{self.model} on {self.dataset}"

    @property
    def gigabytes(self) -> float:
        """Of the rows in float32."""
        n, d = self.x.shape
        return n * d * 4 / 1e9

    @property
    def counts(self) -> list[dict[str, int]]:
        """Samples of each split, a dict a seed."""
        return [{name: int((split == name).sum()) for name in SPLITS} for split in self.splits]


def one_dataset(cache: Cache, entries: Sequence[Entry], seeds: int, allow_leakage: bool) -> Source:
    """The rows that one model, or all the fused models, have of a dataset."""
    parts = [_embeddings(cache, entry) for entry in entries]
    dataset = cache.dataset(entries[0].dataset)
    units = [part.samples.select("sample_id", "slice").with_row_index("row") for part in parts]
    joined = units[0]
    for number, other in enumerate(units[1:]):
        joined = joined.join(
            other.rename({"row": f"row{number}"}),
            on=["sample_id", "slice"],
            how="inner",
            maintain_order="left",
        )
    if not joined.height:
        raise MissingEntry(
            f"The models to be fused share no image of {entries[0].dataset}.", "",
            f"Type: fmcache extract --model {entries[-1].model} --dataset {entries[-1].dataset}",
        )  # fmt: skip
    rows = [joined[name].to_numpy().astype(np.int64) for name in joined.columns if name.startswith("row")]
    ids, sample = samples_of(joined["sample_id"].to_list())
    every, splits, policy, leaking = _splits(dataset.samples, seeds, allow_leakage)
    table = pl.DataFrame({"sample_id": ids}).join(every, on="sample_id", how="left", maintain_order="left")
    position = table["_position"].to_numpy()
    mine = tuple(split[position] for split in splits)
    x = beside([OnDisk(part, rows[at]) for at, part in enumerate(parts)])
    table, sample, mine, x = _train_first(table, sample, mine, x)
    identity = {
        "dataset": dataset.digest,
        "entries": [entry.key for entry in entries],
        "rows": [_inputs(part) for part in parts],
    }
    return Source(
        "+".join(entry.model for entry in entries), entries[0].dataset, tuple(entries), "", table, sample, mine,
        policy, leaking, max(part.missing.height for part in parts), int(_synthetic(table).sum()),
        digest(identity), dataset.digest, x,
    )  # fmt: skip


def two_datasets(cache: Cache, train: Entry, measured: Entry, seeds: int, allow_leakage: bool) -> Source:
    """Train and choose on one dataset, measure on another: its test split, or all of it where it gives none.

    The ids of the first get its name in front (``chexpert/00123``), so that no two samples share one. Labels are those
    that both have.
    """
    if train.key != measured.key:
        raise UsageError(
            f"{train.model} was not extracted in the same way on {train.dataset} and on {measured.dataset}.",
            f"The keys are {train.key[:12]} and {measured.key[:12]}: other weights, pooling, preprocessing or dtype.",
            f"Name one key: --model {train.model}@KEY, or extract both in the same way.",
        )
    first = one_dataset(cache, [train], seeds, allow_leakage)
    second = one_dataset(cache, [measured], 1, True)
    own = second.splits[0]
    given = second.policy != "drawn 60/20/20"
    whole = (own != "") & ~_synthetic(second.table)  # made-up samples are never measured
    there = np.where((own == "test") if given else whole, "test", "").astype(object)
    shared = [name for name in second.table.columns if name in first.table.columns]
    keep = [
        name
        for name in shared
        if name in ("sample_id", "patient_id", "slices") or name.startswith((LABEL, ATTRIBUTE))
    ]
    unsure = [name.replace(LABEL, UNSURE, 1) for name in keep if name.startswith(LABEL)]
    flags = [[name for name in unsure if name in part.table.columns] for part in (first, second)]
    named = [
        pl.format("{}/{}", pl.lit(train.dataset), name).alias(name) for name in ("sample_id", "patient_id")
    ]
    kept = [split != "test" for split in first.splits]  # nothing of the trained dataset is measured
    here = [np.where(mask, split, "").astype(object) for mask, split in zip(kept, first.splits, strict=True)]
    table = pl.concat(
        [first.table.select(*keep, *flags[0]).with_columns(named), second.table.select(*keep, *flags[1])],
        how="diagonal_relaxed",
    )
    return Source(
        train.model, measured.dataset, (train, measured), train.dataset, table,
        np.concatenate([first.sample, second.sample + first.table.height]),
        tuple(np.concatenate([split, there]) for split in here), first.policy, first.leaking,
        first.n_missing + second.n_missing, first.n_synthetic, digest([first.digest, second.digest]),
        second.dataset_digest, Below(first.x, second.x),
    )  # fmt: skip


def _embeddings(cache: Cache, entry: Entry) -> Embeddings:
    embeddings = cache.embeddings(entry.model, entry.dataset, key=entry.key)
    if not embeddings.n:
        raise MissingEntry(
            f"No image of {entry.dataset} as it is now has an embedding of {entry.model}.",
            "Its images changed, or were rejected, since the extraction.",
            f"Type: fmcache extract --model {entry.model} --dataset {entry.dataset}",
        )
    return embeddings


def _inputs(embeddings: Embeddings) -> str:
    return content_digest(embeddings.samples.select("sample_id", "slice", "input_digest"))


def _synthetic(table: pl.DataFrame) -> Bool[np.ndarray, " k"]:
    """Which samples are marked as synthetic."""
    for name in (SYNTHETIC, ATTRIBUTE + SYNTHETIC):
        if name in table.columns:
            text = table[name].cast(pl.String).str.to_lowercase().fill_null("")
            return text.is_in(["true", "1", "1.0", "yes", "synthetic"]).to_numpy()
    return np.zeros(table.height, bool)


def _splits(
    samples: pl.DataFrame, seeds: int, allow_leakage: bool
) -> tuple[pl.DataFrame, list[np.ndarray], str, int]:
    """Of a whole dataset, so that models share them: the table with `_position`, a split a seed, policy, leaks.

    Synthetic samples are trained on, or in no split: those that the dataset puts elsewhere, and those of a patient who
    is measured.
    """
    made_up = _synthetic(samples)
    real = samples.filter(pl.Series(~made_up))
    drawn = [make_splits(real, seed, allow_leakage) for seed in range(seeds)]
    own = samples["split"].fill_null("").to_numpy().astype(object)
    patients = samples["patient_id"].to_numpy().astype(object)
    splits = []
    for one in drawn:
        split = np.full(samples.height, "", object)
        split[~made_up] = one.split
        measured = {p for p in patients[(split == "val") | (split == "test")] if p is not None}
        train = made_up & np.isin(own, ("", "train")) & np.array([p not in measured for p in patients], bool)
        split[train] = "train"
        splits.append(split)
    every = samples.with_columns(pl.coalesce("patient_id", "sample_id").alias("patient_id"))
    return every.with_row_index("_position"), splits, drawn[0].policy, drawn[0].leaking_patients


def _train_first(
    table: pl.DataFrame, sample: np.ndarray, splits: Sequence[np.ndarray], x: Any
) -> tuple[pl.DataFrame, np.ndarray, tuple[np.ndarray, ...], Matrix]:
    """Order samples by train, val, others (of any seed): training rows are then a view of the rows, not a copy."""
    rank = np.full(table.height, 2)
    for name, value in (("val", 1), ("train", 0)):
        for split in splits:
            rank[split == name] = value
    order = np.argsort(rank, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    rows = np.argsort(place[sample], kind="stable")
    select: Callable[[OnDisk], OnDisk] = lambda part: OnDisk(part.embeddings, part.rows[rows])  # noqa: E731
    moved = select(x) if isinstance(x, OnDisk) else beside([select(part) for part in x.parts])
    return table[order], place[sample][rows], tuple(split[order] for split in splits), moved
