"""The errors a user can meet, and the exit code of each.

    FmcacheError                 1   anything below, or another expected failure
    ├── UsageError               2   the call is wrong: a name, a flag, a column
    │   ├── DatasetError         2   a dataset table or card cannot be used as it stands
    │   └── ModelError           2   a model name, card or checkpoint cannot be used as it stands
    ├── RejectedInputs           3   the run finished; some inputs were quarantined
    ├── StorageError             4   the disk or file system refused
    │   └── DiskFull             4   no space (or no inodes) left
    ├── CorruptCache             5   bytes on disk are not the bytes that were published
    ├── MissingEntry             6   the cache does not hold what was asked for
    │   └── AmbiguousEntry       6   it holds several; one has to be named
    ├── MissingExtra             7   an optional part of the installation is needed
    ├── Busy                    75   another process is writing this very thing
    └── Interrupted        130/143   SIGINT / SIGTERM; progress is saved

Every message has three lines: what happened, with the values; what is actually there; what to type. ``str(error)``
is those lines. No error carries a sample or patient id unless the user asked to see ids.

One thing is a warning (`ForeignCache`): a cache that belongs to another user.
"""

from __future__ import annotations

import errno


class FmcacheError(Exception):
    """An expected failure, told in three lines.

    Parameters
    ----------
    what : one line, with the offending values.
    found : one line, what is actually there. May be empty.
    do : one line, the command or edit that helps. May be empty.
    """

    exit_code: int = 1

    def __init__(self, what: str, found: str = "", do: str = "") -> None:
        super().__init__(what, found, do)
        self.what, self.found, self.do = what, found, do

    def __str__(self) -> str:
        return "\n".join(line for line in (self.what, self.found, self.do) if line)


class UsageError(FmcacheError):
    """The call is wrong: an unknown name, a bad flag, a missing column."""

    exit_code = 2


class DatasetError(UsageError):
    """A dataset table or card cannot be used as it stands."""


class ModelError(UsageError):
    """A model name, card or checkpoint cannot be used as it stands."""


class RejectedInputs(FmcacheError):
    """The run finished and is stored, but some inputs were quarantined."""

    exit_code = 3


class StorageError(FmcacheError):
    """The disk or the file system refused; nothing that was published is lost."""

    exit_code = 4


class DiskFull(StorageError):
    """No space or no inodes left on the device."""

    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CorruptCache(FmcacheError):
    """Bytes on disk are not the bytes that were published."""

    exit_code = 5


class MissingEntry(FmcacheError):
    """The cache does not hold what was asked for."""

    exit_code = 6


class AmbiguousEntry(MissingEntry):
    """The cache holds several candidates; one has to be named."""


class MissingExtra(FmcacheError):
    """An optional part of the installation is needed."""

    exit_code = 7


class Busy(FmcacheError):
    """Another process is writing this very thing."""

    exit_code = 75


class Interrupted(FmcacheError):
    """SIGINT or SIGTERM arrived; finished blocks are saved."""

    def __init__(self, what: str, found: str = "", do: str = "", signal: int = 2) -> None:
        super().__init__(what, found, do)
        self.exit_code = 128 + signal


class ForeignCache(UserWarning):
    """The cache belongs to another user."""
