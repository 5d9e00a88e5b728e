"""Decoding in the same process: nothing runs ahead, nothing can be lost."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

from fmcache.extract.pixels import Decoded, Task, run_task


class SerialExecutor:
    """The simplest executor, and the one the others are held to."""

    def __enter__(self) -> SerialExecutor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def map(self, tasks: Iterator[Task], ahead: int) -> Iterator[Decoded]:
        """One result a task, in order."""
        del ahead
        return map(run_task, tasks)
