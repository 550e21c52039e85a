"""Many streams in one call, as packed columns: a gateway's thousands of entities. Translates; decides nothing.

A stream is bound to a handle once per call, which takes it over as opening it would. Bound streams are not kept in
memory for it: one that has been idle comes back from disk with its next tick.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from freshet.v1 import streams_pb2
from freshet.v1.streams_pb2 import MuxResponse
from model.update.rounds import each_round
from service.common.errors import Invalid, Reason, Refusal, ServiceError
from service.common.limits import MAX_BINDS, MAX_BOUND_AT_ONCE, MAX_DECIDED, MAX_HANDLES
from service.edge import wire
from service.edge.guard.in_flight import in_flight
from service.edge.parts import StreamParts
from service.edge.wire import Columns
from service.edge.writing import Writing
from service.serving.stepping import Stepped
from service.streams.answers import Answer
from service.streams.served import ServedModel
from service.streams.session import Session
from service.streams.table import ABSENT

UNBOUND = 0  # no stream has this number
ANSWER_NUMBERS = 1 << 16  # forecast values in one answer, unless one step made more: 256 KiB


class Handles:
    """What the call's handles stand for: columns by handle, grown as far as handles are used."""

    def __init__(self) -> None:
        self.number = np.zeros(0, np.uint32)
        self.epoch = np.zeros(0, np.uint64)
        self.told = np.zeros(0, np.uint64)  # durable seq that the client knows
        self.waiting = np.zeros(0, np.bool_)  # for more of it

    def bind(self, handle: int, session: Session) -> None:
        """The handle stands for the stream, as it is opened now."""
        if handle >= len(self.number):
            size = max(64, 2 * len(self.number), handle + 1)
            for name in ("number", "epoch", "told", "waiting"):
                old = getattr(self, name)
                longer = np.zeros(size, old.dtype)
                longer[: len(old)] = old
                setattr(self, name, longer)
        self.number[handle], self.epoch[handle] = session.number, session.epoch
        self.told[handle], self.waiting[handle] = session.durable_seq, False

    def numbers(self, handles: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Stream numbers of handles, UNBOUND where one is none; new."""
        known = handles < len(self.number)
        numbers: NDArray[np.uint32] = np.zeros(len(handles), np.uint32)
        numbers[known] = self.number[handles[known]]
        return numbers


class MuxCall:
    """One call of Mux."""

    def __init__(
        self, parts: StreamParts, context: Any, writing: Writing, model: ServedModel, first: streams_pb2.MuxRequest
    ) -> None:
        """first: the call's first message, which named the model."""
        self.parts, self.context, self.model = parts, context, model
        self._first, self._tenant = first, parts.admission.tenants.of(model.tenant)
        self.writing = writing
        self.handles = Handles()
        self._moved = asyncio.Event()
        self._losses = model.owners.losses  # of streams by owners, as far as looked at
        self.owner = model.owners.add(self._moved.set)

    def end(self) -> None:
        """Leave nothing of the call behind."""
        self.parts.opening.close(self.model, self.owner)

    async def write(self, **message: Any) -> None:
        """Send one MuxResponse, after those under way."""
        await self.writing.send(MuxResponse(**message))

    # ---- reading

    async def serve(self) -> None:
        """Answer message after message until the half-close, then see everything to the disk."""
        request: Any = self._first
        while request is not grpc.aio.EOF:
            if request.model and request.model != self.model.name:
                raise Invalid("model", request.model, f"this call is for {self.model.name}: open another for that")
            arrived = self.parts.clock()
            with in_flight(self._tenant, request.ByteSize()):
                if request.bind:
                    await self._bind(request.bind)
                if request.HasField("ticks"):
                    await self._ticks(wire.columns(request.ticks, len(self.model.spec.channels)))
                    self.parts.metrics.total_seconds.observe(self.parts.clock() - arrived)
            request = await self.writing.read()
        await self.parts.journal.flush()
        await self._tell()
        await self.writing.idle()  # the last message is on its way

    async def _bind(self, binds: Any) -> None:
        if len(binds) > MAX_BINDS:
            raise Invalid("bind", f"{len(binds)} entries", f"bind at most {MAX_BINDS} streams in one message")
        bound: list[streams_pb2.Bound] = []
        refused: list[streams_pb2.HandleRefused] = []
        for first in range(0, len(binds), MAX_BOUND_AT_ONCE):
            await self.parts.turns.wait()
            await self._bind_some(binds[first : first + MAX_BOUND_AT_ONCE], bound, refused)
        await self.write(bound=bound, refused=refused)

    async def _bind_some(
        self, binds: Any, bound: list[streams_pb2.Bound], refused: list[streams_pb2.HandleRefused]
    ) -> None:
        """Bind the streams and say so in `bound`, or why not in `refused`."""
        await self.parts.residency.bring(self.model, [bind.stream for bind in binds])
        for bind in binds:  # from here on nothing awaits: what was brought is there
            try:
                session, origin = self._open(bind.handle, bind.stream)
            except ServiceError as error:
                refusal = Refusal(0, Reason.INVALID, f"bind.{error.field}", error.value, error.remedy)
                refused.append(handle_refused(bind.handle, refusal))
                continue
            self.handles.bind(bind.handle, session)
            bound.append(
                streams_pb2.Bound(
                    handle=bind.handle,
                    next_seq=session.last_seq + 1,
                    durable_seq=session.durable_seq,
                    state_origin=origin,  # type: ignore[arg-type]  # numbered alike
                    last_time=wire.event_time(session.last_time),
                )
            )

    async def _refuse(self, refused: list[streams_pb2.HandleRefused]) -> None:
        """Send what is refused so far, if there is much of it."""
        if len(refused) >= MAX_DECIDED:
            await self.write(refused=refused)
            refused.clear()

    def _open(self, handle: int, stream: str) -> tuple[Session, int]:
        if handle >= MAX_HANDLES:
            raise Invalid("handle", handle, f"number handles from 0 to {MAX_HANDLES - 1}")
        if handle < len(self.handles.number) and self.handles.number[handle] != UNBOUND:
            raise Invalid("handle", handle, "it is bound already: take one that is free")
        row = self.model.table.by_id.get(stream, ABSENT)
        if row != ABSENT and self.model.table.owner[row] == self.owner:
            raise Invalid("stream", stream, "it is bound to another handle of this call")
        return self.parts.opening.open(self.model, stream, self.owner, pinned=False)

    async def _ticks(self, columns: Columns) -> None:
        numbers = self.handles.numbers(columns.handle)
        bound = np.flatnonzero(numbers != UNBOUND)
        refused: list[streams_pb2.HandleRefused] = []
        for unknown in np.flatnonzero(numbers == UNBOUND):
            handle = int(columns.handle[unknown])
            refused.append(handle_refused(handle, unbound(handle, int(columns.seq[unknown]))))
            await self._refuse(refused)
        answers = Answers(columns)
        for wave in each_round(numbers[bound], self.model.step_rows):
            left = bound[wave]
            while len(left):
                await self.parts.turns.wait()
                await self._ready(numbers[left], columns.seq[left])
                index, gone = self._owned(left, columns.handle, numbers)
                if len(gone):
                    await self._lost(gone)
                rows = self.model.table.rows_of(numbers[index])
                took = await self.parts.waves.answer(
                    self.model, rows, columns.seq[index], columns.time[index], columns.x[index]
                )  # fmt: skip
                taken = took.stepped._replace(at=index[took.stepped.at])
                if not answers.take(taken):
                    await self.write(forecasts=answers.message())
                    answers = Answers(columns, taken)
                self.handles.waiting[columns.handle[taken.at]] = True
                for i, outcome in took.others.items():
                    handle = int(columns.handle[index[i]])
                    if isinstance(outcome, Answer):
                        await self.write(forecasts=wire.forecasts_again(handle, outcome))
                    elif isinstance(outcome, Refusal):
                        refused.append(handle_refused(handle, outcome))
                await self._refuse(refused)
                left = index[took.left]
        if answers.version or refused:
            await self.write(forecasts=answers.message(), refused=refused)

    async def _ready(self, numbers: NDArray[np.uint32], seq: NDArray[np.uint64]) -> None:
        """Wait until the streams are in memory and have room for another tick that is not on disk. A full disk is not
        waited for: the ticks are refused then."""
        table, bound = self.model.table, np.uint64(self.parts.admission.settings.max_undurable)
        await self.parts.champions.bring(self.model)
        await self.parts.residency.bring_numbers(self.model, numbers)
        rows = table.rows_of(numbers)
        rows, seq = rows[rows != ABSENT], seq[rows != ABSENT]
        if (seq - table.durable_seq[rows] > bound).any() and (seq == table.last_seq[rows] + np.uint64(1)).any():
            await self.parts.journal.flush(unless_full=True)
            await self.parts.residency.bring_numbers(self.model, numbers)

    def _owned(
        self, index: NDArray[np.intp], handles: NDArray[np.uint32], numbers: NDArray[np.uint32]
    ) -> tuple[NDArray[np.intp], NDArray[np.uint32]]:
        """Those ticks whose streams no later call has taken over, nor deleted; and the handles of the others."""
        table, rows = self.model.table, self.model.table.rows_of(numbers[index])
        mine = (rows != ABSENT) & (table.epoch[rows] == self.handles.epoch[handles[index]])
        table.owner[rows[mine]] = self.owner  # nobody's, where they have come back from disk
        return index[mine], handles[index[~mine]]

    async def _lost(self, handles: NDArray[np.uint32]) -> None:
        """These handles stand for nothing from here on. Those that do not already are passed over."""
        handles = handles[self.handles.number[handles] != UNBOUND]
        if not len(handles):
            return
        self.handles.number[handles] = UNBOUND
        self.handles.waiting[handles] = False
        await self.write(taken_over=np.unique(handles).tolist())

    # ---- telling

    async def tell_progress(self) -> None:
        """Tell which ticks have reached the disk, and which streams are another's. Returns when the server leaves."""
        while self.parts.intake.is_open(self.model):
            await self._moved.wait()
            self._moved.clear()
            await self._tell()

    async def _tell(self) -> None:
        if self._losses != self.model.owners.losses:
            self._losses = self.model.owners.losses
            await self._look_for_losses()
        handles = np.flatnonzero(self.handles.waiting).astype(np.uint32)
        table, rows = self.model.table, self.model.table.rows_of(self.handles.number[handles])
        handles, rows = handles[rows != ABSENT], rows[rows != ABSENT]
        durable = table.durable_seq[rows]
        news = durable > self.handles.told[handles]
        self.handles.waiting[handles] = durable < table.last_seq[rows]
        self.handles.told[handles] = durable
        if news.any():
            await self.write(durable=wire.durable_columns(handles[news], durable[news]))

    async def _look_for_losses(self) -> None:
        bound = np.flatnonzero(self.handles.number != UNBOUND)
        rows = self.model.table.rows_of(self.handles.number[bound])
        here = (
            rows != ABSENT
        )  # what is on disk has had no new owner since it was saved, or finds out with its next tick
        lost = here & (self.model.table.epoch[rows] != self.handles.epoch[bound])
        lost |= self.model.saving.deleted_among(self.handles.number[bound])
        if lost.any():
            await self._lost(bound[lost].astype(np.uint32))

    async def leave(self) -> None:
        """Say that the server is leaving, or the model gone, and end the call."""
        if not self.parts.admission.draining:
            self.parts.intake.check_open(self.model)
        await self.write(reconnect=streams_pb2.Reconnect(reason="the server is leaving"))
        await self.parts.journal.flush(unless_full=True)
        await self._tell()
        await self.context.abort(grpc.StatusCode.UNAVAILABLE, "the server is leaving: connect again and resume")


class Answers:
    """The forecasts of one message so far, all by one version, and no more than an answer should hold."""

    def __init__(self, columns: Columns, taken: Stepped | None = None) -> None:
        self._columns = columns
        self.version = self._numbers = 0
        self._parts: list[tuple[Any, Any, Any]] = []
        if taken:
            self.take(taken)

    def take(self, taken: Stepped) -> bool:
        """Add forecasts for ticks of the message, if they belong with these; whether they did."""
        if not len(taken.at):
            return True
        self._numbers += taken.y.size
        if self._parts and (taken.version != self.version or self._numbers > ANSWER_NUMBERS):
            return False
        self.version = taken.version
        self._parts.append((taken.at, taken.y, taken.judged))
        return True

    def message(self) -> streams_pb2.Forecasts | None:
        """All of them; None without any."""
        if not self._parts:
            return None
        index, y, judged = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        return wire.forecasts(self._columns.handle[index], self._columns.seq[index], y, judged, self.version)


def unbound(handle: int, seq: int) -> Refusal:
    """Why a tick of a handle that was never bound cannot be taken."""
    remedy = "bind it to a stream first, once per call: MuxRequest.bind"
    return Refusal(seq, Reason.INVALID, "ticks.handle", str(handle), remedy)


def handle_refused(handle: int, refusal: Refusal) -> streams_pb2.HandleRefused:
    """A refusal of a handle's tick, or of binding it."""
    return streams_pb2.HandleRefused(handle=handle, refused=wire.refusal_message(refusal))
