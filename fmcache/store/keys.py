"""Digests and the names on disk. No user text ever becomes part of a path without passing `path_name`."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fmcache.errors import UsageError
from fmcache.store.durable import open_regular

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


def canonical_json(document: Any) -> bytes:
    """One byte string per value: sorted keys, no spaces, UTF-8, integers and finite floats only as JSON has them.

    Raises
    ------
    TypeError : a value that JSON cannot hold, or a key that is not text. ValueError : NaN or infinity.
    """
    _refuse(document)
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode("utf-8")


def _refuse(value: Any) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is not text")
            _refuse(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _refuse(item)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} has no canonical form")
    elif value is not None and not isinstance(value, (str, int)):
        raise TypeError(f"{type(value).__name__} has no canonical form")


def digest(document: Any) -> str:
    """sha256 of the canonical JSON, 64 hex digits."""
    return hashlib.sha256(canonical_json(document)).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a regular file's bytes, 64 hex digits; links are not followed."""
    with open(open_regular(path), "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def path_name(name: str) -> str:
    """The directory of a model or dataset name: ``timm/vit_x`` → ``timm--vit_x``, ``a@b`` → ``a-at-b``.

    Raises
    ------
    UsageError : a name with other characters than letters, digits and ``. _ - / @ :``, or longer than 120.
    """
    text = name.replace("/", "--").replace("@", "-at-").replace(":", "-at-")
    if not _NAME.fullmatch(text) or ".." in text:
        raise UsageError(
            "A name cannot be used in the cache.",
            f"It is {name[:60]!r}; allowed are letters, digits and . _ - / @ : (at most 120).",
            "Rename the model or the dataset (a CSV file's name is its dataset's name).",
        )
    return text
