"""One model in the trainer: journal chunks become calls of the learner and of the gate. A fold: no clock, no I/O.

Only `weights_of` comes from outside: the exact weights of a published version, which is immutable. If old records are
learned again and the weights of a contender are gone, there is no contender: the gate then compares with an older
anchor, and the learned weights, which depend on the records alone, are the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.fold.contexts import out_of_range
from model.fold.drift import Drift
from model.fold.errors import Errors
from model.fold.histories import NON_FINITE, RANGE
from model.fold.learner import Counts, Learner, Update
from model.fold.shares import Shares
from model.spec import ModelSpec
from service.common.gate import Gate, GateSettings
from service.journal.records import (
    Chunk,
    Label,
    ModelChange,
    ModelCreate,
    Paused,
    Promote,
    Record,
    Reset,
    Resumed,
    Rollback,
    StateDelete,
    StatePut,
    Swap,
    Ticks,
    Window,
    entries,
)
from service.journal.skips import Skips
from service.journal.sources import REPLAY, Sources
from service.trainer.quarantine import SKIPPED, Quarantine

Array = NDArray[np.float32]
WeightsOf = Callable[[int, int], Array]  # (model, version) → flat parameters; raises WeightsGone


COUNTED = (
    "updates", "learned", "thinned", "voided", "clipped", "drifts", "windows", "unlearned", "duplicates",
)  # fmt: skip


ERRORS = "errors"  # a checkpoint's blob
ACCUMULATED = "accumulated"  # a blob of models with accumulate above 1
ERRORS_FROM = 1 << 32  # above every stream's number: earlier versions ignore rows with such keys


class Standing(NamedTuple):
    """How far a stored checkpoint of one model is, and the versions that learning needs to continue from it."""

    version: int  # in service, according to the records learned so far
    anchor: int
    contender: int  # 0: none
    offset: int  # journal entries of the model that the checkpoint contains


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts of one model since its first record."""

    offset: int  # journal entries learned
    counts: Mapping[str, int]  # those of COUNTED, `evicted` and `quarantine_dropped`
    quarantined: Mapping[str, int]  # items ever added to the quarantine, by reason
    in_quarantine: int  # items in it now


def restore_errors(errors: Errors, blobs: Mapping[str, bytes], rows: Mapping[int, bytes]) -> None:
    """Fill new errors from a checkpoint, which has none if it was saved by 0.1.0."""
    if ERRORS in blobs:
        errors.model[...] = np.frombuffer(blobs[ERRORS]).reshape(errors.model.shape)
        stored = {key - ERRORS_FROM: data for key, data in rows.items() if key >= ERRORS_FROM}
        errors.streams.restore(stored, sorted(stored))


class WeightsGone(LookupError):
    """The weights of a version are pruned or damaged, and learning cannot continue without them."""


class OutOfOrder(RuntimeError):
    """A chunk does not follow the one before it; nothing is changed."""


@dataclass
class HostedModel:
    """A model's learner and gate, and the journal entries that they contain."""

    number: int
    learner: Learner
    gate: Gate
    offset: int = 0  # journal entries of the model that are in the weights
    heard: int = 0  # of them, those up to the last tick, label or window
    chunks: int = 0
    version: int = 0  # in service, according to the records
    contender_weights: Array | None = None
    anchored: list[int] = field(default_factory=list)  # versions that became the anchor; the caller clears it
    # Updates of the last chunk that a rollback or promotion in it discarded; None: it held neither.
    discarded: int | None = None
    skips: Skips = field(default_factory=Skips)  # of all records, including later ones: set by the caller
    sources: Sources = field(default_factory=Sources)
    quarantine: Quarantine = field(default_factory=Quarantine)

    def __post_init__(self) -> None:
        self.errors = self.learner.errors = Errors(self.learner.network)

    @classmethod
    def create(cls, number: int, record: ModelCreate, settings: GateSettings) -> HostedModel:
        """A model at its first record: weights drawn from its seed, which are also version 1 and the first anchor."""
        learner = Learner(ModelSpec.from_stored(json.loads(record.spec)))
        learner.anchor = learner.weights.flat.copy()
        return cls(number, learner, Gate(settings))

    def start_at(self, version: int, offset: int, paused: bool, weights_of: WeightsOf) -> None:
        """Start learning after the first `offset` entries, from a version's weights.

        version: in service, and the anchor too; 0: none yet. Raises WeightsGone.
        """
        self.offset, self.heard, self.learner.paused = offset, offset, paused
        if version:
            self._continue_from(version, weights_of)
            self.gate.promoted(version)

    def apply(self, chunk: Chunk, weights_of: WeightsOf) -> list[Update]:
        """Learn one chunk; returns its updates. A chunk that is contained already changes nothing.

        Raises OutOfOrder for a gap, WeightsGone for a rollback to a version that is gone: the model is unusable then.
        """
        if chunk.end <= self.offset:
            return []
        if chunk.offset != self.offset:
            raise OutOfOrder(f"model {self.number}: chunk begins at {chunk.offset}, expected {self.offset}")
        score = self.chunks % self.gate.settings.score_every == 0
        how = {"learn_every": chunk.learn_every, "score_anchor": score}
        updates: list[Update] = []
        self.discarded, offset = None, self.offset
        for kind, run in groupby(chunk.records, type):  # consecutive labels are learned together, and so are windows
            records: list[Any] = list(run)
            if offset in self.skips and kind in (Ticks, Label, Window):
                self._skip(records, offset)
            elif kind is Label or kind is Window:
                updates += self._learn_outside(records, offset, **how)
            else:
                at = offset
                for record in records:
                    updates += self._apply(record, at, weights_of, **how)
                    at += entries(record)
            if kind is Rollback or kind is Promote:
                self.discarded = len(updates)
            offset += sum(map(entries, records))
            if kind in (Ticks, Label, Window):
                self.heard = offset
        self.errors.flush()  # at the ends of chunks, so that their last bits depend on the records alone
        self.chunks += 1
        self.offset = offset
        return updates

    def _learn_outside(self, records: list[Any], offset: int, **how: Any) -> list[Update]:
        """Learn consecutive labels, or windows, of which entry `offset` is the first; quarantine those that cannot be
        learned."""
        if isinstance(records[0], Label):
            offered = list(enumerate(records))
            streams, seq = (np.array([getattr(r, name) for r in records]) for name in ("stream", "seq"))
            y = np.stack([r.y for r in records])
            updates, rejected = self.learner.labels(streams.astype(np.uint32), seq.astype(np.uint64), y, **how)
        else:
            offered = [(i, record) for i, record in enumerate(records) if self._is_new(record)]
            updates, rejected = self.learner.windows([record for _, record in offered], **how)
        for found in rejected:
            place, record = offered[found.index]
            self.quarantine.add(offset + place, found.reason, record)
        self._update_gate(updates)
        return updates

    def _skip(self, records: list[Any], offset: int) -> None:
        """Leave ticks, labels or windows out: reset the streams of the ticks, quarantine labels and windows."""
        for place, record in enumerate(records):
            if isinstance(record, Ticks):
                for stream in np.unique(record.stream).tolist():
                    self.learner.reset(stream)
            elif isinstance(record, Label) or self._is_new(record):
                self.quarantine.add(offset + place, SKIPPED, record)

    def _is_new(self, window: Window) -> bool:
        """Whether a window was not learned before. A replayed one takes its item out of the quarantine, once."""
        if window.source == REPLAY:
            return self.quarantine.release(window.window_seq)
        return self.sources.accept(window.source, window.window_seq)

    def _apply(self, record: Record, offset: int, weights_of: WeightsOf, **how: Any) -> list[Update]:
        """Apply one record, which is entry `offset`; returns its updates."""
        match record:
            case Ticks():
                return self._ticks(record, offset, **how)
            case Reset(stream=stream):
                self.learner.reset(stream)
            case StateDelete(stream=stream):
                self.learner.reset(stream)
                self.errors.remove(stream)
            case Paused() | Resumed():
                self.learner.paused = isinstance(record, Paused)
            case Swap(version=version):
                if not self.version:  # the model's first; its number is above 1 where a failed creation took that
                    self.gate.anchor = version
                self.version = version
                had = self.gate.contender
                self.gate.swapped(version)
                if self.gate.contender != had:
                    self._contend(version, weights_of)
            case Rollback(version=version):
                self._continue_from(version, weights_of)
                self.gate.rolled_back(version)
            case Promote(version=version):
                self._continue_from(version, weights_of)
                self.gate.promoted(version)
            case ModelChange(spec=spec):
                self.learner.change(ModelSpec.from_stored(json.loads(spec)))
            case StatePut(stream=stream, state=state):
                self.learner.put(stream, state)
            case _:
                pass  # stream bindings do not touch learning; skips are in `skips` already
        return []

    def _ticks(self, ticks: Ticks, offset: int, **how: Any) -> list[Update]:
        """Learn ticks, of which entry `offset` is the first; quarantine values that are out of range, or whose update
        was refused."""
        learner = self.learner
        updates = learner.ticks(ticks.stream, ticks.seq, ticks.time, ticks.x, **how)
        values = ticks.x[:, learner.spec.target_index]
        found = {place: NON_FINITE for update in updates for place in update.refused_ticks}
        if learner.spec.label_range and learner.spec.learn and not learner.paused and values.size:
            found |= dict.fromkeys(np.flatnonzero(out_of_range(learner.spec, values)).tolist(), RANGE)
        for at, reason in sorted(found.items()):
            self.quarantine.add(offset + at, reason, Label(int(ticks.stream[at]), int(ticks.seq[at]), values[at]))
        self._update_gate(updates)
        return updates

    def _continue_from(self, version: int, weights_of: WeightsOf) -> None:
        """Continue from a version's weights, which become the anchor; what was learned since is discarded."""
        weights = weights_of(self.number, version)
        self.version = version
        self.learner.roll_back(weights)
        self.learner.anchor = weights.copy()
        self.contender_weights = None
        self.anchored.append(version)

    def _contend(self, version: int, weights_of: WeightsOf) -> None:
        """Keep the contender's weights. If retention has dropped them, there is no contender."""
        try:
            self.contender_weights = weights_of(self.number, version)
        except WeightsGone:
            self.gate.contender = 0

    def _update_gate(self, updates: Iterable[Update]) -> None:
        """Score updates before the next record is applied: a rollback resets the scores of what it discards."""
        for update in updates:
            self.gate.learned(update.labels)
            if not math.isnan(update.anchor_score):
                self.gate.scored(update.score, update.anchor_score, update.labels)
        contender = self.gate.contender
        anchor = self.gate.promote_contender()
        if anchor:
            self.learner.anchor = self.contender_weights
            self.anchored.append(anchor)
        if self.gate.contender != contender:
            self.contender_weights = None

    @property
    def standing(self) -> Standing:
        """The versions that learning needs to continue from here."""
        return Standing(self.version, self.gate.anchor, self.gate.contender, self.offset)

    def totals(self) -> Totals:
        """Counts since the model's first record, for the metrics."""
        counts = {name: getattr(self.learner.counts, name) for name in COUNTED}
        others = {"evicted": self.learner.contexts.evicted, "quarantine_dropped": self.quarantine.dropped}
        return Totals(self.offset, counts | others, dict(self.quarantine.totals), len(self.quarantine))

    @property
    def nbytes(self) -> int:
        """Bytes of the model's arrays, including a copy of its last published weights."""
        contender = self.contender_weights
        of_learner = self.learner.nbytes + self.errors.nbytes + self.learner.weights.flat.nbytes
        return of_learner + (0 if contender is None else contender.nbytes)

    def pack(self) -> tuple[str, dict[str, bytes]]:
        """Return what a checkpoint stores besides the rows of `changed_rows`: a JSON text and named blobs."""
        learner = self.learner
        head = {
            "spec": learner.spec.to_stored(),
            "offset": self.offset,
            "heard": self.heard,
            "chunks": self.chunks,
            "version": self.version,
            "step": learner.optimizer_state.step,
            "paused": learner.paused,
            "counts": asdict(learner.counts),
            "drift": asdict(learner.drift),
            "evicted": learner.contexts.evicted,
            "gate": self.gate.pack(),
            "sources": self.sources.pack(),
            "quarantine": self.quarantine.pack(),
        }
        return json.dumps(head), blobs_of(self)

    @classmethod
    def unpack(
        cls, number: int, head: str, blobs: dict[str, bytes], rows: dict[int, bytes], settings: GateSettings
    ) -> HostedModel:
        """The inverse of `pack`. rows: as `changed_rows`. Raises ValueError or KeyError for anything else."""
        facts = json.loads(head)
        learner = Learner(ModelSpec.from_stored(facts["spec"]))
        learner.weights.flat[...] = np.frombuffer(blobs["weights"], np.float32)
        moments = learner.optimizer_state.moments  # as many rows as the spec's optimizer has
        moments[...] = np.frombuffer(blobs["moments"], np.float32).reshape(moments.shape)
        learner.optimizer_state.step = facts["step"]
        learner.accumulation.unpack(blobs.get(ACCUMULATED, b""))
        if learner.experts is not None:
            learner.experts.unpack(blobs["experts"])
        learner.paused = facts["paused"]
        learner.counts = Counts(**facts["counts"])
        learner.shares = Shares.unpack(blobs["shares"])
        learner.drift = Drift(**facts["drift"])
        learner.anchor = np.frombuffer(blobs["anchor"], np.float32).copy() if blobs["anchor"] else None
        learner.contexts.restore(rows, np.frombuffer(blobs["order"], np.uint32).tolist())
        learner.contexts.evicted = facts["evicted"]
        gate = Gate(settings, **facts["gate"])
        heard = facts.get("heard", facts["offset"])  # 0.1.0 did not store it
        hosted = cls(number, learner, gate, facts["offset"], heard, facts["chunks"], facts["version"])
        restore_errors(hosted.errors, blobs, rows)
        hosted.sources = Sources(facts["sources"])
        ids = np.frombuffer(blobs["quarantined"], np.uint64).tolist()
        hosted.quarantine = Quarantine(ids, **facts["quarantine"])
        hosted.contender_weights = np.frombuffer(blobs["contender"], np.float32).copy() if blobs["contender"] else None
        return hosted


def changed_rows(hosted: HostedModel) -> tuple[dict[int, bytes], set[int]]:
    """Return a checkpoint's rows that changed and the keys of those removed since the last call: contexts by stream,
    and errors at ERRORS_FROM plus the stream's number."""
    contexts, removed = hosted.learner.contexts.changes()
    errors, forgotten = hosted.errors.streams.changes()
    put = contexts | {ERRORS_FROM + stream: data for stream, data in errors.items()}
    return put, removed | {ERRORS_FROM + stream for stream in forgotten}


def blobs_of(hosted: HostedModel) -> dict[str, bytes]:
    """Return a checkpoint's blobs by name."""
    learner = hosted.learner
    others = {ACCUMULATED: learner.accumulation.pack()} if learner.spec.accumulate > 1 else {}
    return others | {
        "weights": learner.weights.flat.tobytes(),
        "moments": learner.optimizer_state.moments.tobytes(),
        "anchor": b"" if learner.anchor is None else learner.anchor.tobytes(),
        "contender": b"" if hosted.contender_weights is None else hosted.contender_weights.tobytes(),
        "experts": b"" if learner.experts is None else learner.experts.pack(),
        "order": np.array(learner.contexts.order(), np.uint32).tobytes(),
        "shares": learner.shares.pack(),
        "quarantined": np.array(hosted.quarantine.ids, np.uint64).tobytes(),
        ERRORS: hosted.errors.model.tobytes(),
    }
