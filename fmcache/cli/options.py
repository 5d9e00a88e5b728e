"""Options that several commands share, and what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fmcache.output import Format

if TYPE_CHECKING:
    from fmcache.settings import Settings
    from fmcache.store.cache import Cache


state = {"debug": False}


def _set_debug(value: bool) -> None:
    if value:
        state["debug"] = True


CacheDir = Annotated[
    Path | None,
    typer.Option(
        "--cache", help="The cache directory.", envvar="FMCACHE_CACHE", show_default="./fmcache-cache"
    ),
]
Form = Annotated[
    Format, typer.Option("--format", help="How rows are printed; auto: table on a terminal, else JSON.")
]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", callback=_set_debug, is_eager=True)
]
Models = Annotated[list[str] | None, typer.Option("--model", "-m", help="A model; repeat for several.")]
Datasets = Annotated[list[str] | None, typer.Option("--dataset", "-d", help="A dataset; repeat for several.")]


def settings() -> Settings:
    """What the fmcache.toml files say."""
    from fmcache.settings import load_settings

    return load_settings()


def cache_path(flag: Path | None) -> Path:
    """The cache directory: the flag, else the environment, the settings, the default."""
    from fmcache import settings as module

    return module.cache_path(flag, settings())


def open_store(flag: Path | None, *, create: bool = False) -> Cache:
    """The opened cache."""
    from fmcache.store.cache import open_cache

    return open_cache(cache_path(flag), create=create)
