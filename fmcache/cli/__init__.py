"""The command tree. A command's body is imported when it runs, so that ``fmcache --help`` stays instant."""

from __future__ import annotations

import os
import sys
import warnings
from types import ModuleType
from typing import Any

from fmcache.cli import analyze, cache, datasets, demo, dice, extract, probe, rank, report, represent, sql  # noqa: F401
from fmcache.cli.interrupts import Interrupt, raised_signals
from fmcache.cli.options import state
from fmcache.cli.root import app
from fmcache.cli.standard_output import ReaderGone, open_what_is_closed, told_refusals
from fmcache.errors import FmcacheError, ForeignCache
from fmcache.output import say

__all__ = ["app", "main"]


def _help_without_markdown() -> None:
    """typer imports rich.markdown for help in Markdown; ours is not, and it takes a quarter of the time of --help."""
    if {"--help", "-h"} & set(sys.argv[1:]) or len(sys.argv) == 1:
        stub = ModuleType("rich.markdown")
        stub.Markdown = None  # type: ignore[attr-defined]
        sys.modules.setdefault("rich.markdown", stub)


def _plain_warnings() -> None:
    """Our own warning is its text; where in the code it was raised is of no use to who types a command."""
    before = warnings.formatwarning

    def plain(message: Warning | str, category: type[Warning], *where: Any, **line: Any) -> str:
        own = issubclass(category, ForeignCache)
        return f"{message}\n" if own else before(message, category, *where, **line)

    warnings.formatwarning = plain


def main() -> None:
    """Run the command line; expected failures are three lines and an exit code, never a traceback."""
    open_what_is_closed()
    _help_without_markdown()
    _plain_warnings()
    try:
        with raised_signals(), told_refusals():
            app()
    except FmcacheError as error:
        if state["debug"]:
            raise
        say(str(error))
        sys.exit(error.exit_code)
    except Interrupt as interrupt:
        say(str(interrupt))
        sys.stdout.flush()
        # every `with` has ended; taking apart a JAX that was compiling can crash
        os._exit(interrupt.exit_code)
    except ReaderGone:
        sys.exit(0)
    except Exception as error:
        if state["debug"]:
            raise
        say(
            f"fmcache met an error that it did not expect: {type(error).__name__}.\n"
            f"{str(error).splitlines()[0] if str(error) else 'It says nothing more.'}\n"
            "Run the command again with --debug and report what it prints."
        )
        sys.exit(1)
