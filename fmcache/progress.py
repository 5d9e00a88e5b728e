"""How a long computation tells what it is doing; stderr only, so that stdout stays data."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What a stage calls. The command line gives a Rich bar, a library user nothing."""

    def start(self, stage: str, total: int | None, unit: str) -> None:
        """Begin a stage of `total` units (None when unknown), for example ``("embed", 1200, "images")``."""

    def advance(self, n: int, detail: str = "") -> None:
        """`n` more units are done; `detail` is a short text such as ``"decode 61 % · model 32 %"``."""

    def note(self, text: str) -> None:
        """A line worth keeping on the screen."""


class Silent:
    """The default: says nothing."""

    def start(self, stage: str, total: int | None, unit: str) -> None:
        pass

    def advance(self, n: int, detail: str = "") -> None:
        pass

    def note(self, text: str) -> None:
        pass
