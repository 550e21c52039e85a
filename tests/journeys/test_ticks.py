"""Several ticks of a stream in one message, over the wire: the same outcomes as one message each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import freshet
from freshet.v1 import streams_pb2 as pb
from freshet.v1 import types_pb2
from service.common.limits import MAX_MESSAGE_NUMBERS, MAX_MESSAGE_TICKS
from tests.journeys import crash
from tests.journeys.raw import RawStream, channel_to
from tests.journeys.test_streams import SERVING_ONLY, walk

BEGUN, MINUTE = 1.7e9, 60.0
SPECS: dict[str, dict[str, Any]] = {
    "plain": {},
    "horizon, times and intervals": {"horizon": 3, "interval": MINUTE, "intervals": [0.5, 0.9], "targets": ["b"]},
    "known and static inputs": {"known": ["k"], "static": ["s"], "missing": "hold", "horizon": 2},
}


def packed(first: int, rows: Any, times: Any = (), u: Any = ()) -> pb.Ticks:
    x, time = np.asarray(rows, "<f4"), np.asarray(times, "<f8")
    return pb.Ticks(first_seq=first, count=len(x), x=x.tobytes(), time=time.tobytes(), u=np.asarray(u, "<f4").tobytes())


def forecasts(outcomes: pb.Outcomes) -> list[pb.Forecast]:
    """The answers of a message, in the form of single ones."""
    refused = {refusal.seq for refusal in outcomes.refused}
    seqs = [seq for seq in range(outcomes.first_seq, outcomes.first_seq + outcomes.count) if seq not in refused]
    if not seqs:
        return []
    y, lower, upper = (np.frombuffer(data, "<f4").reshape(len(seqs), -1) for data in
                       (outcomes.y, outcomes.lower, outcomes.upper))  # fmt: skip
    version, judged = (np.frombuffer(data, "<u8").tolist() for data in (outcomes.version, outcomes.judged_through))
    return [
        pb.Forecast(seq=seq, y=y[i], lower=lower[i], upper=upper[i], version=version[i], judged_through=judged[i])
        for i, seq in enumerate(seqs)
    ]


@pytest.mark.parametrize("case", SPECS)
async def test_ticks_of_one_message_are_answered_as_those_of_many(client, channel, name, case):
    model = await client.create_model(name, ["a", "b"], **SERVING_ONLY | SPECS[case])
    rows, times = walk(40), [BEGUN + MINUTE * i for i in range(40)]
    known = walk(40, seed=2) if model.spec.known else None
    rows[17, 1] = np.inf
    hello = {"static": {"s": 2.0}} if model.spec.static else {}
    one, many = RawStream(channel, name, "one", **hello), RawStream(channel, name, "many", **hello)

    async with one, many:
        expected = [
            await one.ask(tick=pb.Tick(seq=i + 1, x=rows[i], time=times[i], u=() if known is None else known[i]))
            for i in range(40)
        ]
        answers = [
            (await many.ask(ticks=packed(i + 1, rows[i:end], times[i:end], () if known is None else known[i:end])))
            for i, end in ((0, 1), (1, 12), (12, 40))
        ]

    outcomes = [answer.outcomes for answer in answers]
    assert [(o.first_seq, o.count) for o in outcomes] == [(1, 1), (2, 11), (13, 28)]
    found, alone = [f for o in outcomes for f in forecasts(o)], [e.forecast for e in expected[:17]]
    for forecast in (*found, *alone):
        forecast.ClearField("judged_through")  # depends on when a verdict comes
    assert found == alone
    refused = [refusal for o in outcomes for refusal in o.refused]
    assert refused == [e.refused for e in expected[17:]]
    assert {r.reason for r in refused} == {types_pb2.Refused.NON_FINITE, types_pb2.Refused.GAP}


WHOLE: dict[str, tuple[dict[str, Any], str]] = {
    "count 0": ({"count": 0}, "ticks.count"),
    "more than max_ticks": ({"count": MAX_MESSAGE_TICKS + 1, "x": b"\0" * 8 * (MAX_MESSAGE_TICKS + 1)}, "ticks.count"),
    "an absurd count": ({"count": 2**32 - 1}, "ticks.count"),
    "x of one channel": ({"x": b"\0" * 12}, "ticks.x"),
    "no x": ({"x": b""}, "ticks.x"),
    "half a time": ({"time": b"\0" * 4}, "ticks.time"),
    "time of two ticks": ({"time": b"\0" * 16}, "ticks.time"),
    "u that no model has": ({"u": b"\0" * 12}, "ticks.u"),
    "seqs beyond 64 bits": ({"first_seq": 2**64 - 1}, "ticks.first_seq"),
}


@pytest.mark.parametrize("case", WHOLE)
async def test_a_message_that_does_not_fit_is_refused_by_name_and_the_next_is_answered(client, channel, name, case):
    await client.create_model(name, ["a", "b"], **SERVING_ONLY)
    change, field = WHOLE[case]
    message: dict[str, Any] = {"first_seq": 1, "count": 3, "x": b"\0" * 24} | change

    async with RawStream(channel, name, "s") as stream:
        answer = await stream.ask(ticks=pb.Ticks(**message))
        after = await stream.ask(ticks=packed(1, walk(3)))

    assert answer.refused.field == field
    assert (answer.refused.seq, answer.refused.reason) == (message["first_seq"], types_pb2.Refused.SHAPE)
    assert str(message["count"]) in answer.refused.value + answer.refused.remedy
    assert [f.seq for f in forecasts(after.outcomes)] == [1, 2, 3]


async def test_the_largest_message_is_the_one_that_the_welcome_names(client, channel, name):
    await client.create_model(f"{name}-small", ["a", "b"], **SERVING_ONLY)
    await client.create_model(f"{name}-wide", ["a"], **SERVING_ONLY | {"horizon": 1000})

    async with RawStream(channel, f"{name}-small", "s") as small, RawStream(channel, f"{name}-wide", "s") as wide:
        most = small.welcome.max_ticks
        answer = await small.ask(ticks=packed(1, walk(most)))

    assert most == min(MAX_MESSAGE_TICKS, small.welcome.max_undurable)
    assert len(forecasts(answer.outcomes)) == most
    assert wide.welcome.max_ticks == MAX_MESSAGE_NUMBERS // 1001


async def test_a_message_in_flight_when_the_server_is_killed_is_sent_again_as_if_unbroken(tmp_path):
    rows = walk(60)
    async with crash.a_server(tmp_path) as server:
        async with freshet.connect(server.grpc) as client:
            await client.create_model("m", ["a", "b"], **SERVING_ONLY)
        async with channel_to(server.grpc) as channel, RawStream(channel, "m", "s") as stream:
            before = forecasts((await stream.ask(ticks=packed(1, rows[:20]))).outcomes)
            await stream.until_durable(20)
            await stream.say(ticks=packed(21, rows[20:]))
            server.kill()
            await server.wait()
        await server.start()
        async with channel_to(server.grpc) as channel:
            async with RawStream(channel, "m", "s") as stream:
                next_seq = stream.welcome.next_seq
                after = forecasts((await stream.ask(ticks=packed(21, rows[20:]))).outcomes)
            async with RawStream(channel, "m", "unbroken") as stream:
                unbroken = [(await stream.tick(i + 1, row)).forecast for i, row in enumerate(rows)]

    assert 21 <= next_seq <= 61
    assert [f.seq for f in (*before, *after)] == list(range(1, 61))
    assert [f.y for f in (*before, *after)] == [f.y for f in unbroken]


async def test_progress_comes_with_the_outcomes_for_a_client_that_asked_for_it(client, channel, name):
    await client.create_model(name, ["a", "b"], **SERVING_ONLY)
    async with RawStream(channel, name, "s", durable_in_forecasts=True) as stream:
        await stream.ask(ticks=packed(1, walk(5)))
        await stream.say(expect=pb.Expect(durable_seq=5))
        await stream.until_durable(5)
        spared = (await stream.ask(ticks=packed(6, walk(5)))).outcomes
    async with RawStream(channel, name, "s") as stream:
        plain = (await stream.ask(ticks=packed(11, walk(5)))).outcomes

    assert spared.durable_seq >= 5
    assert plain.durable_seq == 0
    assert len(forecasts(plain)) == 5
