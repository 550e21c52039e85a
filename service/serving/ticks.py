"""The live path: ticks in order, stepped in batches, journaled, answered. And the models they belong to.

Between validating a tick and having its row written, its record appended and its answer made, nothing awaits (R3). A
large step is computed beside the loop, from inputs that were frozen; its ticks are validated when it is computed.
"""

from __future__ import annotations

import asyncio
import math
import time as clocks
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, NoReturn

import numpy as np
import structlog
from numpy.typing import NDArray

from service.access.rates import Rate
from service.access.tenants import Tenants
from service.common import limits
from service.common.config import ServeConfig
from service.common.dates import as_date
from service.common.errors import Exhausted, Invalid, NotFound, Reason, Refusal, Unavailable
from service.common.names import ModelKey, Origin
from service.engine.loaded import Engine
from service.engine.session import StepSession
from service.journal.records import Record, Reset, Rollback, Skip, StateDelete, StatePut, StreamOpened, Ticks
from service.journal.writer import Commit, Journal, JournalFailed
from service.observe import events as ev
from service.observe.events import Event, Events
from service.observe.metrics import Metrics
from service.serving.batcher import Batcher, pass_on, settle
from service.serving.loading import UNREADABLE, Loader
from service.serving.steps import Piece, Steps, Turns
from service.storage.states import States
from service.storage.versions import Version, Versions
from service.streams.answers import Answer
from service.streams.residency import Residency
from service.streams.sequence import check_values, latest_time, place, sound_ticks, too_far_ahead
from service.streams.sessions import ServedModel, Session
from service.streams.table import ABSENT, Rows
from service.streams.totals import Totals

log = structlog.get_logger("serving")

Array = NDArray[np.float32]
LOADS_AT_ONCE = 2  # of sessions, in threads that snapshots and commits of versions need too
DISK_FULL_S = 1.0  # between two tries of a client


class Fenced(Exception):
    """The stream has another owner now; this call must end."""


@dataclass(slots=True)  # frozen would cost a microsecond of each
class Tick:
    """One tick on its way: whose it is, under which ownership it was opened, and when it arrived (clock seconds)."""

    model: ServedModel
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
        states: States,
        engine: Engine,
        metrics: Metrics,
        events: Events,
        clock: Callable[[], float] = clocks.perf_counter,
        wall: Callable[[], float] = clocks.time,
    ) -> None:
        self.config, self.journal, self.versions, self.engine = config, journal, versions, engine
        self.metrics, self.events, self.clock, self.wall = metrics, events, clock, wall
        self.models: dict[int, ServedModel] = {}
        self.by_key: dict[ModelKey, ServedModel] = {}
        self.totals = Totals()
        self.changed_models: set[int] = set()  # numbers of those that the next snapshot has to write of
        self.gone_models: set[int] = set()  # numbers of those that the next snapshot has to remove
        self.loader = Loader(versions, engine, metrics)
        self._loads: dict[int, asyncio.Task[None]] = {}  # by model: sessions on their way
        self._loaders = asyncio.Semaphore(LOADS_AT_ONCE)
        self.residency = Residency(config, states, self.models, self.totals, clock, self._moved)
        self._lone: Session | None = None  # the first that ticked since the last commit
        self.ticks: Batcher[Tick, Outcome] = Batcher(self._step)
        self.steps = Steps()  # those that are too large for the loop
        self.turns = Turns(clock)  # of the loop, for packed messages
        self._stepping: dict[tuple[int, int], asyncio.Future[Taken]] = {}  # by model and stream, of single ticks there
        self._turn_work = 0  # multiply-adds that the loop itself has computed in this turn
        self.on_commit: list[Callable[[Commit], None]] = []
        self.on_removed: list[Callable[[int], None]] = []  # called with the number of a model that is gone
        self.last_model = 0  # the highest number ever given to a model
        self.coming: set[int] = set()  # numbers given to models whose records are still to come
        self._stream_rate, self._rate = Rate(config.stream_ticks_per_s), Rate(config.ticks_per_s)
        self._work_rate = Rate(config.work_per_s)
        self._full_at = self._work_full_at = 0.0  # of the server's own buckets, clock seconds
        self.tenants = Tenants(metrics.access, config.learn_s_per_s)
        self.draining = False
        journal.on_commit.append(self._committed)

    # ---- models

    def model(self, key: ModelKey) -> ServedModel:
        """The tenant's model of that name. Raises NotFound, whether there is none or it is another's."""
        found = self.by_key.get(key)
        if found is None:
            raise NotFound("model", key.name, "no such model; create it first, or list the models")
        return found

    def add_model(self, model: ServedModel) -> None:
        """Make a model known."""
        self.models[model.number] = model
        self.by_key[model.key] = model
        model.changed_models = self.changed_models
        if model.is_changed:
            self.changed_models.add(model.number)
        self.totals.count(model.number, model.tenant, model.known, len(model.table))
        self.last_model = max(self.last_model, model.number)

    def remove_model(self, model: ServedModel) -> None:
        """Forget a model whose end is recorded; whoever has a stream of it open is woken. Its number is never used
        again, its name may be."""
        del self.models[model.number], self.by_key[model.key]
        self.engine.retire(model.number, set())
        self.totals.forget(model.number)
        self.changed_models.discard(model.number)
        self.gone_models.add(model.number)
        model.changed_models = set()  # whoever still holds the model changes nothing that is saved
        model.wake()
        self.metrics.forget(model.key)
        for listener in self.on_removed:
            listener(model.number)

    def census(self) -> dict[str, Any]:
        """Which models there are, or will be, for a trainer that begins: others up to `last_model` are gone. Of those
        that there are, the entries that it is not to learn, and how many entries are judged."""
        models = self.models.items()
        return {
            "models": sorted(self.models.keys() | self.coming),
            "last_model": self.last_model,
            "skips": {number: model.skips.pack() for number, model in models},
            "judged": {number: model.judged_offset for number, model in models},
        }

    def skip(self, model: ServedModel, first: int, end: int, reason: str) -> None:
        """Record that entries first .. end - 1 are never learned, and tell everybody. Raises as `record`."""
        self.record(model, Skip(first, end, reason))
        self.metrics.skipped.labels(*model.key).inc(end - first)
        log.error("left out of learning", model=model.name, first=first, end=end, why=reason)
        self.emit(model, ev.SKIPPED, first, model.champion, reason, {"entries": float(end - first)})

    def emit(
        self,
        model: ServedModel,
        kind: int,
        offset: int,
        version: int,
        reason: str,
        numbers: dict[str, float] | None = None,
    ) -> None:
        """Tell the watchers what happened to a model; its end is the last that is told."""
        if model.deleted and kind != ev.DELETED:
            return
        now = self.wall()
        self.events.emit(Event(model.key, kind, offset, version, reason, now, numbers or {}))
        if kind == ev.DELETED:
            return
        self.stands(model)
        if kind in (ev.CREATED, ev.PUBLISHED, ev.ROLLED_BACK):
            self.metrics.of(model.key).published.set(now)

    def stands(self, model: ServedModel) -> None:
        """Tell the metrics how a model stands."""
        self.metrics.of(model.key).stands(model.champion, model.anchor, model.paused)

    # ---- sessions

    async def bring_session(self, model: ServedModel) -> None:
        """Load the session of the version that serves, unless it is loaded. Until the caller awaits, it stays.

        Where that version cannot be read, an older one serves from here on, by record. Raises UNREADABLE where there
        is none; NotFound for a model that was deleted meanwhile.
        """
        while self.engine.get(model.number, model.champion) is None:
            self._check_there(model)
            if model.number not in self._loads:
                task = self._loads[model.number] = asyncio.create_task(self._load(model))
                task.add_done_callback(lambda _: self._loads.pop(model.number))
            await asyncio.shield(self._loads[model.number])  # others wait for it too

    async def _load(self, model: ServedModel) -> None:
        number = model.champion
        async with self._loaders:
            started = self.clock()
            try:
                session = await asyncio.to_thread(self.loader.load, model, number)
            except UNREADABLE as error:
                found = await asyncio.to_thread(self.loader.readable_before, model, number, error)
                if model.champion == number and not model.deleted:
                    self.fall_back(model, *found, error)
                return
        self.metrics.session_load_seconds.observe(self.clock() - started)
        if model.champion == number and not model.deleted:
            self.engine.install(model.number, number, session)

    def fall_back(self, model: ServedModel, version: Version, session: StepSession, why: Exception) -> None:
        """The version that serves cannot be read: an older one serves from here on, by record."""
        reason = f"version {model.champion} cannot be read: {why}"
        log.error("an older version serves", model=model.name, version=version.number, why=reason)
        offset = self.journal.offset(model.number)
        self.record(model, Rollback(version.number, offset, bytes.fromhex(version.digest), reason))
        self.engine.install(model.number, version.number, session)
        self.engine.retire(model.number, {version.number})
        self.metrics.corrupt.labels("version").inc()
        self.emit(model, ev.ROLLED_BACK, offset, version.number, reason)

    # ---- streams

    def check_stream_id(self, id: str) -> None:
        """Raises Invalid for what cannot name a stream."""
        if not 1 <= len(id) <= 256 or not id.isprintable():
            raise Invalid("stream", id, "give 1 to 256 printable characters")

    def open_stream(self, model: ServedModel, id: str, owner: int = 0, pinned: bool = True) -> tuple[Session, Origin]:
        """The stream and its state origin; a new owner fences whoever had it. It is journaled before any answer.

        If the stream is stored, it must have been brought into memory. pinned: it stays there while it is open.
        """
        self.check_open()
        self.check_stream_id(id)
        t, row = model.table, model.table.by_id.get(id, ABSENT)
        if row == ABSENT:
            self._check_room(model, id)
            number, epoch = model.next_number(), 1
        else:
            number, epoch = int(t.number[row]), int(t.epoch[row]) + 1
        self.record(model, StreamOpened(number, id, epoch))
        row = t.row_of(number)
        former = int(t.owner[row])
        t.owner[row], t.pinned[row], t.touched[row] = owner, pinned, self.clock()
        if former:
            model.lose(former)
        self.counted(model)
        origin = Origin(int(t.origin[row]))
        self.metrics.opened.labels(origin.name.lower()).inc()
        if origin is Origin.LOST:
            self.metrics.corrupt.labels("stream").inc()
            log.error("the state of a stream is lost, and its client is told", model=model.name, stream=id)
        return Session(model, row), origin

    def _check_room(self, model: ServedModel, id: str) -> None:
        """Raises Exhausted if there may be no other stream, of the server or of the model's tenant."""
        if self.totals.streams >= self.config.max_streams:
            remedy = f"the server holds {self.config.max_streams} streams, its limit"
            raise Exhausted("stream", id, remedy, retry_s=60)
        self.tenants.of(model.tenant).check_streams(self.totals.streams_of(model.tenant), id)

    def close_stream(self, model: ServedModel, owner: int) -> None:
        """The call that owned streams has ended."""
        model.release(owner)
        self.residency.look_at(model)
        self.counted(model)

    def delete_stream(self, model: ServedModel, id: str) -> None:
        """Forget a stream that is in memory; its owner finds itself fenced. Its number is not used again."""
        row = model.table.by_id.get(id, ABSENT)
        if row == ABSENT:
            raise NotFound("stream", id, "no such stream in this model")
        owner = int(model.table.owner[row])
        self.record(model, StateDelete(int(model.table.number[row])))
        if owner:
            model.lose(owner)
        self.counted(model)

    def put_stream(
        self, model: ServedModel, id: str, epoch: int, last_seq: int, last_time: float, state: Array
    ) -> Session:
        """A stream with this state, instead of the one of that id if there is one (it must be in memory then).

        Raises Invalid for a last time so far ahead of the clock that no tick would be taken after it.
        """
        if last_time > (latest := self._latest(last_time)):
            raise Invalid("stream.last_time", as_date(last_time), too_far_ahead(last_time, latest))
        if id in model.table.by_id:
            epoch = max(epoch, int(model.table.epoch[model.table.by_id[id]]))
            self.delete_stream(model, id)
        else:
            self._check_room(model, id)
        number = model.next_number()
        self.record(model, StreamOpened(number, id, epoch + 1))
        self.record(model, StatePut(number, last_seq, last_time, state))
        row = model.table.row_of(number)
        model.table.touched[row] = self.clock()
        self.counted(model)
        return Session(model, row)

    def counted(self, model: ServedModel) -> None:
        """The model's streams have come or gone: note how many there are."""
        if not model.deleted:  # its name may be another's by now
            self.totals.count(model.number, model.tenant, model.known, len(model.table))
            metrics = self.metrics.of(model.key)
            metrics.streams.set(model.known)
            metrics.resident.set(len(model.table))
            metrics.open_streams.set(model.open)

    def _moved(self, model: ServedModel, evicted: int) -> None:
        """Streams of a model have come into memory, or so many have left it."""
        if evicted:
            self.metrics.of(model.key).evicted_streams.inc(evicted)
        self.counted(model)

    def reset(self, model: ServedModel, session: Session) -> None:
        """Begin the stream's state anew. A state that is fresh stays as it is: no record, however often it is asked."""
        if session.origin is not Origin.FRESH:
            self.record(model, Reset(session.number))

    def record(self, model: ServedModel, record: Record) -> int:
        """Journal a record and apply it; returns the journal offset just after it.

        Raises NotFound for a model that was deleted meanwhile, JournalFailed.
        """
        self._check_there(model)
        offset = self.journal.append(model.number, record)
        model.apply(record, offset)
        return offset

    def _check_there(self, model: ServedModel) -> None:
        if model.deleted:
            raise NotFound("model", model.name, "deleted meanwhile; create it again, or list the models")

    def check_open(self) -> None:
        """Raises Unavailable while the service is leaving, or cannot write; Exhausted while the disk is full and all
        that may wait for it does."""
        if self.draining:
            raise Unavailable("service", "draining", "connect again in a moment", retry_s=1.0)
        if self.journal.failure:
            raise journal_failed()
        if self._no_room():
            self._disk_full()

    def check_disk(self) -> None:
        """`check_open` for what would wait for the disk: raises Exhausted also as soon as the disk is full."""
        self.check_open()
        if self.journal.no_space:
            self._disk_full()

    def _no_room(self) -> bool:
        """Whether the disk is full, and as much waits for it as may."""
        return bool(self.journal.no_space) and self.journal.pending_bytes >= self.config.max_undurable_bytes

    def _disk_full(self) -> NoReturn:
        raise Exhausted("disk", "full", "try again once there is room", retry_s=DISK_FULL_S)

    # ---- ticks

    async def tick(self, tick: Tick) -> Outcome:
        """Answer a tick, at once or with all that arrive in the same turn of the loop. Raises what the step raises.

        At once goes the stream that ticked first since the last commit: a turn of the loop costs as much as the step
        itself, which a stream alone need not pay, and among many it is only one that shares no step.
        """
        if self.engine.get(tick.model.number, tick.model.champion) is None:
            await self.bring_session(tick.model)
        if self._lone is None:
            self._lone = tick.session
        if self._lone is not tick.session or tick.model.row_work > limits.MAX_LONE_WORK:
            return await self.ticks.submit(tick)
        self.metrics.queue_seconds.observe(self.clock() - tick.arrived)
        outcome = self._decide(tick)
        if outcome is None:
            (outcome,) = self._advance([tick])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _step(self, batch: list[Tick]) -> list[Outcome | Exception | asyncio.Future[Outcome]]:
        """Answer a batch. Ticks of one stream become successive waves, each of steps of distinct streams. What is too
        much for the loop gets a future for an outcome."""
        outcomes: list[Outcome | Exception | asyncio.Future[Outcome] | None] = [None] * len(batch)
        started = self.clock()
        left: Sequence[int] = range(len(batch))
        while left:
            wave: dict[int, list[int]] = {}
            seen: set[tuple[int, int]] = set()
            later = []
            for i in left:
                tick = batch[i]
                stream = tick.model.number, tick.session.row
                if stream in seen:
                    later.append(i)
                    continue
                seen.add(stream)
                if self._stepping and (step := self._stepping.get((tick.model.number, tick.session.number))):
                    outcomes[i] = self._after(step, tick)
                    continue
                outcomes[i] = self._decide(tick)
                if outcomes[i] is None:
                    wave.setdefault(tick.model.number, []).append(i)
            for rows in wave.values():
                most = batch[rows[0]].model.step_rows
                for part in [rows[i : i + most] for i in range(0, len(rows), most)]:
                    for i, outcome in zip(part, self._advance_or_wait([batch[i] for i in part]), strict=True):
                        outcomes[i] = outcome
            left = later
        for tick in batch:
            self.metrics.queue_seconds.observe(started - tick.arrived)
        return [outcome for outcome in outcomes if outcome is not None]

    def _decide(self, tick: Tick) -> Outcome | Exception | None:
        """What can be said without a step: fenced, refused, repeated; None: step it."""
        session, model = tick.session, tick.model
        if not model.owns(session, tick.epoch):
            return Fenced(session.id)
        return self.decide(model, session, tick.seq, tick.time, tick.x)

    def decide(self, model: ServedModel, session: Session, seq: int, time: float, x: Array) -> Outcome | None:
        """Whether a tick is refused, or answered before; None: it is the next one, and sound."""
        placed = None
        last_seq = session.last_seq
        if seq != last_seq + 1:
            placed = place(seq, last_seq, x, time, session.find)
        if isinstance(placed, Answer):
            self.metrics.of(model.key).repeated.inc()
            return placed
        spec = model.spec
        refusal = placed or check_values(
            seq, x, len(spec.channels), time, spec.interval > 0, session.last_time, spec.missing == "hold",
            self._latest(time),
        )  # fmt: skip
        refusal = refusal or self._overloaded(model, session, seq)
        if refusal:
            self.metrics.refused_ticks.labels(refusal.reason.name.lower()).inc()
        return refusal

    def _latest(self, time: float) -> float:
        """The last event time that is taken; the clock is not asked for a tick without one."""
        return math.inf if math.isnan(time) else latest_time(self.wall(), self.config.max_ahead_s)

    def _overloaded(self, model: ServedModel, session: Session, seq: int) -> Refusal | None:
        """Why a sound tick cannot be taken now; None: it is taken, and counts against the rates."""
        if seq - session.durable_seq > self.config.max_undurable or self._no_room():
            remedy = f"{seq - 1 - session.durable_seq} ticks are not on disk yet: wait for Durable, then send it again"
            if self.journal.no_space:
                remedy += "; the disk is full"
            return Refusal(seq, Reason.OVERLOADED, "seq", str(seq), remedy)
        now, t, row = self.clock(), model.table, session.row
        full_at, tenant = float(t.full_at[row]), self.tenants.of(model.tenant)
        if wait := self._stream_rate.wait(full_at, now):
            return too_fast(seq, "stream", self._stream_rate, wait)
        if wait := tenant.wait(now):
            return too_fast(seq, "tenant", tenant.rate or self._rate, wait)
        if wait := self._rate.wait(self._full_at, now):
            return too_fast(seq, "server", self._rate, wait)
        if wait := tenant.wait_for_work(now):
            return too_much(seq, "tenant", tenant.work_rate or self._work_rate, wait, model.row_work)
        if wait := self._work_rate.wait(self._work_full_at, now):
            return too_much(seq, "server", self._work_rate, wait, model.row_work)
        t.full_at[row] = self._stream_rate.take(full_at, now)
        tenant.ticked(now, model.row_work)
        self._full_at = self._rate.take(self._full_at, now)
        self._work_full_at = self._work_rate.take(self._work_full_at, now, model.row_work)
        return None

    def _on_loop(self, model: ServedModel, rows: int) -> bool:
        """Whether a step of so many rows is for the loop itself, in this turn of it; it is counted then."""
        work = limits.step_work(model.row_work, rows)
        room = limits.MAX_TURN_WORK * (2 if work <= limits.MAX_SMALL_WORK else 1)
        if self._turn_work + work > room:
            return False
        if not self._turn_work:
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._turn_work += work
        return True

    def _next_turn(self) -> None:
        self._turn_work = 0

    def _advance_or_wait(self, ticks: list[Tick]) -> Sequence[Outcome | Exception | asyncio.Future[Outcome]]:
        """Step distinct streams of one model here, or have it done beside the loop."""
        if self._on_loop(ticks[0].model, len(ticks)):
            return self._advance(ticks)
        model, sessions = ticks[0].model, [tick.session for tick in ticks]
        piece = Piece(
            model,
            np.array([session.number for session in sessions], np.uint32),
            np.array([tick.epoch for tick in ticks], np.uint64),
            np.array([tick.seq for tick in ticks], np.uint64),
            np.array([tick.time for tick in ticks]),
            np.array([tick.x for tick in ticks]),
        )
        step = self._submit(piece)
        loop = asyncio.get_running_loop()
        answers: list[asyncio.Future[Outcome]] = [loop.create_future() for _ in ticks]
        streams = [(model.number, session.number) for session in sessions]
        self._stepping.update(dict.fromkeys(streams, step))

        def settled(step: asyncio.Future[Taken]) -> None:
            for stream in streams:
                del self._stepping[stream]
            for answer, outcome in zip(answers, self._outcomes(ticks, step), strict=True):
                settle(answer, outcome)

        step.add_done_callback(settled)
        return answers

    def _outcomes(self, ticks: list[Tick], step: asyncio.Future[Taken]) -> list[Outcome | Exception]:
        """What the ticks of a step beside the loop get, once it is done."""
        if step.cancelled():
            return [Unavailable("service", "draining", "connect again in a moment", retry_s=1.0) for _ in ticks]
        if error := step.exception():
            return [error if isinstance(error, Exception) else RuntimeError(str(error)) for _ in ticks]
        taken, outcomes = step.result(), dict[int, Outcome | Exception]()
        for i, y, judged in zip(taken.at.tolist(), taken.y, taken.judged.tolist(), strict=True):
            tick = ticks[i]
            outcomes[i] = Answer(tick.seq, tick.time, tick.x.tobytes(), y.tobytes(), taken.version, judged)
        # Of the others the stream is another's by now, or not at this tick any more: that is said here.
        return [
            outcomes.get(i) or self._decide(tick) or self._advance([tick])[0] for i, tick in enumerate(ticks)
        ]  # fmt: skip

    def _after(self, step: asyncio.Future[Taken], tick: Tick) -> asyncio.Future[Outcome]:
        """The tick's outcome, in a batch that comes after a step beside the loop that its stream is in."""
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def again(_: asyncio.Future[Taken]) -> None:
            self.ticks.submit(tick).add_done_callback(partial(pass_on, answer))

        step.add_done_callback(again)
        return answer

    def _advance(self, ticks: list[Tick]) -> list[Outcome | Exception]:
        """Step distinct streams of one model, journal their ticks, write their states, make their answers."""
        outcomes: list[Outcome | Exception] = []
        model = ticks[0].model
        try:
            rows: Any = [t.session.row for t in ticks] if len(ticks) > 1 else ticks[0].session.row
            y, states = self._compute(model, rows, np.array([t.time for t in ticks]), np.array([t.x for t in ticks]))
            for i, tick in enumerate(ticks):
                outcomes.append(self._take(tick, y[i], states[i]))
        except Exception as error:  # a model that fails, fails its own streams alone
            outcomes += [error] * (len(ticks) - len(outcomes))
        return outcomes

    def _compute(self, model: ServedModel, rows: Any, times: NDArray[np.float64], x: Array) -> tuple[Array, Array]:
        """Forecasts and next states of distinct streams of one model, by the version that serves."""
        runner = self._runner(model)
        started = self.clock()
        computed = model.step(runner, rows, times, x)
        self.metrics.compute_seconds.observe(self.clock() - started)
        self.metrics.batch_rows.observe(len(x))
        return computed

    def _runner(self, model: ServedModel) -> StepSession:
        """The session of the version that serves."""
        runner = self.engine.get(model.number, model.champion)
        if runner is None:  # it has left again since `bring_session`, for others that came between: rare
            runner = self.loader.load(model, model.champion)
            self.engine.install(model.number, model.champion, runner)
        return runner

    def _submit(self, piece: Piece) -> asyncio.Future[Taken]:
        """Have a step computed beside the loop, and its ticks taken."""
        model, asked = piece.model, self.clock()

        def begin() -> bool:
            self.metrics.large_step_wait_seconds.observe(self.clock() - asked)
            return not model.deleted and piece.begin(self._runner(model))

        work = limits.step_work(model.row_work, len(piece.seq))
        return self.steps.submit(model.tenant, work, begin, piece.compute, partial(self._take_piece, piece))

    def _take_piece(self, piece: Piece) -> Taken:
        """Journal the ticks of a computed step, write their states, make their answers: of those whose streams are as
        they were. Where they are not, or another version serves by now, what is still the next tick is computed here.
        """
        model, rows = piece.model, piece.rows()
        index = np.flatnonzero(rows != ABSENT)
        if not len(index):
            return Taken(index, np.zeros((0, model.spec.outputs), np.float32), np.zeros(0, np.uint64), model.champion)
        self.metrics.compute_seconds.observe(piece.seconds)
        self.metrics.batch_rows.observe(len(index))
        seq, time, x = piece.seq[index], piece.time[index], piece.x[index]
        computed = piece.answers(rows)
        rows = rows[index]
        y, states = computed or self._compute(model, rows, time, x)
        judged = self._write(model, rows, seq, time, x, y, states)
        return Taken(index, y.copy() if not computed else y, judged, model.champion)  # not the runner's own buffer

    def _take(self, tick: Tick, y: Array, state: Array) -> Outcome | Exception:
        """Journal a computed tick, write its state, make its answer."""
        model, row = tick.model, tick.session.row
        try:
            offset = self.journal.append_tick(model.number, tick.session.number, tick.seq, tick.time, tick.x)
        except JournalFailed:
            return journal_failed()
        judged = int(model.advance(row, tick.seq, tick.time, tick.x, y, state, offset))
        model.table.touched[row] = tick.arrived
        metrics = self.metrics.of(model.key)
        metrics.staleness.observe(tick.seq - judged)
        metrics.ticks.inc()
        return Answer(tick.seq, tick.time, tick.x.tobytes(), y.tobytes(), model.champion, judged)

    # ---- packed ticks

    async def wave(
        self, model: ServedModel, rows: Rows, seq: NDArray[np.uint64], time: NDArray[np.float64], x: Array
    ) -> Wave:
        """Answer one tick each of distinct streams that are in memory and owned; all that is sound takes one step, here
        and now, or, if that is too much for the loop, beside it.

        rows, seq, time: (n,), n at most the model's `step_rows`; x: [n, C]. Raises what the step raises, Unavailable;
        nothing has changed then. NotFound for a model that was deleted meanwhile.
        """
        self._check_there(model)
        t = model.table
        sound = sound_ticks(
            seq, t.last_seq[rows], time, t.last_time[rows], x, model.spec.interval > 0, t.durable_seq[rows],
            self.config.max_undurable, model.spec.missing == "hold", latest_time(self.wall(), self.config.max_ahead_s),
        )  # fmt: skip
        now = self.clock()
        if self._no_room():
            sound[:] = False  # `decide` says why
        self._take_tokens(model, rows, sound, now)
        unsound = np.flatnonzero(~sound)
        late = unsound[limits.MAX_DECIDED :]
        others = {
            int(i): self.decide(model, Session(model, int(rows[i])), int(seq[i]), float(time[i]), x[i])
            for i in unsound[: limits.MAX_DECIDED]
        }
        sound[[i for i, outcome in others.items() if outcome is None]] = True
        taken = np.flatnonzero(sound)
        if not len(taken):
            none = Taken(taken, np.zeros((0, model.spec.outputs), np.float32), np.zeros(0, np.uint64), model.champion)
            return Wave(none, others, late)
        rows, seq, time, x = rows[taken], seq[taken], time[taken], np.ascontiguousarray(x[taken])
        t.touched[rows] = now  # so that they stay in memory, rather than others
        if not self._on_loop(model, len(rows)):
            beside = await self._submit(Piece(model, t.number[rows], t.epoch[rows], seq, time, x))
            left = np.concatenate([late, np.delete(taken, beside.at)])
            return Wave(beside._replace(at=taken[beside.at]), others, left)
        y, states = self._compute(model, rows, time, x)
        if len(rows) == 1:
            y = y.copy()  # from a buffer that the next step overwrites
        judged = self._write(model, rows, seq, time, x, y, states)
        return Wave(Taken(taken, y, judged, model.champion), others, late)

    def _write(
        self, model: ServedModel, rows: Rows, seq: NDArray[np.uint64], time: NDArray[np.float64], x: Array, y: Array,
        states: Array,
    ) -> NDArray[np.uint64]:  # fmt: skip
        """Journal computed ticks of distinct streams, write their states, keep their answers; their judged_through.
        Raises Unavailable: nothing has changed then."""
        t, n = model.table, len(rows)
        try:
            end = self.journal.append(model.number, Ticks(t.number[rows], seq, time, x))
        except JournalFailed as error:
            raise journal_failed() from error
        judged = np.broadcast_to(model.advance(rows, seq, time, x, y, states, np.arange(end - n + 1, end + 1)), n)
        metrics = self.metrics.of(model.key)
        metrics.staleness.observe_all(seq - judged)
        metrics.ticks.inc(n)
        return judged

    def _take_tokens(self, model: ServedModel, rows: Rows, sound: NDArray[np.bool_], now: float) -> None:
        """Count the sound ticks against the rates; those that are too many are not sound any more: `decide` says why.

        rows: (n,), distinct; sound: (n,), modified.
        """
        t, tenant = model.table, self.tenants.of(model.tenant)
        sound &= self._stream_rate.has_token(t.full_at[rows], now)
        asked, work = np.flatnonzero(sound), model.row_work
        allowed = min(
            tenant.tokens(now, len(asked), work),
            self._rate.tokens(self._full_at, now),
            self._work_rate.portions(self._work_full_at, now, work),
        )
        sound[asked[allowed:]] = False
        taken = rows[sound]
        t.full_at[taken] = self._stream_rate.take_each(t.full_at[taken], now)
        tenant.ticked(now, work, len(taken))
        self._full_at = self._rate.take(self._full_at, now, len(taken))
        self._work_full_at = self._work_rate.take(self._work_full_at, now, work * len(taken))

    # ---- progress

    def _committed(self, commit: Commit) -> None:
        self._lone = None
        for chunk in commit.chunks:
            model = self.models.get(chunk.model)
            if model is not None and len(chunk.seqs):
                model.durable(chunk.streams, chunk.seqs)
        self.metrics.commit_seconds.observe(commit.seconds)
        self.metrics.durable_seconds.observe(commit.lag)
        self.metrics.journal_bytes.set(commit.position)
        self.metrics.journal_size.set(self.journal.size)
        self.metrics.durable_lag.set(self.journal.pending_entries)
        for listener in self.on_commit:
            listener(commit)

    def judged(self, model: ServedModel, offset: int) -> None:
        """Labels up to `offset` are judged, whatever the verdict; open streams are told."""
        model.judge(offset)
        model.wake()


def journal_failed() -> Unavailable:
    """What callers are told of a journal that takes nothing more; which file, is in the log."""
    return Unavailable("journal", "not written", "the server must be restarted")


def too_fast(seq: int, whose: str, rate: Rate, wait: float) -> Refusal:
    """Why a tick comes too early, and when to send it again, seconds from now."""
    remedy = f"the {whose} takes {rate.per_s:g} ticks per second: send it again in {wait:.3g} s"
    return Refusal(seq, Reason.OVERLOADED, "seq", str(seq), remedy, retry_s=wait)


def too_much(seq: int, whose: str, rate: Rate, wait: float, work: int) -> Refusal:
    """Why a tick is put off that others before it were too much work for, and when to send it again, seconds."""
    remedy = (
        f"the {whose} takes {rate.per_s:g} multiply-adds per second, a tick of this model {work}: "
        f"send it again in {wait:.3g} s"
    )
    return Refusal(seq, Reason.OVERLOADED, "seq", str(seq), remedy, retry_s=wait)


class Taken(NamedTuple):
    """Ticks that were stepped, all by one version."""

    at: NDArray[np.intp]  # (k,) which they are
    y: Array  # [k, O]
    judged: NDArray[np.uint64]  # (k,)
    version: int


class Wave(NamedTuple):
    """What became of the ticks of one wave."""

    taken: Taken
    others: dict[int, Outcome | None]  # by index: answered before, or refused
    left: NDArray[np.intp]  # as if they had not come: too many to decide at once, or their streams are others' by now
