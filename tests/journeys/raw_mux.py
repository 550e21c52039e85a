"""Streams.Mux by hand: any columns, in any order. For what no client should send, too."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
from numpy.typing import NDArray

from freshet.v1 import streams_pb2 as pb
from freshet.v1 import streams_pb2_grpc
from tests.journeys.raw import DEADLINE_S, within

Array = NDArray[np.float32]


class RawMux:
    """One call. What comes without being asked for is kept: durable, taken_over."""

    def __init__(self, channel: grpc.aio.Channel, model: str) -> None:
        self.call: Any = streams_pb2_grpc.StreamsStub(channel).Mux(timeout=3 * DEADLINE_S)
        self._model = model
        self.durable: dict[int, int] = {}
        self.taken_over: list[int] = []
        self.reconnect = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.call.cancel()

    async def say(self, **message: Any) -> None:
        """Send one MuxRequest; the first names the model."""
        request = pb.MuxRequest(**({"model": self._model} | message))
        self._model = ""
        await within(self.call.write(request))

    async def hear(self) -> pb.MuxResponse | None:
        """The next message; None at the end of the call."""
        message = await within(self.call.read())
        if not isinstance(message, pb.MuxResponse):
            return None
        if message.HasField("durable"):
            handles, seqs = (
                np.frombuffer(c, k) for c, k in ((message.durable.handle, "<u4"), (message.durable.seq, "<u8"))
            )
            self.durable |= dict(zip(handles.tolist(), seqs.tolist(), strict=True))
        self.taken_over += message.taken_over
        self.reconnect |= message.HasField("reconnect")
        return message

    async def answer(self) -> pb.MuxResponse:
        """The next message that answers something."""
        while (message := await self.hear()) is not None:
            if message.bound or message.refused or message.HasField("forecasts"):
                return message
        raise AssertionError("the call has ended without an answer")

    async def bind(self, streams: dict[int, str]) -> dict[int, pb.Bound]:
        """Bind handles; what was bound."""
        await self.say(bind=[pb.Bind(handle=handle, stream=stream) for handle, stream in streams.items()])
        return {bound.handle: bound for bound in (await self.answer()).bound}

    async def ticks(
        self, handle: Sequence[int], seq: Sequence[int], x: Any, time: Any = None
    ) -> dict[tuple[int, int], tuple[Array, int]]:
        """Send packed ticks and wait for all their forecasts: by (handle, seq), y and version."""
        await self.say(ticks=columns(handle, seq, x, time))
        answers: dict[tuple[int, int], tuple[Array, int]] = {}
        while len(answers) < len(handle):
            message = await self.answer()
            assert not message.refused, message.refused
            answers |= unpacked(message.forecasts)
        return answers

    async def until_durable(self, handle: int, seq: int) -> None:
        """Read until the handle's ticks up to seq are on disk."""
        while self.durable.get(handle, 0) < seq:
            assert await self.hear() is not None, f"the call has ended at durable {self.durable}"

    async def finish(self) -> None:
        """Half-close and read what still comes."""
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


def columns(handle: Sequence[int], seq: Sequence[int], x: Any, time: Any = None) -> pb.Columns:
    """Packed ticks."""
    return pb.Columns(
        handle=np.asarray(handle, "<u4").tobytes(),
        seq=np.asarray(seq, "<u8").tobytes(),
        x=np.asarray(x, "<f4").tobytes(),
        time=b"" if time is None else np.asarray(time, "<f8").tobytes(),
    )


def unpacked(forecasts: pb.Forecasts) -> dict[tuple[int, int], tuple[Array, int]]:
    """Forecasts by (handle, seq): y [O] and version."""
    handle, seq = np.frombuffer(forecasts.handle, "<u4").tolist(), np.frombuffer(forecasts.seq, "<u8").tolist()
    y = np.frombuffer(forecasts.y, "<f4").reshape(len(handle), -1) if handle else np.zeros((0, 1), np.float32)
    return {(h, s): (y[i], forecasts.version) for i, (h, s) in enumerate(zip(handle, seq, strict=True))}
