"""Mux: many streams in one call, as packed columns, for gateways of thousands of entities. Translates only.

A call binds a stream to a handle once, which takes the stream over like Open. Binding does not keep a stream in memory:
an evicted one is read from disk with its next tick.
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
from service.common.errors import Invalid, Reason, Refusal, ServiceError, Unavailable
from service.common.limits import MAX_BINDS, MAX_BOUND_AT_ONCE, MAX_DECIDED, MAX_HANDLES
from service.edge import wire
from service.edge.guard.in_flight import in_flight
from service.edge.packed import UNBOUND, Answers, Handles, Message, handle_refused, unbound
from service.edge.parts import Parts
from service.edge.wire import Columns
from service.edge.writing import Writing
from service.streams.answers import Answer
from service.streams.covariates import rows_of, static_values
from service.streams.served import ServedModel
from service.streams.session import Session
from service.streams.table import ABSENT, At, listed, span


class MuxCall:
    """One call of Mux."""

    def __init__(
        self, parts: Parts, context: Any, writing: Writing, model: ServedModel, first: streams_pb2.MuxRequest
    ) -> None:
        """first: the call's first message, which names the model."""
        self.parts, self.context, self.model = parts, context, model
        self._first, self._tenant = first, parts.admission.tenants.of(model.tenant)
        self.writing = writing
        self.handles = Handles(model.network.covariates.static)
        self._moved = asyncio.Event()
        self._losses = model.owners.losses  # count of streams lost by owners when this call last checked
        self.owner = model.owners.add(self._moved.set)

    def end(self) -> None:
        """Release everything that the call holds."""
        self.parts.opening.close(self.model, self.owner)

    async def write(self, **message: Any) -> None:
        """Send one MuxResponse, after those under way."""
        await self.writing.send(MuxResponse(**message))

    # ---- reading

    async def serve(self) -> None:
        """Answer messages until the half-close, then wait until everything is on disk."""
        request: Any = self._first
        while request is not grpc.aio.EOF:
            if request.model and request.model != self.model.name:
                raise Invalid("model", request.model, f"this call is for {self.model.name}: open another for that")
            arrived = self.parts.clock()
            with in_flight(self._tenant, request.ByteSize()):
                if request.bind:
                    await self._bind(request.bind)
                if request.HasField("ticks"):
                    own = self.model.network.covariates
                    channels = len(self.model.spec.channels)
                    await self._ticks(wire.columns(request.ticks, channels, own.ahead, own.hold))
                    self.parts.metrics.serving.total_seconds.observe(self.parts.clock() - arrived)
            request = await self.writing.read()
        await self.parts.journal.flush()
        await self._report()
        await self.writing.idle()  # until the last message is sent

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
        """Bind streams. Appends each to `bound`, or the reason of its refusal to `refused`."""
        await self.parts.residency.bring(self.model, [bind.stream for bind in binds])
        for bind in binds:  # nothing awaits from here on, so the streams stay in memory
            try:
                static = static_values(self.model, bind.stream, bind.static)
                session, origin = self._open(bind.handle, bind.stream)
            except Unavailable:  # no stream can be bound here now: the call ends, and the client binds them elsewhere
                raise
            except ServiceError as error:
                refusal = Refusal(0, Reason.INVALID, f"bind.{error.field}", error.value, error.remedy)
                refused.append(handle_refused(bind.handle, refusal))
                continue
            self.handles.bind(bind.handle, session, static)
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
        """Send the refusals so far once there are MAX_DECIDED of them."""
        if len(refused) >= MAX_DECIDED:
            await self.write(refused=refused)
            refused.clear()

    def _open(self, handle: int, stream: str) -> tuple[Session, int]:
        if handle >= MAX_HANDLES:
            raise Invalid("handle", handle, f"number handles from 0 to {MAX_HANDLES - 1}")
        if handle < len(self.handles.number) and self.handles.number[handle] != UNBOUND:
            raise Invalid("handle", handle, "it is already bound: use a free one")
        row = self.model.table.by_id.get(stream, ABSENT)
        if row != ABSENT and self.model.table.owner[row] == self.owner:
            raise Invalid("stream", stream, "it is bound to another handle of this call")
        return self.parts.opening.open(self.model, stream, self.owner, pinned=False)

    async def _ticks(self, columns: Columns) -> None:
        """Answer packed ticks in waves, in each of which a stream has at most one tick."""
        numbers = self.handles.numbers(columns.handle)
        rows = rows_of(self.model.network, columns.x, columns.u, self.handles.static_of(columns.handle, numbers))
        message = Message(columns, rows, numbers, Answers(columns, self.model.spec.outputs), [])
        bound = np.flatnonzero(numbers != UNBOUND)
        if len(bound) < len(numbers):
            for unknown in np.flatnonzero(numbers == UNBOUND):
                handle = int(columns.handle[unknown])
                message.refused.append(handle_refused(handle, unbound(handle, int(columns.seq[unknown]))))
                await self._refuse(message.refused)
        for wave in each_round(numbers[span(bound)], self.model.step_rows):
            left = bound[wave]
            while len(left):
                left = await self._wave(message, left)
        if message.answers.version or message.refused:
            await self.write(forecasts=message.answers.message(), refused=message.refused)

    async def _wave(self, message: Message, left: NDArray[np.intp]) -> NDArray[np.intp]:
        """Answer ticks of distinct streams, by their indices in the message. Returns the indices not answered yet."""
        columns, numbers = message.columns, message.numbers
        await self.parts.turns.wait()
        at = span(left)
        rows = await self._ready(numbers[at], columns.seq[at])
        mine = self._owned(rows, columns.handle[at])
        index = left
        if not mine.all():
            index = left[mine]
            await self._lost(columns.handle[left[~mine]])
            at, rows = span(index), span(self.model.table.rows_of(numbers[index]))
        outcome = await self.parts.waves.answer(self.model, rows, columns.seq[at], columns.time[at], message.x[at])
        stepped = outcome.stepped._replace(at=index[outcome.stepped.at])
        self.handles.waiting[columns.handle[stepped.at]] = True  # before a write, during which they may reach the disk
        if not message.answers.add(stepped):
            await self.write(forecasts=message.answers.message())
            message.answers = Answers(columns, self.model.spec.outputs, stepped)
        for i, other in outcome.others.items():
            handle = int(columns.handle[index[i]])
            if isinstance(other, Answer):
                await self.write(forecasts=wire.forecasts_again(handle, other, self.model.spec.outputs))
            elif isinstance(other, Refusal):
                message.refused.append(handle_refused(handle, other))
        await self._refuse(message.refused)
        return index[outcome.left]

    async def _ready(self, numbers: NDArray[np.uint32], seq: NDArray[np.uint64]) -> At:
        """Wait until the streams are in memory and each may have another tick that is not on disk; return their rows.

        Does not wait for a full disk: the ticks are then refused. ABSENT: the stream is deleted.
        """
        table, bound = self.model.table, np.uint64(self.parts.admission.settings.max_undurable)
        await self.parts.champions.bring(self.model)
        rows = at = await self._brought(numbers)
        if isinstance(at, np.ndarray):
            here = at != ABSENT
            at, seq = at[here], seq[here]
        if (seq - table.durable_seq[at] > bound).any() and (seq == table.last_seq[at] + np.uint64(1)).any():
            await self.parts.journal.flush(unless_full=True)
            rows = await self._brought(numbers)
        return rows

    async def _brought(self, numbers: NDArray[np.uint32]) -> At:
        """Return the rows of streams, see `span`, that are brought into memory; ABSENT: deleted."""
        rows = span(self.model.table.rows_of(numbers))
        if isinstance(rows, np.ndarray) and (rows == ABSENT).any():
            await self.parts.residency.bring_numbers(self.model, numbers)
            rows = span(self.model.table.rows_of(numbers))
        return rows

    def _owned(self, rows: At, handles: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Return which streams, by their present rows, this call still owns.

        A stream is lost when another call opens it, or it is deleted.
        """
        table = self.model.table
        mine: NDArray[np.bool_] = table.epoch[rows] == self.handles.epoch[handles]
        if isinstance(rows, np.ndarray):
            mine &= rows != ABSENT
        table.owner[rows if mine.all() else listed(rows)[mine]] = self.owner  # one read from disk has no owner yet
        return mine

    async def _lost(self, handles: NDArray[np.uint32]) -> None:
        """Unbind handles and notify the client. Ignores handles that are unbound already."""
        handles = handles[self.handles.number[handles] != UNBOUND]
        if not len(handles):
            return
        self.handles.number[handles] = UNBOUND
        self.handles.waiting[handles] = False
        await self.write(taken_over=np.unique(handles).tolist())

    # ---- progress

    async def report_progress(self) -> None:
        """Report durable ticks and streams lost to other calls. Returns when the call must end."""
        while self.parts.intake.is_open(self.model):
            await self._moved.wait()
            self._moved.clear()
            await self._report()

    async def _report(self) -> None:
        if self._losses != self.model.owners.losses:
            self._losses = self.model.owners.losses
            await self._find_losses()
        handles = np.flatnonzero(self.handles.waiting).astype(np.uint32)
        table, rows = self.model.table, self.model.table.rows_of(self.handles.number[handles])
        handles, rows = handles[rows != ABSENT], rows[rows != ABSENT]
        durable = table.durable_seq[rows]
        news = durable > self.handles.reported[handles]
        self.handles.waiting[handles] = durable < table.last_seq[rows]
        self.handles.reported[handles] = durable
        if news.any():
            await self.write(durable=wire.durable_columns(handles[news], durable[news]))

    async def _find_losses(self) -> None:
        bound = np.flatnonzero(self.handles.number != UNBOUND)
        rows = self.model.table.rows_of(self.handles.number[bound])
        # An evicted stream has no new owner since it was saved; otherwise its next tick finds out.
        lost = (rows != ABSENT) & (self.model.table.epoch[rows] != self.handles.epoch[bound])
        lost |= self.model.saving.deleted_among(self.handles.number[bound])
        if lost.any():
            await self._lost(bound[lost].astype(np.uint32))

    async def leave(self) -> None:
        """End the call with UNAVAILABLE after the last progress. Raises NotFound for a deleted model."""
        if not self.parts.admission.draining:
            self.parts.intake.check_open(self.model)
        moved_to = self.parts.admission.moved_to
        await self.write(reconnect=streams_pb2.Reconnect(reason="the server is leaving", address=moved_to))
        await self.parts.journal.flush(unless_full=True)
        await self._report()
        await self.context.abort(grpc.StatusCode.UNAVAILABLE, "the server is leaving: connect again and resume")
