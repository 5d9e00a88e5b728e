"""Compiled programs are kept between commands: of a short command most of the time is compilation.

They lie in the user's cache directory (``$FMCACHE_PROGRAMS`` names another one, ``off`` keeps none), a folder for each
kind of processor: a home directory may be shared by machines, and code for one need not run on another. JAX's own key
covers its version and the program. They hold no data, and can be deleted at any time.
"""

from __future__ import annotations

import os
import platform
from hashlib import sha256
from pathlib import Path

import jax
from platformdirs import user_cache_path

VARIABLE = "FMCACHE_PROGRAMS"
_SECONDS = 0.3  # what compiles faster is not kept


def keep_programs() -> Path | None:
    """Switch it on for this process, unless JAX was told a place already; the folder, or None where there is none."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted == "off" or getattr(jax.config, "jax_compilation_cache_dir", None) is not None:
        return None
    folder = (Path(wanted) if wanted else user_cache_path("fmcache") / "programs") / _processor()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mine = folder.stat().st_uid == os.getuid() if hasattr(os, "getuid") else True
    except OSError:
        return None
    if not mine or not os.access(folder, os.W_OK):  # never run what somebody else has compiled
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))  # type: ignore[no-untyped-call]
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _SECONDS)  # type: ignore[no-untyped-call]
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)  # type: ignore[no-untyped-call]
    return folder


def _processor() -> str:
    """Twelve hex digits of what the processor is and can do."""
    told = platform.machine() + platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        told += "".join(
            sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
        )
    except OSError:
        pass
    return sha256(told.encode()).hexdigest()[:12]
