"""Real full disks, file size limits and I/O errors from the system; power cuts on a real ext4."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fault.harness import BLOCKS, journaled, points, run, run_alone, run_state, state

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(
    not ROOT, reason="only root can mount a file system: full disks are not tried"
)
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def sh(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def can_mount() -> str:
    """Why mounting is not possible here; empty if it is."""
    if not ROOT:
        return "only root can mount a file system"
    done = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False
    )
    return "" if done.returncode == 0 else "this machine does not let root mount"


@contextmanager
def tmpfs(where: Path, options: str) -> Iterator[Path]:
    where.mkdir(exist_ok=True)
    sh("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(where))
    try:
        yield where
    finally:
        sh("umount", "-l", str(where))


@needs_root
@pytest.mark.skipif(bool(can_mount()), reason=can_mount() or "-")
def test_a_full_disk_keeps_finished_blocks_and_the_run_goes_on_when_there_is_room(tmp_path: Path) -> None:
    full = 0
    for kilobytes in range(24, 220, 16):
        with tmpfs(tmp_path / "small", f"size={kilobytes}k") as disk:
            done = run_alone(disk / "cache") if kilobytes == 24 else run(disk / "cache")
            first = state(disk / "cache") if (disk / "cache" / "fmcache.json").exists() else "absent"
            assert first in ("absent", "complete")
            assert done.code in (0, 4), done.err
            if done.code == 4:
                full += 1
                assert done.err.startswith("DiskFull")
                assert "GB free" in done.err
                assert not list(disk.rglob("*.partial"))
            sh("mount", "-o", "remount,size=8m", str(disk))
            finished = journaled(disk / "cache")
            again = run(disk / "cache")
            assert again.code == 0, again.err
            if first == "absent":
                assert again.counts[:2] == (BLOCKS - finished, finished)
            assert (state(disk / "cache"), run_state(disk / "cache")) == ("complete", "complete")
    assert full > 3


@needs_root
@pytest.mark.skipif(bool(can_mount()), reason=can_mount() or "-")
def test_no_inodes_and_a_read_only_disk(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "few", "size=8m,nr_inodes=16") as disk:
        done = run(disk / "cache")
        assert (done.code, state(disk / "cache")) == (4, "absent")
        assert done.err.startswith("DiskFull")
    with tmpfs(tmp_path / "fixed", "size=8m") as disk:
        assert run(disk / "cache", fault="kill@block:done#2").code == -9
        sh("mount", "-o", "remount,ro", str(disk))
        done = run(disk / "cache")
        assert done.code == 4, done
        assert "Read-only" in done.err
        assert state(disk / "cache") == "absent"


@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_a_file_size_limit_is_a_full_disk(tmp_path: Path, blocks: int) -> None:
    cache = tmp_path / "cache"
    done = run_alone(cache, before=("bash", "-c", f'ulimit -f {blocks}; exec "$0" "$@"'))
    assert done.code == 4, done
    assert done.err.startswith("DiskFull")
    assert state(cache) == "absent"
    assert run(cache).code == 0
    assert state(cache) == "complete"


@needs_strace
@pytest.mark.parametrize("call", [1, 4, 9, 20])
def test_an_io_error_of_fsync_is_never_taken_for_success(tmp_path: Path, call: int) -> None:
    cache = tmp_path / "cache"
    strace = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync")
    done = run_alone(cache, before=(*strace, "-e", f"inject=fsync:error=EIO:when={call}"))
    assert done.code == 4, done
    assert done.err.startswith("StorageError")
    assert state(cache) == "absent"
    assert run(cache).code == 0
    assert (state(cache), run_state(cache)) == ("complete", "complete")


# ------------------------------------------------------------------------------------------------------- power cuts

EXT4_SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2


class Disk:
    """A loop-mounted ext4 whose power can be cut: what was not fsynced is lost."""

    def __init__(self, folder: Path) -> None:
        self.image, self.mount = folder / "disk.img", folder / "disk"
        self.mount.mkdir(exist_ok=True)

    def fresh(self) -> None:
        self.image.unlink(missing_ok=True)
        sh("truncate", "-s", "96M", str(self.image))
        sh("mkfs.ext4", "-q", "-F", str(self.image))
        sh("mount", "-o", "loop", str(self.image), str(self.mount))

    def cut_power(self) -> None:
        handle = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, EXT4_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(handle)
        sh("umount", str(self.mount))
        sh("mount", "-o", "loop", str(self.image), str(self.mount))

    def away(self) -> None:
        subprocess.run(["umount", "-l", str(self.mount)], check=False, capture_output=True)


def can_cut_power(folder: Path = Path("/tmp")) -> str:
    if why := can_mount():
        return why
    if shutil.which("mkfs.ext4") is None:
        return "mkfs.ext4 is not installed"
    import tempfile

    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        disk = Disk(Path(scratch))
        try:
            disk.fresh()
            disk.cut_power()
        except (OSError, subprocess.CalledProcessError) as error:
            return f"a loop-mounted ext4 cannot be shut down here ({error})"
        finally:
            disk.away()
    return ""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if why := can_cut_power():
        pytest.skip(f"power cuts are NOT tested: {why}")
    made = Disk(tmp_path)
    yield made
    made.away()


def sync_something_else(disk: Disk) -> None:
    """The nasty case: another program's fsync writes the journal, and with it our renames, but not our data."""
    handle = os.open(disk.mount / "other", os.O_CREAT | os.O_WRONLY)
    os.write(handle, b"x")
    os.fsync(handle)
    os.close(handle)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "begin", "step"),
    [
        pytest.param(False, 0, 4, id="plain"),
        pytest.param(True, 2, 4, id="after another program's fsync"),
        pytest.param(False, 0, 1, id="plain, all", marks=pytest.mark.heavy),
        pytest.param(True, 0, 1, id="after another program's fsync, all", marks=pytest.mark.heavy),
    ],
)
def test_a_power_cut(tmp_path: Path, disk: Disk, other: bool, begin: int, step: int) -> None:
    """At every fourth named point (at all of them with make test-heavy), and after an acknowledged write."""
    for point in ["", *points(tmp_path)[begin::step]]:
        disk.fresh()
        os.sync()
        cache = disk.mount / "cache"
        run(cache, fault=f"kill@{point}" if point else "")
        if other:
            sync_something_else(disk)
        disk.cut_power()
        first = state(cache) if (cache / "fmcache.json").exists() else "absent"
        assert first in ("absent", "complete"), point
        if not point:
            assert (first, run_state(cache)) == ("complete", "complete"), "an acknowledged write was lost"
        again = run(cache)
        assert again.code == 0, (point, again.err)
        assert (state(cache), run_state(cache)) == ("complete", "complete"), point
        disk.away()


@pytest.mark.parametrize("other", [False, True])
def test_a_power_cut_keeps_the_finished_blocks(disk: Disk, other: bool) -> None:
    """The array's directory is fsynced after the record: both are there, and nothing is computed twice."""
    for block in (1, 3):
        disk.fresh()
        os.sync()
        cache = disk.mount / "cache"
        run(cache, fault=f"kill@block:done#{block}")
        if other:
            sync_something_else(disk)
        disk.cut_power()
        assert (state(cache), journaled(cache)) == ("absent", block)
        again = run(cache)
        assert again.counts == (BLOCKS - block, block, 1), again.err
        assert state(cache) == "complete"
        disk.away()


def test_the_power_cut_bites(disk: Disk) -> None:
    """The negative control: the same cut destroys an array that is renamed into place without fsync."""
    import numpy as np

    disk.fresh()
    os.sync()
    work, final = disk.mount / "work", disk.mount / "final"
    work.mkdir()
    np.save(work / "x.npy", np.arange(1 << 18))
    work.rename(final)
    sync_something_else(disk)
    disk.cut_power()
    survived = (final / "x.npy").exists() and (final / "x.npy").stat().st_size > 1 << 20
    assert not survived
