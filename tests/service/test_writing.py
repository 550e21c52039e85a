"""Writing to a client that does not read: how long it may take, and how the call ends."""

from __future__ import annotations

import asyncio
import time
from typing import NoReturn

import grpc
import pytest

from service.common.errors import Invalid
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


# --- messages that do not wait until they have left


class Reader:
    """A call's context whose client takes one message per `take`. started, left: messages, in order."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.left: list[str] = []
        self._taken: list[asyncio.Future[None]] = []
        self.status = ""

    async def write(self, message: str) -> None:
        assert len(self.started) == len(self.left), "gRPC takes one message at a time"
        self.started.append(message)
        self._taken.append(asyncio.get_running_loop().create_future())
        await self._taken[-1]
        self.left.append(message)

    def take(self, failure: Exception | None = None) -> None:
        if failure:
            self._taken[-1].set_exception(failure)
        else:
            self._taken[-1].set_result(None)

    def done(self) -> bool:
        return False

    async def abort(self, code: grpc.StatusCode, *more: object) -> NoReturn:
        assert self.started == self.left, "gRPC does not end a call in the middle of a write"
        self.status = code.name
        raise grpc.aio.AbortError(code.name)


async def turns(n: int = 5) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def test_a_posted_message_is_on_its_way_at_once_and_only_the_next_waits_for_it():
    client = Reader()
    writing = Writing(client)

    await writing.post("1")
    assert (client.started, writing.since is None) == (["1"], False)
    second = asyncio.create_task(writing.post("2"))
    third = asyncio.create_task(writing.send("3"))
    await turns()
    assert client.started == ["1"]

    client.take()
    await second
    await turns()
    assert (client.started, third.done()) == (["1", "2"], False)
    client.take()
    await turns()
    assert (client.started, third.done()) == (["1", "2", "3"], False), "send waits for its own message too"
    client.take()
    await third
    assert (client.left, writing.since) == (["1", "2", "3"], None)


async def test_a_message_that_has_left_is_not_overdue_though_no_task_has_waited_for_it():
    client = Reader()
    writing = Writing(client)

    await writing.post("1")
    client.take()

    assert writing.since is None
    await writing.post("2")
    assert client.left == ["1"]


async def test_giving_up_the_wait_for_a_message_leaves_it_under_way():
    client = Reader()
    writing = Writing(client)
    await writing.post("1")
    waiting = asyncio.create_task(writing.post("2"))
    await turns()

    waiting.cancel()
    await turns()
    client.take()
    await writing.idle()

    assert (waiting.cancelled(), client.left) == (True, ["1"])


async def test_the_failure_of_a_posted_message_is_raised_by_the_next():
    client = Reader()
    writing = Writing(client)
    await writing.post("1")

    client.take(grpc.aio.InternalError("gone"))

    with pytest.raises(grpc.aio.InternalError, match="gone"):
        await writing.post("2")


async def test_an_error_is_reported_once_the_message_before_it_has_left():
    client, writers = Reader(), Writers(WRITE_S)

    async def answer() -> None:
        async with writers.call(client) as writing:
            await writing.post("1")
            raise Invalid("message", "empty", "send one")

    call = asyncio.create_task(answer())
    await turns()
    assert not client.status
    client.take()
    with pytest.raises(grpc.aio.AbortError):
        await call

    assert (client.left, client.status) == (["1"], "INVALID_ARGUMENT")


async def test_an_error_behind_a_message_that_is_never_read_ends_the_call_as_any_unread_message():
    deaf, writers = Client(), Writers(WRITE_S)

    async def answer() -> None:
        async with writers.call(deaf) as writing:
            await writing.post("1")
            raise Invalid("message", "empty", "send one")

    call = asyncio.create_task(answer())
    await turns()

    assert writers.sweep(time.monotonic() + 1.1 * WRITE_S) == 1
    with pytest.raises(grpc.aio.AbortError, match="RESOURCE_EXHAUSTED"):
        await call


async def test_a_task_is_stopped_when_the_message_under_way_has_left():
    client = Reader()
    writing = Writing(client)
    task = asyncio.create_task(asyncio.Event().wait())
    await writing.post("1")
    stopping = asyncio.create_task(writing.stop(task))
    await turns()
    assert not task.done()

    client.take()
    await stopping

    assert task.cancelled()


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
