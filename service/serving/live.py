"""The parts of the live path, wired. For the composition root and tests: no part gets the whole."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from service.access.tenants import Tenants
from service.engine.loaded import Engine
from service.journal.writer import Journal
from service.observe.events import Events
from service.observe.metrics import Metrics
from service.serving.admission import Admission, AdmissionSettings
from service.serving.catalog import Catalog
from service.serving.loading import Champions, Loader
from service.serving.opening import Opening
from service.serving.progress import Progress
from service.serving.stepping import Stepper
from service.serving.steps import Steps, Turns
from service.serving.ticks import SingleTicks
from service.serving.waves import Runs, Waves
from service.storage.states import States
from service.storage.versions import Versions
from service.streams.residency import Residency, ResidencySettings


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """The settings of each part."""

    admission: AdmissionSettings
    residency: ResidencySettings
    max_streams: int  # known streams, all models together


class LivePath:
    """Builds the parts, each from those before it."""

    def __init__(
        self,
        settings: LiveSettings,
        journal: Journal,
        versions: Versions,
        states: States,
        engine: Engine,
        tenants: Tenants,
        metrics: Metrics,
        events: Events,
        clock: Callable[[], float] = time.perf_counter,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """clock: monotonic seconds; wall: seconds since 1970."""
        serving, storage = metrics.serving, metrics.storage
        self.catalog = Catalog(journal, events, serving, wall)
        self.admission = Admission(settings.admission, journal, tenants, serving, clock, wall)
        models, totals, moved = self.catalog.models, self.catalog.totals, self.catalog.report_streams
        self.residency = Residency(settings.residency, states, models, totals, clock, moved)
        most = settings.max_streams
        self.opening = Opening(most, self.catalog, self.admission, self.residency, serving, storage, clock)
        self.loader = Loader(versions, engine, storage)
        self.champions = Champions(self.catalog, engine, self.loader, journal, serving, storage, clock)
        self.steps, self.turns = Steps(), Turns(clock)
        stepper = Stepper(journal, self.champions, serving, clock, self.steps)
        self.ticks = SingleTicks(self.admission, self.champions, stepper, journal, serving, clock)
        self.waves = Waves(self.catalog, self.admission, stepper, clock)
        self.runs = Runs(self.admission, self.champions, stepper, self.ticks, self.turns, serving, clock)
        Progress(self.catalog, journal, metrics.journal)  # the journal holds it
