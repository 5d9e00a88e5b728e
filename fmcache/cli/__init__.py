"""The command tree. A command's body is imported when it runs, so that ``fmcache --help`` stays instant."""

from __future__ import annotations

import sys

from fmcache.cli import analyze, cache, datasets, demo, dice, extract, probe, rank, report, represent, sql  # noqa: F401
from fmcache.cli.options import state
from fmcache.cli.root import app
from fmcache.errors import FmcacheError
from fmcache.output import say

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; expected failures are three lines and an exit code, never a traceback."""
    try:
        app()
    except FmcacheError as error:
        if state["debug"]:
            raise
        say(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say("Interrupted.\nWhat was finished is saved.\nRun the same command again to go on.")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
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
