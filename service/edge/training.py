"""The Training service: reads labels and windows, writes acknowledgements. Translates and waits only."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import grpc

from freshet.v1 import training_pb2, training_pb2_grpc
from freshet.v1.training_pb2 import LearnHello, LearnResponse
from service.common.errors import Invalid, Refusal
from service.common.limits import MAX_UNACKNOWLEDGED, MAX_UNACKNOWLEDGED_BYTES
from service.edge import wire
from service.edge.guard.security import key
from service.edge.guard.statuses import statuses
from service.edge.parts import Parts, Places
from service.edge.writing import Writers, Writing, both_sides
from service.journal.sources import check_source
from service.learning.labels import Unacknowledged
from service.streams.served import ServedModel

DEFAULT_PAGE = 100


class LearnCall:
    """One call of Learn: its items that are not acknowledged yet, and its `Writing`.

    learned: acknowledge items once learned, not once on disk.
    """

    def __init__(
        self, parts: Parts, context: Any, writing: Writing, model: ServedModel, source: str, learned: bool
    ) -> None:
        self.intake, self._residency, self._journal = parts.intake, parts.residency, parts.journal
        self._tenant = parts.admission.tenants.of(model.tenant)
        self.context, self.model, self.source, self.learned = context, model, source, learned
        self.items, self._read = Unacknowledged(), 0
        self.writing = writing
        self._moved, self._room = asyncio.Event(), asyncio.Event()

    async def write(self, **message: Any) -> None:
        """Send one LearnResponse, after those under way."""
        await self.writing.send(LearnResponse(**message))

    @property
    def owned(self) -> bool:
        """Whether no later call sends as the same source."""
        return self.intake.owns(self.model, self.source, self)

    async def serve(self) -> None:
        """Accept items until the half-close, then wait until all of them are acknowledged as Hello asks."""
        next_seq = self.model.sources.last(self.source) + 1
        await self.write(welcome=training_pb2.LearnWelcome(next_window_seq=next_seq, version=self.model.champion))
        while (request := await self.writing.read()) is not grpc.aio.EOF:
            self._read += 1
            if request.HasField("label"):
                await self._residency.bring(self.model, [request.label.stream])
            refusal = self._accept(request)
            if refusal:
                await self.write(refused=wire.refusal_message(replace(refusal, item=self._read)))
            while len(self.items) >= MAX_UNACKNOWLEDGED or self.items.bytes >= MAX_UNACKNOWLEDGED_BYTES:
                await self._until_room()
        while self.items:
            await self._until_room()
        await self.writing.idle()  # until the last acknowledgement is sent

    def _accept(self, request: training_pb2.LearnRequest) -> Refusal | None:
        """Accept an item or return its refusal. It counts as in flight until acknowledged. Raises Exhausted."""
        size = request.ByteSize()
        self._tenant.hold(size)
        try:
            outcome, window_seq = self._journal_item(request)
        except BaseException:
            self._tenant.release(size)
            raise
        if isinstance(outcome, Refusal):
            self._tenant.release(size)
            return outcome
        self.items.add(outcome, size, window_seq)
        if outcome <= self.intake.reached(self.model, self.learned):  # a repeated window: no event may follow
            self.moved()
        return None

    def _journal_item(self, request: training_pb2.LearnRequest) -> tuple[int | Refusal, int]:
        """Journal an item. Returns its offset, or its refusal, and the number of a window (0 for a label)."""
        kind = request.WhichOneof("message")
        if kind == "label":
            seq, y = wire.label(request.label)
            return self.intake.label(self.model, request.label.stream, seq, y), 0
        if kind == "window":
            window = wire.window(request.window)
            return self.intake.window(self.model, self.source, window), window.seq
        raise Invalid("message", kind or "empty", "send Hello once, then StreamLabel or Window")

    async def _until_room(self) -> None:
        self._room.clear()
        await self._room.wait()

    def moved(self) -> None:
        """Wake the progress side: something became durable or learned."""
        self._moved.set()

    async def report_progress(self) -> None:
        """Acknowledge items as they become durable or learned. Returns when the call must end."""
        while self.owned and self.intake.is_open(self.model):
            await self._moved.wait()
            self._moved.clear()
            await self._report()

    async def _report(self) -> None:
        items, before = self.items, self.items.bytes
        if items.reached(self.intake.reached(self.model, self.learned)):
            self._tenant.release(before - items.bytes)
            await self.write(
                acknowledged=training_pb2.Acknowledged(
                    labels=items.labels, windows=items.windows, window_seq=items.window_seq
                )
            )
            self._room.set()

    async def leave(self) -> None:
        """Acknowledge what can be acknowledged, then end the call with the reason."""
        if not self.owned:
            await self.context.abort(grpc.StatusCode.ABORTED, f"taken over: another call sends as {self.source}")
        await self._journal.flush(unless_full=True)
        await self._report()
        self.intake.check_open(self.model)
        raise AssertionError("the server ends an owned call only where check_open raises")

    async def run(self) -> None:
        """Run both sides of the call until one ends, then release everything that it holds."""
        self.intake.watch(self.model, self.moved)
        self.intake.own(self.model, self.source, self)
        await both_sides(self)

    def end(self) -> None:
        """Release everything that the call holds."""
        self._tenant.release(self.items.bytes)
        self.intake.disown(self.model, self.source, self)
        self.intake.unwatch(self.model, self.moved)


class Training(training_pb2_grpc.TrainingServicer):
    """The Training service of freshet.v1."""

    def __init__(self, places: Places, writers: Writers) -> None:
        self._places, self._writers = places, writers

    async def Learn(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # reads and writes
        """Acknowledge everything accepted once it is on disk, or once learned if Hello asks for that."""
        async with self._writers.call(context) as writing:
            first = await writing.read()
            if first is grpc.aio.EOF or first.WhichOneof("message") != "hello":
                raise Invalid("message", "no Hello", "begin the call with LearnHello{model, source}")
            hello = first.hello
            parts = await self._places.of(key(hello.model))
            parts.admission.check_open()
            model = parts.catalog.model(key(hello.model))
            check_source(hello.source)
            if hello.acknowledge not in LearnHello.Acknowledge.values():
                raise Invalid("hello.acknowledge", hello.acknowledge, "choose DURABLE or LEARNED")
            learned = hello.acknowledge == LearnHello.LEARNED
            await LearnCall(parts, context, writing, model, hello.source, learned).run()

    async def Quarantine(
        self, request: training_pb2.QuarantineRequest, context: Any
    ) -> training_pb2.QuarantineResponse:
        """Return a page of quarantined items; large items make it shorter. An empty page is the end."""
        async with statuses(context):
            parts = await self._places.of(key(request.model))
            model = parts.catalog.model(key(request.model))
            items = await parts.replayer.items(model, request.after, request.page_size or DEFAULT_PAGE)
            return training_pb2.QuarantineResponse(items=[wire.quarantined_message(*item) for item in items])

    async def Replay(self, request: training_pb2.ReplayRequest, context: Any) -> training_pb2.ReplayResponse:
        """Replay items. Answers once those that can be replayed are on disk."""
        async with statuses(context):
            parts = await self._places.of(key(request.model))
            model = parts.catalog.model(key(request.model))
            replayed, refused = await parts.replayer.replay(model, request.ids)
            return training_pb2.ReplayResponse(replayed=replayed, refused=refused)
