"""fmcache: how fair medical-imaging foundation models are. Run each model once; answer the rest from the cache."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fmcache.analyze.audit import audit
    from fmcache.store.cache import open_cache

__version__ = "0.1.0"
__all__ = ["__version__", "audit", "open_cache"]

_HOMES = {"open_cache": "fmcache.store.cache", "audit": "fmcache.analyze.audit"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fmcache' has no attribute {name!r}")
