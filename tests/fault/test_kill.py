"""SIGKILL, no space and I/O errors at every named point and every mutating system call; then the resume."""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.fault.harness import BLOCKS, Running, journaled, points, run, run_state, run_traced, state

MUTATING = (
    "rename,renameat,renameat2,fsync,fdatasync,unlink,unlinkat,rmdir,mkdir,mkdirat,link,linkat,ftruncate"
)


def resume_completes(cache: Path, before: str) -> None:
    """A second run makes it whole, and does not compute again what a journal record says is finished."""
    finished = journaled(cache)
    done = run(cache)
    assert done.code == 0, done.err
    computed, reused, _ = done.counts
    if before == "complete":
        assert computed == 0
    else:
        assert (computed, reused) == (BLOCKS - finished, finished)
    assert (state(cache), run_state(cache)) == ("complete", "complete")


def test_every_point_is_passed(tmp_path: Path) -> None:
    names = points(tmp_path)
    assert state(tmp_path / "traced") == "complete"
    assert {
        "block:before_fsync",
        "block:after_fsync",
        "manifest:before_rename",
        "publish:before_rename",
    } <= set(names)
    assert len(names) > 40


def fail_at(point: str, action: str, cache: Path) -> None:
    shutil.rmtree(cache, ignore_errors=True)
    done = run(cache, fault=f"{action}@{point}")
    expected = -signal.SIGKILL if action == "kill" else 4
    assert done.code == expected, (point, done)
    if action == "enospc":
        assert done.err.startswith("DiskFull"), (point, done.err)
    first = state(cache)
    assert first in ("absent", "complete"), point
    assert run_state(cache) in ("absent", "run", "complete")
    if first == "absent" and action != "kill":
        assert not list(cache.rglob("*.partial")), point
    resume_completes(cache, first)


@pytest.mark.parametrize("part", range(4))
def test_a_kill_at_every_named_point(tmp_path: Path, part: int) -> None:
    for point in points(tmp_path)[part::4]:
        fail_at(point, "kill", tmp_path / "cache")


@pytest.mark.parametrize("part", range(2))
def test_no_space_or_an_io_error_at_every_named_point(tmp_path: Path, part: int) -> None:
    """In turn; the heavy test tries both at each."""
    for number, point in enumerate(points(tmp_path)[part::2]):
        fail_at(point, ("enospc", "eio")[number % 2], tmp_path / "cache")


@pytest.mark.heavy
@pytest.mark.parametrize("action", ["enospc", "eio"])
def test_both_refusals_at_every_named_point(tmp_path: Path, action: str) -> None:
    for point in points(tmp_path):
        fail_at(point, action, tmp_path / "cache")


def test_a_kill_in_the_middle_of_the_blocks_keeps_the_finished_ones(tmp_path: Path) -> None:
    for block in range(1, BLOCKS + 1):
        cache = tmp_path / f"cache{block}"
        assert run(cache, fault=f"kill@block:done#{block}").code == -signal.SIGKILL
        assert (state(cache), journaled(cache)) == ("absent", block)
        resume_completes(cache, "absent")


@pytest.mark.parametrize("pairs", [24, pytest.param(400, marks=pytest.mark.heavy)])
def test_a_kill_of_the_resume(tmp_path: Path, pairs: int) -> None:
    names = points(tmp_path)
    chosen = random.Random(1).sample([(a, b) for a in names for b in names], pairs)
    for first, second in chosen:
        cache = tmp_path / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        assert run(cache, fault=f"kill@{first}").code == -signal.SIGKILL
        run(cache, fault=f"kill@{second}")
        before = state(cache)
        assert before in ("absent", "complete")
        resume_completes(cache, before)


@pytest.mark.skipif(
    shutil.which("strace") is None, reason="strace is not installed: system calls cannot be counted"
)
@pytest.mark.parametrize("part", range(4))
def test_a_kill_at_every_mutating_system_call(tmp_path: Path, part: int) -> None:
    """Every fourth call in each of four tests, until the program survives."""
    seen = set()
    for call in range(1 + part, 400, 4):
        cache = tmp_path / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        done = run_traced(
            cache, "--units", "100", "--only-extract", inject=f"{MUTATING}:signal=SIGKILL:when={call}"
        )
        seen.add(first := state(cache, 100))
        assert first in ("absent", "complete")
        if done.code == 0:
            assert call > 40
            assert seen == {"absent", "complete"}
            return
        assert done.code == -signal.SIGKILL
        again = run(cache, "--units", "100", "--only-extract")
        assert again.code == 0, again.err
        assert state(cache, 100) == "complete"
    raise AssertionError("the program never survived")


@pytest.mark.slow
def test_random_kills_on_the_same_cache(tmp_path: Path) -> None:
    rng, cache, kills = random.Random(2), tmp_path / "cache", 0
    while state(cache) != "complete":
        before = len(list(cache.glob("staging/*/journal/*.json")))
        running = Running(cache, "--slow", "0.2")
        # by progress, not by the clock, so that a busy machine sees the same: after the next finished block …
        while running.process.is_alive() and len(list(cache.glob("staging/*/journal/*.json"))) <= before:
            time.sleep(0.005)
        time.sleep(0.3 * rng.random())  # … anywhere between it and the one after the next
        if running.process.is_alive():
            running.process.kill()
            kills += 1
        running.end()
        assert kills < 50
    assert kills > 0
    resume_completes(cache, "complete")
