"""Results of calls: small frozen objects built from messages of freshet/v1, with their field names.

A field absent from the message is None; lists are tuples. Unknown fields of a newer server are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from google.protobuf.message import Message

from freshet.messages import Result, WireEnum


class StateOrigin(WireEnum):
    """The origin of a stream's state: `freshet.v1.Welcome.StateOrigin`."""

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
    CHANGED = 12


@dataclass(frozen=True, slots=True, repr=False)
class ModelSpec(Result):
    """How a model reads its streams and how it learns: `freshet.v1.ModelSpec`, with every field filled in by the
    server."""

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
    forecaster: str = ""
    seasons: tuple[float, ...] = ()
    zone: str = ""
    rate_floor: float = 0.0
    intervals: tuple[float, ...] = ()
    known: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    holidays: str = ""
    shadow: str = ""
    own_readout: bool = False
    reset: str = ""
    cells: tuple[str, ...] = ()
    layer_norm: bool = False
    residual: bool = False
    rule: str = ""
    attention_window: int = 0
    heads: int = 0
    positions: str = ""
    degrees: float = 0.0
    clip_value: float = 0.0
    accumulate: int = 0
    layer_rates: tuple[str, ...] = ()

    @classmethod
    def of(cls, message: Message) -> Self:
        """Build it from a message. A field that an older server does not send is 0 or empty."""
        values: dict[str, Any] = {field.name: getattr(message, field.name) for field in fields(cls)}
        lists = {field.name: tuple(values[field.name]) for field in fields(cls) if str(field.type).startswith("tuple")}
        return cls(**(values | lists))

    def to_mapping(self) -> dict[str, Any]:
        """Return every field by name, tuples as lists: arguments for `create_model` of a model with the same spec."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values}


@dataclass(frozen=True, slots=True, repr=False)
class Comparison(Result):
    """A shadow and its source on the last labels, up to 4,096, that both have learned since the server's start.

    Losses are mean scaled losses of forecasts made before the label was learned. persistence_loss and
    source_persistence_loss, of a forecast without a network, are equal if the units are.
    problem: why the losses cannot be compared; empty if they can.
    """

    shadow: str
    source: str
    labels: int
    loss: float
    persistence_loss: float
    source_loss: float
    source_persistence_loss: float
    problem: str


@dataclass(frozen=True, slots=True, repr=False)
class ModelReport(Result):
    """How a model performs. Counts start at 0 when the server starts.

    loss: mean scaled loss of the last learned labels, each forecast before it was learned; None before any.
    persistence_loss: the loss of a forecast without a network on the same labels.
    learned_labels: label vectors.
    backlog: records not learned yet.
    learn_every: one in this many labels is learned.
    published, vetoed, rolled_back: numbers of verdicts.
    published_time: seconds since 1970-01-01 UTC; 0 if nothing was published since the server's start.
    staleness_counts: cumulative numbers of forecasts by unjudged labels, up to each of staleness_bounds, then all.
    unjudged_seconds: how long the oldest waiting label has waited to be learned.
    comparison: of a shadow with its source; None for another model.
    """

    READ: ClassVar[Mapping[str, Callable[[Any], Any]]] = {"comparison": Comparison.of}
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
    comparison: Comparison | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Model(Result):
    """A model as it is now.

    champion: the serving version.
    anchor: the last version that proved itself.
    streams: number of known streams, open or not.
    offset: number of its journal records.
    judged_offset: how many of them are learned and judged.
    report: None if the server does not send one.
    node: address of the node that owns its shard, in a server of several nodes; empty otherwise.
    shard: the shard that holds the model. epoch: number of the shard's claims so far.
    """

    READ: ClassVar[Mapping[str, Callable[[Any], Any]]] = {"spec": ModelSpec.of, "report": ModelReport.of}
    ONLY_WITH: ClassVar[Mapping[str, str]] = dict.fromkeys(("shard", "node", "epoch"), "node")
    name: str
    spec: ModelSpec
    champion: int
    anchor: int
    paused: bool
    streams: int
    offset: int
    judged_offset: int
    report: ModelReport | None = None
    shard: int = 0
    node: str = ""
    epoch: int = 0


@dataclass(frozen=True, slots=True, repr=False)
class Version(Result):
    """A version of a model.

    offset: number of journal records that it has learned.
    digest: sha256 of the .onnx file without metadata, hex.
    created: seconds since 1970-01-01 UTC.
    loss: mean loss since the version before, 0 to 1; None if there was none.
    anchor_loss: the anchor's loss on the same labels.
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
    """A version's files. onnx: the whole forecaster; weights: safetensors."""

    READ: ClassVar[Mapping[str, Callable[[Any], Any]]] = {"version": Version.of}
    version: Version
    onnx: bytes
    weights: bytes


@dataclass(frozen=True, slots=True, repr=False)
class ModelEvent(Result):
    """Something that happened to a model. offset: the number of records that it covers. time: seconds since 1970-01-01
    UTC."""

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
    """A stream as a server keeps it. `dataclasses.replace(kept, model=…, stream=…)` makes one to put elsewhere.

    last_time: event time of its last tick with a time, seconds since 1970-01-01 UTC.
    state: one row of little-endian float32; empty unless requested.
    state_bytes: length of the state.
    epoch: counts the stream's owners.
    version: the version that answers it.
    judged_through: its last tick with a judged label.

    A server ignores version, judged_through and state_bytes in a stream that is put.
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
    """The server's description of a stream at opening; `Stream` has the current values.

    next_seq: number of the next tick.
    last_time: event time of the last tick with a time, seconds since 1970-01-01 UTC; None for a fresh stream, and from
        a server that does not know this field.
    durable_in_forecasts: the server reports what is on its disk with forecasts, and alone only when someone waits.
    max_ticks: ticks that it takes in one message; 0: one at a time.
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
    durable_in_forecasts: bool = False
    max_ticks: int = 0


@dataclass(frozen=True, slots=True, repr=False)
class Quarantined(Result):
    """An acknowledged label or window that could not be learned, with the reason. source: empty for a label."""

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
    """The result of a replay. replayed: ids that are on disk and will be learned. refused: reasons by id for the
    others."""

    replayed: tuple[int, ...]
    refused: Mapping[int, str]


@dataclass(frozen=True, slots=True, repr=False)
class Node(Result):
    """A node of a cluster that is alive.

    address: HOST:PORT of its gRPC port, as the other nodes reach it.
    http: HOST:PORT of its HTTP port, as it listens.
    started: seconds since 1970-01-01 UTC.
    shards: numbers of those that it owns.
    leaving: it hands its shards over and will stop.
    answers: False if it did not answer the node that was asked, which then says what this one wrote of itself last.
    """

    address: str
    http: str
    started: float
    shards: tuple[int, ...]
    leaving: bool
    answers: bool


@dataclass(frozen=True, slots=True, repr=False)
class Shard(Result):
    """A shard of a cluster.

    node: address of its owner; empty if no living node says that it owns the shard.
    epoch: number of its claims so far; 0 if the owner is unknown.
    models: of the caller's tenant; None if the owner is unknown or does not answer.
    """

    shard: int
    node: str
    epoch: int
    models: int | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Cluster(Result):
    """The nodes of a cluster by address, and all shards by number."""

    READ: ClassVar[Mapping[str, Callable[[Any], Any]]] = {"nodes": Node.of, "shards": Shard.of}
    nodes: tuple[Node, ...]
    shards: tuple[Shard, ...]
