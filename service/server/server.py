"""Run a server: start its components, open the doors last, and on a signal close them first and drain."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from service.edge.parts import OnePlace
from service.server import process
from service.server.components import Components
from service.server.config import ServeConfig
from service.server.doors import grpc_door, http_door, inferring_door
from service.server.ports import Addresses, at_port, check_free
from service.server.readiness import Readiness
from service.server.shard import memory
from service.server.shared import Shared
from service.server.watching import measure_lag, watch_files

log = structlog.get_logger("server")


class Server(Components):
    """A single server: one shard, and its life from start to drain."""

    def __init__(
        self,
        config: ServeConfig,
        clock: Callable[[], float] = time.perf_counter,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Recover from the data directory. Raises as `Components`. clock: monotonic seconds; wall: since 1970."""
        super().__init__(Shared(config, clock, wall), config.data)
        self.readiness = Readiness(config.data, self.journal, self.metrics)

    def __repr__(self) -> str:
        state = self.readiness.obstacle() or "ready"
        return f"Server({str(self.data)!r}, {state}, models={len(self.serving.catalog.models)})"

    async def run(self, announce: Callable[[Addresses], None]) -> int:
        """Serve until SIGTERM or SIGINT, then drain. Returns the exit code. A component that fails ends the process."""
        shared, stopping = self.shared, process.stop_signal()
        places = OnePlace(self.parts())
        inferring = inferring_door(shared, places)
        grpc, port = grpc_door(shared, places, inferring, self.readiness.health)
        http = http_door(shared, places, inferring, self.registry.text, self.readiness.obstacle)
        tasks: list[asyncio.Task[Any]] = []
        try:
            tasks = self._start(http.run(), port)
            starting = asyncio.create_task(self.trainers.tried(), name="start")
            await asyncio.wait([*tasks, starting], return_when=asyncio.FIRST_COMPLETED)
            if ended := [task for task in tasks if task.done()]:
                starting.cancel()
                return exit_code(ended)
            await grpc.start()
            self.readiness.opened = True
            shared.credentials.log_access()
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
            self.audit.close()

    def _start(self, http: Coroutine[Any, Any, Any], port: int) -> list[asyncio.Task[Any]]:
        """Start every component's task. port: of the gRPC server."""
        shared = self.shared
        components = self.tasks() | {
            "loop lag": measure_lag(self.journal, self.metrics),
            "writers": shared.writers.run(self.metrics.access.cut_calls),
            "files": watch_files(shared.credentials, self.readiness),
            "strangers": shared.security.strangers.run(port),
            "http": http,
        }
        return [asyncio.create_task(run, name=name) for name, run in components.items()]

    async def _drain(self, grpc: Any, save: bool) -> bool:
        """Refuse new work, notify every stream, end the calls. Returns whether everything acknowledged is on disk.

        save: also save the states; after a failure they are left to the journal.
        """
        started = time.monotonic()
        await self.readiness.leave()
        self.events.close()
        self.shared.viewing.close()
        self.leave()
        await grpc.stop(self.config.drain_s)
        flushed = await self.flush(save)
        log.info("drained", seconds=round(time.monotonic() - started, 3))
        return flushed


def exit_code(ended: list[asyncio.Task[Any]]) -> int:
    """Log the components that have ended, although none should. Returns the exit code."""
    for task in ended:
        log.error("a component has ended", component=task.get_name(), error=str(task.exception()))
    return 1 if ended else 0


async def serve(config: ServeConfig, announce: Callable[[Addresses], None]) -> int:
    """Run a server until a signal stops it. Returns the exit code. `announce` is called once, when it is ready."""
    memory.map_large_blocks()
    for name in ("listen", "http"):
        check_free(name, getattr(config, name))
    server = Server(config)
    memory.freeze()
    return await server.run(announce)
