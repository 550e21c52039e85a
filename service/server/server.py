"""Run a server: start its components, open the doors last, and on a signal close them first and drain."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import structlog

from service.common.addresses import split_address
from service.edge.guard.auditing import Auditing
from service.edge.guard.call_limit import CallLimit
from service.edge.guard.in_flight import InFlight
from service.edge.guard.interceptor import GrpcMetrics
from service.edge.guard.one_request import OneRequest
from service.edge.http import HttpServer, application
from service.edge.models import Models
from service.edge.parts import StreamParts
from service.edge.streams import Streams
from service.edge.training import Training
from service.journal.writer import JournalFailed
from service.learning.replaying import Replayer
from service.server import process
from service.server.components import Components
from service.server.config import ServeConfig
from service.server.grpc_server import Services, grpc_server
from service.server.ports import Addresses, at_port, check_free
from service.server.settings import (
    grpc_settings,
)
from service.server.watching import measure_lag, watch_files

log = structlog.get_logger("server")


class Server(Components):
    """The components of one server process, and their life from start to drain."""

    def __repr__(self) -> str:
        state = self.readiness.obstacle() or "ready"
        return f"Server({str(self.config.data)!r}, {state}, models={len(self.serving.catalog.models)})"

    async def run(self, announce: Callable[[Addresses], None]) -> int:
        """Serve until SIGTERM or SIGINT, then drain. Returns the exit code. A component that fails ends the process."""
        stopping = process.stop_signal()
        grpc, port = self._grpc_server()
        http = self._http_server()
        tasks: list[asyncio.Task[Any]] = []
        try:
            tasks = self._start(http, port)
            starting = asyncio.create_task(self.trainers.tried(), name="start")
            await asyncio.wait([*tasks, starting], return_when=asyncio.FIRST_COMPLETED)
            if ended := [task for task in tasks if task.done()]:
                starting.cancel()
                return exit_code(ended)
            await grpc.start()
            self.readiness.opened = True
            self.credentials.log_access()
            await self.readiness.update()
            doors = at_port(self.config.listen, port), at_port(self.config.http, http.port)
            announce(Addresses(*doors, next(iter(self.trainers.pids), 0)))
            signalled = asyncio.create_task(stopping.wait(), name="signal")
            done, _ = await asyncio.wait([*tasks, signalled], return_when=asyncio.FIRST_COMPLETED)
            code = exit_code([task for task in done if task is not signalled])
            flushed = await self._drain(grpc, save=not code)
            return code if flushed else 1
        finally:
            http.stop()
            await self.stop(tasks)

    def _start(self, http: HttpServer, port: int) -> list[asyncio.Task[Any]]:
        """Start every component's task. The journal is first, hence stopped last. port: of the gRPC server."""
        components = {
            "journal": self.journal.run(),
            "trainers": self.trainers.run(),
            "snapshots": self.upkeep.run(),
            "erasure": self.erasure.run(),
            "loop lag": measure_lag(self.journal, self.metrics),
            "writers": self.writers.run(self.metrics.access.cut_calls),
            "files": watch_files(self.credentials, self.readiness),
            "strangers": self.security.strangers.run(port),
            "http": http.run(),
        }
        return [asyncio.create_task(run, name=name) for name, run in components.items()]

    def _grpc_server(self) -> tuple[Any, int]:
        config, tenants = self.config, self.tenants
        interceptors = [  # the outermost first: every call is counted, and strangers take none of `max_calls`
            GrpcMetrics(self.registry),
            self.security,
            CallLimit(config.max_calls, tenants),
            OneRequest(),
            Auditing(self.audit),
            InFlight(tenants),
        ]
        return grpc_server(grpc_settings(config), interceptors, self._services(), self.certificates)

    def _services(self) -> Services:
        live, journal = self.serving, self.journal
        parts = StreamParts(
            live.catalog, live.admission, live.opening, live.residency, live.champions, live.ticks, live.waves,
            live.turns, self.intake, self.trainers, journal, self.metrics.serving, self._clock,
        )  # fmt: skip
        models = Models(
            live.catalog, live.admission, journal, self.versions, self.events, self.metrics, self.control,
            self.writers, self.erasure,
        )  # fmt: skip
        replayer = Replayer(self.intake, live.residency, journal, self.trainers)
        training = Training(live.catalog, live.admission, live.residency, journal, self.intake, replayer, self.writers)
        return Services(Streams(parts, self.writers, self.erasure), models, training, self.readiness.health)

    def _http_server(self) -> HttpServer:
        host, port = split_address("http", self.config.http)
        app = application(self.registry, self.readiness.obstacle, self.security.check_metrics)
        return HttpServer(app, host, port, self.certificates.context if self.certificates else None)

    # ---- leaving

    async def _drain(self, grpc: Any, save: bool) -> bool:
        """Refuse new work, notify every stream, end the calls. Returns whether everything acknowledged is on disk.

        It is not where the disk fails or is full; such entries were not acknowledged. save: also save the states;
        after a failure they are left to the journal.
        """
        started = time.monotonic()
        await self.readiness.leave()
        self.serving.admission.draining = True
        self.events.close()
        for model in self.serving.catalog.models.values():
            model.owners.wake()
        self.intake.wake()
        await grpc.stop(self.config.drain_s)
        flushed = await self._flush()
        if flushed and save:
            await self.upkeep.save_if_room()
        log.info("drained", seconds=round(time.monotonic() - started, 3))
        return flushed

    async def _flush(self) -> bool:
        """Commit what the journal holds. Returns False where the disk fails or is full."""
        with contextlib.suppress(JournalFailed):
            await self.journal.flush(unless_full=True)
        if entries := self.journal.pending_entries:
            log.error("stopping with entries that are not on disk", entries=entries, why=str(self.journal.no_space))
        return not self.journal.failure and not self.journal.pending_entries

    async def stop(self, tasks: list[asyncio.Task[Any]]) -> None:
        """Cancel the tasks in reverse order and close the files: the trainers report to the journal to the end."""
        self.serving.steps.close()
        for task in reversed(tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):  # `exit_code` has logged it
                await task
        self.audit.close()
        self.journal.close()
        await asyncio.to_thread(self.stores.close)


def exit_code(ended: list[asyncio.Task[Any]]) -> int:
    """Log the components that have ended, although none should. Returns the exit code."""
    for task in ended:
        log.error("a component has ended", component=task.get_name(), error=str(task.exception()))
    return 1 if ended else 0


async def serve(config: ServeConfig, announce: Callable[[Addresses], None]) -> int:
    """Run a server until a signal stops it. Returns the exit code. `announce` is called once, when it is ready."""
    process.map_large_blocks()
    for name in ("listen", "http"):
        check_free(name, getattr(config, name))
    server = Server(config)
    process.freeze()
    return await server.run(announce)
