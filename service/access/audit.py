"""The audit log: one structured line per act on models, streams and access, with its caller and without secrets.

Lines go to the process log as logger "audit", or to a file of their own: JSON, mode 0600, reopened after a rename.
Lines of refusals are limited per tenant; those left out are counted in a line of their own.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from service.access.grants import Grant
from service.common.limits import AUDIT_REFUSALS, AUDIT_REFUSALS_PER_S
from service.observe import events as ev
from service.observe.events import Event
from service.storage.disk import NO_ROOM

log = structlog.get_logger("audit")

OK = "ok"
MODE = 0o600
SHOWN = 256  # characters of a value that a client chose; the rest is cut
BY_HAND = "by hand"  # reason of events caused by a call, which has a line of its own
OF_EVENTS = {ev.PUBLISHED: "publish", ev.VETOED: "veto", ev.ROLLED_BACK: "rollback", ev.SKIPPED: "skip"}


@dataclass(slots=True)
class Bucket:
    """Refusals of one tenant: lines that may be written, as of `since`, and lines left out since the last count."""

    lines: float
    since: float
    left_out: dict[tuple[str, str], int] = field(default_factory=dict)  # (action, outcome) → times


class Audit:
    """Writes audit lines, each at once, so that no crash loses a line. For one thread."""

    def __init__(
        self,
        path: Path | None = None,
        on_full: Callable[[], None] = lambda: None,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the log. Raises OSError naming the file.

        path: its file; None: the process log. on_full: called when the disk is full. wall: seconds since 1970.
        """
        self._path, self._on_full, self._wall, self._clock = path, on_full, wall, clock
        self._fd, self._complaint = -1, ""
        self._buckets: dict[str, Bucket] = {}  # by tenant; "": callers without a good token
        if path is not None:
            try:
                self._open(path)
            except OSError as error:
                remedy = "give a file in a directory that the server may write"
                raise OSError(f"audit = {path}: {error.strerror}; {remedy}") from error

    def act(self, action: str, outcome: str, who: Grant | None = None, peer: str = "", **facts: object) -> None:
        """Write a line. who: None for the server itself or an unknown caller. facts: values without secrets."""
        line = {"action": action, "outcome": outcome, **_identity(who), "peer": peer, **facts}
        self._write({name: _printable(value) for name, value in line.items() if value not in ("", None)})

    def refused(self, action: str, outcome: str, who: Grant | None = None, peer: str = "", **facts: object) -> None:
        """Write a line for a refusal, or only count it beyond AUDIT_REFUSALS of the tenant at once."""
        tenant = who.tenant if who else ""
        now = self._clock()
        bucket = self._buckets.setdefault(tenant, Bucket(AUDIT_REFUSALS, now))
        bucket.lines = min(AUDIT_REFUSALS, bucket.lines + AUDIT_REFUSALS_PER_S * (now - bucket.since))
        bucket.since = now
        if bucket.lines >= 1:
            bucket.lines -= 1
            self.act(action, outcome, who, peer, **facts)
        else:
            left_out = bucket.left_out
            left_out[action, outcome] = left_out.get((action, outcome), 0) + 1

    def event(self, event: Event) -> None:
        """Write a line for an act of the server itself on a model."""
        action = OF_EVENTS.get(event.kind)
        if action is None or event.reason == BY_HAND:
            return
        tenant, model = event.key
        facts = {"offset": event.offset, "why": event.reason}
        self.act(action, OK, None, "", by="server", tenant=tenant, model=model, version=event.version, **facts)

    def count_left_out(self) -> None:
        """Write the number of refusals without a line since the last call, per tenant, action and outcome."""
        for tenant, bucket in list(self._buckets.items()):
            for (action, outcome), times in bucket.left_out.items():
                self.act(action, outcome, tenant=tenant, left_out=times)
            bucket.left_out.clear()
            if bucket.lines + AUDIT_REFUSALS_PER_S * (self._clock() - bucket.since) >= AUDIT_REFUSALS:
                del self._buckets[tenant]

    def close(self) -> None:
        """Write the counts of `count_left_out`, and close the file."""
        self.count_left_out()
        self._close()

    def _write(self, line: dict[str, object]) -> None:
        if self._path is None:
            log.info("audit", **line)
            return
        now = dt.datetime.fromtimestamp(self._wall(), dt.UTC).isoformat().replace("+00:00", "Z")
        text = json.dumps({"timestamp": now, "level": "info", "logger": "audit", "event": "audit", **line})
        try:
            self._reopen_if_moved(self._path)
            _write_whole(self._fd, f"{text}\n".encode())
            self._complaint = ""
        except OSError as error:  # the process log gets the line instead
            if error.errno in NO_ROOM:
                self._on_full()
            log.info("audit", **line)
            if self._complaint != (why := str(error)):
                self._complaint = why
                log.error("the audit file cannot be written: its lines go to this log", audit=str(self._path), why=why)

    def _reopen_if_moved(self, path: Path) -> None:
        """Reopen the file if another one is at its path, as after logrotate's rename."""
        try:
            there, here = os.stat(path), os.fstat(self._fd)
            if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
                return
        except OSError:  # renamed, or not reopened yet
            pass
        self._close()
        self._open(path)

    def _open(self, path: Path) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)
        try:
            os.fchmod(fd, MODE)  # also of an existing file with another mode
        except OSError:
            os.close(fd)
            raise
        self._fd = fd

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def _write_whole(fd: int, data: bytes) -> None:
    """Append a line whole, or not at all on a full disk. Raises OSError."""
    before = os.fstat(fd).st_size
    while data:
        try:
            written = os.write(fd, data)
        except OSError:
            os.ftruncate(fd, before)
            raise
        data = data[written:]


def _identity(who: Grant | None) -> dict[str, object]:
    """Return tenant, role and the token's name in the access file; never its digest."""
    return {"tenant": who.tenant, "token": who.name, "role": who.role.name.lower()} if who else {}


def _printable(value: object) -> object:
    """Return a number as it is, any other value as one line of text of bounded length."""
    if isinstance(value, (bool, int, float)):
        return value
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value)[:SHOWN])
    return text if len(str(value)) <= SHOWN else f"{text}…"
