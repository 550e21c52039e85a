"""Periodic looks at what changes from outside: files of tokens and certificates, and how late the event loop is."""

from __future__ import annotations

import asyncio
from pathlib import Path

from service.access.audit import OK, Audit
from service.access.credentials import Certificates
from service.access.grants import Access
from service.access.tenants import Tenants
from service.access.watched import Watched
from service.common import limits
from service.edge.guard.security import Security
from service.journal.writer import Journal
from service.observe.metrics import Metrics
from service.server.readiness import Readiness

FILES_PERIOD_S = 1.0
LAG_PERIOD_S = 0.1


class CredentialWatch:
    """Applies changed access files and certificates, and ends calls whose token has expired."""

    def __init__(
        self,
        path: Path | None,
        access: Watched[Access],
        certificates: Certificates | None,
        tenants: Tenants,
        security: Security,
        audit: Audit,
    ) -> None:
        """path: the access file, for the audit log; None: without one."""
        self._path, self._access, self._certificates = path, access, certificates
        self._tenants, self._security, self._audit = tenants, security, audit

    async def look(self) -> None:
        """Look at the files once."""
        complaint = self._access.complaint
        if await self._access.look_aside(limits.READ_S):
            self._tenants.apply(self._access.current)
            self.log_access()
        elif self._access.complaint not in ("", complaint):
            self._audit.act("access file", "refused", by="server", file=str(self._path))
        if self._certificates:
            await self._certificates.look_aside(limits.READ_S)
        self._security.sweep()  # tokens also expire while their file stays as it is
        self._audit.count_left_out()

    def log_access(self) -> None:
        """Write to the audit log which access file is in force."""
        access, path = self._access.current, str(self._path or "(none)")
        tokens, tenants = len(access.grants), len({grant.tenant for grant in access.grants.values()})
        self._audit.act("access file", OK, by="server", file=path, tokens=tokens, tenants=tenants)


async def watch_files(credentials: CredentialWatch, readiness: Readiness) -> None:
    """Look at the files every FILES_PERIOD_S until cancelled; update the health service once the doors are open."""
    while True:
        await asyncio.sleep(FILES_PERIOD_S)
        await credentials.look()
        if readiness.opened:
            await readiness.update()


async def measure_lag(journal: Journal, metrics: Metrics) -> None:
    """Measure how late the event loop runs a timer of LAG_PERIOD_S, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_PERIOD_S
        await asyncio.sleep(LAG_PERIOD_S)
        metrics.process.loop_lag.observe(max(0.0, loop.time() - due))
        metrics.journal.durable_lag.set(journal.pending_entries)
