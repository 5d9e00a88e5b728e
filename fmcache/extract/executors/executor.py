"""Who decodes: the interface, and the choice. The results never depend on it."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Protocol

from fmcache.errors import UsageError
from fmcache.extract.pixels import Decoded, Task

NAMES = ("process", "serial")


class Executor(Protocol):
    """Decodes tasks in the order in which they come, reading ahead as far as it likes."""

    def __enter__(self) -> Executor: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def map(self, tasks: Iterator[Task], ahead: int) -> Iterator[Decoded]:
        """One result a task, in order; at most `ahead` tasks are begun before their turn."""


def make_executor(name: str, workers: int) -> Executor:
    """``serial``: in this process. ``process``: `workers` processes, which survive a decoder that crashes.

    Raises
    ------
    UsageError : another name.
    """
    if name == "serial":
        from fmcache.extract.executors.serial import SerialExecutor

        return SerialExecutor()
    if name == "process":
        from fmcache.extract.executors.process import ProcessExecutor

        return ProcessExecutor(workers)
    raise UsageError(
        f"There is no executor {name!r}.",
        f"There are {', '.join(NAMES)}; for a SLURM array use --shard i/n in each job.",
        "Type: fmcache extract --executor process …",
    )
