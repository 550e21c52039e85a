"""One model in the trainer: journal chunks become calls of the learner and of the gate. Still a fold: no clock, no I/O.

`weights_of` is the one thing from outside: the exact weights of a published version, which is immutable. A contender
whose weights are gone, met when old records are learned again, is passed over: the gate then judges by an older anchor,
and the weights, which depend on the records alone, are the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.fold.contexts import out_of_range
from model.fold.drift import Drift
from model.fold.histories import NON_FINITE, RANGE
from model.fold.learner import Counts, Learner, Update
from model.fold.shares import Shares
from model.spec import ModelSpec
from service.common.gate import Gate, GateSettings
from service.journal.records import (
    Chunk,
    Label,
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


class Standing(NamedTuple):
    """The versions that going on from a checkpoint of a model needs."""

    version: int  # the one that serves, as far as the records say
    anchor: int
    contender: int  # 0: none
    offset: int  # entries of the model that the checkpoint holds


class WeightsGone(LookupError):
    """The weights of a version are pruned or damaged, and learning cannot go on without them."""


class OutOfOrder(RuntimeError):
    """A chunk does not follow the one before: nothing was changed."""


@dataclass
class HostedModel:
    """A model's learner and gate, and how far in its records they are."""

    number: int
    learner: Learner
    gate: Gate
    offset: int = 0  # journal entries of the model that are in the weights
    heard: int = 0  # of them, those up to the last tick, label or window
    chunks: int = 0
    version: int = 0  # the one that serves, as far as the records say
    contender_weights: Array | None = None
    anchored: list[int] = field(default_factory=list)  # versions that became anchor, for the caller to take
    thrown_away: int | None = None  # of the last chunk's updates, those before it began again; None: it did not
    skips: Skips = field(default_factory=Skips)  # those of all records, also of those to come: whoever feeds it says
    sources: Sources = field(default_factory=Sources)
    quarantine: Quarantine = field(default_factory=Quarantine)

    @classmethod
    def create(cls, number: int, record: ModelCreate, settings: GateSettings) -> HostedModel:
        """A model at its first record: weights from its seed, which are also version 1 and the first anchor."""
        learner = Learner(ModelSpec.from_stored(json.loads(record.spec)))
        learner.anchor = learner.weights.flat.copy()
        return cls(number, learner, Gate(settings))

    def begin(self, version: int, offset: int, paused: bool, weights_of: WeightsOf) -> None:
        """Learning begins behind entry `offset`, which is in the middle of the records, from a version's weights.

        version: the one that serves, which is the anchor too; 0: none yet. Raises WeightsGone.
        """
        self.offset, self.heard, self.learner.paused = offset, offset, paused
        if version:
            self._begin_again(version, weights_of)
            self.gate.promoted(version)

    def apply(self, chunk: Chunk, weights_of: WeightsOf) -> list[Update]:
        """Take one chunk in. A chunk that is in already is passed over.

        Raises OutOfOrder for a gap, WeightsGone for a rollback to a version that is gone: the model is unusable then.
        """
        if chunk.end <= self.offset:
            return []
        if chunk.offset != self.offset:
            raise OutOfOrder(f"model {self.number}: chunk begins at {chunk.offset}, expected {self.offset}")
        score = self.chunks % self.gate.settings.score_every == 0
        how = {"learn_every": chunk.learn_every, "score_anchor": score}
        updates: list[Update] = []
        self.thrown_away = None
        offset = self.offset
        for kind, run in groupby(chunk.records, type):  # consecutive labels are learned together, and so are windows
            records: list[Any] = list(run)
            if offset in self.skips and kind in (Ticks, Label, Window):
                self._pass_over(records, offset)
            elif kind is Label or kind is Window:
                updates += self._outside(records, offset, **how)
            else:
                at = offset
                for record in records:
                    updates += self._apply(record, at, weights_of, **how)
                    at += entries(record)
            if kind is Rollback or kind is Promote:
                self.thrown_away = len(updates)
            offset += sum(map(entries, records))
            if kind in (Ticks, Label, Window):
                self.heard = offset
        self.chunks += 1
        self.offset = offset
        return updates

    def _outside(self, records: list[Any], offset: int, **how: Any) -> list[Update]:
        """Consecutive labels, or windows, the first being entry `offset`: what cannot be learned is quarantined."""
        if isinstance(records[0], Label):
            taken = list(enumerate(records))
            streams, seq = (np.array([getattr(r, name) for r in records]) for name in ("stream", "seq"))
            y = np.stack([r.y for r in records])
            updates, rejected = self.learner.labels(streams.astype(np.uint32), seq.astype(np.uint64), y, **how)
        else:
            taken = [(i, record) for i, record in enumerate(records) if self._is_new(record)]
            updates, rejected = self.learner.windows([record for _, record in taken], **how)
        for found in rejected:
            place, record = taken[found.index]
            self.quarantine.add(offset + place, found.reason, record)
        self._judge(updates)
        return updates

    def _pass_over(self, records: list[Any], offset: int) -> None:
        """Ticks, labels or windows that are never learned: streams begin anew behind them, the rest is quarantined."""
        for place, record in enumerate(records):
            if isinstance(record, Ticks):
                for stream in np.unique(record.stream).tolist():
                    self.learner.reset(stream)
            elif isinstance(record, Label) or self._is_new(record):
                self.quarantine.add(offset + place, SKIPPED, record)

    def _is_new(self, window: Window) -> bool:
        """Whether a window was not learned before. What is replayed leaves the quarantine here, once."""
        if window.source == REPLAY:
            return self.quarantine.release(window.window_seq)
        return self.sources.take(window.source, window.window_seq)

    def _apply(self, record: Record, offset: int, weights_of: WeightsOf, **how: Any) -> list[Update]:
        """One record, which is entry `offset`."""
        match record:
            case Ticks():
                return self._ticks(record, offset, **how)
            case Reset(stream=stream) | StateDelete(stream=stream):
                self.learner.reset(stream)
            case Paused():
                self.learner.paused = True
            case Resumed():
                self.learner.paused = False
            case Swap(version=version):
                if not self.version:  # the model's first; its number is above 1 where a failed creation took that
                    self.gate.anchor = version
                self.version = version
                had = self.gate.contender
                self.gate.swapped(version)
                if self.gate.contender != had:
                    self._contend(version, weights_of)
            case Rollback(version=version):
                self._begin_again(version, weights_of)
                self.gate.rolled_back(version)
            case Promote(version=version):
                self._begin_again(version, weights_of)
                self.gate.promoted(version)
            case StatePut(stream=stream, state=state):
                self.learner.put(stream, state)
            case _:
                pass  # kinds that do not touch learning: stream bindings; skips, which `skips` says already
        return []

    def _ticks(self, ticks: Ticks, offset: int, **how: Any) -> list[Update]:
        """Ticks, the first being entry `offset`: values that are no labels, or whose update was refused, are listed."""
        learner = self.learner
        updates = learner.ticks(ticks.stream, ticks.seq, ticks.time, ticks.x, **how)
        values = ticks.x[:, learner.spec.target_index]
        found = {place: NON_FINITE for update in updates for place in update.refused_ticks}
        if learner.spec.label_range and learner.spec.learn and not learner.paused and values.size:
            found |= dict.fromkeys(np.flatnonzero(out_of_range(learner.spec, values)).tolist(), RANGE)
        for at, reason in sorted(found.items()):
            self.quarantine.add(offset + at, reason, Label(int(ticks.stream[at]), int(ticks.seq[at]), values[at]))
        self._judge(updates)
        return updates

    def _begin_again(self, version: int, weights_of: WeightsOf) -> None:
        """Learning goes on from a version's weights, which are the anchor; what was learned since is thrown away."""
        weights = weights_of(self.number, version)
        self.version = version
        self.learner.roll_back(weights)
        self.learner.anchor = weights.copy()
        self.contender_weights = None
        self.anchored.append(version)

    def _contend(self, version: int, weights_of: WeightsOf) -> None:
        """Keep the contender's weights. Retention may have dropped them: then there is no contender."""
        try:
            self.contender_weights = weights_of(self.number, version)
        except WeightsGone:
            self.gate.contender = 0

    def _judge(self, updates: Iterable[Update]) -> None:
        """Before the next record is taken in: a rollback must not be held against what it threw away."""
        for update in updates:
            self.gate.learned(update.labels)
            if not math.isnan(update.anchor_score):
                self.gate.scored(update.score, update.anchor_score, update.labels)
        contender = self.gate.contender
        anchor = self.gate.new_anchor()
        if anchor:
            self.learner.anchor = self.contender_weights
            self.anchored.append(anchor)
        if self.gate.contender != contender:
            self.contender_weights = None

    @property
    def standing(self) -> Standing:
        """The versions that learning needs to go on from here."""
        return Standing(self.version, self.gate.anchor, self.gate.contender, self.offset)

    def totals(self) -> dict[str, Any]:
        """Counts since the model's first record, for the metrics; JSON can hold them."""
        counts = self.learner.counts
        return {name: getattr(counts, name) for name in COUNTED} | {
            "offset": self.offset,
            "evicted": self.learner.contexts.evicted,
            "quarantined": self.quarantine.totals,
            "in_quarantine": len(self.quarantine),
            "quarantine_dropped": self.quarantine.dropped,
        }

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays of the model, and of a copy of its weights for the version published last."""
        contender = self.contender_weights
        return self.learner.nbytes + self.learner.weights.flat.nbytes + (0 if contender is None else contender.nbytes)

    def pack(self) -> tuple[str, dict[str, bytes]]:
        """What a checkpoint stores besides contexts: a JSON text and named blobs."""
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
        blobs = {
            "weights": learner.weights.flat.tobytes(),
            "moments": learner.optimizer_state.moments.tobytes(),
            "anchor": b"" if learner.anchor is None else learner.anchor.tobytes(),
            "contender": b"" if self.contender_weights is None else self.contender_weights.tobytes(),
            "order": np.array(learner.contexts.order(), np.uint32).tobytes(),
            "shares": learner.shares.pack(),
            "quarantined": np.array(self.quarantine.ids, np.uint64).tobytes(),
        }
        return json.dumps(head), blobs

    @classmethod
    def unpack(
        cls, number: int, head: str, blobs: dict[str, bytes], contexts: dict[int, bytes], settings: GateSettings
    ) -> HostedModel:
        """The inverse of `pack`; contexts by stream number. Raises ValueError or KeyError for anything else."""
        facts = json.loads(head)
        learner = Learner(ModelSpec.from_stored(facts["spec"]))
        learner.weights.flat[...] = np.frombuffer(blobs["weights"], np.float32)
        moments = learner.optimizer_state.moments  # as many rows as the spec's optimizer has
        moments[...] = np.frombuffer(blobs["moments"], np.float32).reshape(moments.shape)
        learner.optimizer_state.step = facts["step"]
        learner.paused = facts["paused"]
        learner.counts = Counts(**facts["counts"])
        learner.shares = Shares.unpack(blobs["shares"])
        learner.drift = Drift(**facts["drift"])
        learner.anchor = np.frombuffer(blobs["anchor"], np.float32).copy() if blobs["anchor"] else None
        learner.contexts.restore(contexts, np.frombuffer(blobs["order"], np.uint32).tolist())
        learner.contexts.evicted = facts["evicted"]
        gate = Gate(settings, **facts["gate"])
        heard = facts.get("heard", facts["offset"])  # written by 0.1.0: it did not tell them apart
        hosted = cls(number, learner, gate, facts["offset"], heard, facts["chunks"], facts["version"])
        hosted.sources = Sources(facts["sources"])
        ids = np.frombuffer(blobs["quarantined"], np.uint64).tolist()
        hosted.quarantine = Quarantine(ids, **facts["quarantine"])
        hosted.contender_weights = np.frombuffer(blobs["contender"], np.float32).copy() if blobs["contender"] else None
        return hosted
