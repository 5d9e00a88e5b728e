"""SIGINT and SIGTERM end a run between two batches; a second one ends it at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from fmcache.errors import Interrupted


class Stopping:
    """While entered, the first signal is only noted; `check` raises Interrupted where it is safe to stop."""

    def __init__(self) -> None:
        self._received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received:
            raise KeyboardInterrupt
        self._received = number

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self._received:
            name = signal.Signals(self._received).name
            raise Interrupted(
                f"Stopped by {name}.",
                "Finished blocks are saved; the unfinished one was dropped.",
                "Run the same command again to go on.",
                signal=self._received,
            )
