"""A temporary directory beside a target, for making it whole before it gets its name."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


class InUse(RuntimeError):
    """Another process is making the same target. The text names its directory."""


@contextlib.contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Yield an empty directory beside `target`, readable by its owner only, and remove it when the block ends.

    What a killed process has left in it is removed first. Raises InUse; OSError, also if the parent does not exist.
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
