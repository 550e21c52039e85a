"""Every tick of a Mux that reaches the disk is reported, whichever call has its stream by then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from freshet.v1 import streams_pb2 as pb
from service.edge import wire
from service.edge.mux import MuxCall
from service.streams.served import ServedModel
from tests.service.one_process import World, world


class Written:
    """Stands in for the call's `Writing`. meanwhile: what happens while the first forecasts are written."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.meanwhile: Callable[[], Any] | None = None

    async def send(self, message: Any) -> None:
        self.messages.append(message)
        if message.HasField("forecasts") and self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()

    def durable(self) -> list[tuple[int, int]]:
        """The seqs that were reported, by handle."""
        found = [one.durable for one in self.messages if one.HasField("durable")]
        pairs = [
            zip(np.frombuffer(d.handle, "<u4").tolist(), np.frombuffer(d.seq, "<u8").tolist(), strict=True)
            for d in found
        ]
        return [pair for each in pairs for pair in each]


def call_of(live: World, model: ServedModel) -> tuple[MuxCall, Written]:
    writing = Written()
    return MuxCall(live.server.parts(), None, writing, model, pb.MuxRequest(model="flow")), writing  # type: ignore[arg-type]


async def send(call: MuxCall, handles: list[int], seq: int) -> None:
    """One tick of each handle."""
    columns = pb.Columns(
        handle=np.array(handles, "<u4").tobytes(),
        seq=np.full(len(handles), seq, "<u8").tobytes(),
        x=np.ones(len(handles), "<f4").tobytes(),
    )
    own = call.model.network.covariates
    await call._ticks(wire.columns(columns, 1, own.ahead, own.hold))


async def test_ticks_that_were_not_on_disk_when_their_stream_was_bound_again_are_reported_once_they_are(tmp_path):
    async with world(tmp_path) as live:
        model = await live.model()
        first, _ = call_of(live, model)
        await first._bind([pb.Bind(handle=0, stream="a")])
        await send(first, [0], 1)
        first.end()
        second, written = call_of(live, model)
        await second._bind([pb.Bind(handle=5, stream="a")])
        bound = written.messages[0].bound[0]
        assert (bound.next_seq, bound.durable_seq) == (2, 0), "the tick is answered, and not on disk"

        await live.server.journal.flush()
        await second._report()

        assert written.durable() == [(5, 1)]


async def test_ticks_that_reach_the_disk_while_forecasts_before_them_are_written_are_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("service.edge.packed.ANSWER_NUMBERS", 0)  # each step's forecasts are a message of their own
    async with world(tmp_path) as live:
        model = await live.model()
        model.step_rows = 1  # as of a large model: two streams take two steps
        call, written = call_of(live, model)
        await call._bind([pb.Bind(handle=n, stream=f"s{n}") for n in range(2)])
        await send(call, [0, 1], 1)  # so that no file is loaded below
        await live.server.journal.flush()
        await call._report()

        async def commit() -> None:
            await live.server.journal.flush()
            await call._report()

        written.meanwhile = commit
        await send(call, [0, 1], 2)

        assert written.durable()[2:] == [(0, 2), (1, 2)]
