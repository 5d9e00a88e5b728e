"""Where things are: fmcache.toml, read from the project directory and then from the user's configuration directory.

    cache = "fmcache-cache"            # relative to this file

    [datasets.mimic]
    root = "/data/mimic-cxr-jpg"       # the dataset as its owner ships it
    card = "cards/mimic.toml"          # only for a card of your own

    [models.dinov2]
    checkpoint = "/data/weights/dinov2_vitb14_pretrain.pth"

The project file is the nearest ``fmcache.toml`` in the working directory or above it. A key set there wins over the
same key of the user's file.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fmcache.errors import UsageError

FILE_NAME = "fmcache.toml"
DEFAULT_CACHE = "fmcache-cache"
_TOP = {"cache": str, "datasets": dict, "models": dict}
_SECTION = {"datasets": ("root", "card"), "models": ("checkpoint", "pool")}
_PATHS = ("root", "card", "checkpoint")


@dataclass(frozen=True)
class Settings:
    """What the configuration files say; paths are absolute.

    Attributes
    ----------
    cache : the cache directory if a file names one.
    datasets : per dataset name, ``root`` and ``card`` (absolute paths as text).
    models : per model name, ``checkpoint`` (absolute path as text) and ``pool``.
    files : the files that were read, nearest first.
    """

    cache: Path | None = None
    datasets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    def card_folders(self) -> list[Path]:
        """Folders in which ``NAME.toml`` is a dataset card: ``datasets/`` beside each configuration file."""
        return [file.parent / "datasets" for file in self.files]


def load_settings(start: Path | None = None) -> Settings:
    """Read the project's and the user's fmcache.toml.

    Raises
    ------
    UsageError : a file is not TOML, or has a key that means nothing (with the nearest one that does).
    """
    files = [file for file in (_project_file(start or Path.cwd()), _user_file()) if file is not None]
    merged: dict[str, Any] = {"datasets": {}, "models": {}}
    for file in reversed(files):
        content = _read(file)
        if "cache" in content:
            merged["cache"] = Path(_absolute(content["cache"], file))
        for section in ("datasets", "models"):
            for name, values in content.get(section, {}).items():
                merged[section][name] = {**merged[section].get(name, {}), **values}
    return Settings(files=tuple(files), **merged)


def cache_path(flag: Path | None, settings: Settings) -> Path:
    """The cache directory: the flag, else $FMCACHE_CACHE, else fmcache.toml, else ./fmcache-cache."""
    if flag is not None:
        return flag
    if environment := os.environ.get("FMCACHE_CACHE"):
        return Path(environment)
    return settings.cache or Path(DEFAULT_CACHE)


def _project_file(start: Path) -> Path | None:
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / FILE_NAME).is_file():
            return folder / FILE_NAME
    return None


def _user_file() -> Path | None:
    from platformdirs import user_config_path

    file = user_config_path("fmcache") / FILE_NAME
    return file if file.is_file() else None


def _read(file: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{file} is not valid TOML.", str(error), "Mend that line; nothing was run."
        ) from None
    for key, value in content.items():
        if key not in _TOP:
            raise _unknown(key, _TOP, file, "")
        if not isinstance(value, _TOP[key]):
            raise UsageError(
                f"`{key}` in {file} has the wrong type.", f"It is {value!r}.", "See docs/cli.md."
            )
    for section, allowed in _SECTION.items():
        for name, values in content.get(section, {}).items():
            if not isinstance(values, dict):
                what = f"`{section}.{name}` in {file} is not a table."
                raise UsageError(
                    what, f"It is {values!r}.", f"Write [{section}.{name}] and its keys below it."
                )
            for key, value in values.items():
                if key not in allowed:
                    raise _unknown(key, allowed, file, f"[{section}.{name}] ")
                if not isinstance(value, str):
                    what = f"[{section}.{name}] {key} in {file} is not text."
                    raise UsageError(what, f"It is {value!r}.", "Put it in quotes.")
                if key in _PATHS:
                    values[key] = _absolute(value, file)
    return content


def _absolute(value: str, file: Path) -> str:
    return str((file.parent / Path(value).expanduser()).absolute())


def _unknown(key: str, known: Any, file: Path, where: str) -> UsageError:
    near = get_close_matches(key, list(known), n=1)
    return UsageError(
        f"{where}`{key}` in {file} means nothing here.",
        f"Known keys: {', '.join(known)}.",
        f"Did you mean `{near[0]}`?" if near else "Remove it; see docs/cli.md.",
    )
