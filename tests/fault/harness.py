"""Running the worker under faults, and saying what a cache then is: absent, complete, or broken."""

from __future__ import annotations

import contextlib
import ctypes
import io
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache as once
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from fmcache.errors import CorruptCache, MissingEntry
from fmcache.store.cache import open_cache
from fmcache.store.documents import read_document
from tests.fault import worker

WORKER = Path(worker.__file__)
BLOCKS = -(-worker.UNITS // worker.BLOCK)
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.fault.worker", "fmcache.store.maintenance"])


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def counts(self) -> tuple[int, int, int]:
        """(computed, reused, published) of the extraction."""
        return tuple(int(word) for word in self.out.split()[:3])  # type: ignore[return-value]


def run(cache: Path, *arguments: str, fault: str = "") -> Outcome:
    """The worker in a fresh process, to its end."""
    return Running(cache, *arguments, fault=fault).end()


class Running:
    """The worker in a fresh process (forked from a server that has imported it: 50 ms instead of a second)."""

    def __init__(self, cache: Path, *arguments: str, fault: str = "", wait: Connection | None = None) -> None:
        self._reader, writer = _CONTEXT.Pipe(duplex=False)
        self.process = _CONTEXT.Process(target=_child, args=([str(cache), *arguments], fault, writer, wait))
        self.process.start()
        writer.close()

    def end(self) -> Outcome:
        """Wait for it; what it printed is empty if it was killed."""
        try:
            out, err = self._reader.recv()
        except EOFError:
            out, err = "", ""
        self.process.join(60)
        assert self.process.exitcode is not None, "the worker hangs"
        return Outcome(self.process.exitcode, out, err)


def _child(arguments: list[str], fault: str, pipe: Connection, wait: Connection | None) -> None:
    if fault:
        os.environ["FMCACHE_FAULT"] = fault
    if wait is not None:
        ctypes.CDLL(None).prctl(0x59616D61, -1)  # PR_SET_PTRACER, ANY: strace is no ancestor of this process
        wait.recv()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = worker.work(arguments)
    pipe.send((out.getvalue(), err.getvalue()))
    pipe.close()
    os._exit(code)


def run_alone(
    cache: Path, *arguments: str, before: tuple[str, ...] = (), env: dict[str, str] | None = None
) -> Outcome:
    """The worker through exec, so that strace, ulimit and LD_PRELOAD can stand before it."""
    root = WORKER.parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), **(env or {})}
    command = [*before, sys.executable, str(WORKER), str(cache), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr)


def call(function: Callable[..., object], *arguments: object, fault: str) -> int:
    """Exit code of a module's function in a fresh process. Never os.fork: thread pools do not survive it."""
    process = _CONTEXT.Process(target=_call, args=(function, arguments, fault))
    process.start()
    process.join(120)
    assert process.exitcode is not None, "the call hangs"
    return process.exitcode


def _call(function: Callable[..., object], arguments: tuple[object, ...], fault: str) -> None:
    os.environ["FMCACHE_FAULT"] = fault
    function(*arguments)
    os._exit(0)


def run_traced(cache: Path, *arguments: str, inject: str) -> Outcome:
    """`run` under ``strace -e inject=…``: the forked worker waits until strace holds it."""
    wait, go = _CONTEXT.Pipe(duplex=False)
    running = Running(cache, *arguments, wait=wait)
    calls = inject.partition(":")[0]
    command = [
        "strace",
        "-f",
        "-o",
        "/dev/null",
        "-e",
        f"trace={calls}",
        "-e",
        f"inject={inject}",
        "-p",
        str(running.process.pid),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        told = ""
        for line in strace.stderr:
            told += line
            if "attached" in line:
                break
        else:
            running.process.kill()
            raise AssertionError(f"strace could not attach: {told}")
        go.send(None)
        outcome = running.end()
        strace.stderr.read()
    return outcome


def state(path: Path, units: int = worker.UNITS) -> str:
    """``absent`` or ``complete`` (every value bit for bit what an undisturbed run stores).

    Raises
    ------
    AssertionError : anything between. CorruptCache : the store itself says so.
    """
    try:
        cache = open_cache(path, verify="sha256")
        embeddings = cache.embeddings("fault-model", "study")
    except MissingEntry:
        return "absent"
    assert embeddings.samples["input_digest"].to_list() == worker.digests(units)
    assert (embeddings.array().view(np.uint16) == _undisturbed(units)).all()
    assert embeddings.missing.height == 0
    return "complete"


@once
def _undisturbed(units: int) -> np.ndarray:
    """The bits [units, D] that an undisturbed run stores."""
    values = np.stack([worker.value(name) for name in worker.digests(units)])
    return values.astype(np.float16).view(np.uint16)


def run_state(path: Path) -> str:
    """The same for the run and its results."""
    try:
        cache = open_cache(path)
    except MissingEntry:
        return "absent"
    runs = cache.runs()
    for run in runs:
        assert run.predictions().equals(worker.predictions().cast(dict(run.predictions().schema)))
        assert (run.parameters()["w"] == 1).all()
    results = cache.results()
    assert results.height in (0, 1)
    return {(0, 0): "absent", (1, 0): "run", (1, 1): "complete"}[(len(runs), results.height)]


def journaled(path: Path) -> int:
    """Finished blocks that lie in staging."""
    count = 0
    for record in path.glob("staging/*/journal/[0-9]*.json"):
        with contextlib.suppress(CorruptCache):
            read_document(record, "block")
            count += 1
    return count


def points(tmp_path: Path) -> list[str]:
    """The named fault points in the order in which an undisturbed run passes them."""
    trace = tmp_path / "trace"
    done = run(tmp_path / "traced", fault=f"trace@{trace}")
    assert done.code == 0, done.err
    return list(dict.fromkeys(trace.read_text().split()))
