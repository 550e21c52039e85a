"""The live path: ticks in order, stepped in batches, journaled, answered. And the models they belong to.

Between validating a tick and having its row written, its record appended and its answer made, nothing awaits (R3).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time as clocks
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.spec import ModelSpec
from service import events as ev
from service import limits
from service.batcher import Batcher
from service.config import ServeConfig
from service.engine import Engine, StepSession
from service.errors import AlreadyExists, Exhausted, Invalid, NotFound, Reason, Refusal, Unavailable
from service.events import Event, Events
from service.export import Canary, export, pack_weights
from service.metrics import Metrics
from service.names import check_model_name
from service.records import ModelCreate, Promote, Reset, StreamOpened, Swap
from service.sequence import Answer, check_values, payload_digest, place
from service.sessions import Origin, Session, Sessions
from service.storage.journal import Commit, Journal, JournalFailed
from service.storage.versions import Version, Versions

Array = NDArray[np.float32]
TENANT = "default"  # until credentials name one


class Fenced(Exception):
    """The stream has another owner now; this call must end."""


@dataclass(slots=True)  # frozen would cost a microsecond of each
class Tick:
    """One tick on its way: whose it is, under which ownership it was opened, and when it arrived (clock seconds)."""

    model: Sessions
    session: Session
    epoch: int
    seq: int
    time: float
    x: Array
    arrived: float


Outcome = Answer | Refusal


class Serving:
    """All models and their live streams. Every method but the async ones runs to its end on the event loop."""

    def __init__(
        self,
        config: ServeConfig,
        journal: Journal,
        versions: Versions,
        engine: Engine,
        metrics: Metrics,
        events: Events,
        clock: Callable[[], float] = clocks.perf_counter,
        wall: Callable[[], float] = clocks.time,
    ) -> None:
        self.config, self.journal, self.versions, self.engine = config, journal, versions, engine
        self.metrics, self.events, self.clock, self.wall = metrics, events, clock, wall
        self.models: dict[int, Sessions] = {}
        self.by_name: dict[tuple[str, str], Sessions] = {}
        self.open: dict[int, set[Session]] = {}  # by model: sessions with a call
        self._lone: Session | None = None  # the first that ticked since the last commit
        self.ticks: Batcher[Tick, Outcome] = Batcher(self._step)
        self.on_commit: list[Callable[[Commit], None]] = []
        self.draining = False
        self._creating = asyncio.Lock()
        journal.on_commit.append(self._committed)

    # ---- models

    def model(self, name: str) -> Sessions:
        """The model of that name. Raises NotFound."""
        found = self.by_name.get((TENANT, name))
        if found is None:
            raise NotFound("model", name, "no such model; create it first, or list the models")
        return found

    def add_model(self, model: Sessions) -> None:
        """Make a model known."""
        self.models[model.number] = model
        self.by_name[model.tenant, model.name] = model
        self.open[model.number] = set()

    async def create_model(self, name: str, spec: ModelSpec, weights: Array | None = None) -> Sessions:
        """Create a model, or find it if it exists with this very spec; on return it is on disk and serves version 1.

        weights: flat, version 1's; None: drawn from the seed. Given, an existing model must have begun with them.
        Raises Invalid, AlreadyExists, Exhausted, Unavailable; BadVersion for weights that answer with no numbers.
        """
        check_model_name(name)
        self.check_open()
        limits.check_size(spec)
        async with self._creating:
            existing = self.by_name.get((TENANT, name))
            if existing is not None:
                if existing.spec != spec:
                    raise AlreadyExists(
                        "name", name, "exists with another spec; a spec is immutable: choose another name"
                    )
                if weights is not None and not await asyncio.to_thread(self._began_with, existing, weights):
                    remedy = "began with other weights: import these as a version of it, or choose another name"
                    raise AlreadyExists("name", name, remedy)
                return existing
            if len(self.models) >= self.config.max_models:
                raise Exhausted("name", name, f"the server holds {len(self.models)} models, its limit", retry_s=60)
            return await self._create(name, spec, weights)

    async def _create(self, name: str, spec: ModelSpec, weights: Array | None) -> Sessions:
        model = Sessions(max(self.models, default=0) + 1, TENANT, name, spec)
        version, session = await asyncio.to_thread(self._first_version, model, weights)
        record = ModelCreate(model.tenant, name, json.dumps(spec.to_mapping()))
        self.journal.append(model.number, record)
        digest = bytes.fromhex(version.digest)
        if weights is None:
            self.journal.append(model.number, Swap(version.number, 0, digest))
            judged = 0
        else:  # the learner begins with them, not with the seed's
            judged = self.journal.append(model.number, Promote(version.number, 0, digest, "its first weights"))
        self.engine.install(model.number, version.number, session)
        model.serve(version.number, judged)
        model.anchor = version.number
        self.add_model(model)
        self.metrics.of(name).version.set(version.number)
        await self.journal.flush()
        self.emit(model, ev.CREATED, 0, version.number, "created")
        return model

    def _began_with(self, model: Sessions, weights: Array) -> bool:
        """Whether the model's first version, which is always kept, has these weights."""
        first = self.versions.list(model.number)[-1]
        return first.weights_digest == hashlib.sha256(pack_weights(model.network, weights)).hexdigest()

    def _first_version(self, model: Sessions, flat: Array | None) -> tuple[Version, StepSession]:
        made = export(model.network, model.network.weights(model.network.init_params() if flat is None else flat))
        session, error = self.engine.prepare(made.onnx, Canary.unpack(made.canary))
        version = new_version(model.number, 0, 0, made.onnx, made.weights, self.wall(), {"parity_error": error})
        number = self.versions.add(version, made.onnx, made.weights, made.canary)
        self.versions.pin(model.number, number)  # the gate's anchor until it has chosen one
        return self.versions.get(model.number, number), session

    def emit(
        self,
        model: Sessions,
        kind: int,
        offset: int,
        version: int,
        reason: str,
        numbers: dict[str, float] | None = None,
    ) -> None:
        """Tell the watchers what happened to a model."""
        self.events.emit(Event(model.name, kind, offset, version, reason, self.wall(), numbers or {}))

    # ---- streams

    def open_stream(self, model: Sessions, id: str) -> tuple[Session, int]:
        """The stream and its state origin; a new owner fences whoever had it. It is journaled before any answer."""
        self.check_open()
        if not 1 <= len(id) <= 256 or not id.isprintable():
            raise Invalid("stream", id, "give 1 to 256 printable characters")
        session = model.by_id.get(id)
        if session is None:
            if sum(len(m.by_id) for m in self.models.values()) >= self.config.max_streams:
                raise Exhausted(
                    "stream", id, f"the server holds {self.config.max_streams} streams, its limit", retry_s=60
                )
            session = model.add(id, model.next_number(), 1)
        else:
            session.epoch += 1
            model.changed.add(session.number)
        self._journaled(lambda: self.journal.append(model.number, StreamOpened(session.number, id, session.epoch)))
        if session.progressed:
            session.progressed()  # the former owner finds itself fenced
        self.open[model.number].add(session)
        self.metrics.of(model.name).streams.set(len(model.by_id))
        self._count_open()
        return session, session.origin

    def close_stream(self, model: Sessions, session: Session, epoch: int) -> None:
        """The call that opened the stream has ended."""
        if session.epoch == epoch:
            session.progressed = None
            self.open[model.number].discard(session)
            self._count_open()

    def _count_open(self) -> None:
        self.metrics.open_streams.set(sum(len(sessions) for sessions in self.open.values()))

    def reset(self, model: Sessions, session: Session) -> None:
        """Begin the stream's state anew. A state that is fresh stays as it is: no record, however often it is asked."""
        if session.origin is Origin.FRESH:
            return
        self._journaled(lambda: self.journal.append(model.number, Reset(session.number)))
        model.reset(session)

    def _journaled(self, append: Callable[[], int]) -> int:
        try:
            return append()
        except JournalFailed as error:
            raise Unavailable("journal", str(error), "the server must be restarted; send again after it is") from error

    def check_open(self) -> None:
        """Raises Unavailable while the service is leaving, or cannot write."""
        if self.draining:
            raise Unavailable("service", "draining", "connect again in a moment", retry_s=1.0)
        if self.journal.failure:
            raise Unavailable("journal", str(self.journal.failure), "the server must be restarted")

    # ---- ticks

    async def tick(self, tick: Tick) -> Outcome:
        """Answer a tick, at once or with all that arrive in the same turn of the loop. Raises what the step raises.

        At once goes the stream that ticked first since the last commit: a turn of the loop costs as much as the step
        itself, which a stream alone need not pay, and among many it is only one that shares no step.
        """
        if self._lone is None:
            self._lone = tick.session
        if self._lone is not tick.session:
            return await self.ticks.submit(tick)
        self.metrics.queue_seconds.observe(self.clock() - tick.arrived)
        outcome = self._decide(tick)
        if outcome is None:
            (outcome,) = self._advance([tick])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _step(self, batch: list[Tick]) -> list[Outcome | Exception]:
        """Answer a batch. Ticks of one stream become successive waves, each a step of distinct streams."""
        outcomes: list[Outcome | Exception | None] = [None] * len(batch)
        started = self.clock()
        left: Sequence[int] = range(len(batch))
        while left:
            wave: dict[int, list[int]] = {}
            seen: set[int] = set()
            later = []
            for i in left:
                tick = batch[i]
                if id(tick.session) in seen:
                    later.append(i)
                    continue
                seen.add(id(tick.session))
                outcomes[i] = self._decide(tick)
                if outcomes[i] is None:
                    wave.setdefault(tick.model.number, []).append(i)
            for rows in wave.values():
                for i, outcome in zip(rows, self._advance([batch[i] for i in rows]), strict=True):
                    outcomes[i] = outcome
            left = later
        for tick in batch:
            self.metrics.queue_seconds.observe(started - tick.arrived)
        return [outcome for outcome in outcomes if outcome is not None]

    def _decide(self, tick: Tick) -> Outcome | Exception | None:
        """What can be said without a step: fenced, refused, repeated; None: step it."""
        session, model = tick.session, tick.model
        if session.epoch != tick.epoch:
            return Fenced(session.id)
        placed = None
        if tick.seq != session.last_seq + 1:
            placed = place(tick.seq, session.last_seq, payload_digest(tick.x, tick.time), session.answers)
        if isinstance(placed, Answer):
            self.metrics.of(model.name).repeated.inc()
            return placed
        refusal = placed or check_values(
            tick.seq, tick.x, len(model.spec.channels), tick.time, model.spec.interval > 0, session.last_time
        )
        if refusal is None and tick.seq - session.durable_seq > self.config.max_undurable:
            remedy = f"{self.config.max_undurable} ticks are not on disk yet: wait for Durable, then send it again"
            refusal = Refusal(tick.seq, Reason.OVERLOADED, "seq", str(tick.seq), remedy)
        if refusal:
            self.metrics.refused_ticks.labels(refusal.reason.name.lower()).inc()
        return refusal

    def _advance(self, ticks: list[Tick]) -> list[Outcome | Exception]:
        """Step distinct streams of one model, journal their ticks, write their states, make their answers."""
        outcomes: list[Outcome | Exception] = []
        try:
            y, states = self._compute(ticks)
            for row, tick in enumerate(ticks):
                outcomes.append(self._take(tick, y[row], states[row]))
        except Exception as error:  # a model that fails, fails its own streams alone
            outcomes += [error] * (len(ticks) - len(outcomes))
        return outcomes

    def _compute(self, ticks: list[Tick]) -> tuple[Array, Array]:
        """Forecasts and next states of distinct streams of one model, by the version that serves."""
        model = ticks[0].model
        runner = self.engine.get(model.number, model.champion)
        if runner is None:
            raise RuntimeError(f"version {model.champion} of model {model.name} is not loaded")
        started = self.clock()
        times, x = np.array([t.time for t in ticks]), np.array([t.x for t in ticks])
        computed = model.step(runner, [t.session for t in ticks], times, x)
        self.metrics.compute_seconds.observe(self.clock() - started)
        self.metrics.batch_rows.observe(len(ticks))
        return computed

    def _take(self, tick: Tick, y: Array, state: Array) -> Outcome | Exception:
        """Journal a computed tick, write its state, make its answer."""
        model = tick.model
        try:
            offset = self.journal.append_tick(model.number, tick.session.number, tick.seq, tick.time, tick.x)
        except JournalFailed as error:
            return Unavailable("journal", str(error), "the server must be restarted")
        payload = payload_digest(tick.x, tick.time)
        answer = model.advance(tick.session, tick.seq, tick.time, payload, y, state, offset)
        metrics = self.metrics.of(model.name)
        metrics.staleness.observe(answer.seq - answer.judged_through)
        metrics.ticks.inc()
        return answer

    # ---- progress

    def _committed(self, commit: Commit) -> None:
        self._lone = None
        for chunk in commit.chunks:
            model = self.models.get(chunk.model)
            if model is None:
                continue
            for number, seq in chunk.ticks.items():
                session = model.by_number[number]
                session.durable_seq = max(session.durable_seq, seq)
                if session.progressed:
                    session.progressed()
        self.metrics.commit_seconds.observe(commit.seconds)
        self.metrics.durable_seconds.observe(commit.lag)
        self.metrics.journal_bytes.set(commit.position)
        self.metrics.durable_lag.set(self.journal.pending_entries)
        for listener in self.on_commit:
            listener(commit)

    def judged(self, model: Sessions, offset: int) -> None:
        """Labels up to `offset` are judged, whatever the verdict; open streams are told."""
        model.judged_offset = max(model.judged_offset, offset)
        for session in self.open[model.number]:
            if session.progressed:
                session.progressed()


def new_version(
    model: int, parent: int, offset: int, onnx: bytes, weights: bytes, created: float, numbers: dict[str, float]
) -> Version:
    """The facts of a version that is about to be stored; number 0 asks for the next one."""
    return Version(
        model=model,
        number=0,
        parent=parent,
        offset=offset,
        digest=hashlib.sha256(onnx).hexdigest(),
        weights_digest=hashlib.sha256(weights).hexdigest(),
        created=created,
        loss=numbers.get("loss"),
        anchor_loss=numbers.get("anchor_score"),
        parity_error=numbers.get("parity_error", 0.0),
    )
