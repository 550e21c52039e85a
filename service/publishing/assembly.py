"""The parts of publishing, wired. For the composition root and tests: no part gets the whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from service.engine.loaded import Engine
from service.journal.writer import Journal
from service.observe.metrics import Metrics
from service.publishing.control import Control
from service.publishing.creation import Creation
from service.publishing.freshness import Freshness
from service.publishing.publisher import Publisher
from service.publishing.retention import Retention
from service.serving.admission import Admission
from service.serving.catalog import Catalog
from service.serving.loading import Loader
from service.storage.versions import Versions


@dataclass(frozen=True, slots=True)
class PublishingSettings:
    """Bounds of models and versions."""

    max_models: int  # of all tenants together
    keep_versions: int  # recent versions of a model, besides those that something needs


class Publishing:
    """Builds the parts, each from those before it."""

    def __init__(
        self,
        settings: PublishingSettings,
        catalog: Catalog,
        admission: Admission,
        journal: Journal,
        versions: Versions,
        engine: Engine,
        loader: Loader,
        metrics: Metrics,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """clock: monotonic seconds; wall: seconds since 1970."""
        publishing, storage = metrics.publishing, metrics.storage
        self.retention = Retention(settings.keep_versions, catalog, versions)
        self.freshness = Freshness(catalog, journal, publishing, clock)
        kept = self.retention, self.freshness
        self.publisher = Publisher(catalog, journal, versions, engine, loader, *kept, publishing, storage, wall)
        self.creation = Creation(settings.max_models, catalog, admission, journal, versions, engine, wall)
        self.control = Control(catalog, admission, journal, versions, engine, self.creation, self.publisher, wall)
