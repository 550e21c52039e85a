"""Admission: is the service open, does the disk have room, is a tick sound, and is it within the rates?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from service.access.rates import Rate
from service.access.tenants import Tenants
from service.common.errors import Exhausted, Moved, Reason, Refusal, Unavailable, store_unreachable
from service.journal.writer import Journal
from service.observe.serving_metrics import ServingMetrics
from service.storage.disk import Unreachable
from service.streams.answers import Answer
from service.streams.covariates import check_categories
from service.streams.sequence import check_values, latest_time, place, sound_ticks
from service.streams.served import ServedModel
from service.streams.session import Session
from service.streams.table import At, listed

Array = NDArray[np.float32]
Outcome = Answer | Refusal
DISK_FULL_S = 1.0  # between two tries of a client


@dataclass(frozen=True, slots=True)
class AdmissionSettings:
    """Bounds on ticks, the server's own; those of tenants are in the access file."""

    max_undurable: int  # ticks of one stream that are answered and not on disk
    max_undurable_bytes: int  # journal bytes kept in memory while the disk is full
    max_ahead_s: float  # event times further ahead of the wall clock are refused
    stream_ticks_per_s: float  # of one stream
    ticks_per_s: float  # of all streams
    work_per_s: float  # multiply-adds, all streams


class Admission:
    """Decides what may enter. Every method runs to its end on the event loop."""

    def __init__(
        self,
        settings: AdmissionSettings,
        journal: Journal,
        tenants: Tenants,
        metrics: ServingMetrics,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """clock: monotonic seconds, of the rates; wall: seconds since 1970, which event times are compared with."""
        self.settings, self.tenants = settings, tenants
        self._journal, self._metrics, self._clock, self._wall = journal, metrics, clock, wall
        self._stream_rate, self._rate = Rate(settings.stream_ticks_per_s), Rate(settings.ticks_per_s)
        self._work_rate = Rate(settings.work_per_s)
        self._full_at = self._work_full_at = 0.0  # when the server's own buckets are full again, clock seconds
        self.draining = False
        self.shard, self.moved_to = 0, ""  # once draining: the shard, and the address of the node that takes it over

    # ---- the service

    def check_open(self) -> None:
        """Raise Unavailable while the service drains or its journal has failed, and Moved, which is one, if another
        node takes over; Exhausted while the disk is full and `max_undurable_bytes` already wait for it."""
        if self.draining and self.moved_to:
            raise Moved(self.shard, self.moved_to)
        if self.draining:
            raise Unavailable("service", "draining", "connect again in a moment", retry_s=1.0)
        if self._journal.failure:
            raise journal_failed()
        if self.is_out_of_room():
            self._disk_full()

    def check_disk(self) -> None:
        """`check_open` for calls that wait for the disk: raise Exhausted as soon as it is full."""
        self.check_open()
        if self._journal.no_space:
            self._disk_full()

    def is_out_of_room(self) -> bool:
        """Whether the disk is full and `max_undurable_bytes` wait for it."""
        return bool(self._journal.no_space) and self._journal.pending_bytes >= self.settings.max_undurable_bytes

    def _disk_full(self) -> NoReturn:
        if isinstance(self._journal.no_space, Unreachable):
            raise store_unreachable()
        raise Exhausted("disk", "full", "try again once there is room", retry_s=DISK_FULL_S)

    # ---- ticks

    def decide(
        self, model: ServedModel, session: Session, seq: int, time: float, x: Array, now: float
    ) -> Outcome | None:
        """Return the refusal or the earlier answer of a tick; None: step it, and its tokens are taken.

        now: clock seconds.
        """
        placed = None
        last_seq = session.last_seq
        if seq != last_seq + 1:
            placed = place(seq, last_seq, x, time, session.find)
        if isinstance(placed, Answer):
            self._metrics.of(model.key).repeated.inc()
            return placed
        refusal = placed or self.check(model, seq, time, x, session.last_time)
        refusal = refusal or self._overloaded(model, session, seq, now)
        if refusal:
            self._metrics.refused_ticks.labels(refusal.reason.name.lower()).inc()
        return refusal

    def check(self, model: ServedModel, seq: int, time: float, x: Array, last_time: float) -> Refusal | None:
        """Return why a tick is refused for its content, or None. x: [row]; last_time: of the tick before, NaN: none."""
        spec = model.spec
        refusal = check_values(
            seq, x, model.network.row, time, spec.interval > 0, last_time, spec.missing == "hold",
            self.latest_time(time), spec.sent,
        )  # fmt: skip
        if refusal is None and model.network.covariates.shapes:
            refusal = check_categories(model.network, seq, x)
        return refusal

    def checked(self, model: ServedModel, time: NDArray[np.float64], x: Array, last_time: float) -> NDArray[np.bool_]:
        """Return which ticks of a stream, one after the other, `check` would accept, (n,), new; it may miss some.

        time: (n,) seconds, NaN: none; x: [n, row]; last_time: of the tick before the first.
        """
        seq = np.arange(1, len(x) + 1, dtype=np.uint64)  # order and room are not looked at
        before = np.fmax.accumulate(np.concatenate(([last_time], time[:-1])))
        sound = sound_ticks(
            seq, seq - np.uint64(1), time, before, x, model.spec.interval > 0, seq, 0, model.spec.missing == "hold",
            latest_time(self._wall(), self.settings.max_ahead_s),
        )  # fmt: skip
        if model.network.covariates.shapes:
            sound &= model.network.covariates.sound(x[:, len(model.spec.channels) :])
        return sound

    def refuse(self, refusal: Refusal) -> Refusal:
        """Count a refusal that was decided elsewhere, and return it."""
        self._metrics.refused_ticks.labels(refusal.reason.name.lower()).inc()
        return refusal

    def sound(
        self, model: ServedModel, rows: At, seq: NDArray[np.uint64], time: NDArray[np.float64], x: Array, now: float
    ) -> NDArray[np.bool_]:
        """Return which ticks of distinct streams can be stepped, and take their tokens. (n,), new; x: [n, C].

        `decide` gives the outcome of each other tick.
        """
        t = model.table
        sound = sound_ticks(
            seq, t.last_seq[rows], time, t.last_time[rows], x, model.spec.interval > 0, t.durable_seq[rows],
            self.settings.max_undurable, model.spec.missing == "hold",
            latest_time(self._wall(), self.settings.max_ahead_s),
        )  # fmt: skip
        if model.network.covariates.shapes:
            sound &= model.network.covariates.sound(x[:, len(model.spec.channels) :])
        if self.is_out_of_room():
            sound[:] = False
        self._take_tokens(model, rows, sound, now)
        return sound

    def sound_run(
        self, model: ServedModel, session: Session, seq: int, time: NDArray[np.float64], x: Array, now: float
    ) -> int:
        """Return how many of a stream's next ticks can be stepped, from the first on, and take their tokens.

        `decide` gives the outcome of the one after them. seq: of the first; time: (n,), x: [n, row], n > 0.
        """
        if seq != session.last_seq + 1:
            return 0
        sound = self.checked(model, time, x, session.last_time)
        first = len(x) if sound.all() else int(np.argmin(sound))
        taken = 0
        while taken < first and self._overloaded(model, session, seq + taken, now) is None:
            taken += 1
        return taken

    def latest_time(self, time: float) -> float:
        """Return the latest event time that is accepted, seconds since 1970; infinite where `time` is NaN, none."""
        return math.inf if math.isnan(time) else latest_time(self._wall(), self.settings.max_ahead_s)

    # ---- rates

    def _overloaded(self, model: ServedModel, session: Session, seq: int, now: float) -> Refusal | None:
        """Return why a sound tick must wait; None: it is admitted, and its tokens are taken."""
        if seq - session.durable_seq > self.settings.max_undurable or self.is_out_of_room():
            remedy = f"{seq - 1 - session.durable_seq} ticks are not on disk yet: wait for Durable, then send it again"
            if self._journal.no_space:
                remedy += f"; {self._journal.no_space.condition}"
            return Refusal(seq, Reason.OVERLOADED, "seq", str(seq), remedy)
        full_at, tenant, row = model.table.full_at, self.tenants.of(model.tenant), session.row
        stream_full_at = full_at.item(row)
        if stream_full_at <= now and self._full_at <= now and self._work_full_at <= now and not tenant.limited:
            # The usual case: every bucket is full. What follows would come to the same, in eight calls.
            full_at[row], self._full_at = now + self._stream_rate.one, now + self._rate.one
            self._work_full_at = now + model.row_work * self._work_rate.one
            return None
        if wait := self._stream_rate.wait(stream_full_at, now):
            return too_fast(seq, "stream", self._stream_rate, wait)
        if tenant.limited and (wait := tenant.wait(now)):
            return too_fast(seq, "tenant", tenant.rate or self._rate, wait)
        if wait := self._rate.wait(self._full_at, now):
            return too_fast(seq, "server", self._rate, wait)
        if tenant.limited and (wait := tenant.wait_for_work(now)):
            return too_much(seq, "tenant", tenant.work_rate or self._work_rate, wait, model.row_work)
        if wait := self._work_rate.wait(self._work_full_at, now):
            return too_much(seq, "server", self._work_rate, wait, model.row_work)
        full_at[row] = self._stream_rate.spend(stream_full_at, now)
        if tenant.limited:
            tenant.ticked(now, model.row_work)
        self._full_at = self._rate.spend(self._full_at, now)
        self._work_full_at = self._work_rate.spend(self._work_full_at, now, model.row_work)
        return None

    def _take_tokens(self, model: ServedModel, rows: At, sound: NDArray[np.bool_], now: float) -> None:
        """Take the tokens of the sound ticks; clear `sound` where there are none left.

        rows: n distinct ones, see `span`; sound: (n,), modified.
        """
        t, tenant = model.table, self.tenants.of(model.tenant)
        sound &= self._stream_rate.has_token(t.full_at[rows], now)
        asked, work = int(np.count_nonzero(sound)), model.row_work
        admitted = min(
            tenant.tokens(now, asked, work),
            self._rate.tokens(self._full_at, now),
            self._work_rate.portions(self._work_full_at, now, work),
        )
        if admitted < asked:
            sound[np.flatnonzero(sound)[admitted:]] = False
        taken = rows if admitted == len(sound) else listed(rows)[sound]
        t.full_at[taken] = self._stream_rate.spend_each(t.full_at[taken], now)
        tenant.ticked(now, work, admitted)
        self._full_at = self._rate.spend(self._full_at, now, admitted)
        self._work_full_at = self._work_rate.spend(self._work_full_at, now, work * admitted)


def journal_failed() -> Unavailable:
    """Return the error that callers get once the journal has failed; the log names the file."""
    return Unavailable("journal", "not written", "the server must be restarted")


def too_fast(seq: int, whose: str, rate: Rate, wait: float) -> Refusal:
    """Refuse a tick that exceeds a rate of ticks; wait: seconds until it may be sent again."""
    remedy = f"the {whose} takes {rate.per_s:g} ticks per second: send it again in {wait:.3g} s"
    return Refusal(seq, Reason.OVERLOADED, "seq", str(seq), remedy, retry_s=wait)


def too_much(seq: int, whose: str, rate: Rate, wait: float, work: int) -> Refusal:
    """Refuse a tick that exceeds a rate of work; wait: seconds until it may be sent again; work: multiply-adds."""
    remedy = (
        f"the {whose} takes {rate.per_s:g} multiply-adds per second, a tick of this model {work}: "
        f"send it again in {wait:.3g} s"
    )
    return Refusal(seq, Reason.OVERLOADED, "seq", str(seq), remedy, retry_s=wait)
