"""Decoding in worker processes: a decoder that crashes or is killed costs one image, not the run."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType

from fmcache.extract.pixels import Decoded, Task, run_task, split_tasks
from fmcache.extract.reader import Undecodable


class ProcessExecutor:
    """`workers` processes that decode ahead; results come in the order of the tasks."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        # not fork: torch's threads do not survive it; the server is forked before any of them exists
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["fmcache.extract.pixels"])
        self._pool = self._new_pool(workers)

    def _new_pool(self, workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            workers, mp_context=self._context, initializer=_leave_signals_to_the_parent
        )

    def __enter__(self) -> ProcessExecutor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def map(self, tasks: Iterator[Task], ahead: int) -> Iterator[Decoded]:
        """One result a task, in order; at most `ahead` tasks are begun before their turn."""
        waiting: deque[tuple[Task, Future[Decoded]]] = deque()
        for task in tasks:
            waiting.append((task, self._submit(task)))
            if len(waiting) > ahead:
                yield self._result(*waiting.popleft(), waiting)
        while waiting:
            yield self._result(*waiting.popleft(), waiting)

    def _submit(self, task: Task) -> Future[Decoded]:
        try:
            return self._pool.submit(run_task, task)
        except BrokenProcessPool as error:
            failed: Future[Decoded] = Future()
            failed.set_exception(error)
            return failed

    def _result(
        self, task: Task, future: Future[Decoded], waiting: deque[tuple[Task, Future[Decoded]]]
    ) -> Decoded:
        try:
            return future.result()
        except BrokenProcessPool:
            decoded = self._one_by_one(task)
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = self._new_pool(self._workers)
            for index, (later, _) in enumerate(waiting):  # they went down with the pool
                waiting[index] = (later, self._submit(later))
            return decoded

    def _one_by_one(self, task: Task) -> Decoded:
        """Every unit in a process of its own, so that the one which brings the decoder down is known."""
        parts = []
        for single in split_tasks(task, 1):
            with self._new_pool(1) as pool:
                try:
                    parts.append(pool.submit(run_task, single).result())
                except BrokenProcessPool:
                    parts.append(Decoded((Undecodable("The decoder crashed or was killed on it."),), 0.0))
        return Decoded(tuple(part.images[0] for part in parts), sum(part.seconds for part in parts))


def _leave_signals_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
