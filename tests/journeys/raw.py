"""Calls of Streams.Open and Training.Learn by hand: any message in any order, also those that the SDK never sends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from freshet.v1 import streams_pb2 as pb
from freshet.v1 import streams_pb2_grpc, training_pb2, training_pb2_grpc, types_pb2

T = TypeVar("T")
Response = TypeVar("Response", bound=Message)
DEADLINE_S = 60.0  # for anything that must come; a test that meets it fails


async def within(awaitable: Awaitable[T]) -> T:
    """Await before the deadline. Not with wait_for: in Python 3.11 it drops a cancellation that coincides with the
    result (bpo-42130), and a cancelled load never ends."""
    async with asyncio.timeout(DEADLINE_S):
        return await awaitable


def channel_to(target: str) -> grpc.aio.Channel:
    """Open a channel with its own connection and none of the SDK's options."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
    return grpc.aio.insecure_channel(target, options=options)


class RawCall(Generic[Response]):
    """One call of a bidirectional method. Every wait has a deadline; gRPC's errors are raised unchanged."""

    request: type[Message]
    response: type[Response]

    def __init__(self, method: Any, deadline_s: float = 2 * DEADLINE_S) -> None:
        self.call: Any = method(timeout=deadline_s)
        self.heard = 0  # messages

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.call.cancel()

    async def say(self, **message: Any) -> None:
        """Send one request."""
        await within(self.call.write(self.request(**message)))

    async def hear(self) -> Response | None:
        """Return the next response; None at the end of the call. Raises AioRpcError if the call fails."""
        message = await within(self.call.read())
        if not isinstance(message, self.response):
            return None
        self.heard += 1
        self.note(message)
        return message

    def note(self, message: Response) -> None:
        """Keep what a test looks at later. Called for each response."""

    async def finish(self) -> list[Response]:
        """Half-close the call and return the responses up to its end."""
        await self.call.done_writing()
        rest = []
        while (message := await self.hear()) is not None:
            rest.append(message)
        return rest

    async def error(self) -> grpc.aio.AioRpcError:
        """Read until the call fails, and return its error."""
        try:
            while await self.hear() is not None:
                pass
        except grpc.aio.AioRpcError as error:
            return error
        raise AssertionError("the call ended without an error")


class RawStream(RawCall[pb.OpenResponse]):
    """One call of Streams.Open. Entering it sends Hello and reads the Welcome."""

    request, response = pb.OpenRequest, pb.OpenResponse

    def __init__(self, channel: grpc.aio.Channel, model: str = "", stream: str = "", **hello: Any) -> None:
        super().__init__(streams_pb2_grpc.StreamsStub(channel).Open)
        self._hello = pb.Hello(model=model, stream=stream, **hello)
        self.durable = pb.Durable()  # the newest

    async def __aenter__(self) -> Self:
        self.welcome = (await self.ask(hello=self._hello)).welcome
        return self

    def note(self, message: pb.OpenResponse) -> None:
        if message.HasField("durable"):
            self.durable = message.durable

    async def answer(self) -> pb.OpenResponse:
        """Return the next message that is not Durable."""
        while (message := await self.hear()) is not None:
            if not message.HasField("durable"):
                return message
        raise AssertionError("the call ended without an answer")

    async def ask(self, **message: object) -> pb.OpenResponse:
        """Send one message and return its answer."""
        await self.say(**message)
        return await self.answer()

    async def tick(self, seq: int, x: list[float], time: float | None = None) -> pb.OpenResponse:
        """Send one tick and return its answer."""
        return await self.ask(tick=pb.Tick(seq=seq, x=x, time=time))

    async def until_durable(self, seq: int) -> None:
        """Read until ticks up to seq are on disk; answers in between are dropped."""
        while self.durable.seq < seq:
            assert await self.hear() is not None, f"the call ended at durable {self.durable.seq}, expected {seq}"


class RawLearn(RawCall[training_pb2.LearnResponse]):
    """One call of Training.Learn. Entering it sends Hello and reads the Welcome."""

    request, response = training_pb2.LearnRequest, training_pb2.LearnResponse

    def __init__(self, channel: grpc.aio.Channel, model: str = "", source: str = "", acknowledge: Any = 0) -> None:
        super().__init__(training_pb2_grpc.TrainingStub(channel).Learn)
        self._hello = training_pb2.LearnHello(model=model, source=source, acknowledge=acknowledge)
        self.acknowledged = training_pb2.Acknowledged()  # the newest
        self.refused: list[types_pb2.Refused] = []

    async def __aenter__(self) -> Self:
        await self.say(hello=self._hello)
        answer = await self.hear()
        assert answer is not None
        self.welcome = answer.welcome
        return self

    def note(self, message: training_pb2.LearnResponse) -> None:
        if message.HasField("acknowledged"):
            self.acknowledged = message.acknowledged
        if message.HasField("refused"):
            self.refused.append(message.refused)

    async def refusal(self, **message: object) -> types_pb2.Refused:
        """Send one message and return its refusal."""
        known = len(self.refused)
        await self.say(**message)
        while len(self.refused) == known:
            assert await self.hear() is not None, "the call ended without a refusal"
        return self.refused[-1]

    async def until(self, labels: int = 0, windows: int = 0) -> None:
        """Read until that many of the call's labels and windows are acknowledged."""
        while self.acknowledged.labels < labels or self.acknowledged.windows < windows:
            assert await self.hear() is not None, f"the call ended at {self.acknowledged}"


def refused_field(error: grpc.aio.AioRpcError) -> tuple[str, str]:
    """Return (field, description) of the BadRequest in a status."""
    status = rpc_status.from_call(error)
    assert status is not None, f"{error.code()}: {error.details()} came without details"
    bad = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad)
    return bad.field_violations[0].field, bad.field_violations[0].description


def error_info(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    """Return the ErrorInfo in a status."""
    info = error_details_pb2.ErrorInfo()
    status = rpc_status.from_call(error)
    assert status is not None
    assert any(detail.Unpack(info) for detail in status.details), "no ErrorInfo"
    return info
