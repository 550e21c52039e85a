"""What serving sends to a trainer process: one frozen dataclass for each kind of message. `channel` encodes them.

`reports` has the messages in the other direction. Fields may be numbers, strings, bytes, tuples, mappings by number or
string, and dataclasses or named tuples of these; names and types are checked when a message is decoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from service.common.gate import GateSettings

# Exit codes of a trainer that ends for another reason than the chunk that it learns.
NOT_THE_RECORDS = 75
WEIGHTS_GONE = 76  # the records name a version whose weights are pruned or damaged


class Message:
    """A message; its `kind` names it on the pipe."""

    __slots__ = ()
    kind: ClassVar[str]


@dataclass(frozen=True, slots=True)
class TrainerSettings(Message):
    """The first message to a trainer: its settings, and the models that exist."""

    kind: ClassVar[str] = "settings"
    data: str  # the data directory, an absolute path
    checkpoint: str  # the trainer's file in it
    nice: int
    publish_labels: int
    publish_s: float
    checkpoint_chunks: int
    memory_bytes: int  # limit of the models in memory
    gate: GateSettings
    models: tuple[int, ...]  # numbers of the models that exist or are being created
    last_model: int  # a model up to this number that is not in `models` is deleted
    skips: Mapping[int, tuple[tuple[int, int], ...]] = field(default_factory=dict)  # [first, end) of entries, by model
    judged: Mapping[int, int] = field(default_factory=dict)  # by model: entries that verdicts cover


@dataclass(frozen=True, slots=True)
class LearnChunk(Message):
    """A durable chunk to learn."""

    kind: ClassVar[str] = "chunk"
    position: int  # in the journal, just after the chunk
    resume: int  # all chunks before this position were sent
    more: bool  # later chunks of the same model are durable
    payload: bytes  # the encoded chunk


@dataclass(frozen=True, slots=True)
class Reached(Message):
    """No chunk before `position` is left for this trainer."""

    kind: ClassVar[str] = "reached"
    position: int


@dataclass(frozen=True, slots=True)
class Stop(Message):
    """Save a checkpoint and end."""

    kind: ClassVar[str] = "stop"


@dataclass(frozen=True, slots=True)
class RestartPoint:
    """From where one model continues when its checkpoint cannot be used."""

    model: int
    spec: str  # as stored in the model's first record, JSON
    version: int  # in service; 0: none yet
    offset: int  # journal entries of the model to leave out
    paused: bool


@dataclass(frozen=True, slots=True)
class Restart(Message):
    """Replaces the checkpoint: continue at `position` from the versions in service."""

    kind: ClassVar[str] = "restart"
    position: int
    models: tuple[RestartPoint, ...]


@dataclass(frozen=True, slots=True)
class Weights(Message):
    """Answers `NeedWeights`."""

    kind: ClassVar[str] = "weights"
    model: int
    version: int
    weights: bytes  # safetensors


@dataclass(frozen=True, slots=True)
class NoWeights(Message):
    """Answers `NeedWeights` for a version that is pruned, damaged or deleted."""

    kind: ClassVar[str] = "no_weights"
    why: str
    deleted: bool  # with its model


@dataclass(frozen=True, slots=True)
class Question(Message):
    """A request that the trainer answers with an `Answer` of the same number."""

    ask: int


@dataclass(frozen=True, slots=True)
class ListQuarantine(Question):
    """Asks for quarantined items of a model; the trainer saves before it answers."""

    kind: ClassVar[str] = "list_quarantine"
    model: int
    after: int  # only larger ids
    limit: int
    ids: tuple[int, ...]  # only these; empty: all


@dataclass(frozen=True, slots=True)
class ListQuarantinedStreams(Question):
    """Asks for the streams that have labels in a quarantine."""

    kind: ClassVar[str] = "list_quarantined_streams"
    resume: int  # all chunks before this position were sent


@dataclass(frozen=True, slots=True)
class ListErrors(Question):
    """Asks for the errors of a model and of some of its streams."""

    kind: ClassVar[str] = "list_errors"
    model: int
    worst: int  # number of streams at most, the largest error relative to persistence first; 0: by number
    after: int  # by number: only larger ones
    limit: int  # by number: streams at most


@dataclass(frozen=True, slots=True)
class Erase(Question):
    """Asks the trainer to drop quarantined labels of deleted streams, save, and compact its file."""

    kind: ClassVar[str] = "erase"
    resume: int  # all chunks before this position were sent
    gone: Mapping[int, tuple[int, ...]]  # stream numbers by model


TO_TRAINER: tuple[type[Message], ...] = (
    TrainerSettings, LearnChunk, Reached, Stop, Restart, Weights, NoWeights,
    ListQuarantine, ListQuarantinedStreams, ListErrors, Erase,
)  # fmt: skip
