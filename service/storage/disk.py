"""Tell a full disk from a failing one, decide when to try again, and sync files.

A write that finds the disk full leaves nothing that cannot be cut off again, so it may be repeated. A failed sync must
not be repeated, whatever its error: the kernel may have dropped the data, and the next sync would report success.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
FIRST_S, LONGEST_S = 0.05, 1.0  # between two tries to write
ROOM_BYTES = 1 << 20  # with less free, the disk counts as full: a snapshot or a segment would not fit


class NoSpace(RuntimeError):
    """The disk is full. Nothing was written, and the same write may be tried again."""

    condition: ClassVar[str] = "the disk is full"  # for callers, who must not see the names of our files


class Unreachable(NoSpace):
    """The store that several nodes share does not answer, so that nothing can be made durable for now.

    It may have written: the same bytes must be tried again. Until then a server does what it does with a full disk.
    """

    condition = "the store cannot be reached"


def has_room(path: Path) -> bool:
    """Whether the disk of a directory has room. Nothing is written, so a quota of the user may still refuse."""
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize >= ROOM_BYTES


def again_s(tries: int) -> float:
    """Return the seconds to wait after failed try number `tries`, from 1: doubling, up to LONGEST_S."""
    return min(LONGEST_S, FIRST_S * 2.0 ** min(tries - 1, 30))


@contextlib.contextmanager
def needing_space(what: str) -> Iterator[None]:
    """Raise NoSpace, naming `what`, if the disk is too full for the writes in the block. Never use it for a sync."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise NoSpace(f"{what}: {error.strerror}") from error
        raise


def is_full(error: sqlite3.Error) -> bool:
    """Whether SQLite has rolled a transaction back because the disk is full, for the file or its shared index."""
    return getattr(error, "sqlite_errorcode", 0) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable. Raises OSError."""
    sync_file(directory)


def sync_file(path: Path) -> None:
    """Make a file's content durable, or the names in a directory. Raises OSError."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
