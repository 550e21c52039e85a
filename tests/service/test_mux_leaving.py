"""Streams that are bound while their shard leaves: the call ends with the node that takes it over."""

from __future__ import annotations

from typing import Any

import pytest

from freshet.v1 import streams_pb2 as pb
from service.common.errors import Moved
from service.edge.mux import MuxCall
from tests.service.one_process import world


class Written:
    """Stands in for the call's `Writing`."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    async def send(self, message: Any) -> None:
        self.messages.append(message)


async def test_a_stream_that_is_bound_while_its_shard_leaves_is_not_refused_for_good(tmp_path):
    async with world(tmp_path) as live:
        model, writing = await live.model(), Written()
        call = MuxCall(live.server.parts(), None, writing, model, pb.MuxRequest(model="flow"))  # type: ignore[arg-type]
        await call._bind([pb.Bind(handle=0, stream="early")])
        assert [bound.handle for bound in writing.messages[0].bound] == [0]

        live.server.leave(5, "10.0.0.2:8300")
        with pytest.raises(Moved, match=r"10\.0\.0\.2:8300"):
            await call._bind([pb.Bind(handle=1, stream="late")])
        assert len(writing.messages) == 1, "no refusal was sent"
