"""What a trainer process sends to serving: one frozen dataclass for each kind of message; and `Progress` of a chunk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from model.fold.learner import Update
from service.trainer.hosting import HostedModel, Standing, Totals
from service.trainer.messages import Message
from service.trainer.quarantine import Item

SHOWN_LAGS = 512  # of a window, which may have thousands: each lag is a metric series of its own


@dataclass(frozen=True, slots=True)
class Ready(Message):
    """The trainer has loaded its checkpoint, which ends at `position`, and expects the chunks after it."""

    kind: ClassVar[str] = "ready"
    position: int
    models: Mapping[int, Standing]  # all models of the checkpoint


@dataclass(frozen=True, slots=True)
class Saved(Message):
    """A checkpoint that ends at `position` is on disk."""

    kind: ClassVar[str] = "saved"
    position: int
    models: Mapping[int, Standing]  # the models that changed since the last one


@dataclass(frozen=True, slots=True)
class Progress(Message):
    """One chunk was learned. Also sent for each loaded model, without updates, after `Ready`.

    Lists have one element per update that has the value, in order.
    """

    kind: ClassVar[str] = "progress"
    position: int  # in the journal, just after the chunk
    model: int
    seconds: float  # that learning the chunk took
    totals: Totals
    losses: tuple[float, ...] = ()
    persistence: tuple[float, ...] = ()
    labels: tuple[int, ...] = ()  # learned by each update with a loss
    scores: tuple[tuple[float, float], ...] = ()  # (candidate, anchor)
    norms: tuple[float, ...] = ()  # of gradients, before the clip
    refused: int = 0  # updates with a non-finite gradient
    by_layer: tuple[Mapping[str, float], ...] = ()  # gradient norms by layer
    ratios: tuple[float, ...] = ()  # ‖Δw‖ / ‖w‖
    lags: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # of the last report, by layer: by ticks back
    saturated: Mapping[str, float] = field(default_factory=dict)  # of the last report, by layer: share of gates
    # By step ahead, recent scaled means: squared and absolute error, then persistence's. Empty before any label.
    errors: Mapping[int, tuple[float, float, float, float]] = field(default_factory=dict)
    covered: Mapping[str, float] = field(default_factory=dict)  # label values inside their interval, by level
    asked: Mapping[str, float] = field(default_factory=dict)  # how many should be: level × values
    experts: Mapping[str, float] = field(default_factory=dict)  # weights of a mixture, by the expert's name


@dataclass(frozen=True, slots=True)
class Passed(Message):
    """The chunk that ends at `position` was not learned: it is contained already, or its model is deleted."""

    kind: ClassVar[str] = "passed"
    position: int


@dataclass(frozen=True, slots=True)
class Verdict(Message):
    """The decision about one model's labels up to `offset`."""

    kind: ClassVar[str] = "verdict"
    model: int
    offset: int  # journal entries of the model that the verdict covers
    verdict: str  # "publish", "veto" or "unchanged"
    reason: str
    numbers: Mapping[str, float]
    rollback: int = 0  # the version to return to; 0: none
    seconds: float = 0.0  # that the verdict took
    onnx: bytes = b""  # these three only with "publish"
    weights: bytes = b""
    canary: bytes = b""


@dataclass(frozen=True, slots=True)
class NeedWeights(Message):
    """Asks serving for the weights of a published version."""

    kind: ClassVar[str] = "need_weights"
    model: int
    version: int


@dataclass(frozen=True, slots=True)
class Anchored(Message):
    """A version has become the anchor."""

    kind: ClassVar[str] = "anchored"
    model: int
    version: int
    offset: int


@dataclass(frozen=True, slots=True)
class Drifted(Message):
    """The loss has risen: drift."""

    kind: ClassVar[str] = "drifted"
    model: int
    offset: int
    reaction: str  # the spec's drift_reaction
    numbers: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Problem(Message):
    """A condition to log; the trainer continues."""

    kind: ClassVar[str] = "problem"
    why: str
    corrupt: bool = False  # the checkpoint was damaged
    full: bool = False  # the disk is full


@dataclass(frozen=True, slots=True)
class Answer(Message):
    """Answers the `Question` of the same number."""

    ask: int


@dataclass(frozen=True, slots=True)
class QuarantineItems(Answer):
    """Answers `ListQuarantine`: items that are on disk, in the order of their ids."""

    kind: ClassVar[str] = "quarantine_items"
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class QuarantinedStreams(Answer):
    """Answers `ListQuarantinedStreams`."""

    kind: ClassVar[str] = "quarantined_streams"
    streams: Mapping[int, tuple[int, ...]]  # stream numbers by model


@dataclass(frozen=True, slots=True)
class ErrorTables(Answer):
    """Answers `ListErrors`. Rows have the QUANTITIES of `model.fold.errors`."""

    kind: ClassVar[str] = "error_tables"
    model: bytes  # [H, QUANTITIES] float64; empty for a deleted model
    streams: tuple[int, ...]  # numbers
    rows: bytes  # [streams, kept steps, QUANTITIES] float32


@dataclass(frozen=True, slots=True)
class Erased(Answer):
    """Answers `Erase`."""

    kind: ClassVar[str] = "erased"
    position: int  # that the checkpoint contains; 0: not erased, for want of disk space or because the file is read


FROM_TRAINER: tuple[type[Message], ...] = (
    Ready, Saved, Progress, Passed, Verdict, NeedWeights, Anchored, Drifted, Problem,
    QuarantineItems, QuarantinedStreams, ErrorTables, Erased,
)  # fmt: skip


def learned(hosted: HostedModel, position: int, updates: Sequence[Update], seconds: float = 0.0) -> Progress:
    """Report one chunk, which ends at `position`, and the updates that learning it made in `seconds`."""
    reports = [u.report for u in updates if u.report]
    levels = list(enumerate(hosted.learner.spec.intervals))
    return Progress(
        position,
        hosted.number,
        seconds,
        hosted.totals(),
        losses=tuple(u.loss for u in updates if math.isfinite(u.loss)),
        persistence=tuple(u.persistence for u in updates if math.isfinite(u.loss)),
        labels=tuple(u.labels for u in updates if math.isfinite(u.loss)),
        scores=tuple((u.score, u.anchor_score) for u in updates if math.isfinite(u.anchor_score)),
        norms=tuple(u.norm for u in updates if math.isfinite(u.norm)),
        refused=sum(bool(u.refused) for u in updates),
        by_layer=tuple(r.by_layer for r in reports),
        ratios=tuple(r.update_ratio for r in reports),
        lags={layer: norms[:SHOWN_LAGS] for layer, norms in reports[-1].lag_norms.items()} if reports else {},
        saturated=reports[-1].saturated if reports else {},
        errors=hosted.errors.recent() if updates else {},
        covered={f"{level:g}": sum(u.covered[n] for u in updates if u.covered) for n, level in levels},
        asked={f"{level:g}": level * sum(u.bounded for u in updates) for _, level in levels},
        experts=hosted.learner.network.mixture_weights(hosted.learner.weights),
    )
