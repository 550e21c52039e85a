"""The components of a server, built stage by stage: each stage uses only what the stages before it have set."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Callable

import numpy
import onnxruntime
import structlog
from prometheus_client import (
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from service import version
from service.access.audit import Audit
from service.access.credentials import Certificates, access_file
from service.access.tenants import Tenants
from service.common.names import Origin
from service.datadir.formats import check_formats
from service.edge.guard.security import Security
from service.edge.writing import Writers
from service.engine.loaded import Engine
from service.learning.dispatch import Learning
from service.learning.intake import Intake
from service.learning.pool import TrainerProcesses
from service.observe.events import Events
from service.observe.metrics import Metrics
from service.observe.rendering import Registry
from service.publishing.assembly import Publishing
from service.server.config import ServeConfig
from service.server.readiness import Readiness
from service.server.settings import (
    learning_settings,
    live_settings,
    publishing_settings,
    upkeep_settings,
)
from service.server.stores import Stores
from service.server.upkeep import Upkeep
from service.server.watching import CredentialWatch
from service.serving.erasure import Erasure
from service.serving.live import LivePath
from service.storage.directory import prepare
from service.trainer import placing
from service.trainer.quarantine import REASONS

log = structlog.get_logger("server")

ORIGINS = [origin.name.lower() for origin in Origin]


class Components:
    """Every component of one server process, recovered and not running."""

    def __init__(
        self,
        config: ServeConfig,
        clock: Callable[[], float] = time.perf_counter,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Open the data directory and recover. Raises what the stores raise: each error names file and remedy.

        clock: monotonic seconds; wall: seconds since 1970.
        """
        self.config, self._clock, self._wall = config, clock, wall
        prepare(config.data)
        check_formats(config.data)
        self._observe()
        self._guard()
        self._open_stores()
        self._recover()
        self._publish()
        self._learn()
        self._maintain()

    def _observe(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # else each counter has a second series
        self.registry, self.events = Registry(), Events()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.metrics = Metrics(self.registry, origins=ORIGINS, quarantined=REASONS)
        build = version(), platform.python_version(), numpy.__version__, onnxruntime.__version__
        self.metrics.process.build.labels(*build).set(1)
        self.metrics.storage.disk_free.set_function(lambda: shutil.disk_usage(self.config.data).free)
        self.metrics.publishing.fresh.set(self.config.fresh_s)

    def _guard(self) -> None:
        config, metrics = self.config, self.metrics.access
        self.audit = Audit(config.audit, self.metrics.storage.disk_full.labels("audit").inc)
        self.events.listeners.append(self.audit.event)
        self.access = access_file(config.access, metrics)
        self.certificates = None
        if config.tls_cert and config.tls_key:
            self.certificates = Certificates(config.tls_cert, config.tls_key, config.tls_client_ca, metrics)
        self.security = Security(lambda: self.access.current, metrics, audit=self.audit)

    def _open_stores(self) -> None:
        self.stores = Stores(self.config.data, self.config.segment_bytes, self.config.commit_s)
        self.journal, self.states, self.versions = self.stores.journal, self.stores.states, self.stores.versions
        self.readiness = Readiness(self.config.data, self.journal, self.metrics)

    def _recover(self) -> None:
        self.engine = Engine(self.config.session_memory_bytes)
        self.metrics.serving.sessions.set_function(lambda: len(self.engine))
        self.tenants = Tenants(self.metrics.access, self.config.learn_s_per_s)
        self.tenants.apply(self.access.current)
        self.serving = LivePath(
            live_settings(self.config), self.journal, self.versions, self.states, self.engine, self.tenants,
            self.metrics, self.events, self._clock, self._wall,
        )  # fmt: skip
        self.stores.recover(self.serving, self.metrics)

    def _publish(self) -> None:
        live = self.serving
        self.publishing = Publishing(
            publishing_settings(self.config), live.catalog, live.admission, self.journal, self.versions, self.engine,
            live.loader, self.metrics, self._clock, self._wall,
        )  # fmt: skip
        self.publisher, self.control = self.publishing.publisher, self.publishing.control

    def _learn(self) -> None:
        keys = {number: model.key for number, model in self.serving.catalog.models.items()}
        count = placing.processes(self.config.trainers, placing.cores())
        if moved := placing.move(self.stores.data, count, keys, whole=not self.journal.first_position):
            log.info("models moved to other trainers", models=moved, trainers=count)
        catalog = self.serving.catalog
        self.intake = Intake(catalog, self.serving.admission, self.journal, self.metrics.intake)
        publishing = self.publishing
        self.learning = Learning(
            learning_settings(self.config, count), catalog, self.journal, self.versions, self.tenants, self.intake,
            publishing.publisher, publishing.retention, publishing.freshness,
            self.metrics.trainer, self.metrics.learner, self.metrics.storage, self._clock,
        )  # fmt: skip
        self.journal.learn_every_of = self.learning.learn_every
        self.trainers = self.learning.trainers
        self.registry.register(TrainerProcesses(self.trainers))

    def _maintain(self) -> None:
        config, catalog = self.config, self.serving.catalog
        self.upkeep = Upkeep(
            upkeep_settings(config), catalog, self.serving.residency, self.journal, self.states,
            self.publishing.retention, self.learning, self.metrics.storage, self.metrics.journal, self._clock,
            self._wall,
        )  # fmt: skip
        self.erasure = Erasure(
            self.stores.data, catalog, self.journal, self.versions, self.states, self.upkeep.save, self.trainers,
            self.audit, self._wall,
        )  # fmt: skip
        self.writers = Writers(config.write_s)
        self.credentials = CredentialWatch(
            config.access, self.access, self.certificates, self.tenants, self.security, self.audit
        )
