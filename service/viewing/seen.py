"""What is looked at: the components of one shard, the subject of a viewer, and what ends a view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from service.common.errors import Exhausted
from service.journal.writer import Journal
from service.learning.pool import Trainers
from service.observe.events import Events
from service.observe.metrics import Metrics
from service.serving.admission import Admission
from service.serving.catalog import Catalog
from service.serving.loading import Loader
from service.storage.versions import Versions
from service.streams.residency import Residency

MAX_VIEWERS = 32  # open at the same time, of one process
MAX_STREAMS = 8  # of one subject
MAX_TICKS = 512  # of one block
SHOW = frozenset({"ticks", "state", "gradient", "scores", "samples"})
RETRY_S = 5.0  # after which a refused viewer may find a place


@dataclass(frozen=True, slots=True)
class Seen:
    """The components of one shard that a look reads. The composition root cuts it; `Parts.seen` has it."""

    catalog: Catalog
    admission: Admission  # says whether the shard leaves
    residency: Residency
    loader: Loader
    versions: Versions
    trainers: Trainers
    journal: Journal
    metrics: Metrics
    events: Events
    clock: Callable[[], float]  # monotonic seconds
    wall: Callable[[], float]  # seconds since 1970


@dataclass(frozen=True, slots=True)
class Subject:
    """What a viewer asks to see of a model. `Viewing.watch` refuses wrong values.

    streams: ids; empty: the one that ticked last. target: a name; "": the first one. ghost: "open", the version that
    serves when the view opens; the number of a version; or "none".
    """

    streams: tuple[str, ...] = ()
    target: str = ""
    step: int = 1
    ghost: str = "open"
    show: frozenset[str] = field(default=SHOW)


class Ended(Exception):
    """The view has ended, as `reason` says in a sentence for people; the viewer's last messages were taken."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def too_many_viewers() -> Exhausted:
    """Return the error of a viewer beyond MAX_VIEWERS."""
    return Exhausted("viewers", MAX_VIEWERS, "close another page of this server, or try again later", retry_s=RETRY_S)
