"""Replies that are kept for a second."""

from __future__ import annotations

import asyncio

import pytest

from service.common.errors import NotFound
from service.common.limits import MAX_KEPT_REPLIES
from service.edge.api.replies import KEPT_S, Replies


class Made:
    """Counts how often a reply is made. Each waits for `go`."""

    def __init__(self) -> None:
        self.times, self.now, self.go = 0, 100.0, asyncio.Event()
        self.go.set()
        self.replies = Replies(lambda: self.now)

    async def get(self, tenant: str = "a", target: str = "/x") -> bytes:
        return await self.replies.get(tenant, target, self._make)

    async def _make(self) -> bytes:
        self.times += 1
        number = self.times
        await self.go.wait()
        return b"%d" % number


async def test_a_reply_is_made_once_a_second():
    made = Made()
    assert [await made.get(), await made.get()] == [b"1", b"1"]

    made.now += KEPT_S

    assert [await made.get(), await made.get()] == [b"2", b"2"]


async def test_another_tenant_and_another_question_have_replies_of_their_own():
    made = Made()

    assert [await made.get("a"), await made.get("b"), await made.get("a", "/y")] == [b"1", b"2", b"3"]
    made.replies.forget("a")
    assert [await made.get("a"), await made.get("b")] == [b"4", b"2"]


async def test_who_asks_meanwhile_waits_for_the_same_and_who_leaves_ends_it_for_nobody():
    made = Made()
    made.go.clear()
    first, second = asyncio.create_task(made.get()), asyncio.create_task(made.get())
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first

    made.go.set()

    assert await second == b"1"


async def test_an_error_is_not_kept():
    made = Made()

    async def fails() -> bytes:
        raise NotFound("model", "x", "list the models")

    with pytest.raises(NotFound):
        await made.replies.get("a", "/x", fails)
    assert await made.get() == b"1"


async def test_beyond_the_bound_the_oldest_are_forgotten():
    made = Made()
    for number in range(MAX_KEPT_REPLIES + 10):
        await made.get(target=f"/{number}")

    assert len(made.replies._kept) == MAX_KEPT_REPLIES
    before = made.times
    await made.get(target=f"/{MAX_KEPT_REPLIES + 9}")
    assert made.times == before
    await made.get(target="/0")
    assert made.times == before + 1
