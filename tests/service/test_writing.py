"""Writing to a client that does not read: how long it may take, and how the call ends."""

from __future__ import annotations

import asyncio
import time
from typing import NoReturn

import grpc
import pytest

from service.common.limits import is_overdue
from service.edge.writing import Progress, Wants, Writers, Writing

WRITE_S = 10.0


class Client:
    """A call's context that takes a message when told to."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()

    async def write(self, message: object) -> None:
        await self.reads.wait()

    async def abort(self, code: grpc.StatusCode, *more: object) -> NoReturn:
        raise grpc.aio.AbortError(code.name)


@pytest.mark.parametrize(("since", "overdue"), [(None, False), (0.0, True), (5.0, False), (4.9, True)])
def test_a_write_under_way_for_longer_than_allowed_is_overdue(since, overdue):
    assert is_overdue(since, 15.0, WRITE_S) is overdue


async def a_call(writers: Writers, client: Client) -> tuple[asyncio.Task[None], Writing]:
    """Return a call with a message under way."""
    began: asyncio.Future[Writing] = asyncio.get_running_loop().create_future()

    async def answer() -> None:
        async with writers.call(client) as writing:
            began.set_result(writing)
            await writing.send("a forecast")

    call = asyncio.create_task(answer())
    writing = await began
    while writing.since is None:
        await asyncio.sleep(0)
    return call, writing


async def test_a_message_not_read_in_time_ends_its_call_and_no_other():
    writers, deaf, slow = Writers(WRITE_S), Client(), Client()
    (cut, _), (kept, writing) = await a_call(writers, deaf), await a_call(writers, slow)
    now = time.monotonic()
    assert writers.sweep(now + 0.9 * WRITE_S) == 0

    slow.reads.set()
    await kept
    assert writers.sweep(now + 1.1 * WRITE_S) == 1
    with pytest.raises(grpc.aio.AbortError, match="RESOURCE_EXHAUSTED"):
        await cut

    assert (writing.stuck, writing.since) == (False, None)
    assert writers.sweep(now + 9 * WRITE_S) == 0, "nothing is left of either"


async def test_a_cut_call_that_cannot_report_why_is_cut_again_and_counted_once():
    writers, deaf = Writers(WRITE_S), Client()

    async def stubborn() -> None:
        async with writers.call(deaf) as writing:
            try:
                await writing.send("a forecast")
            except asyncio.CancelledError:
                await deaf.write("why")  # like a status that does not leave

    call = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    now = time.monotonic()

    assert writers.sweep(now + 1.1 * WRITE_S) == 1
    await asyncio.sleep(0)
    assert writers.sweep(now + 1.2 * WRITE_S) == 0
    assert not call.done()
    assert writers.sweep(now + 2.3 * WRITE_S) == 0
    with pytest.raises(asyncio.CancelledError):
        await call


# --- progress in a message of its own

REPORTED = Progress(10, 2, 5)


@pytest.mark.parametrize(
    ("now", "alone"),
    [
        (Progress(11, 2, 5), False),  # with the next forecast
        (Progress(10, 2, 9), False),
        (Progress(10, 3, 5), True),  # a label
        (Progress(73, 2, 5), False),
        (Progress(74, 2, 5), True),  # a quarter of what may be undurable: the client might wait for it
    ],
)
def test_a_client_that_spares_messages_gets_alone_what_it_may_wait_for(now, alone):
    assert Wants(True, 256).alone(now, REPORTED) is alone
    assert Wants(False, 256).alone(now, REPORTED), "any other client gets everything"


def test_what_is_expected_is_sent_alone_until_it_is_reported():
    wants = Wants(True, 256)
    wants.expect(durable=12, judged=0)
    wants.expect(durable=3, judged=7)  # does not take the first back

    assert wants.alone(Progress(11, 2, 5), REPORTED)
    assert wants.alone(Progress(10, 2, 6), REPORTED)
    assert not wants.alone(Progress(14, 2, 5), Progress(13, 2, 5))
    assert not wants.alone(Progress(10, 2, 9), Progress(10, 2, 7))


@pytest.mark.parametrize("most", [1, 2, 3, 4, 256])
def test_a_client_at_the_limit_of_undurable_ticks_is_always_told_of_the_disk(most):
    assert Wants(True, most).alone(Progress(10 + most, 2, 5), REPORTED)
