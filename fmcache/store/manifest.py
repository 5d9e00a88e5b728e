"""What a published directory holds: bytes and sha256 of every file, and where it came from."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from fmcache.store.documents import damaged, read_document, write_document
from fmcache.store.durable import is_real_directory, read_bytes
from fmcache.store.keys import file_digest
from fmcache.store.tables import parse_table

NAME = "manifest.json"
VERIFY_BELOW = (
    2 << 30
)  # bytes; larger segments are read with sizes and CRC-32C, smaller ones with sha256 as well


@dataclass(frozen=True)
class Published:
    """A published directory whose manifest is intact and whose files all have the right size."""

    path: Path
    content: Mapping[str, Any]

    @property
    def files(self) -> Mapping[str, Mapping[str, Any]]:
        files: Mapping[str, Mapping[str, Any]] = self.content["files"]
        return files

    @property
    def size(self) -> int:
        """Bytes of all files but the manifest."""
        return sum(file["bytes"] for file in self.files.values())

    def read(self, name: str) -> bytes:
        """A small file's bytes, checked against the manifest.

        Raises
        ------
        CorruptCache : it is gone or its bytes are not the published ones.
        """
        import hashlib

        try:
            data = read_bytes(self.path / name)
        except FileNotFoundError:
            raise damaged(f"{name} of {self.path}", "It is gone.") from None
        if hashlib.sha256(data).hexdigest() != self.files[name]["sha256"]:
            raise damaged(f"{name} of {self.path}", "Its sha256 is not the one in the manifest.")
        return data

    def check(self, name: str) -> None:
        """Re-hash a file of any size.

        Raises
        ------
        CorruptCache : it is gone or its bytes are not the published ones.
        """
        try:
            intact = file_digest(self.path / name) == self.files[name]["sha256"]
        except OSError as error:
            raise damaged(f"{name} of {self.path}", f"It cannot be read: {error.strerror}.") from None
        if not intact:
            raise damaged(f"{name} of {self.path}", "Its sha256 is not the one in the manifest.")

    def table(self, name: str) -> pl.DataFrame:
        """A Parquet file of the directory, checked against the manifest and its own page checksums."""
        return parse_table(self.read(name), f"{name} of {self.path}")


def describe(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """bytes and sha256 of these files, for a manifest."""
    return {
        name: {"bytes": os.stat(folder / name).st_size, "sha256": file_digest(folder / name)}
        for name in sorted(names)
    }


def write_manifest(folder: Path, kind: str, content: Mapping[str, Any], point: str = "manifest") -> None:
    """`content` must hold ``files`` as `describe` gives it; this is the last file of a directory."""
    write_document(folder / NAME, kind, content, point)


def open_published(folder: Path, kind: str) -> Published:
    """Read the manifest and compare the size of every file.

    Raises
    ------
    CorruptCache : no manifest, a changed manifest, a file that is gone, a link, or of another size.
    """
    try:
        published = Published(folder, read_document(folder / NAME, kind))
    except FileNotFoundError:
        raise damaged(
            str(folder), f"It has no {NAME}, so it was not written by a finished publish."
        ) from None
    for parent in {(folder / name).parent for name in published.files}:
        is_real_directory(parent)
    for name, file in published.files.items():
        try:
            info = os.lstat(folder / name)
        except (FileNotFoundError, NotADirectoryError):
            raise damaged(f"{name} of {folder}", "It is gone.") from None
        if not stat.S_ISREG(info.st_mode):
            raise damaged(f"{name} of {folder}", "It is not a regular file.")
        if info.st_size != file["bytes"]:
            found = f"It has {info.st_size:,} bytes; {file['bytes']:,} were published."
            raise damaged(f"{name} of {folder}", found)
    return published
