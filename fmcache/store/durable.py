"""Bytes that survive: fsync before rename, fsync of the directory after it, no symbolic link followed.

Every write of the store goes through this module, so that the faults a disk can show are met in one place and the
tests can provoke each of them by name (`fault_point`).
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fmcache.errors import CorruptCache, DiskFull, StorageError

PARTIAL = ".partial"
HOUR = 3600.0
FAULT_VARIABLE = "FMCACHE_FAULT"
_passes: dict[str, int] = {}


def fault_point(name: str) -> None:
    """A named place at which a test can stop the world.

    ``$FMCACHE_FAULT`` is ``kill@NAME``, ``enospc@NAME``, ``eio@NAME`` (each with an optional ``#k`` for the k-th pass)
    or ``trace@FILE``, which appends the name to FILE. Unset, as it is for users, this costs one dictionary lookup.
    """
    plan = os.environ.get(FAULT_VARIABLE)
    if not plan:
        return
    action, _, target = plan.partition("@")
    if action == "trace":
        with open(target, "a", encoding="utf-8") as file:
            file.write(name + "\n")
        return
    target, _, count = target.partition("#")
    if target != name:
        return
    _passes[name] = _passes.get(name, 0) + 1
    if _passes[name] != int(count or 1):
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action in ("enospc", "eio"):
        raise OSError(errno.ENOSPC if action == "enospc" else errno.EIO, "injected", name)


@contextmanager
def storage_errors(doing: str, where: Path) -> Iterator[None]:
    """Turn the operating system's refusals into DiskFull and StorageError, with what is left on the device."""
    try:
        yield
    except OSError as error:
        if error.errno in DiskFull.numbers:
            raise DiskFull(
                f"No space left while {doing}.",
                f"{free_text(where)}; everything that was finished is kept.",
                "Free some space and run the same command again: it goes on where it stopped.",
            ) from error
        if error.errno is None:
            raise
        raise StorageError(
            f"The file system refused while {doing}: {os.strerror(error.errno)}.",
            "Nothing that was published is changed; finished blocks are kept.",
            "Look at the disk and its mount (dmesg, df, mount), then run the same command again.",
        ) from error


def free_bytes(where: Path) -> int:
    """Bytes that this user may still write on the device of `where` (or of its nearest existing parent)."""
    while not where.exists() and where != where.parent:
        where = where.parent
    info = os.statvfs(where)
    return info.f_bavail * info.f_frsize


def free_text(where: Path) -> str:
    """ "1.2 GB free on the device", for messages."""
    try:
        return f"{free_bytes(where) / 1e9:,.3g} GB free on the device of the cache"
    except OSError:
        return "the device does not say how much is free"


def fsync_path(path: Path) -> None:
    """fsync a directory, or a file that is closed already."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path, *, inside: Path) -> None:
    """Create `path` and its missing parents below `inside` with mode 0700, each durably; refuse symbolic links."""
    missing = []
    step = path
    while step != inside:
        if not is_real_directory(step):
            missing.append(step)
        step = step.parent
    for step in reversed(missing):
        try:
            os.mkdir(step, 0o700)
        except FileExistsError:
            if not is_real_directory(step):
                raise not_a_directory(step) from None
    for step in (
        missing
    ):  # the deepest first: its commit takes the others with it where a file system has one journal
        fsync_path(step.parent)


def is_real_directory(path: Path) -> bool:
    """True for a directory, False for nothing; a symbolic link or another kind of file is refused.

    Raises
    ------
    CorruptCache : the path exists and is not a directory of the cache's own.
    """
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    if not stat.S_ISDIR(mode):
        raise not_a_directory(path)
    return True


def not_a_directory(path: Path) -> CorruptCache:
    kind = "a symbolic link" if path.is_symlink() else "not a directory"
    return CorruptCache(
        f"{path.name} in {path.parent} is {kind}.",
        "The cache holds only directories and regular files of its own; nothing was read or written through it.",
        f"Find out who put it there, remove it, then type: fmcache cache verify --cache {path.anchor}…",
    )


def open_regular(path: Path) -> int:
    """A read-only descriptor of a regular file; never follows a link in the last step, never blocks on a FIFO."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def read_bytes(path: Path) -> bytes:
    """All bytes of a regular file.

    Raises
    ------
    FileNotFoundError : it is not there. CorruptCache : a link, a FIFO or a directory stands in its place.
    """
    try:
        with open(open_regular(path), "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EINVAL, errno.EISDIR, errno.ENXIO):
            raise CorruptCache(
                f"{path.name} in {path.parent} is not a regular file.",
                "A published file was replaced by something else.",
                "Type: fmcache cache verify",
            ) from None
        raise


def put(path: Path, data: bytes, point: str) -> None:
    """Write a small file so that it is there completely or not at all, and survives a power cut once this returns."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{PARTIAL}")
    try:
        write_durably(temporary, [data], point)
        fault_point(f"{point}:before_rename")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fault_point(f"{point}:after_rename")
    fsync_path(path.parent)
    fault_point(f"{point}:after_fsync")


def write_durably(path: Path, parts: Sequence[bytes | memoryview], point: str) -> None:
    """Create `path` (it must not exist, mode 0600) with these bytes and fsync it; the directory is not fsynced."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        for part in parts:
            view = memoryview(part).cast("B")
            while view.nbytes:
                view = view[os.write(descriptor, view) :]
        fault_point(f"{point}:before_fsync")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Delete a directory of ours and all below it; links are removed, never followed.

    Another process may be deleting it at the same time.
    """
    if path.is_symlink():
        path.unlink(missing_ok=True)
    while path.exists():
        with suppress(FileNotFoundError):
            shutil.rmtree(path)


def discard(path: Path) -> None:
    """`remove_tree` behind one rename, so that another process that still works in there finds all of it or nothing:
    it can never publish what is half deleted."""
    aside = path.with_name(f"deleted-{uuid.uuid4().hex[:16]}")
    with suppress(FileNotFoundError):
        path.rename(aside)
        remove_tree(aside)


def sweep_partials(folder: Path, *, older_than: float = 0.0) -> None:
    """Remove what a killed `put` left in one directory.

    Parameters
    ----------
    older_than : seconds. Where other processes may be writing at this moment, only what no live `put` can own: an hour.
    """
    for file in folder.glob(f".*{PARTIAL}"):
        with suppress(FileNotFoundError):
            if not older_than or time.time() - file.lstat().st_mtime > older_than:
                file.unlink()
