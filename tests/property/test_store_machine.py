"""The store against a dictionary: any order of growing, changing, relabelling, dropping, extracting and killing."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fmcache.errors import MissingEntry
from fmcache.store.cache import Cache, open_cache
from fmcache.store.keys import digest
from fmcache.store.maintenance import collect_garbage, verify
from fmcache.store.segment import Rejected

D = 4
DOCUMENT = {"model": "m", "weights_sha256": "0" * 64}
IDS = [f"{i:03}" for i in range(24)]
CONTENTS = [f"pixels {i}" for i in range(12)]  # fewer contents than ids: duplicates are common
BROKEN = {"pixels 11"}  # cannot be decoded, ever


class Stop(Exception):
    """The process dies here."""


def input_digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def embedding(name: str) -> np.ndarray:
    return np.random.default_rng(int(name[:8], 16)).standard_normal(D).astype(np.float16)


class Machine(RuleBasedStateMachine):
    """`self.images` is the folder of images: id → content. `self.stored` is what the cache must have: id → content."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.images: dict[str, str] = {}
        self.labels: dict[str, float] = {}
        self.published: dict[str, str] = {}
        self.stored: dict[str, set[str]] = {}
        self.done: set[str] = set()
        self.computed = 0

    def teardown(self) -> None:
        self.folder.cleanup()

    @initialize()
    def begin(self) -> None:
        open_cache(Path(self.folder.name) / "cache", create=True)

    @property
    def cache(self) -> Cache:
        return open_cache(Path(self.folder.name) / "cache")

    # ---------------------------------------------------------------------------------------------- what a user does

    @rule(name=st.sampled_from(IDS), content=st.sampled_from(CONTENTS), label=st.sampled_from([0.0, 1.0]))
    def add_or_change_an_image(self, name: str, content: str, label: float) -> None:
        self.images[name], self.labels[name] = content, label

    @precondition(lambda self: self.images)
    @rule(data=st.data())
    def drop_an_image(self, data: st.DataObject) -> None:
        del self.images[data.draw(st.sampled_from(sorted(self.images)))]

    @precondition(lambda self: self.images)
    @rule(data=st.data())
    def relabel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.images)))
        self.labels[name] = 1 - self.labels[name]

    @precondition(lambda self: self.images)
    @rule(
        shuffle=st.randoms(use_true_random=False), block_rows=st.sampled_from([1, 2, 5]), die_after=st.integers(0, 9)
    )  # fmt: skip
    def extract(self, shuffle: object, block_rows: int, die_after: int) -> None:
        """The extraction command; the process dies after `die_after` blocks (never, if there are fewer)."""
        names = list(self.images)
        shuffle.shuffle(names)  # type: ignore[attr-defined]
        samples = self.table(names)
        self.cache.publish_dataset("study", {}, samples)
        self.published = dict(self.images)
        links = samples.select("sample_id", pl.lit(0, pl.Int32).alias("slice"), "input_digest")
        stored = self.cache.stored("m", "study", "image", digest(DOCUMENT))
        refused = stored.quarantine.select("sample_id", "input_digest")
        new = links.join(
            stored.rows, on=["sample_id", "input_digest"], how="anti", maintain_order="left"
        ).join(refused, on=["sample_id", "input_digest"], how="anti", maintain_order="left")
        if not new.height:
            return
        units = new.select("input_digest", "slice").unique(maintain_order=True)
        broken = {input_digest(content) for content in BROKEN}
        try:
            with self.cache.segment(
                "m", "study", "image", DOCUMENT, units, new, d=D, block_rows=block_rows
            ) as writer:
                for count, block in enumerate(block for block in writer.blocks if not block.done):
                    if count == die_after:
                        raise Stop
                    members = writer.units["input_digest"][block.start : block.stop].to_list()
                    rejected = [Rejected("decode", "broken", one) for one in members if one in broken]
                    assert not set(members) & self.done, "a finished unit is computed again"
                    x = np.stack([embedding(one) for one in members]).astype(np.float32)
                    writer.write(block.index, x, rejected)
                writer.publish({})
        except Stop:
            return
        for name, content in self.published.items():
            if content not in BROKEN:
                self.stored.setdefault(name, set()).add(content)
        self.done = {input_digest(content) for contents in self.stored.values() for content in contents}

    @rule()
    def collect(self) -> None:
        collect_garbage(self.cache, dry_run=False)

    def table(self, names: list[str]) -> pl.DataFrame:
        return pl.DataFrame(
            {
                "sample_id": names,
                "patient_id": names,
                "path": names,
                "split": ["train"] * len(names),
                "slices": [1] * len(names),
                "input_digest": [input_digest(self.images[name]) for name in names],
                "input_error": [None] * len(names),
                "label.x": [self.labels[name] for name in names],
            },
            schema_overrides={"input_error": pl.String},
        )

    # ------------------------------------------------------------------------------------------- what always holds

    @invariant()
    def the_cache_is_the_dictionary(self) -> None:
        """The published samples whose present content was extracted, each with its own values; no others."""
        want = {
            name: content
            for name, content in self.published.items()
            if content in self.stored.get(name, set())
        }
        try:
            found = self.cache.embeddings("m", "study")
        except MissingEntry:
            assert not want
            return
        names = found.samples["sample_id"].to_list()
        assert len(names) == len(set(names))
        for name, row in zip(names, found.array(), strict=True):
            content = self.published[name]
            assert content not in BROKEN
            assert (row == embedding(input_digest(content))).all()
        assert set(want) == set(names)
        assert set(names) | set(found.missing["sample_id"]) == set(self.published)
        assert not set(names) & set(found.missing["sample_id"])

    @invariant()
    def every_published_byte_is_right(self) -> None:
        if (Path(self.folder.name) / "cache").exists():
            assert [problem for problem in verify(self.cache) if problem.serious] == []


Machine.TestCase.settings = settings(max_examples=25, stateful_step_count=14, deadline=None)


@pytest.mark.slow
class TestMachine(Machine.TestCase):
    """Run by pytest."""
