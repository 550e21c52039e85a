"""Calls of Streams.Mux by hand: any columns in any order, also those that no client should send."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from freshet.v1 import streams_pb2 as pb
from freshet.v1 import streams_pb2_grpc
from tests.journeys.raw import DEADLINE_S, RawCall

Array = NDArray[np.float32]
Indices = Sequence[int] | NDArray[np.integer[Any]]


class RawMux(RawCall[pb.MuxResponse]):
    """One call of Streams.Mux. Durable and taken-over handles are kept."""

    request, response = pb.MuxRequest, pb.MuxResponse

    def __init__(self, channel: grpc.aio.Channel, model: str) -> None:
        super().__init__(streams_pb2_grpc.StreamsStub(channel).Mux, 3 * DEADLINE_S)
        self._model = model
        self.durable: dict[int, int] = {}
        self.taken_over: list[int] = []
        self.reconnect = False

    async def say(self, **message: Any) -> None:
        """Send one MuxRequest; the first names the model."""
        model, self._model = self._model, ""
        await super().say(**({"model": model} | message))

    def note(self, message: pb.MuxResponse) -> None:
        if message.HasField("durable"):
            handles, seqs = (
                np.frombuffer(c, k) for c, k in ((message.durable.handle, "<u4"), (message.durable.seq, "<u8"))
            )
            self.durable |= dict(zip(handles.tolist(), seqs.tolist(), strict=True))
        self.taken_over += message.taken_over
        self.reconnect |= message.HasField("reconnect")

    async def answer(self) -> pb.MuxResponse:
        """Return the next message with a binding, a refusal or a forecast."""
        while (message := await self.hear()) is not None:
            if message.bound or message.refused or message.HasField("forecasts"):
                return message
        raise AssertionError("the call ended without an answer")

    async def bind(self, streams: dict[int, str]) -> dict[int, pb.Bound]:
        """Bind handles and return what the server bound, by handle."""
        await self.say(bind=[pb.Bind(handle=handle, stream=stream) for handle, stream in streams.items()])
        return {bound.handle: bound for bound in (await self.answer()).bound}

    async def ticks(
        self, handle: Indices, seq: Indices, x: Any, time: Any = None
    ) -> dict[tuple[int, int], tuple[Array, int]]:
        """Send packed ticks, wait for all forecasts and return y and version by (handle, seq)."""
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
            assert await self.hear() is not None, f"the call ended at durable {self.durable}"


def columns(handle: Indices, seq: Indices, x: Any, time: Any = None) -> pb.Columns:
    """Pack ticks."""
    return pb.Columns(
        handle=np.asarray(handle, "<u4").tobytes(),
        seq=np.asarray(seq, "<u8").tobytes(),
        x=np.asarray(x, "<f4").tobytes(),
        time=b"" if time is None else np.asarray(time, "<f8").tobytes(),
    )


def unpacked(forecasts: pb.Forecasts) -> dict[tuple[int, int], tuple[Array, int]]:
    """Return y [O] and version of packed forecasts, by (handle, seq)."""
    handle, seq = np.frombuffer(forecasts.handle, "<u4").tolist(), np.frombuffer(forecasts.seq, "<u8").tolist()
    y = np.frombuffer(forecasts.y, "<f4").reshape(len(handle), -1) if handle else np.zeros((0, 1), np.float32)
    return {(h, s): (y[i], forecasts.version) for i, (h, s) in enumerate(zip(handle, seq, strict=True))}
