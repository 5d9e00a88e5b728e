"""From a source to problems: which rows train which column, under a subset, and the design that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from fmcache.probe.centred import Matrix, centre
from fmcache.probe.matrix import Linear, components, loaded, moments, take
from fmcache.probe.options import Options
from fmcache.probe.penalties import GRID
from fmcache.probe.problem import Column, Problem, Rows
from fmcache.probe.prototypes import prototypes_of
from fmcache.probe.source import Source
from fmcache.probe.subsets import Subset, choose_samples
from fmcache.probe.truth import fittable, groups_of
from fmcache.shapes import Bool, Float, Int
from fmcache.store.texts import Texts


@dataclass(frozen=True)
class Study:
    """A source with what is to be predicted.

    Attributes
    ----------
    labels, y : names and [k, L] truth, NaN unknown. group, groups : of the methods' attribute, -1 unknown.
    texts : the prompts of clip-zs and clip-adapt.
    """

    source: Source
    options: Options
    labels: tuple[str, ...]
    y: Float[np.ndarray, "k L"]
    group: Int[np.ndarray, " k"]
    groups: tuple[str, ...]
    texts: Texts | None = None

    @cached_property
    def patient(self) -> Int[np.ndarray, " k"]:
        """A number for each patient."""
        names = self.source.table["patient_id"].to_numpy().astype(object)
        return np.unique(names, return_inverse=True)[1].astype(np.int64)

    def training(self, subset: Subset, seed: int, y: Float[np.ndarray, "k L"]) -> Bool[np.ndarray, "k L"]:
        """Which samples train each label under a seed."""
        table = self.source.table
        balance = subset.attribute
        group = groups_of(table, balance, "--balance")[0] if balance else np.zeros(table.height, np.int64)
        return choose_samples(
            subset, self.source.splits[seed] == "train", y, table["sample_id"].to_list(),
            table["patient_id"].to_list(), group, seed,
        )  # fmt: skip

    def fitted(self, subset: Subset, seeds: Sequence[int]) -> tuple[list[str], dict[str, str]]:
        """The labels that can be trained, and why the others cannot."""
        return fittable(self.y, self.labels, [self.training(subset, seed, self.y) for seed in seeds])

    def problem(
        self, x: Matrix, subset: Subset, seeds: Sequence[int], labels: Sequence[str], trains: bool = True
    ) -> Problem:
        """The problem of these labels under these seeds; column ``s * len(labels) + l``.

        With `trains` false nothing is trained: the training rows are cut to one, so that nothing is computed of them.
        """
        at = [self.labels.index(name) for name in labels]
        y = self.y[:, at]
        sample, c = self.source.sample, len(seeds) * len(at)
        train = np.full((len(y), c), np.nan, np.float32)
        val = np.full((len(y), c), np.nan, np.float32)
        for s, seed in enumerate(seeds):
            part = slice(s * len(at), (s + 1) * len(at))
            train[:, part] = np.where(self.training(subset, seed, y), y, np.nan)
            val[:, part] = np.where((self.source.splits[seed] == "val")[:, None], y, np.nan)
        in_val: np.ndarray = np.any([self.source.splits[seed] == "val" for seed in seeds], axis=0)
        used: np.ndarray = np.any(~np.isnan(train), axis=1)
        rows, rows_val = np.flatnonzero(used[sample]), np.flatnonzero(in_val[sample])
        rows = rows if trains else np.zeros(1, np.int64)
        part_x = take(x, rows)
        data = centre(part_x, stream=not isinstance(x, np.ndarray))
        unit = data.scale if data.scale > 0 else 1.0
        y_train = train[sample[rows]]
        columns = tuple(Column(name, seed) for seed in seeds for name in labels)
        return Problem(
            train=self._rows(part_x, y_train, rows),
            val=self._rows(take(x, rows_val), val[sample[rows_val]], rows_val),
            weights=class_weights(y_train, self.options.class_weight),
            data=data,
            columns=columns,
            groups=self.groups,
            attribute=self.options.attribute,
            penalties=np.array(GRID) * unit,
            grid={},
            protocol="ridge" if self.options.solver == "ridge" else self.options.protocol,
            volume=self.options.volume,
            precision=self.options.precision,
            prototypes=None
            if self.texts is None
            else prototypes_of(self.texts, columns, self.options.template),
        )

    def everyone(self, x: Matrix, seeds: Sequence[int], labels: Sequence[str]) -> Rows:
        """All rows, with the truth of the test samples."""
        y = self.y[:, [self.labels.index(name) for name in labels]]
        test = [np.where((self.source.splits[seed] == "test")[:, None], y, np.nan) for seed in seeds]
        every = np.arange(len(self.source.sample))
        return self._rows(x, np.concatenate(test, axis=1).astype(np.float32)[self.source.sample], every)

    def _rows(self, x: Any, y: np.ndarray, rows: np.ndarray) -> Rows:
        sample = self.source.sample[rows]
        return Rows(x, y, self.group[sample], sample, self.patient[sample])

    def transform(self, x: Matrix, seed: int) -> Linear | None:
        """What is fitted on the training rows of a seed: standardisation, and components of fused embeddings."""
        options = self.options
        if not (options.standardize or options.fuse or options.pca):
            return None
        rows = np.flatnonzero((self.source.splits[seed] == "train")[self.source.sample])
        shift, width = moments(x, rows)
        if not (options.standardize or options.fuse):
            width = np.ones_like(width)
        made = Linear(x, shift, width)
        return replace(made, turn=components(made, rows, options.pca)) if options.pca else made


def class_weights(y: Float[np.ndarray, "n c"], how: str) -> Float[np.ndarray, "n c"]:
    """1 everywhere, or for ``balanced`` n / (2 n_class): both classes of a column count the same."""
    weights = np.ones_like(y)
    if how == "balanced":
        for value in (0, 1):
            mine = y == value
            weights = np.where(
                mine, (~np.isnan(y)).sum(axis=0) / (2 * np.maximum(mine.sum(axis=0), 1)), weights
            )
    return weights.astype(np.float32)


def seed_groups(study: Study, seeds: Sequence[int]) -> list[list[int]]:
    """Seeds that can share one matrix: all of them, or with a transform those with the same training rows."""
    options = study.options
    if not (options.standardize or options.fuse or options.pca):
        return [list(seeds)]
    groups: dict[bytes, list[int]] = {}
    for seed in seeds:
        groups.setdefault((study.source.splits[seed] == "train").tobytes(), []).append(seed)
    return list(groups.values())


def read(source: Source, limit: float) -> Matrix:
    """The rows in memory if they take less than `limit` GB, else unread."""
    return loaded(source.x) if source.gigabytes <= limit else source.x
