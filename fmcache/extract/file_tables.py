"""Tables that are made of files: their names, their text, or what is in their headers; every cell is text."""

from __future__ import annotations

import glob
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fmcache.extract.inputs import read_input
from fmcache.extract.reader import Undecodable

_TEXT_LIMIT = 1 << 20
_WORKERS = 8


def files_table(root: Path, patterns: Iterable[str]) -> pl.DataFrame:
    """One row a file (or folder) that a pattern matches: ``file``, relative to the root, with forward slashes."""
    return pl.DataFrame({"file": _matches(root, patterns)}, schema={"file": pl.String})


def text_table(root: Path, patterns: Iterable[str]) -> pl.DataFrame:
    """``file`` and ``text``, decoded as UTF-8, else as Latin-1; null where it cannot be read."""
    names = _matches(root, patterns)

    def text(name: str) -> str | None:
        try:
            data = read_input(root, name, _TEXT_LIMIT)
        except Undecodable:
            return None
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError:
            return data.decode("latin-1")

    return pl.DataFrame(
        {"file": names, "text": [text(name) for name in names]}, schema={"file": pl.String, "text": pl.String}
    )


def npz_table(root: Path, patterns: Iterable[str]) -> pl.DataFrame:
    """``file``, ``arrays`` (the names of the file's arrays that are not scalars, comma-separated), and each scalar.

    A file that cannot be read keeps its row, with nulls.
    """
    names = _matches(root, patterns)

    def row(name: str) -> dict[str, str | None]:
        out: dict[str, str | None] = {"file": name, "arrays": None}
        arrays = []
        try:
            with zipfile.ZipFile(_plain(root, name)) as archive:
                for member in archive.infolist():
                    key = member.filename.removesuffix(".npy")
                    value = _scalar(archive, member)
                    if value is None:
                        arrays.append(key)
                    else:
                        out[key] = value
        except (Undecodable, OSError, zipfile.BadZipFile, ValueError, EOFError):
            return {"file": name, "arrays": None}
        return out | {"arrays": ",".join(sorted(arrays))}

    with ThreadPoolExecutor(_WORKERS) as pool:
        rows = list(pool.map(row, names))
    columns = list(dict.fromkeys(key for one in rows for key in one)) or ["file", "arrays"]
    return pl.DataFrame(
        {key: [one.get(key) for one in rows] for key in columns}, schema=dict.fromkeys(columns, pl.String)
    )


def hdf5_table(root: Path, files: Sequence[Path], fields: Sequence[str]) -> pl.DataFrame:
    """One row an entry: ``file``, ``i`` (its number), and the one-dimensional arrays `fields`."""
    import h5py

    parts = []
    for path in files:
        name = path.relative_to(root).as_posix()
        try:
            with h5py.File(path, "r") as file:
                columns = {
                    field: [_word(value) for value in file[field][:]] for field in fields if field in file
                }
        except (OSError, RuntimeError, ValueError):
            continue
        count = min((len(column) for column in columns.values()), default=0)
        table: dict[str, list[str | None]] = {"file": [name] * count, "i": [str(i) for i in range(count)]}
        table |= {field: column[:count] for field, column in columns.items()}
        parts.append(pl.DataFrame(table, schema=dict.fromkeys(table, pl.String)))
    return pl.concat(parts, how="diagonal") if parts else pl.DataFrame()


def dicom_table(root: Path, patterns: Iterable[str], fields: Sequence[str]) -> pl.DataFrame:
    """``file`` and the header fields by their DICOM keywords (``PatientSex``); null where a file lacks them."""
    import pydicom

    names = _matches(root, patterns)

    def row(name: str) -> list[str | None]:
        try:
            with warnings.catch_warnings(), _plain(root, name).open("rb") as file:
                warnings.simplefilter("ignore")
                header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(fields))
                return [
                    str(header.get(field)).strip() or None if field in header else None for field in fields
                ]
        except (Undecodable, OSError, pydicom.errors.InvalidDicomError, ValueError, EOFError, AttributeError):
            return [None] * len(fields)

    found = [row(name) for name in names]
    columns = {field: [one[k] for one in found] for k, field in enumerate(fields)}
    return pl.DataFrame({"file": names, **columns}, schema=dict.fromkeys(("file", *fields), pl.String))


def _matches(root: Path, patterns: Iterable[str]) -> list[str]:
    found: dict[str, None] = {}
    for pattern in patterns:
        for name in glob.iglob(pattern, root_dir=root, recursive=True):
            found[Path(name).as_posix()] = None
    return sorted(found)


def _plain(root: Path, name: str) -> Path:
    real = (root / name).resolve()
    if not real.is_relative_to(root.resolve()) or not real.is_file():
        raise Undecodable("It is no file in the root.")
    return real


def _scalar(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> str | None:
    """The single value of a small array as text; None for anything larger. Objects are never unpickled."""
    if not member.filename.endswith(".npy") or member.file_size > 4096:
        return None
    try:
        array: Any = np.lib.format.read_array(BytesIO(archive.read(member)), allow_pickle=False)
    except ValueError:
        return None
    return _word(array.reshape(-1)[0]) if array.size == 1 else None


def _word(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace") or None
    if isinstance(value, np.floating):
        return (
            None
            if np.isnan(value)
            else (str(int(value)) if float(value).is_integer() else repr(float(value)))
        )
    return str(value) or None
