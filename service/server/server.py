"""The composition root: builds every part, owns every `run`, opens the doors last and closes them first."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import resource
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy
import onnxruntime
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import (
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from freshet.v1 import models_pb2, models_pb2_grpc, streams_pb2, streams_pb2_grpc, training_pb2, training_pb2_grpc
from service import version
from service.access.audit import OK, Audit
from service.access.credentials import Certificates, access_file
from service.common import limits
from service.common.addresses import split_address
from service.common.config import ServeConfig
from service.common.names import Origin
from service.datadir.formats import check_formats
from service.edge.guard.auditing import Auditing
from service.edge.guard.call_limit import CallLimit
from service.edge.guard.in_flight import InFlight
from service.edge.guard.interceptor import GrpcMetrics
from service.edge.guard.one_request import OneRequest
from service.edge.guard.security import Security
from service.edge.health import Health
from service.edge.http import HttpServer, application
from service.edge.models import Models
from service.edge.streams import Streams
from service.edge.training import Training
from service.edge.writing import Writers
from service.engine.loaded import Engine
from service.journal.writer import Journal, JournalFailed
from service.learning.dispatch import Learning
from service.learning.intake import Intake
from service.learning.pool import TrainerProcesses
from service.learning.replaying import Replayer
from service.observe.events import Events
from service.observe.metrics import Metrics
from service.observe.rendering import Registry
from service.publishing.control import Control
from service.publishing.publisher import Publisher
from service.server import process as heap
from service.server.recovery import recover
from service.server.upkeep import Upkeep
from service.serving.erasure import Erasure
from service.serving.ticks import Serving
from service.storage.directory import DirectoryRefused, prepare
from service.storage.disk import NoSpace, has_room
from service.storage.states import States
from service.storage.versions import VersionMissing, Versions
from service.trainer import placing
from service.trainer.quarantine import REASONS

log = structlog.get_logger("server")

SERVICES = [
    descriptor.services_by_name[name].full_name
    for descriptor, name in (
        (streams_pb2.DESCRIPTOR, "Streams"),
        (models_pb2.DESCRIPTOR, "Models"),
        (training_pb2.DESCRIPTOR, "Training"),
    )
]
ORIGINS = [origin.name.lower() for origin in Origin]
LAG_PERIOD_S = 0.1
FILES_PERIOD_S = 1.0  # between two looks at what may have changed
TRIM_STREAMS = 1000  # saved and evicted at once: fewer are not worth the work


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a started server listens, HOST:PORT, and the process of its first trainer."""

    grpc: str
    http: str
    trainer_pid: int


class Server:
    """Every part of one server process."""

    def __init__(self, config: ServeConfig) -> None:
        """Opens the data directory and recovers. Raises what the stores raise: each names the file and the remedy."""
        self.config = config
        data = Path(config.data)
        prepare(data)
        check_formats(data)
        had = {name for name in ("states.db", "versions.db") if (data / name).exists()}
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each, which nobody reads
        self.registry = Registry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.metrics = Metrics(self.registry, origins=ORIGINS, quarantined=REASONS)
        self.metrics.process.build.labels(
            version(), platform.python_version(), numpy.__version__, onnxruntime.__version__
        ).set(1)
        self.metrics.process.ready.set_function(lambda: not self._not_ready())
        self.metrics.storage.disk_free.set_function(lambda: shutil.disk_usage(data).free)
        self.audit = Audit(config.audit, self.metrics.storage.disk_full.labels("audit").inc)
        self.access = access_file(config.access, self.metrics.access)
        self.certificates = None
        if config.tls_cert and config.tls_key:
            self.certificates = Certificates(config.tls_cert, config.tls_key, config.tls_client_ca, self.metrics.access)
        self.security = Security(lambda: self.access.current, self.metrics.access, audit=self.audit)
        self.journal = Journal.open(data / "journal", segment_bytes=config.segment_bytes)
        self.journal.pace_s = config.commit_s
        self.states, self.versions = States(data / "states.db"), Versions(data / "versions.db")
        self.engine, self.events = Engine(config.session_memory_bytes), Events()
        self.metrics.serving.sessions.set_function(lambda: len(self.engine))
        self.events.listeners.append(self.audit.event)
        self.serving = Serving(config, self.journal, self.versions, self.states, self.engine, self.metrics, self.events)
        self.serving.tenants.apply(self.access.current)
        self.metrics.journal.truncated.inc(self.journal.truncated_bytes)
        started = time.monotonic()
        try:
            replayed = recover(self.serving, self.states)
        except VersionMissing as error:
            if "versions.db" in had:
                raise
            self.versions.remove()  # the empty one, which would hide from the next start what is missing
            raise DirectoryRefused(
                f"{data / 'versions.db'}: not there, and no other file has the weights of the models in states.db and "
                "the journal: put it back, or restore a backup. Nothing was changed"
            ) from error
        seconds = round(time.monotonic() - started, 3)
        if "states.db" not in had and replayed:
            self.metrics.storage.states_rebuilt.inc()
            log.warning("states.db was not there: every stream was computed again from the journal", entries=replayed)
        self.versions.drop_all_but(set(self.serving.models))
        facts = {"models": len(self.serving.models), "replayed": replayed, "seconds": seconds}
        log.info("recovered", **facts, cut=self.journal.truncated_bytes)
        self.intake, self.publisher = Intake(self.serving), Publisher(self.serving)
        self.control = Control(self.serving, self.publisher)
        keys = {number: model.key for number, model in self.serving.models.items()}
        count = placing.processes(config.trainers, placing.cores())
        moved = placing.move(data, count, keys, whole=not self.journal.first_position)
        if moved:
            log.info("models moved to other trainers", models=moved, trainers=count)
        self.learning = Learning(config, self.serving, self.intake, self.publisher)
        self.trainers = self.learning.trainers
        self.registry.register(TrainerProcesses(self.trainers))
        self.metrics.publishing.fresh.set(config.fresh_s)
        self.upkeep = Upkeep(config, self.serving, self.states, self.publisher, self.learning)
        self.erasure = Erasure(data, self.serving, self.states, self.upkeep.save, self.trainers, self.audit)
        self._was_full = False
        self.journal.on_full.append(self._full)
        self.health, self.writers = Health(), Writers(config.write_s)
        self.ready = False

    # ---- running

    async def run(self, announce: Callable[[Addresses], None]) -> int:
        """Serve until SIGTERM or SIGINT, then drain; returns the exit code. A part that fails ends the process."""
        stopping = self._signals()
        grpc_server, port = self._grpc_server()
        host, http_port = split_address("http", self.config.http)
        context = self.certificates.context if self.certificates else None
        http = HttpServer(
            application(self.registry, self._not_ready, self.security.check_metrics), host, http_port, context
        )
        parts: list[asyncio.Task[Any]] = []
        try:
            parts = [
                asyncio.create_task(self.journal.run(), name="journal"),
                asyncio.create_task(self.trainers.run(), name="trainers"),
                asyncio.create_task(self.upkeep.run(), name="snapshots"),
                asyncio.create_task(self.erasure.run(), name="erasure"),
                asyncio.create_task(self._loop_lag(), name="loop lag"),
                asyncio.create_task(self.writers.run(self.metrics.access.cut_calls), name="writers"),
                asyncio.create_task(self._watch_files(), name="files"),
                asyncio.create_task(self.security.strangers.run(port), name="strangers"),
                asyncio.create_task(http.run(), name="http"),
            ]
            starting = asyncio.create_task(self.trainers.tried(), name="start")
            await asyncio.wait([*parts, starting], return_when=asyncio.FIRST_COMPLETED)
            if ended := [part for part in parts if part.done()]:
                starting.cancel()
                return self._report(ended)
            await grpc_server.start()
            self.ready = True
            self._audit_access()
            await self._update_health()
            doors = (at_port(self.config.listen, port), at_port(self.config.http, http.port))
            announce(Addresses(*doors, next(iter(self.trainers.pids), 0)))
            wait_stop = asyncio.create_task(stopping.wait(), name="signal")
            done, _ = await asyncio.wait([*parts, wait_stop], return_when=asyncio.FIRST_COMPLETED)
            code = self._report([part for part in done if part is not wait_stop])
            flushed = await self._drain(grpc_server, save=not code)
            return code if flushed else 1
        finally:
            http.stop()
            await self._stop(parts)

    def _report(self, ended: list[asyncio.Task[Any]]) -> int:
        """Say which parts ended although none should; the exit code."""
        for part in ended:
            log.error("a part has ended", part=part.get_name(), error=str(part.exception()))
        return 1 if ended else 0

    async def _drain(self, grpc_server: Any, save: bool) -> bool:
        """Not serving, no intake, every stream told; whether everything is flushed: not with a disk that fails or is
        full, and then it was not acknowledged either. save: states too, which after a failure are left to the journal.
        """
        started = time.monotonic()
        self.ready = False
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self.serving.draining = True
        self.events.close()
        for model in self.serving.models.values():
            model.wake()
        self.intake.wake()
        await grpc_server.stop(self.config.drain_s)
        flushed = await self._flushed()
        if flushed and save:
            await self.upkeep.save_if_room()
        log.info("drained", seconds=round(time.monotonic() - started, 3))
        return flushed

    async def _flushed(self) -> bool:
        """Whether all is on disk that was taken in; not where the disk fails, or is full."""
        with contextlib.suppress(JournalFailed):
            await self.journal.flush(unless_full=True)
        if entries := self.journal.pending_entries:
            log.error("leaving what is not on disk", entries=entries, why=str(self.journal.no_space))
        return not self.journal.failure and not self.journal.pending_entries

    async def _stop(self, parts: list[asyncio.Task[Any]]) -> None:
        self.serving.steps.close()
        for part in reversed(parts):  # the journal last: the trainer may still report
            part.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):  # already logged by whoever waited for it
                await part
        self.audit.close()
        self.journal.close()
        await asyncio.to_thread(self.states.close)
        await asyncio.to_thread(self.versions.close)

    def _signals(self) -> asyncio.Event:
        stopping, loop = asyncio.Event(), asyncio.get_running_loop()

        def on_signal() -> None:
            if stopping.is_set():
                os._exit(130)  # a second signal: at once; everything acknowledged is on disk
            stopping.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        return stopping

    def _grpc_server(self) -> tuple[Any, int]:
        config, size = self.config, self.config.max_message_bytes
        connections = limits.connections(config.max_connections, most_descriptors())
        if connections < config.max_connections:
            log.warning("fewer connections than configured, for want of descriptors", most=connections)
        server = grpc.aio.server(
            interceptors=self._interceptors(),
            options=[
                ("grpc.max_receive_message_length", size),
                ("grpc.max_send_message_length", 64 << 20),
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_time_ms", int(1000 * config.keepalive_s)),
                ("grpc.keepalive_timeout_ms", int(1000 * config.keepalive_s)),
                ("grpc.http2.ping_timeout_ms", int(1000 * config.keepalive_s)),  # 60 s by default, and it prevails
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.server_handshake_timeout_ms", int(1000 * config.handshake_s)),
                ("grpc.http2.settings_timeout", int(1000 * config.handshake_s)),
                ("grpc.max_connection_idle_ms", int(1000 * config.connection_idle_s)),
                ("grpc.max_allowed_incoming_connections", connections),
                # Of headers, which HPACK makes of a byte each, before anybody has said who they are.
                ("grpc.max_concurrent_streams", config.max_calls + limits.MAX_PENDING_CALLS),
                ("grpc.max_metadata_size", limits.MAX_HEADER_BYTES),
                ("grpc.absolute_max_metadata_size", limits.MAX_HEADER_BYTES),
                ("grpc.server.max_pending_requests", limits.MAX_PENDING_CALLS),
                ("grpc.server.max_pending_requests_hard_limit", 2 * limits.MAX_PENDING_CALLS),
            ],
        )
        streams = Streams(self.intake, self.writers, self.erasure)
        models = Models(self.serving, self.control, self.writers, self.erasure)
        training = Training(self.intake, Replayer(self.intake, self.trainers), self.writers)
        streams_pb2_grpc.add_StreamsServicer_to_server(streams, server)
        models_pb2_grpc.add_ModelsServicer_to_server(models, server)
        training_pb2_grpc.add_TrainingServicer_to_server(training, server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        names = [*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, server)
        if self.certificates:
            return server, server.add_secure_port(self.config.listen, self.certificates.grpc())
        port = server.add_insecure_port(self.config.listen)
        return server, port

    def _interceptors(self) -> list[Any]:
        """The outermost first: every call is counted, strangers hold no place among those that are open."""
        tenants = self.serving.tenants
        limit, flight = CallLimit(self.config.max_calls, tenants), InFlight(tenants)
        return [GrpcMetrics(self.registry), self.security, limit, OneRequest(), Auditing(self.audit), flight]

    async def _update_health(self) -> None:
        """Make the health service say what /readyz says."""
        status = health_pb2.HealthCheckResponse
        await self._set_health(status.NOT_SERVING if self._not_ready() else status.SERVING)

    async def _set_health(self, status: Any) -> None:
        for name in ("", *SERVICES):
            await self.health.set(name, status)

    def _not_ready(self) -> str:
        """Why no streams are taken, in words that strangers may read: the log names the files."""
        if self.journal.failure:
            return "the disk has failed"
        try:
            if self.journal.no_space or not has_room(self.config.data):  # also while nothing is written
                return "the disk is full"
        except OSError:
            return "the data directory cannot be read"
        return "" if self.ready else ("draining" if self.serving.draining else "starting")

    def _full(self, error: NoSpace | None) -> None:
        if error is None:
            log.info("the disk has room again")
        else:
            self.metrics.storage.disk_full.labels("journal").inc()
            if not self._was_full:
                log.error("the disk is full: nothing is acknowledged until there is room", why=str(error))
        self._was_full = error is not None
        self.metrics.journal.no_space.set(self._was_full)

    async def _watch_files(self) -> None:
        while True:
            await asyncio.sleep(FILES_PERIOD_S)
            complaint = self.access.complaint
            if await self.access.look_aside(limits.READ_S):
                self.serving.tenants.apply(self.access.current)
                self._audit_access()
            elif self.access.complaint not in ("", complaint):
                self.audit.act("access file", "refused", by="server", file=str(self.config.access))
            if self.certificates:
                await self.certificates.look_aside(limits.READ_S)
            self.security.sweep()  # tokens also expire while their file stays as it is
            self.audit.count_left_out()
            if self.ready:
                await self._update_health()

    def _audit_access(self) -> None:
        """Log which access file is in force now."""
        access, path = self.access.current, str(self.config.access or "(none)")
        tokens, tenants = len(access.grants), len({grant.tenant for grant in access.grants.values()})
        self.audit.act("access file", OK, by="server", file=path, tokens=tokens, tenants=tenants)

    async def _loop_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_PERIOD_S
            await asyncio.sleep(LAG_PERIOD_S)
            self.metrics.process.loop_lag.observe(max(0.0, loop.time() - due))
            self.metrics.journal.durable_lag.set(self.journal.pending_entries)


def at_port(address: str, port: int) -> str:
    """HOST:PORT with the port that was picked."""
    return f"{address.rpartition(':')[0]}:{port}"


def most_descriptors() -> int:
    """How many descriptors this process may have: from here on all that the system allows it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most if most != resource.RLIM_INFINITY else sys.maxsize


def check_free(name: str, address: str) -> None:
    """Raise OSError naming the setting where nobody can listen. (gRPC's own error would not say why.)"""
    host, port = split_address(name, address)
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise OSError(f"{name} = {address}: {reason}; choose another address, or stop what listens there") from error


async def serve(config: ServeConfig, announce: Callable[[Addresses], None]) -> int:
    """Run a server until a signal stops it; `announce` is called once when it is ready. Returns the exit code."""
    heap.map_large_blocks()
    for name in ("listen", "http"):
        check_free(name, getattr(config, name))
    server = Server(config)
    heap.keep()
    return await server.run(announce)
