"""What is read from files, and again whenever one of them changes: tokens, certificates. One that is no good, or that
takes too long, changes nothing, and that is said."""

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
    """`current` is what is in force; it changes in `look`. Without paths nothing ever changes."""

    def __init__(self, what: str, paths: Mapping[str, Path], read: Callable[[], Value], invalid: Gauge) -> None:
        """Reads it. read: raises for what is no good, and so does this.

        what: for people. paths: by setting.
        """
        self._looking: asyncio.Future[bool] | None = None
        self._what, self._paths, self._read, self._invalid = what, paths, read, invalid
        self.complaint = ""  # why the files are not what is in force; empty: they are
        self._seen = self._signature()
        self.current = read()
        invalid.set(0)

    def look(self) -> bool:
        """Read again if a file has changed; whether something else is in force now."""
        try:
            seen = self._signature()
        except OSError as error:
            self._seen = []  # it may come back as it was
            self._complain(str(error))
            return False
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            fresh = self._read()
        except Exception as error:  # a parser's RecursionError too: whatever it is, what was read before is still good
            self._complain(str(error) or type(error).__name__)
            return False
        self.complaint = ""
        self._invalid.set(0)
        changed, self.current = fresh != self.current, fresh
        if changed:
            log.info("read again, and in force from here on", file=self._what)
        return changed

    async def look_aside(self, within_s: float) -> bool:
        """As `look`, in a thread, for so long at most: one that takes longer is left alone, which is said, and awaited
        again the next time. The thread does not hold up the process's end."""
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
        """On a thread: `look`, and its outcome to whoever waits for it."""
        try:
            changed = self.look()
        except BaseException as error:
            settle, outcome = future.set_exception, error
        else:
            settle, outcome = future.set_result, changed  # type: ignore[assignment]
        with contextlib.suppress(RuntimeError):  # the loop has ended
            future.get_loop().call_soon_threadsafe(settle, outcome)

    def _complain(self, why: str) -> None:
        self._invalid.set(1)
        if why != self.complaint:
            self.complaint = why
            log.error("no good: what was read before stays in force", file=self._what, why=why)

    def _signature(self) -> list[tuple[int, int, int]]:
        """What changes with the files' content. Raises OSError naming the setting."""
        stats = [_stat(setting, path) for setting, path in self._paths.items()]
        return [(stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats]


def _stat(setting: str, path: Path) -> os.stat_result:
    """Of a file that can be opened, which a pipe is at once. Raises OSError naming the setting."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return os.fstat(file.fileno())
    except OSError as error:
        raise OSError(f"{setting} = {path}: {error.strerror}") from error
