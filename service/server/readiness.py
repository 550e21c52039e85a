"""Whether the server accepts streams: for /readyz, the health service and the metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import structlog
from grpc_health.v1 import health_pb2

from service.edge.guard.health import Health
from service.journal.writer import Journal
from service.observe.metrics import Metrics
from service.server.grpc_server import SERVICES
from service.storage.disk import NoSpace, Unreachable, has_room

log = structlog.get_logger("server")


class Readiness:
    """Readiness of the server, and its health service.

    opened: the doors are open. draining: the server is leaving.
    """

    def __init__(self, data: Path, journal: Journal, metrics: Metrics) -> None:
        """Reports full disks of the journal from here on."""
        self._data, self._journal, self._metrics = data, journal, metrics
        self.health = Health()
        self.opened = self.draining = False
        self._was_full = False
        journal.on_full.append(self._disk_full)
        metrics.process.ready.set_function(lambda: not self.obstacle())

    def __repr__(self) -> str:
        return f"Readiness({self.obstacle() or 'ready'})"

    def obstacle(self) -> str:
        """Return why no streams are accepted, or "". Callers without a token read it: only the log names files."""
        if self._journal.failure:
            return "the disk has failed"
        try:
            if self._journal.no_space:
                return self._journal.no_space.condition
            if not has_room(self._data):  # also while nothing is written
                return NoSpace.condition
        except OSError:
            return "the data directory cannot be read"
        return "draining" if self.draining else "" if self.opened else "starting"

    async def update(self) -> None:
        """Report on the health service what /readyz reports."""
        status = health_pb2.HealthCheckResponse
        await self._set(status.NOT_SERVING if self.obstacle() else status.SERVING)

    async def leave(self) -> None:
        """Report from here on that the server is leaving."""
        self.opened, self.draining = False, True
        await self._set(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def _set(self, status: Any) -> None:
        for name in ("", *SERVICES):
            await self.health.set(name, status)

    def _disk_full(self, error: NoSpace | None) -> None:
        if error is None:
            log.info("the journal is written again")
        else:
            if not isinstance(error, Unreachable):
                self._metrics.storage.disk_full.labels("journal").inc()
            if not self._was_full:
                log.error("nothing is acknowledged for now", condition=error.condition, why=str(error))
        self._was_full = error is not None
        self._metrics.journal.no_space.set(self._was_full)
