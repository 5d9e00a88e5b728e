"""JSON files that notice when they were changed.

A document says what it is (``encoding-type``, ``encoding-version``) and carries the sha256 of its own content. It is
written in one canonical form, so that any changed byte is either a different content (the sum is wrong) or a different
spelling of the same content (the bytes are not what rendering gives).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fmcache.errors import CorruptCache
from fmcache.store.durable import put, read_bytes
from fmcache.store.keys import digest

FORMAT_VERSION = 1
_HEAD = ("encoding-type", "encoding-version", "sha256")


def render(kind: str, content: Mapping[str, Any]) -> bytes:
    """The bytes of a document of this kind; `content` must not use the three reserved names."""
    if reserved := [name for name in _HEAD if name in content]:
        raise ValueError(f"reserved in a document: {reserved}")
    body = {"encoding-type": f"fmcache.{kind}", "encoding-version": FORMAT_VERSION, **content}
    body["sha256"] = digest(body)
    return (json.dumps(body, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_document(path: Path, kind: str, content: Mapping[str, Any], point: str) -> None:
    """Render and `put`."""
    put(path, render(kind, content), point)


def parse(data: bytes, kind: str, name: str) -> dict[str, Any]:
    """The content of a document's bytes.

    Raises
    ------
    CorruptCache : a changed byte, another kind of document, or a newer format version.
    """
    try:
        body = json.loads(data.decode("utf-8"))
        if not isinstance(body, dict):
            raise ValueError("not an object")
        claimed = body.pop("sha256")
        intact = claimed == digest(body)
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(name, f"It cannot be read ({type(error).__name__}).") from None
    if not intact:
        raise damaged(name, "Its content does not match its own sha256.")
    version, found = body.get("encoding-version"), body.get("encoding-type")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise CorruptCache(
            f"{name} was written by a newer fmcache.",
            f"It has format version {version}; this fmcache reads up to {FORMAT_VERSION}.",
            "Type: python -m pip install --upgrade fmcache",
        )
    if found != f"fmcache.{kind}":
        raise damaged(name, f"It says that it is {found!r}, where fmcache.{kind} belongs.")
    content = {key: value for key, value in body.items() if key not in _HEAD}
    if data != render(kind, content):
        raise damaged(name, "Its bytes were changed without changing its meaning.")
    return content


def read_document(path: Path, kind: str) -> dict[str, Any]:
    """Read and `parse`; FileNotFoundError if it is not there."""
    return parse(read_bytes(path), kind, path.name)


def damaged(name: str, found: str, do: str = "Type: fmcache cache verify") -> CorruptCache:
    """A file whose bytes are not the published ones."""
    return CorruptCache(f"{name} is damaged.", found, do)
