"""The components behind the calls: those of one shard, and where the shard of a model is found."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from freshet.v1 import models_pb2
from service.common.names import ModelKey
from service.journal.writer import Journal
from service.learning.intake import Intake
from service.learning.pool import Trainers
from service.learning.replaying import Replayer
from service.observe.metrics import Metrics
from service.publishing.control import Control
from service.serving.admission import Admission
from service.serving.catalog import Catalog
from service.serving.erasure import Erasure
from service.serving.loading import Champions
from service.serving.opening import Opening
from service.serving.steps import Turns
from service.serving.ticks import SingleTicks
from service.serving.waves import Runs, Waves
from service.storage.versions import Versions
from service.streams.residency import Residency
from service.viewing.seen import Seen

EventMessages = AsyncGenerator[models_pb2.ModelEvent, None]


class Whereabouts(NamedTuple):
    """A shard of a cluster: its number, the address of the node that owns it, and the number of its claims."""

    shard: int
    node: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Parts:
    """Shared by all calls for the models of one shard."""

    catalog: Catalog
    admission: Admission
    opening: Opening
    residency: Residency
    champions: Champions
    ticks: SingleTicks
    waves: Waves
    runs: Runs
    turns: Turns
    intake: Intake
    replayer: Replayer
    trainers: Trainers
    journal: Journal
    versions: Versions
    control: Control
    erasure: Erasure
    metrics: Metrics
    seen: Seen
    clock: Callable[[], float]  # monotonic seconds
    whereabouts: Whereabouts | None = None  # None: a single server, without shards


class Places(Protocol):
    """Where models are served. address: of this node, by which others reach it; "": a single server."""

    address: str

    async def of(self, key: ModelKey, stream: str = "", part: int | None = None) -> Parts:
        """Return the parts of the shard that has the model, or is to have it.

        stream, part: of a model in slices, those of the slice that has the stream, or of this slice. Raises Moved if
        another node owns the shard, Unavailable if none can now.
        """

    async def slices(self, key: ModelKey) -> int:
        """Return the number of slices of a model; 0 for one that is served where it learns. Raises Unavailable."""

    def beside(self, key: ModelKey, other: ModelKey) -> str:
        """Return "" if both names belong to one shard; else a name like that of `key` that belongs to the other's."""

    def here(self) -> Sequence[Parts]:
        """Return the parts of every shard of this process."""

    def http_of(self, node: str) -> str:
        """Return the HTTP address of a node; "" if it is unknown. node: its gRPC address."""

    async def elsewhere(self, context: Any) -> list[models_pb2.Model]:
        """Return the models that other nodes report to the caller of a List.

        context: of that call; its `invocation_metadata` is passed on.
        """

    async def past_elsewhere(self, request: models_pb2.WatchRequest, context: Any) -> list[models_pb2.ModelEvent]:
        """Return the recent events of other nodes that a Watch without a model asks for."""

    def joined(
        self, own: EventMessages, request: models_pb2.WatchRequest, context: Any
    ) -> AbstractAsyncContextManager[EventMessages]:
        """Join the events of this process with those of other nodes, for a Watch without a model.

        When the block begins, no later event is missed; `own` is closed when it ends.
        """


class OnePlace:
    """The only shard of a single server."""

    address = ""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def of(self, key: ModelKey, stream: str = "", part: int | None = None) -> Parts:
        """Return the parts of the server."""
        return self._parts

    async def slices(self, key: ModelKey) -> int:
        """Return 0: there are no other shards."""
        return 0

    def beside(self, key: ModelKey, other: ModelKey) -> str:
        """Return "": there are no other shards."""
        return ""

    def here(self) -> Sequence[Parts]:
        """Return the parts of the server."""
        return (self._parts,)

    def http_of(self, node: str) -> str:
        """Return "": there are no other nodes."""
        return ""

    async def elsewhere(self, context: Any) -> list[models_pb2.Model]:
        """Return nothing: there are no other nodes."""
        return []

    async def past_elsewhere(self, request: models_pb2.WatchRequest, context: Any) -> list[models_pb2.ModelEvent]:
        """Return nothing."""
        return []

    def joined(
        self, own: EventMessages, request: models_pb2.WatchRequest, context: Any
    ) -> AbstractAsyncContextManager[EventMessages]:
        """Return the own events."""
        return aclosing(own)
