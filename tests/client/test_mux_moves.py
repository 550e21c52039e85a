"""Streams of a Mux that move again while the call that they left has not ended yet, or to a node that is gone."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from freshet.calls import Opener
from tests.client.fake_mux import FakeMux
from tests.client.fake_nodes import cluster
from tests.client.test_mux_nodes import IDS, mux_of, place


class Lingering:
    """A call that is cancelled only once `released`, as on a machine that has much else to do."""

    def __init__(self, call: Any, released: asyncio.Event) -> None:
        self._call, self._released = call, released
        self._cancelling: asyncio.Task[None] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __aiter__(self) -> Any:
        return aiter(self._call)

    def cancel(self) -> None:
        if self._cancelling is None:
            self._cancelling = asyncio.create_task(self._cancel())

    async def _cancel(self) -> None:
        await self._released.wait()
        self._call.cancel()


async def test_a_call_that_its_streams_have_left_takes_nothing_of_a_later_call_while_it_ends(monkeypatch):
    """It waits for work of its number until it has ended; a later call that had the same number bound nothing."""
    released, opened = asyncio.Event(), Opener.open
    monkeypatch.setattr(Opener, "open", lambda opener: Lingering(opened(opener), released))
    async with cluster(FakeMux) as two, mux_of(two, give_up_s=5.0) as mux:
        place(two, {})
        assert (await mux.step(IDS, [1.0] * 4)).seq.tolist() == [1] * 4
        for seq, (source, to) in enumerate([(0, 1), (1, 0), (0, 1)], 2):
            place(two, dict.fromkeys(IDS, to))
            two.nodes[source].move(IDS, two.addresses[to])
            assert (await mux.step(IDS, [1.0] * 4)).seq.tolist() == [seq] * 4
        released.set()


async def test_how_a_call_ends_that_its_streams_have_left_does_not_matter(monkeypatch):
    released, opened, made = asyncio.Event(), Opener.open, list[Lingering]()

    def lingering(opener: Opener[Any]) -> Lingering:
        made.append(Lingering(opened(opener), released))
        return made[-1]

    monkeypatch.setattr(Opener, "open", lingering)
    async with cluster(FakeMux) as two, mux_of(two, give_up_s=5.0) as mux:
        place(two, {})
        await mux.step(IDS, [1.0] * 4)
        place(two, dict.fromkeys(IDS, 1))
        two.nodes[0].move(IDS, two.addresses[1])
        await mux.step(IDS, [2.0] * 4)

        two.nodes[0].code = grpc.StatusCode.PERMISSION_DENIED
        two.nodes[0].end.set()
        await made[0].code()
        for seq in range(3, 6):
            assert (await mux.step(IDS, [3.0] * 4)).seq.tolist() == [seq] * 4
        released.set()
