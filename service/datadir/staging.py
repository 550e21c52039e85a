"""A directory beside what is being made, which takes its name once it is whole: what is there is never half."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


class InUse(RuntimeError):
    """Another process is making the same. Names the directory that it works in."""


@contextlib.contextmanager
def staging(target: Path) -> Iterator[Path]:
    """An empty directory beside `target`, readable by its owner alone, which is gone when the block ends.

    What a process that was killed has left of it goes too. Raises InUse; OSError, also where there is no such place.
    """
    folder = target.with_name(f".{target.name}.part")
    folder.mkdir(0o700, exist_ok=True)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InUse(f"{folder}: in use by another process that makes {target.name}: wait for it") from error
        try:
            for left in folder.iterdir():
                _remove(left)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(fd)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
