"""Ctrl-C and SIGTERM end a command with three lines and exit code 130 or 143; what was published stays."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt(BaseException):
    """A signal came. No `KeyboardInterrupt`, since typer ends those without a word."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number

    def __str__(self) -> str:
        name = signal.Signals(self.args[0]).name
        return f"Stopped by {name}.\nWhat was finished is saved.\nRun the same command again to go on."


@contextmanager
def raised_signals() -> Iterator[None]:
    """While entered the two signals raise `Interrupt` here; a forked worker they end as they would without us.

    A signal that the parent told us to ignore (``nohup``, a script's ``&``) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        raise Interrupt(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    taken = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)
