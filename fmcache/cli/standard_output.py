"""What standard output refuses: a reader that has gone is the end of a command, a full disk is an error of storage."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from fmcache.errors import DiskFull, StorageError


class ReaderGone(BaseException):
    """Who read the pipe (``head -1``) has enough. No `OSError`, since typer ends those of a pipe with exit code 1."""


class _Told:
    """A stream whose refusals are `ReaderGone` and StorageError; only here are they known to be those of stdout."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self.refused = stream, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._refusals():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._refusals():
            self._stream.flush()

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.refused = True
            if error.errno == errno.EPIPE:
                raise ReaderGone from None
            kind = DiskFull if error.errno in DiskFull.numbers else StorageError
            raise kind(
                f"The output cannot be written: {os.strerror(error.errno or errno.EIO)}.",
                "Only what was to be printed is cut short; what the command stored in the cache is there.",
                "Make room where the output goes, or send it elsewhere, and run the command again.",
            ) from error


def _leave(stream: TextIO) -> None:
    """Let what is still in the buffer go nowhere: Python writes it when it ends, and would fail once more."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def open_what_is_closed() -> None:
    """A command started with ``>&-`` or ``2>&-`` has no such stream: what it says there goes nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as the process lives


@contextmanager
def told_refusals() -> Iterator[None]:
    """While entered, stdout raises `ReaderGone` and StorageError instead of OSError."""
    before = sys.stdout
    sys.stdout = told = _Told(before)
    try:
        yield
    finally:
        sys.stdout = before
        if told.refused:
            _leave(before)
