"""Ctrl-C in a sweep of methods: three lines, the exit code of the signal, and the finished methods are published."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fmcache.store.cache import open_cache
from tests.e2e.command import environment, fmcache
from tests.probe_study import samples, store

METHODS = (
    "erm",
    "eqodds",
    "dp",
    "group-dro-label",
    "laftr",
    "jtt",
)  # the signal comes before the last of them


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_sweep_keeps_the_methods_that_are_finished(tmp_path: Path, number: int, code: int) -> None:
    cache = open_cache(tmp_path / "fmcache-cache", create=True)
    store(cache, "net/small", *samples())
    sweep = ["probe", "lp", *(word for name in METHODS for word in ("--method", name)), "--attribute", "sex"]
    # tests that run in the background of a shell ignore SIGINT, and so would the command
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{heard}; from fmcache.cli import main; main()", *sweep]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    limit = time.monotonic() + 120
    while not cache.runs() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (code, ""), err
    told = "What was finished is saved.\nRun the same command again to go on.\n"
    assert err.endswith(f"Stopped by {signal.Signals(number).name}.\n{told}")
    kept = {run.info["method"] for run in cache.runs()}
    assert kept == set(METHODS[: len(kept)])
    assert 0 < len(kept) < len(METHODS)
    again = fmcache(*sweep, cwd=tmp_path)
    assert again.err.count("is already there") == len(kept)
    assert [row["method"] for row in again.rows] == list(METHODS)
