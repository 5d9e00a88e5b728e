"""Reads the bytes of one input file, and nothing that is not a plain file inside the dataset's root."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path

from fmcache.extract.reader import Undecodable

MAX_BYTES = 4 << 30


def read_input(root: Path, path: str, limit: int = MAX_BYTES) -> bytes:
    """The bytes of ``root / path``.

    Symbolic links are followed as long as they end inside the root. A pipe, a device, a directory, an empty file or
    one of more than `limit` bytes is refused without waiting for it.

    Raises
    ------
    Undecodable : with a reason that names neither the path nor an id.
    """
    if problem := path_problem(path):
        raise Undecodable(f"The path {problem}.")
    try:
        base = root.resolve(strict=True)
        real = (base / path).resolve(strict=True)
        if not real.is_relative_to(base):
            raise Undecodable("A symbolic link leads out of the dataset's root.")
        # O_NONBLOCK: opening a pipe must not wait for its writer; O_NOFOLLOW: no link may be planted in between
        handle = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, RuntimeError) as error:
        raise Undecodable(_why(error)) from None
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise Undecodable(f"It is {_kind(status.st_mode)}, not a file.")
    with os.fdopen(handle, "rb") as file:
        try:
            if status.st_size == 0:
                raise Undecodable("The file is empty.")
            if status.st_size > limit:
                raise Undecodable(f"The file has {status.st_size:,} bytes; the limit is {limit:,}.")
            data = file.read(limit + 1)
        except OSError as error:
            raise Undecodable(_why(error)) from None
        except MemoryError:
            raise Undecodable("The file does not fit into memory.") from None
    if len(data) != status.st_size:
        raise Undecodable("The file changed while it was read.")
    return data


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
