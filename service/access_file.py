"""The access file on disk: read at start, and again whenever it changes. One that is no good changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from service.access import OPEN, Access, AccessError, parse
from service.limits import MAX_ACCESS_BYTES
from service.metrics import Metrics

log = structlog.get_logger("access")

PERIOD_S = 1.0  # between two looks


class AccessFile:
    """What is in force; `current` changes between two turns of the loop."""

    def __init__(self, path: Path | None, metrics: Metrics) -> None:
        """Reads it. path: None: nobody needs a token. Raises AccessError naming the file."""
        self.current = OPEN
        self._path, self._metrics, self._seen, self._complaint = path, metrics, (0, 0, 0), ""
        if path is not None:
            self._seen = signature(path)
            self.current = read(path)

    def look(self) -> bool:
        """Read the file again if it has changed; whether something else is in force now."""
        if self._path is None:
            return False
        try:
            seen = signature(self._path)
            if seen == self._seen:
                return False
            self._seen = seen
            fresh = read(self._path)
        except AccessError as error:
            self._metrics.access_invalid.set(1)
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.error("the access file is no good: the one before stays in force", why=self._complaint)
            return False
        self._metrics.access_invalid.set(0)
        self._complaint = ""
        changed, self.current = fresh != self.current, fresh
        if changed:
            log.info("access has changed", tokens=len(fresh.grants), tenants=len(fresh.quotas))
        return changed

    async def run(self, swept: Callable[[], object]) -> None:
        """Look every second, then call `swept`: tokens also expire while the file stays as it is."""
        while True:
            await asyncio.sleep(PERIOD_S)
            self.look()
            swept()


def signature(path: Path) -> tuple[int, int, int]:
    """What changes with a file's content. Raises AccessError."""
    try:
        stat = path.stat()
    except OSError as error:
        raise AccessError(f"access = {path}: {error.strerror}") from error
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def read(path: Path) -> Access:
    """An access file. Raises AccessError naming it."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_ACCESS_BYTES + 1)
        if len(data) > MAX_ACCESS_BYTES:
            raise AccessError(f"larger than {MAX_ACCESS_BYTES} bytes")
        return parse(data.decode())
    except (OSError, UnicodeDecodeError, AccessError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise AccessError(f"access = {path}: {reason}") from error
