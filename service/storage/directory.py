"""The data directory as it is found: that all in it is of the kind it should be, and readable by its owner alone.

All that clients sent is in it, and what a link or a pipe in the place of a file would do, nobody has thought through.
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
FILES = ("states.db*", "versions.db*", "trainer*.db*", "trainer*.lock", f"{FOLDER}/lock")  # and what SQLite has beside
REMEDY = "move it away, or use another data directory"
WRITABLE = "mount it for writing, give it to the user that the server runs as, or use another data directory"


class DirectoryRefused(RuntimeError):
    """Something in the data directory is not what belongs there. Names it, and the remedy."""


def prepare(data: Path) -> int:
    """Make the directory if there is none, and take from all in it what others than its owner may do; how many had it.

    What belongs to another user, as the root of a volume may, is left to its group, and refused where everybody may
    read it. Raises DirectoryRefused, OSError.
    """
    if data.exists() and not data.is_dir():
        raise DirectoryRefused(f"data = {data}: not a directory: {REMEDY}")
    try:
        data.mkdir(0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DirectoryRefused(f"data = {data}: cannot be made ({error.strerror}): {WRITABLE}") from error
    if not os.access(data, os.W_OK | os.X_OK):
        raise DirectoryRefused(f"data = {data}: cannot be written: {WRITABLE}")
    if (data / FOLDER).exists() and not (data / FOLDER).is_dir():
        raise DirectoryRefused(f"{data / FOLDER}: not a directory, where the journal belongs: {REMEDY}")
    for pattern in FILES:
        for path in data.glob(pattern):
            _check_kind(path)
    mended = sum(_mend(path) for path in _everything(data))
    if mended:
        log.warning("others could read what clients sent, and cannot any more", data=str(data), files=mended)
    return mended


def _check_kind(path: Path) -> None:
    """Raises DirectoryRefused for what is no plain file."""
    mode = path.lstat().st_mode
    if stat.S_ISREG(mode):
        return
    kind = "a link" if stat.S_ISLNK(mode) else "a directory" if stat.S_ISDIR(mode) else "no plain file"
    raise DirectoryRefused(f"{path}: {kind}, where a file of the server's own belongs: {REMEDY}")


def _everything(data: Path) -> Iterator[Path]:
    """The directory, and all files and directories in it; links are not followed, but for its own name and FOLDER's."""
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


def _mend(path: Path) -> bool:
    """Whether others could do something with it, and cannot any more. Raises DirectoryRefused where it stays so."""
    try:
        found = path.stat()
    except FileNotFoundError:  # another process tidies up
        return False
    if not found.st_mode & GROUP_AND_OTHERS:
        return False
    try:
        path.chmod(stat.S_IMODE(found.st_mode) & ~GROUP_AND_OTHERS)
    except OSError as error:
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        if found.st_mode & OTHERS:
            raise DirectoryRefused(
                f"{path}: mode {mode}, so that everybody on this machine can get at what clients sent, and that cannot "
                f"be changed ({error.strerror}): chmod o-rwx as its owner, or use another data directory"
            ) from error
        log.warning("its group can read what clients sent, and that cannot be changed", path=str(path), mode=mode)
        return False
    return True
