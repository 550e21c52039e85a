"""The Streams service: one call of Open per stream reads ticks and writes forecasts and progress. Translates only."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import grpc
import numpy as np

from freshet.v1 import streams_pb2, streams_pb2_grpc
from freshet.v1.streams_pb2 import OpenResponse
from model.fold.errors import QUANTITIES, kept_steps
from service.access.grants import Role
from service.common.errors import Invalid, NotFound, Reason, Refusal
from service.common.limits import message_ticks
from service.edge import wire, wire_models, wire_ticks
from service.edge.guard.in_flight import in_flight
from service.edge.guard.security import caller, check_may_erase, key
from service.edge.guard.statuses import statuses
from service.edge.mux import MuxCall
from service.edge.parts import Parts, Places
from service.edge.spread import SpreadMux, part_and_after
from service.edge.writing import SILENT_S, Progress, Wants, Writers, Writing, both_sides
from service.learning.labels import Unacknowledged
from service.serving.erasure import check_erasable
from service.serving.opening import check_answers
from service.serving.ticks import Fenced, Tick
from service.streams.answers import Answer
from service.streams.covariates import row_of, static_values
from service.streams.served import ServedModel

PAGE, MAX_PAGE = 100, 1000  # streams of one List, and of one Errors
LEAVING = "the server is leaving"
ERRORS_S = 10.0  # the trainer answers between two chunks


class Call:
    """One call of Open: the session that it owns, and the `Writing` that forecasts and progress share."""

    def __init__(
        self, parts: Parts, context: Any, writing: Writing, model: ServedModel, hello: streams_pb2.Hello
    ) -> None:
        """Open the stream; if it is known, it must be in memory. Raises what `Opening.open` raises; Invalid for static
        values that are not the stream's."""
        self.parts, self.context, self.model = parts, context, model
        self._most_undurable = parts.admission.settings.max_undurable
        self.labels, self._labels_read = Unacknowledged(), 0
        self.writing = writing
        self._may_train = caller().role >= Role.TRAIN
        self._moved = asyncio.Event()
        self._wants = Wants(hello.durable_in_forecasts, self._most_undurable)
        self._heard = 0.0  # clock seconds of the last message
        self._silence: asyncio.TimerHandle | None = None
        self._static = static_values(model, hello.stream, hello.static)
        self._most_ticks = min(message_ticks(model.network), self._most_undurable)
        self.owner = model.owners.add(self._progressed, heeds_verdicts=not self._wants.spares)
        try:
            self.session, self.origin = parts.opening.open(model, hello.stream, self.owner)
        except BaseException:
            model.owners.remove(self.owner)
            raise
        self.epoch = self.session.epoch
        self._reported = self._progress()

    @property
    def owned(self) -> bool:
        """Whether the stream still belongs to this call: no later call has opened or deleted it."""
        return self.model.owns(self.session, self.epoch)

    async def write(self, message: OpenResponse | bytes) -> None:
        """Send one message, serialised or not, after those under way."""
        await self.writing.send(message)

    def welcome(self) -> OpenResponse:
        """Return the first message, which reports the stream's position and origin."""
        session, model = self.session, self.model
        return OpenResponse(
            welcome=streams_pb2.Welcome(
                stream_id=session.id,
                next_seq=session.last_seq + 1,
                durable_seq=session.durable_seq,
                state_origin=self.origin,  # type: ignore[arg-type]  # numbered alike
                version=model.champion,
                spec=wire_models.spec_message(model.spec),
                judged_through=self._reported.judged,
                max_undurable=self._most_undurable,
                last_time=wire.event_time(session.last_time),
                durable_in_forecasts=self._wants.spares,
                max_ticks=self._most_ticks,
            )
        )

    def _progressed(self) -> None:
        """Wake `report_progress` if it has something to do; a stream that spares messages may wait for silence."""
        if not self.owned or self.parts.admission.draining or self.labels:
            self._moved.set()
            return
        now = self._progress()
        if now == self._reported:
            return
        if self._wants.alone(now, self._reported):
            self._moved.set()
        elif self._silence is None:
            self._silence = asyncio.get_running_loop().call_later(SILENT_S, self._after_silence)

    def _after_silence(self) -> None:
        """Report what is unreported, if the stream has been silent for SILENT_S; otherwise, wait for that."""
        self._silence = None
        silent = self.parts.clock() - self._heard
        if silent >= SILENT_S:
            self._moved.set()
        elif self._progress() != self._reported:
            self._silence = asyncio.get_running_loop().call_later(SILENT_S - silent, self._after_silence)

    def _progress(self) -> Progress:
        return Progress(self.session.durable_seq, self.labels.labels, self.session.judged)

    async def report_progress(self) -> None:
        """Send Durable whenever ticks become durable or labels are judged, as far as the client wants it.

        Returns when the call must end: another call has opened the stream, or the server is draining.
        """
        while self.owned and not self.parts.admission.draining:
            await self._moved.wait()
            self._moved.clear()
            await self._report()

    async def leave(self) -> None:
        """Report why the server ends the call, and end it. Raises NotFound for a deleted model."""
        if self.model.deleted:
            raise NotFound("model", self.model.name, "it was deleted, and this stream with it")
        if not self.owned:
            await self.write(OpenResponse(taken_over=streams_pb2.TakenOver(by="another call")))
            await self.context.abort(grpc.StatusCode.ABORTED, "taken over: another call has opened this stream")
        moved_to = self.parts.admission.moved_to
        await self.write(OpenResponse(reconnect=streams_pb2.Reconnect(reason=LEAVING, address=moved_to)))
        await self.parts.journal.flush(unless_full=True)
        await self._report()
        await self.context.abort(grpc.StatusCode.UNAVAILABLE, f"{LEAVING}: connect again and resume")

    async def _report(self) -> None:
        self.labels.reached(self.parts.intake.reached(self.model, learned=False))
        if not self.labels:
            self.parts.intake.unwatch(self.model, self._moved.set)
        now = self._progress()
        if now != self._reported:
            self._reported = now
            durable = streams_pb2.Durable(seq=now.durable, labels=now.labels, judged_through=now.judged)
            await self.write(OpenResponse(durable=durable))

    async def serve(self) -> None:
        """Welcome the client, answer messages until the half-close, then wait until everything is on disk."""
        total_seconds, clock = self.parts.metrics.serving.total_seconds, self.parts.clock
        await self.write(self.welcome())
        while True:
            request = await self.writing.read()
            if request is grpc.aio.EOF:
                break
            arrived = self._heard = clock()
            answer = await self._answer(request, arrived)
            if answer is not None:
                await self.writing.post(answer)
            total_seconds.observe(clock() - arrived)
        await self.parts.journal.flush()
        if self.owned:
            await self._report()
        await self.writing.idle()  # until the last Durable is sent

    async def _answer(self, request: Any, arrived: float) -> OpenResponse | bytes | None:
        kind = request.WhichOneof("message")
        if kind == "tick":
            seq, time, x = wire.tick(request.tick)
            row = row_of(self.model.network, seq, x, wire.known(request.tick), self._static)
            if isinstance(row, Refusal):
                return wire.refused(self.parts.admission.refuse(row))
            outcome = await self.parts.ticks.answer(Tick(self.model, self.session, self.epoch, seq, time, row, arrived))
            if isinstance(outcome, Answer):
                return self._forecast(outcome)
            if outcome.reason is Reason.OVERLOADED:  # the client may wait for Durable
                self._wants.expect(self.session.last_seq, 0)
            return wire.refused(outcome)
        if kind == "ticks":
            with in_flight(self.parts.admission.tenants.of(self.model.tenant), request.ByteSize()):
                return await self._ticks(request.ticks, arrived)
        if kind == "reset":
            if not self.owned:
                raise Fenced(self.session.id)
            self.parts.opening.reset(self.model, self.session)
            return None  # the Durable of the next tick covers it
        if kind == "label":
            return self._label(request.label)
        if kind == "expect":
            self._wants.expect(request.expect.durable_seq, request.expect.judged_through)
            self.model.owners.heed_verdicts(self.owner)
            self._progressed()  # it may have been reached
            return None
        raise Invalid("message", kind or "empty", "send Hello once, then Tick, Ticks, Label, Reset or Expect")

    def _forecast(self, answer: Answer) -> bytes:
        if not self._wants.spares:
            return wire.forecast(answer, self.model.spec.outputs)
        durable, (_, labels, judged) = self.session.durable_seq, self._reported
        self._reported = Progress(durable, labels, max(judged, answer.judged_through))
        return wire.forecast(answer, self.model.spec.outputs, durable)

    async def _ticks(self, message: streams_pb2.Ticks, arrived: float) -> OpenResponse | bytes:
        """Answer several ticks, each as if it had come alone."""
        model, session = self.model, self.session
        run = wire_ticks.run(message, model.network, self._static, self._most_ticks)
        if isinstance(run, Refusal):
            return wire.refused(self.parts.admission.refuse(run))
        answered = await self.parts.runs.answer(model, session, self.epoch, run.first, run.time, run.x, arrived)
        if any(refusal.reason is Reason.OVERLOADED for refusal in answered.refused):  # the client may wait for Durable
            self._wants.expect(session.last_seq, 0)
        durable = 0
        if self._wants.spares and len(answered.judged):
            durable, (_, labels, judged) = session.durable_seq, self._reported
            self._reported = Progress(durable, labels, max(judged, int(answered.judged[-1])))
        return wire_ticks.outcomes(run.first, answered, model.spec.outputs, durable)

    def _label(self, message: streams_pb2.Label) -> OpenResponse | None:
        """Journal a label or return its refusal. Durable reports when it is on disk."""
        if not self.owned:
            raise Fenced(self.session.id)
        self._labels_read += 1
        seq, y = wire.label(message)
        outcome: int | Refusal
        if not self._may_train:
            outcome = Refusal(
                seq, Reason.NOT_ALLOWED, "label", "role predict", "send labels with a token of role train"
            )
        elif len(self.labels) >= self._most_undurable:
            remedy = f"{len(self.labels)} labels are not on disk yet: wait for Durable; then send it again"
            outcome = Refusal(seq, Reason.OVERLOADED, "label.seq", str(seq), remedy)
        else:
            outcome = self.parts.intake.label(self.model, self.session.id, seq, y)
        if isinstance(outcome, Refusal):
            return wire.refused(replace(outcome, item=self._labels_read))
        self.labels.add(outcome, y.nbytes)
        self.parts.intake.watch(self.model, self._moved.set)
        return None

    def end(self) -> None:
        """Release everything that the call holds."""
        if self._silence is not None:
            self._silence.cancel()
        self.parts.intake.unwatch(self.model, self._moved.set)
        self.parts.opening.close(self.model, self.owner)


class Streams(streams_pb2_grpc.StreamsServicer):
    """The Streams service of freshet.v1."""

    def __init__(self, places: Places, writers: Writers) -> None:
        self._places, self._writers = places, writers

    async def Open(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # reads and writes
        """Answer each tick with a forecast, in order, until the half-close. A later call with the same id resumes."""
        async with self._writers.call(context) as writing:
            first = await writing.read()
            if first is grpc.aio.EOF or first.WhichOneof("message") != "hello":
                raise Invalid("message", "no Hello", "begin the call with Hello{model, stream}")
            parts = await self._places.of(key(first.hello.model), first.hello.stream)
            model = parts.catalog.model(key(first.hello.model))
            parts.opening.check_id(first.hello.stream)
            await parts.residency.bring(model, [first.hello.stream])
            await both_sides(Call(parts, context, writing, model, first.hello))

    async def Mux(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # reads and writes
        """Answer packed ticks of many streams; see `MuxCall`."""
        async with self._writers.call(context) as writing:
            first = await writing.read()
            if first is grpc.aio.EOF or not first.model:
                raise Invalid("model", "", "name the model in the first message")
            if count := await self._places.slices(key(first.model)):
                await SpreadMux(self._places, context, writing, key(first.model), count, first).run()
                return
            parts = await self._places.of(key(first.model))
            parts.admission.check_open()
            model = parts.catalog.model(key(first.model))
            check_answers(model)
            await both_sides(MuxCall(parts, context, writing, model, first))

    async def Get(self, request: streams_pb2.GetStreamRequest, context: Any) -> streams_pb2.Stream:
        """Return a stream as it is at one moment."""
        async with statuses(context):
            parts = await self._places.of(key(request.model), request.stream)
            model = parts.catalog.model(key(request.model))
            await parts.residency.bring(model, [request.stream])
            row = model.table.by_id.get(request.stream)
            if row is None:
                raise NotFound("stream", request.stream, "no such stream in this model; list them with Streams.List")
            return wire.stream_message(model, model.row(row), int(model.table.durable_seq[row]), request.with_state)

    async def Put(self, request: streams_pb2.PutStreamRequest, context: Any) -> streams_pb2.Stream:
        """Replace a stream's state. Answers once it is on disk."""
        async with statuses(context):
            parts = await self._places.of(key(request.stream.model), request.stream.stream)
            model = parts.catalog.model(key(request.stream.model))
            put = wire.put_state(request.stream, model)
            parts.opening.check_id(put.id)
            await parts.residency.bring(model, [put.id])
            parts.admission.check_disk()
            session = parts.opening.put(model, put.id, put.epoch, put.last_seq, put.last_time, put.state)
            stored = model.row(session.row)
            await parts.journal.flush()
            return wire.stream_message(model, stored, stored.last_seq, with_state=False)

    async def Delete(self, request: streams_pb2.DeleteStreamRequest, context: Any) -> streams_pb2.DeleteStreamResponse:
        """Delete a stream, and erase its data on request. Answers once that is on disk."""
        async with statuses(context):
            parts = await self._places.of(key(request.model), request.stream)
            model = parts.catalog.model(key(request.model))
            if request.erase:
                check_may_erase()
                check_erasable(model)
                parts.admission.check_disk()
                await parts.erasure.owe(model.number)
            await parts.residency.bring(model, [request.stream])
            parts.admission.check_disk()
            if not request.erase or request.stream in model.table.by_id:
                parts.opening.delete(model, request.stream)
            await parts.journal.flush()
            remains = await parts.erasure.erased(model.number) if request.erase else ()
            return streams_pb2.DeleteStreamResponse(remains=remains)

    async def List(self, request: streams_pb2.ListStreamsRequest, context: Any) -> streams_pb2.ListStreamsResponse:
        """Return a page of a model's streams, in the order of their ids; of a model in slices, slice by slice."""
        async with statuses(context):
            slices, after = await self._places.slices(key(request.model)), request.page_token
            part, after = part_and_after(after, slices) if slices else (None, after)
            parts = await self._places.of(key(request.model), part=part)
            model = parts.catalog.model(key(request.model))
            size = min(request.page_size or PAGE, MAX_PAGE)
            rows, more = await parts.residency.page(model, after, size)
            if part is not None and (more or part + 1 < slices):
                more = f"{part}:{more}" if more else f"{part + 1}:"
            streams = [wire.stream_message(model, row, durable, with_state=False) for row, durable in rows]
            return streams_pb2.ListStreamsResponse(streams=streams, next_page_token=more)

    async def Errors(self, request: streams_pb2.ErrorsRequest, context: Any) -> streams_pb2.ErrorsResponse:
        """Return errors as the model's trainer has counted them."""
        async with statuses(context):
            parts = await self._places.of(key(request.model))
            model = parts.catalog.model(key(request.model))
            after, size = wire.after(request.page_token), min(request.page_size or PAGE, MAX_PAGE)
            worst, H = min(request.worst, MAX_PAGE), model.spec.horizon
            found = await parts.trainers.errors(model.number, worst, after, size, ERRORS_S)
            rows = np.frombuffer(found.rows, np.float32).reshape(-1, len(kept_steps(H)), QUANTITIES)
            names = await parts.residency.names(model, np.array(found.streams, np.uint32))
            each = zip(found.streams, rows, strict=True)
            of_model = np.frombuffer(found.model).reshape(-1, QUANTITIES)
            more = not worst and len(found.streams) == size
            return streams_pb2.ErrorsResponse(
                steps=wire.error_steps(range(1, len(of_model) + 1), of_model),
                streams=[wire.stream_errors(names[n], H, errors) for n, errors in each if n in names],
                next_page_token=str(found.streams[-1]) if more else "",
            )
