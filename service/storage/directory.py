"""Check a data directory: every entry is of the expected kind, and readable by its owner only.

It holds everything that clients sent. A link or a pipe in place of a file is refused, as its effects are untested.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import structlog

log = structlog.get_logger("files")

GROUP_AND_OTHERS, OTHERS = 0o077, 0o007
FOLDER = "journal"
OWED_FILE = "erase-owed.json"  # numbers of the models with data to erase
FILES = ("states.db*", "versions.db*", "trainer*.db*", "trainer*.lock", f"{FOLDER}/lock")  # and SQLite's beside them
REMEDY = "move it away, or use another data directory"
WRITABLE = "mount it for writing, give it to the user that the server runs as, or use another data directory"


class DirectoryRefused(RuntimeError):
    """An entry of the data directory is of an unexpected kind. The text names it and the remedy."""


def prepare(data: Path) -> int:
    """Create the directory if there is none, and remove all permissions of others; return how many entries had some.

    An entry of another user, such as the root of a volume, may stay readable by its group, but is refused if everyone
    may read it. Raises DirectoryRefused, OSError.
    """
    if data.exists() and not data.is_dir():
        raise DirectoryRefused(f"data = {data}: not a directory: {REMEDY}")
    try:
        data.mkdir(0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DirectoryRefused(f"data = {data}: cannot be created ({error.strerror}): {WRITABLE}") from error
    if not os.access(data, os.W_OK | os.X_OK):
        raise DirectoryRefused(f"data = {data}: cannot be written: {WRITABLE}")
    if (data / FOLDER).exists() and not (data / FOLDER).is_dir():
        raise DirectoryRefused(f"{data / FOLDER}: not a directory, where the journal belongs: {REMEDY}")
    for pattern in FILES:
        for path in data.glob(pattern):
            _check_kind(path)
    mended = sum(_restrict(path) for path in _everything(data))
    if mended:
        log.warning("other users could read what clients sent; removed their permissions", data=str(data), files=mended)
    return mended


def _check_kind(path: Path) -> None:
    """Raise DirectoryRefused for anything but a plain file."""
    mode = path.lstat().st_mode
    if stat.S_ISREG(mode):
        return
    kind = "a link" if stat.S_ISLNK(mode) else "a directory" if stat.S_ISDIR(mode) else "not a plain file"
    raise DirectoryRefused(f"{path}: {kind}, in place of a file of the server: {REMEDY}")


def _everything(data: Path) -> Iterator[Path]:
    """Yield the directory, and all files and directories in it. Links are followed only at its own name and FOLDER."""
    for root in {data.resolve(), (data / FOLDER).resolve()}:
        if not root.is_dir():
            continue
        for folder, _, files in os.walk(root, onerror=_unreadable):
            yield Path(folder)
            for name in files:
                if not (path := Path(folder, name)).is_symlink():
                    yield path


def _unreadable(error: OSError) -> None:
    raise error


def _restrict(path: Path) -> bool:
    """Remove the permissions of others; return whether there were any. Raises DirectoryRefused if it cannot."""
    try:
        found = path.stat()
    except FileNotFoundError:  # another process has removed it
        return False
    if not found.st_mode & GROUP_AND_OTHERS:
        return False
    try:
        path.chmod(stat.S_IMODE(found.st_mode) & ~GROUP_AND_OTHERS)
    except OSError as error:
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        if found.st_mode & OTHERS:
            raise DirectoryRefused(
                f"{path}: mode {mode}: every user of this machine can access what clients sent, and that cannot be "
                f"changed ({error.strerror}): chmod o-rwx as its owner, or use another data directory"
            ) from error
        log.warning("its group can read what clients sent, and that cannot be changed", path=str(path), mode=mode)
        return False
    return True
