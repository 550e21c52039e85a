"""Values read from files and read again when a file changes: tokens, certificates.

A file that is invalid, or takes too long to read, changes nothing; it is logged and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

import structlog
from prometheus_client import Gauge

log = structlog.get_logger("files")

Value = TypeVar("Value")


class Watched(Generic[Value]):
    """A value in force, `current`, which `look` replaces when its files change. Without paths it never changes."""

    def __init__(self, what: str, paths: Mapping[str, Path], read: Callable[[], Value], invalid: Gauge) -> None:
        """Read the value. Raises what `read` raises for invalid files.

        what: name of the value in the log. paths: by name of the setting. invalid: 1 while a changed file is invalid.
        """
        self._looking: asyncio.Future[bool] | None = None
        self._what, self._paths, self._read, self._invalid = what, paths, read, invalid
        self.complaint = ""  # why the present files are not in force; "": they are
        self._seen = self._signature()
        self.current = read()
        invalid.set(0)

    def look(self) -> bool:
        """Read the value again if a file has changed. Returns whether another value is in force now."""
        try:
            seen = self._signature()
        except OSError as error:
            self._seen = []  # the file may come back unchanged
            self._complain(str(error))
            return False
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            fresh = self._read()
        except Exception as error:  # also a parser's RecursionError: the former value stays in force
            self._complain(str(error) or type(error).__name__)
            return False
        self.complaint = ""
        self._invalid.set(0)
        changed, self.current = fresh != self.current, fresh
        if changed:
            log.info("file read again: its content is in force", file=self._what)
        return changed

    async def look_aside(self, within_s: float) -> bool:
        """Run `look` in a thread and wait for it at most `within_s` seconds. Returns as `look`.

        A look that takes longer is logged and continues; the next call waits for it. Its thread does not delay the
        end of the process.
        """
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_future()
            threading.Thread(target=self._look_for, args=(self._looking,), name=self._what, daemon=True).start()
        done, _ = await asyncio.wait([self._looking], timeout=within_s)
        if not done:
            self._complain(f"it was not read within {within_s:g} s")
            return False
        looked, self._looking = self._looking, None
        return looked.result()

    def _look_for(self, future: asyncio.Future[bool]) -> None:
        """Run `look` on this thread and set the future on its own loop."""
        try:
            changed = self.look()
        except BaseException as error:
            finish, outcome = future.set_exception, error
        else:
            finish, outcome = future.set_result, changed  # type: ignore[assignment]
        with contextlib.suppress(RuntimeError):  # the loop has ended
            future.get_loop().call_soon_threadsafe(finish, outcome)

    def _complain(self, why: str) -> None:
        self._invalid.set(1)
        if why != self.complaint:
            self.complaint = why
            log.error("file invalid: its former content stays in force", file=self._what, why=why)

    def _signature(self) -> list[tuple[int, int, int]]:
        """Return values that change with the files. Raises OSError naming the setting."""
        stats = [_stat(setting, path) for setting, path in self._paths.items()]
        return [(stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats]


def _stat(setting: str, path: Path) -> os.stat_result:
    """Return the status of a file that can be opened, without waiting for a pipe. Raises OSError naming the setting."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return os.fstat(file.fileno())
    except OSError as error:
        raise OSError(f"{setting} = {path}: {error.strerror}") from error
