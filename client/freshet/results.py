"""Results of calls: small frozen objects, made of the messages of freshet/v1, whose field names they keep.

What a message leaves out is None; lists are tuples. A field of a newer server that is not known here is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from google.protobuf.message import Message

from freshet.messages import Result, WireEnum


class StateOrigin(WireEnum):
    """Where a stream's state comes from: `freshet.v1.Welcome.StateOrigin`."""

    STATE_ORIGIN_UNSPECIFIED = 0
    FRESH = 1
    RESUMED = 2
    IMPORTED = 3
    LOST = 4


class EventKind(WireEnum):
    """What happened to a model: `freshet.v1.ModelEvent.Kind`."""

    KIND_UNSPECIFIED = 0
    CREATED = 1
    PUBLISHED = 2
    VETOED = 3
    ROLLED_BACK = 4
    PAUSED = 5
    RESUMED = 6
    SKIPPED = 7
    ANCHORED = 8
    IMPORTED = 9
    DELETED = 10
    DRIFTED = 11


@dataclass(frozen=True, slots=True, repr=False)
class ModelSpec(Result):
    """How a model sees its streams and how it learns: `freshet.v1.ModelSpec`, every field filled in by the server."""

    SHOWN: ClassVar[tuple[str, ...]] = ("channels", "task", "horizon", "cell", "layers", "hidden")
    channels: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    horizon: int = 0
    interval: float = 0.0
    max_gap: float = 0.0
    cell: str = ""
    layers: int = 0
    hidden: int = 0
    window: int = 0
    learn_every: int = 0
    learn: bool = False
    task: str = ""
    loss: str = ""
    optimizer: str = ""
    learning_rate: float = 0.0
    clip: float = 0.0
    scaler: str = ""
    head_init: float = 0.0
    seed: int = 0
    missing: str = ""
    activation: str = ""
    init: str = ""
    init_gain: float = 0.0
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: str = ""
    warmup: int = 0
    schedule_updates: int = 0
    class_weights: tuple[float, ...] = ()
    huber_delta: float = 0.0
    freeze: tuple[str, ...] = ()
    label_horizon: int = 0
    classes: tuple[str, ...] = ()
    drift_reaction: str = ""
    drift_raise: float = 0.0
    drift_labels: int = 0
    label_range: tuple[float, ...] = ()
    max_share: float = 0.0

    @classmethod
    def of(cls, message: Message) -> Self:
        """A model's; what an older server leaves out is 0 or empty."""
        values: dict[str, Any] = {field.name: getattr(message, field.name) for field in fields(cls)}
        lists = {field.name: tuple(values[field.name]) for field in fields(cls) if str(field.type).startswith("tuple")}
        return cls(**(values | lists))

    def to_mapping(self) -> dict[str, Any]:
        """Every key by name, lists as lists: what `create_model` takes, for another model of the same spec."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values}


@dataclass(frozen=True, slots=True, repr=False)
class ModelReport(Result):
    """How a model does; counts begin at 0 with each server.

    loss: mean scaled loss of the last labels learned, forecast first, None until then; persistence_loss: of an answer
    without a network on the same labels. learned_labels: label vectors. backlog: records not learned yet. learn_every:
    one in so many labels is learned. published, vetoed, rolled_back: verdicts. published_time: seconds since 1970-01-01
    UTC, 0 for none since the server's start. staleness_counts: forecasts by how many labels were not judged, up to each
    of staleness_bounds, and beyond the last. unjudged_seconds: for which the oldest label has waited to be learned.
    """

    SHOWN: ClassVar[tuple[str, ...]] = ("loss", "persistence_loss", "ticks", "learned_labels", "backlog")
    loss: float | None = None
    persistence_loss: float | None = None
    ticks: int = 0
    learned_labels: int = 0
    backlog: int = 0
    learn_every: int = 1
    streams_open: int = 0
    published: int = 0
    vetoed: int = 0
    rolled_back: int = 0
    published_time: float = 0.0
    staleness_counts: tuple[int, ...] = ()
    staleness_bounds: tuple[float, ...] = ()
    unjudged_seconds: float = 0.0


@dataclass(frozen=True, slots=True, repr=False)
class Model(Result):
    """A model as it is now.

    champion: the version that serves; anchor: the last that proved itself. streams: known, open or not. offset: its
    journal records so far; judged_offset: those that are learned and judged. report: None of a server that sends none.
    """

    READ: ClassVar[Mapping[str, Callable[[Any], Any]]] = {"spec": ModelSpec.of, "report": ModelReport.of}
    name: str
    spec: ModelSpec
    champion: int
    anchor: int
    paused: bool
    streams: int
    offset: int
    judged_offset: int
    report: ModelReport | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Version(Result):
    """A version of a model.

    offset: journal records that it has learned. digest: sha256 of the .onnx, hex. created: seconds since 1970-01-01
    UTC. loss: mean since the version before, 0 to 1, None where there was none; anchor_loss: the anchor's on the same
    labels.
    """

    number: int
    parent: int
    offset: int
    digest: str
    created: float
    loss: float | None
    anchor_loss: float | None
    parity_error: float


@dataclass(frozen=True, slots=True, repr=False)
class Export(Result):
    """A version's files: onnx, the whole forecaster; weights, safetensors."""

    READ: ClassVar[Mapping[str, Callable[[Any], Any]]] = {"version": Version.of}
    version: Version
    onnx: bytes
    weights: bytes


@dataclass(frozen=True, slots=True, repr=False)
class ModelEvent(Result):
    """Something that happened to a model. offset: records that it judges. time: seconds since 1970-01-01 UTC."""

    Kind: ClassVar = EventKind
    READ: ClassVar[Mapping[str, Callable[[Any], Any]]] = {"kind": EventKind}
    model: str
    kind: EventKind
    offset: int
    version: int
    reason: str
    numbers: Mapping[str, float]
    time: float


@dataclass(frozen=True, slots=True, repr=False)
class KeptStream(Result):
    """A stream as a server keeps it; `dataclasses.replace(kept, model=…, stream=…)` is one to put elsewhere.

    last_time: event time of its last tick that had one, seconds since 1970-01-01 UTC. state: one row of little-endian
    float32, empty unless it was asked for; state_bytes: its length. epoch: counts owners. version: the one that
    answers it; judged_through: its last tick whose label is judged. A server ignores the last three in what is put.
    """

    READ: ClassVar[Mapping[str, Callable[[Any], Any]]] = {"state_origin": StateOrigin}
    model: str
    stream: str
    last_seq: int = 0
    durable_seq: int = 0
    last_time: float | None = None
    state_origin: StateOrigin = StateOrigin.STATE_ORIGIN_UNSPECIFIED
    state: bytes = b""
    epoch: int = 0
    version: int = 0
    judged_through: int = 0
    state_bytes: int = 0


@dataclass(frozen=True, slots=True, repr=False)
class Welcome(Result):
    """What a server says of a stream when it is opened; `Stream` has what has changed since.

    next_seq: the tick to send next. last_time: event time of the last tick that had one, seconds since 1970-01-01 UTC;
    None for a fresh stream, and of a server that does not know this field.
    """

    FRESH: ClassVar = StateOrigin.FRESH
    RESUMED: ClassVar = StateOrigin.RESUMED
    IMPORTED: ClassVar = StateOrigin.IMPORTED
    LOST: ClassVar = StateOrigin.LOST
    READ: ClassVar[Mapping[str, Callable[[Any], Any]]] = {"spec": ModelSpec.of, "state_origin": StateOrigin}
    stream_id: str
    next_seq: int
    durable_seq: int
    state_origin: StateOrigin
    version: int
    spec: ModelSpec
    judged_through: int
    max_undurable: int
    last_time: float | None


@dataclass(frozen=True, slots=True, repr=False)
class Quarantined(Result):
    """A label or a window that was acknowledged and could not be learned, and why. source: empty for a label."""

    id: int
    offset: int
    reason: str
    stream: str
    seq: int
    y: tuple[float, ...]
    source: str
    window_seq: int


@dataclass(frozen=True, slots=True, repr=False)
class Replayed(Result):
    """replayed: ids that are on their way into learning, on disk. refused: why each of the others is not."""

    replayed: tuple[int, ...]
    refused: Mapping[int, str]
