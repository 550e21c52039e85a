"""Streams.Open and Training.Learn by hand: say anything, in any order. For what the SDK would not let a test send."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from freshet.v1 import streams_pb2 as pb
from freshet.v1 import streams_pb2_grpc, training_pb2, training_pb2_grpc, types_pb2

T = TypeVar("T")
DEADLINE_S = 20.0  # for anything that must come; a test that meets it fails


async def within(awaitable: Awaitable[T]) -> T:
    """What is awaited, before the deadline. Not wait_for: in Python 3.11 it drops a cancellation that meets its result
    (bpo-42130), and a load that is to end goes on for good."""
    async with asyncio.timeout(DEADLINE_S):
        return await awaitable


def channel_to(target: str) -> grpc.aio.Channel:
    """A channel of its own connection, without any of the SDK's options."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
    return grpc.aio.insecure_channel(target, options=options)


class RawStream:
    """One call. Every wait has a deadline; gRPC's errors come through as they are."""

    def __init__(self, channel: grpc.aio.Channel, model: str = "", stream: str = "") -> None:
        self.call: Any = streams_pb2_grpc.StreamsStub(channel).Open(timeout=2 * DEADLINE_S)
        self._hello = pb.Hello(model=model, stream=stream)
        self.durable = pb.Durable()  # the newest
        self.heard = 0  # messages

    async def __aenter__(self) -> Self:
        """Say Hello and wait for the Welcome."""
        self.welcome = (await self.ask(hello=self._hello)).welcome
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.call.cancel()

    async def say(self, **message: object) -> None:
        """Send one OpenRequest."""
        await within(self.call.write(pb.OpenRequest(**message)))  # type: ignore[arg-type]

    async def hear(self) -> pb.OpenResponse | None:
        """The next message of any kind; None at the end of the call. Raises AioRpcError where it ends badly."""
        message = await within(self.call.read())
        if not isinstance(message, pb.OpenResponse):
            return None
        self.heard += 1
        if message.HasField("durable"):
            self.durable = message.durable
        return message

    async def answer(self) -> pb.OpenResponse:
        """The next message that is not Durable."""
        while (message := await self.hear()) is not None:
            if not message.HasField("durable"):
                return message
        raise AssertionError("the call has ended without an answer")

    async def ask(self, **message: object) -> pb.OpenResponse:
        """Send one message and wait for its answer."""
        await self.say(**message)
        return await self.answer()

    async def tick(self, seq: int, x: list[float], time: float | None = None) -> pb.OpenResponse:
        """Send one tick and wait for its answer."""
        return await self.ask(tick=pb.Tick(seq=seq, x=x, time=time))

    async def until_durable(self, seq: int) -> None:
        """Read until ticks up to seq are on disk. Answers in between are dropped."""
        while self.durable.seq < seq:
            if await self.hear() is None:
                raise AssertionError(f"the call has ended at durable {self.durable.seq}, expected {seq}")

    async def finish(self) -> list[pb.OpenResponse]:
        """Half-close and read what still comes."""
        await self.call.done_writing()
        rest = []
        while (message := await self.hear()) is not None:
            rest.append(message)
        return rest

    async def error(self) -> grpc.aio.AioRpcError:
        """Read on to the bad end of the call, which is returned."""
        try:
            while await self.hear() is not None:
                pass
        except grpc.aio.AioRpcError as error:
            return error
        raise AssertionError("the call has ended well")


class RawLearn:
    """One call of Training.Learn. Every wait has a deadline; gRPC's errors come through as they are."""

    def __init__(self, channel: grpc.aio.Channel, model: str = "", source: str = "", acknowledge: int = 0) -> None:
        self.call: Any = training_pb2_grpc.TrainingStub(channel).Learn(timeout=2 * DEADLINE_S)
        self._hello = training_pb2.LearnHello(model=model, source=source, acknowledge=acknowledge)  # type: ignore[arg-type]
        self.acknowledged = training_pb2.Acknowledged()  # the newest
        self.refused: list[types_pb2.Refused] = []

    async def __aenter__(self) -> Self:
        """Say Hello and wait for the Welcome."""
        await self.say(hello=self._hello)
        answer = await self.hear()
        assert answer is not None
        self.welcome = answer.welcome
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.call.cancel()

    async def say(self, **message: object) -> None:
        """Send one LearnRequest."""
        await within(self.call.write(training_pb2.LearnRequest(**message)))  # type: ignore[arg-type]

    async def hear(self) -> training_pb2.LearnResponse | None:
        """The next message; None at the end of the call. Raises AioRpcError where it ends badly."""
        message = await within(self.call.read())
        if not isinstance(message, training_pb2.LearnResponse):
            return None
        if message.HasField("acknowledged"):
            self.acknowledged = message.acknowledged
        if message.HasField("refused"):
            self.refused.append(message.refused)
        return message

    async def refusal(self, **message: object) -> types_pb2.Refused:
        """Send one message and wait for its refusal."""
        known = len(self.refused)
        await self.say(**message)
        while len(self.refused) == known:
            assert await self.hear() is not None, "the call has ended without a refusal"
        return self.refused[-1]

    async def until(self, labels: int = 0, windows: int = 0) -> None:
        """Read until so many of the call's labels and windows are acknowledged."""
        while self.acknowledged.labels < labels or self.acknowledged.windows < windows:
            assert await self.hear() is not None, f"the call has ended at {self.acknowledged}"

    async def finish(self) -> None:
        """Half-close and read what still comes, to the good end of the call."""
        await self.call.done_writing()
        while await self.hear() is not None:
            pass

    async def error(self) -> grpc.aio.AioRpcError:
        """Read on to the bad end of the call, which is returned."""
        try:
            while await self.hear() is not None:
                pass
        except grpc.aio.AioRpcError as error:
            return error
        raise AssertionError("the call has ended well")


def refused_field(error: grpc.aio.AioRpcError) -> tuple[str, str]:
    """(field, description) of the BadRequest that came with a status."""
    status = rpc_status.from_call(error)
    assert status is not None, f"{error.code()}: {error.details()} came without details"
    bad = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad)
    return bad.field_violations[0].field, bad.field_violations[0].description


def error_info(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    """The ErrorInfo that came with a status."""
    info = error_details_pb2.ErrorInfo()
    status = rpc_status.from_call(error)
    assert status is not None
    assert any(detail.Unpack(info) for detail in status.details), "no ErrorInfo"
    return info
