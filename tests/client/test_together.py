"""Several ticks in one message: what the SDK sends to a server that takes them, and what it makes of the answer."""

from __future__ import annotations

import asyncio
import math
import random

import numpy as np
import pytest

import freshet
from freshet import together
from freshet.errors import Reason, TickRefused
from freshet.resume import ProtocolError
from freshet.ticks import Checked
from freshet.v1 import streams_pb2 as pb
from freshet.v1 import types_pb2
from tests.client.fake_server import FakeServer, oracle


@pytest.fixture
async def server():
    server = FakeServer()
    server.max_ticks = 16
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def client(server):
    async with freshet.connect(f"127.0.0.1:{server.port}") as client:
        yield client


def equal(forecasts, rows) -> bool:
    return [f.y.tobytes() for f in forecasts] == [y.tobytes() for y in oracle(rows)]


async def test_steps_go_in_messages_of_what_the_server_takes(client, server):
    async with client.stream("m", "s") as stream:
        forecasts = await stream.steps(np.arange(40.0))

        assert equal(forecasts, range(40))
        assert [f.seq for f in forecasts] == list(range(1, 41))
        assert server.together == [16, 16, 8]
        assert (await stream.step(40.0)).seq == 41
        assert stream.welcome.max_ticks == 16


async def test_half_of_in_flight_goes_into_a_message(client, server):
    async with client.stream("m", "s", in_flight=8) as stream:
        assert equal(await stream.steps(np.arange(10.0)), range(10))
    assert max(server.together) == 4
    async with client.stream("m", "one", in_flight=1) as stream:
        assert equal(await stream.steps(np.arange(3.0)), range(3))
    assert max(server.together) == 4


async def test_an_earlier_server_gets_a_tick_per_message(client, server):
    server.max_ticks = 0
    async with client.stream("m", "s") as stream:
        assert equal(await stream.steps(np.arange(40.0)), range(40))
    assert not server.together


async def test_a_run_of_forecasts_puts_ticks_together_and_a_step_goes_alone(client, server):
    async with client.stream("m", "s") as stream:
        assert equal([f async for f in stream.forecasts(np.arange(200.0))], range(200))
        sent = len(server.together)
        await stream.step(1.0)
    assert sum(server.together) > 150
    assert len(server.together) == sent


async def test_times_and_refused_rows(client, server):
    server.refuse = lambda tick: (
        types_pb2.Refused(seq=tick.seq, field="x[0]", value="5", remedy="not 5", reason=types_pb2.Refused.TOO_LARGE)
        if tick.x[0] == 5
        else None
    )
    rows = [1.0, 2.0, math.nan, 5.0, 7.0]
    async with client.stream("m", "s") as stream:
        with pytest.raises(TickRefused) as refused:
            await stream.steps(rows, [10.0, 20.0, 30.0, 40.0, 50.0])

        assert refused.value.reason is Reason.NON_FINITE, "the first of the two"
        assert server.rows() == [[1.0], [2.0], [7.0]]
        assert [tick.time for tick in server.streams["s"].ticks] == [10.0, 20.0, 50.0]
        assert (await stream.step(8.0, 60.0)).seq == 4


async def test_an_async_iterable_is_no_batch(client):
    async def rows():
        yield 1.0

    async with client.stream("m", "s") as stream:
        with pytest.raises(TypeError, match="forecasts"):
            await stream.steps(rows())


@pytest.mark.parametrize("seed", range(6))
async def test_crashes_and_refusals_in_the_middle_of_messages_cost_no_forecast(client, server, seed):
    rng, bad = random.Random(seed), set(range(17, 400, 31))
    server.commit_every = 10
    server.refuse = lambda tick: (
        types_pb2.Refused(seq=tick.seq, reason=types_pb2.Refused.INVALID) if int(tick.x[0]) in bad else None
    )
    moments, dying = sorted(rng.sample(range(400), 4)), asyncio.Lock()

    async def die() -> None:
        async with dying:
            await server.crash()

    def dies(tick: pb.Tick) -> None:
        if moments and tick.x[0] >= moments[0] and not dying.locked():
            moments.pop(0)
            server.soon(die())

    server.on_tick = dies
    rows = [row for row in range(400) if row not in bad]

    async with client.stream("m", "s") as stream:
        forecasts = stream.forecasts([float(row) for row in range(400)], on_refused="skip")
        got = [forecast async for forecast in forecasts]

    assert equal(got, rows)
    assert len(forecasts.refused) == len(bad)
    assert [row for (row,) in server.rows()] == rows
    assert server.together


async def test_an_overloaded_server_gets_the_rest_of_a_message_again(client, server):
    server.overloaded = True
    async with client.stream("m", "s") as stream:
        steps = asyncio.create_task(stream.steps(np.arange(20.0)))
        while not server.together:
            await asyncio.sleep(0)
        server.overloaded = False
        server.commit()
        assert equal(await steps, range(20))


# ---- the messages themselves


def test_a_message_has_the_columns_of_its_ticks():
    ticks = [Checked([1.0, 2.0], None, [], []), Checked([3.0, 4.0], 5.0, [], [6.0])]

    made = together.message(7, ticks)

    assert (made.first_seq, made.count) == (7, 2)
    assert np.frombuffer(made.x, "<f4").tolist() == [1.0, 2.0, 3.0, 4.0]
    np.testing.assert_array_equal(np.frombuffer(made.time, "<f8"), [np.nan, 5.0])
    np.testing.assert_array_equal(np.frombuffer(made.u, "<f4"), [np.nan, 6.0])
    assert together.message(1, ticks[:1]).time == together.message(1, ticks[:1]).u == b""


def answer(count: int, answered: int, **fields) -> pb.Outcomes:
    columns = {"y": b"\0" * 8 * answered, "version": b"\0" * 8 * answered, "judged_through": b"\0" * 8 * answered}
    return pb.Outcomes(first_seq=3, count=count, **columns | fields)


def test_outcomes_come_in_the_order_of_the_ticks():
    found = list(together.outcomes(answer(3, 2, refused=[types_pb2.Refused(seq=4)])))
    assert [outcome.seq for outcome in found] == [3, 4, 5]
    assert isinstance(found[1], types_pb2.Refused)
    assert [outcome.y.shape for outcome in found if isinstance(outcome, together.Answered)] == [(2,), (2,)]
    assert [o.seq for o in together.outcomes(answer(1, 0, refused=[types_pb2.Refused(seq=3)]))] == [3]


BROKEN = {
    "no columns": answer(3, 0),
    "too many columns": answer(1, 2),
    "half a value": answer(2, 2, y=b"\0" * 7),
    "an absurd count": answer(2**32 - 1, 2),
    "a refusal of another tick": answer(3, 2, refused=[types_pb2.Refused(seq=9)]),
    "more refusals than ticks": answer(1, 0, refused=[types_pb2.Refused(seq=seq) for seq in (3, 4)]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_columns_that_do_not_fit_end_the_stream(case):
    with pytest.raises(ProtocolError, match="from 3"):
        list(together.outcomes(BROKEN[case]))
