"""The components of the live path that calls of streams use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from service.journal.writer import Journal
from service.learning.intake import Intake
from service.learning.pool import Trainers
from service.observe.serving_metrics import ServingMetrics
from service.serving.admission import Admission
from service.serving.catalog import Catalog
from service.serving.loading import Champions
from service.serving.opening import Opening
from service.serving.steps import Turns
from service.serving.ticks import SingleTicks
from service.serving.waves import Waves
from service.streams.residency import Residency


@dataclass(frozen=True, slots=True)
class StreamParts:
    """Shared by the calls of Open and Mux and by the Streams service."""

    catalog: Catalog
    admission: Admission
    opening: Opening
    residency: Residency
    champions: Champions
    ticks: SingleTicks
    waves: Waves
    turns: Turns
    intake: Intake
    trainers: Trainers
    journal: Journal
    metrics: ServingMetrics
    clock: Callable[[], float]  # monotonic seconds
