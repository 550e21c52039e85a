"""What all shards of one process share: settings, clocks, metrics, events, and who may call."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Callable

import numpy
import onnxruntime
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
from service.edge.guard.security import Security
from service.edge.writing import Writers
from service.observe.events import Events
from service.observe.metrics import Metrics
from service.observe.rendering import Registry
from service.server.config import ServeConfig
from service.server.watching import CredentialWatch
from service.trainer.quarantine import REASONS
from service.viewing.looks import Viewing

ORIGINS = [origin.name.lower() for origin in Origin]


class Shared:
    """The components that a process has once, however many shards it serves."""

    def __init__(
        self,
        config: ServeConfig,
        clock: Callable[[], float] = time.perf_counter,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Read the access file and the certificates. Raises what their readers raise: each error names the remedy.

        clock: monotonic seconds; wall: seconds since 1970.
        """
        self.config, self.clock, self.wall = config, clock, wall
        disable_created_metrics()  # type: ignore[no-untyped-call]  # else each counter has a second series
        self.registry, self.events = Registry(), Events()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.metrics = self._metrics_on(self.registry, None)
        build = version(), platform.python_version(), numpy.__version__, onnxruntime.__version__
        self.metrics.process.build.labels(*build).set(1)
        self._guard()
        self.viewing = Viewing(clock, wall)

    def metrics_of_shard(self, registry: Registry) -> Metrics:
        """Declare the metrics of one shard on a registry of its own."""
        return self._metrics_on(registry, self.metrics)

    def _metrics_on(self, registry: Registry, process: Metrics | None) -> Metrics:
        cluster = bool(self.config.store) and process is None
        metrics = Metrics(registry, origins=ORIGINS, quarantined=REASONS, cluster=cluster, process=process)
        metrics.storage.disk_free.set_function(lambda: shutil.disk_usage(self.config.data).free)
        metrics.publishing.fresh.set(self.config.fresh_s)
        return metrics

    def _guard(self) -> None:
        config, metrics = self.config, self.metrics.access
        self.audit = Audit(config.audit, self.metrics.storage.disk_full.labels("audit").inc)
        self.events.listeners.append(self.audit.event)
        self.access = access_file(config.access, metrics)
        self.certificates = None
        if config.tls_cert and config.tls_key:
            self.certificates = Certificates(config.tls_cert, config.tls_key, config.tls_client_ca, metrics)
        self.security = Security(lambda: self.access.current, metrics, audit=self.audit)
        self.tenants = Tenants(metrics, config.learn_s_per_s)
        self.tenants.apply(self.access.current)
        self.writers = Writers(config.write_s)
        self.credentials = CredentialWatch(
            config.access, self.access, self.certificates, self.tenants, self.security, self.audit
        )
