"""Running fmcache as a user does: its exit code, and what it prints where."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Done:
    """What a command left: exit code, stdout (data), stderr (progress and errors)."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """stdout as rows; in a pipe every command prints JSON."""
        return json.loads(self.out)


def environment(**more: str) -> dict[str, str]:
    """This process's environment without a user's own settings, with one thread a library."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FMCACHE_")}
    return {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}


def fmcache(*arguments: str | Path, cwd: Path, code: int | None = 0) -> Done:
    """Run a command in `cwd`, in this process, so that torch is imported once; fail unless it ends with `code`."""
    from fmcache.cli import main

    out, err, before = io.StringIO(), io.StringIO(), (sys.argv, dict(os.environ), Path.cwd())
    sys.argv, found = ["fmcache", *map(str, arguments)], 0
    os.environ.clear()
    os.environ.update(environment())
    os.chdir(cwd)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        found = int(end.code or 0)
    finally:
        sys.argv = before[0]
        os.environ.clear()
        os.environ.update(before[1])
        os.chdir(before[2])
    done = Done(found, out.getvalue(), err.getvalue())
    assert code in (None, found), f"exit code {found}\n{done.out[-2000:]}\n{done.err[-4000:]}"
    return done


def process(*arguments: str | Path, cwd: Path, code: int | None = 0, **env: str) -> Done:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "fmcache.cli", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, env=environment(**env), capture_output=True, text=True, timeout=500, check=False
    )
    if code is not None:
        assert done.returncode == code, (
            f"exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        )
    return Done(done.returncode, done.stdout, done.stderr)
