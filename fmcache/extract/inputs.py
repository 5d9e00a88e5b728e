"""Reads the bytes of one input, and nothing that is not a plain file inside the dataset's root.

An input is a file (``train/a.png``), one array of a container (``data_00001.npz#slo_fundus``; ``dataset.hdf5#image/17``
is entry 17 of the array `image`), or a folder that holds the DICOM files of one series (``COVID-19 Cases/P001/``).
What comes back is always bytes, so that one digest names the input and nothing else has to know: an array as an NPY
file, a folder as its files one after the other (``pack_series``).
"""

from __future__ import annotations

import errno
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

from fmcache.extract.reader import MAX_VOXELS, Undecodable

MAX_BYTES = 4 << 30
MAX_FILES = 10_000  # of one series
SERIES = b"FMSERIES"
_CONTAINER = re.compile(r"(.+\.(npz|h5|hdf5))#([^#]+)", re.IGNORECASE)


def read_input(root: Path, path: str, limit: int = MAX_BYTES) -> bytes:
    """The bytes of the input at ``root / path``.

    Symbolic links are followed as long as they end inside the root. A pipe, a device, an empty file or more than
    `limit` bytes are refused without waiting for them.

    Raises
    ------
    Undecodable : with a reason that names neither the path nor an id.
    """
    if problem := path_problem(path):
        raise Undecodable(f"The path {problem}.")
    if path.endswith("/"):
        return _read_series(root, path, limit)
    if found := _CONTAINER.fullmatch(path):
        file, kind, member = found.groups()
        return (
            _npz_member(root, file, member, limit)
            if kind.lower() == "npz"
            else _hdf5_entry(root, file, member)
        )
    return _read_file(root, path, limit)


def path_problem(path: str) -> str:
    """What is wrong with a path as it is written ("" if nothing is); the disk is not looked at.

    Examples
    --------
    >>> path_problem("train/a.png")
    ''
    >>> path_problem("../a.png")
    'leaves the root'
    """
    if not path:
        return "is empty"
    if "\0" in path:
        return "holds a NUL character"
    if path.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", path):
        return "is absolute"
    if ".." in re.split(r"[/\\]", path):
        return "leaves the root"
    return ""


def input_file(path: str) -> str:
    """The file or folder in which an input lies: the path without the array's name.

    Examples
    --------
    >>> input_file("dataset.hdf5#image/17"), input_file("a#b.png")
    ('dataset.hdf5', 'a#b.png')
    """
    found = _CONTAINER.fullmatch(path)
    return found[1] if found else path.rstrip("/")


# ------------------------------------------------------------------------------------------------------------- files


def _resolved(root: Path, path: str) -> Path:
    try:
        base = root.resolve(strict=True)
        real = (base / path).resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise Undecodable(_why(error)) from None
    if not real.is_relative_to(base):
        raise Undecodable("A symbolic link leads out of the dataset's root.")
    return real


def _open(real: Path) -> tuple[int, int]:
    """(handle, size) of a plain file that is not empty."""
    try:
        # O_NONBLOCK: opening a pipe must not wait for its writer; O_NOFOLLOW: no link may be planted in between
        handle = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Undecodable(_why(error)) from None
    status = os.fstat(handle)
    reason = ""
    if not stat.S_ISREG(status.st_mode):
        reason = f"It is {_kind(status.st_mode)}, not a file."
    elif status.st_size == 0:
        reason = "The file is empty."
    if reason:
        os.close(handle)
        raise Undecodable(reason)
    return handle, status.st_size


def _read_file(root: Path, path: str, limit: int) -> bytes:
    handle, size = _open(_resolved(root, path))
    with os.fdopen(handle, "rb") as file:
        if size > limit:
            raise Undecodable(f"The file has {size:,} bytes; the limit is {limit:,}.")
        try:
            data = file.read(limit + 1)
        except OSError as error:
            raise Undecodable(_why(error)) from None
        except MemoryError:
            raise Undecodable("The file does not fit into memory.") from None
    if len(data) != size:
        raise Undecodable("The file changed while it was read.")
    return data


def _why(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number in (errno.ENOENT, errno.ENOTDIR):
        return "There is no such file."
    if number == errno.ELOOP or isinstance(error, RuntimeError):
        return "Symbolic links lead in a circle."
    if number is None:
        return "The file cannot be read."
    return f"The file cannot be read: {os.strerror(number)}."


def _kind(mode: int) -> str:
    for test, name in ((stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket")):
        if test(mode):
            return name
    return "a device"


# ------------------------------------------------------------------------------------------------------------ series


def _read_series(root: Path, path: str, limit: int) -> bytes:
    folder = _resolved(root, path)
    if not folder.is_dir():
        raise Undecodable("It is a file, where a folder of DICOM files is expected.")
    names = _files(folder)
    if not names:
        inner = [one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith(".")]
        if len(inner) == 1:  # unpacking an archive of one folder often nests it
            path, folder = f"{path}{inner[0]}/", folder / inner[0]
            names = _files(folder)
    if not names:
        raise Undecodable("The folder holds no files.")
    if len(names) > MAX_FILES:
        raise Undecodable(f"The folder holds {len(names):,} files; the limit is {MAX_FILES:,}.")
    parts, left = [], limit
    for name in names:
        parts.append(_read_file(root, path + name, max(left, 1)))
        left -= len(parts[-1])
    return pack_series(parts)


def _files(folder: Path) -> list[str]:
    skipped = ("DICOMDIR", "VERSION", "LICENSE")
    names = (one.name for one in folder.iterdir() if not one.is_dir() and not one.name.startswith("."))
    return sorted((name for name in names if name not in skipped), key=_by_numbers)


def _by_numbers(name: str) -> list[tuple[int, str]]:
    """image_2 before image_10: digits count as one number."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def pack_series(files: Sequence[bytes]) -> bytes:
    """The files of a series as one byte string: a mark, how many there are, and each with its length before it."""
    head = SERIES + len(files).to_bytes(8, "little")
    return head + b"".join(len(file).to_bytes(8, "little") + file for file in files)


def unpack_series(data: bytes) -> Iterator[memoryview]:
    """The files that `pack_series` put together."""
    view, at = memoryview(data), len(SERIES) + 8
    for _ in range(int.from_bytes(data[len(SERIES) : at], "little")):
        size = int.from_bytes(data[at : at + 8], "little")
        yield view[at + 8 : at + 8 + size]
        at += 8 + size


# -------------------------------------------------------------------------------------------------------- containers


def _npz_member(root: Path, path: str, name: str, limit: int) -> bytes:
    handle, _ = _open(_resolved(root, path))
    with os.fdopen(handle, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                if f"{name}.npy" not in archive.namelist():
                    raise Undecodable("The file has no array of the name that is asked for.")
                if archive.getinfo(f"{name}.npy").file_size > limit:
                    raise Undecodable("The array is larger than the limit.")
                return archive.read(f"{name}.npy")
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError, zlib.error) as error:
            raise Undecodable(f"The NPZ file is damaged ({type(error).__name__}).") from None


def _hdf5_entry(root: Path, path: str, member: str) -> bytes:
    """One entry along the first axis of an array, as an NPY file; only that part of the file is read."""
    import h5py

    name, _, number = member.rpartition("/")
    if not name or not number.isdecimal():
        raise Undecodable("An array of an HDF5 file is named FILE.hdf5#ARRAY/NUMBER.")
    real = _resolved(root, path)
    os.close(_open(real)[0])
    try:
        with h5py.File(real, "r") as file:
            array = file.get(name)
            if not isinstance(array, h5py.Dataset) or array.ndim < 2:
                raise Undecodable("The file has no array of the name that is asked for.")
            if int(number) >= array.shape[0]:
                raise Undecodable(
                    f"The array has {array.shape[0]:,} entries; there is no entry {int(number):,}."
                )
            if int(np.prod(array.shape[1:], dtype=object)) > MAX_VOXELS or array.dtype.kind not in "biuf":
                raise Undecodable("The array's entries are no images.")
            out = BytesIO()
            np.save(out, array[int(number)], allow_pickle=False)
            return out.getvalue()
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise Undecodable(f"The HDF5 file is damaged ({type(error).__name__}).") from None
