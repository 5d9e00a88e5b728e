"""Several writers at once, with a lock that works and with one that does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from fmcache.errors import CorruptCache, MissingEntry
from fmcache.store.cache import open_cache
from fmcache.store.maintenance import verify
from tests.fault.harness import BLOCKS, Running, run, state


def three(cache: Path, *flags: str) -> list[tuple[int, str, str]]:
    writers = [Running(cache, "--slow", "0.02", "--only-extract", *flags) for _ in range(3)]
    ends = [writer.end() for writer in writers]
    return [(end.code, end.out, end.err) for end in ends]


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(4))
def test_with_a_lock_one_writes_and_the_others_are_told(tmp_path: Path, trial: int) -> None:
    cache = tmp_path / "cache"
    ends = three(cache)
    assert sorted(code for code, _, _ in ends)[0] == 0
    assert {code for code, _, _ in ends} <= {0, 75}, ends
    computed = sum(int(out.split()[0]) for _, out, _ in ends if out)
    assert computed == BLOCKS
    assert state(cache) == "complete"
    assert len(open_cache(cache).entry("fault-model", "study").segments) == 1


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(6))
def test_without_a_working_lock_one_is_published_and_nobody_fails(tmp_path: Path, trial: int) -> None:
    cache = tmp_path / "cache"
    ends = three(cache, "--no-lock")
    assert {code for code, _, _ in ends} <= {0, 4, 75}, ends
    if state(cache) != "complete":
        assert run(cache).code == 0
    assert state(cache) == "complete"
    assert [problem for problem in verify(open_cache(cache)) if problem.serious] == []


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(6))
def test_writers_that_disagree_are_never_mixed_in_silence(tmp_path: Path, trial: int) -> None:
    """Without a lock, and with values that differ by process as on a GPU: one process's bytes a block, or an error."""
    cache = tmp_path / "cache"
    three(cache, "--no-lock", "--jitter")
    try:
        embeddings = open_cache(cache, verify="sha256").embeddings("fault-model", "study")
        embeddings.array()
    except (CorruptCache, MissingEntry):
        return
