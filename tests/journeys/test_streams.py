"""A stream's answers equal those of an unbroken run, however its calls begin and end."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

import freshet
from freshet.v1 import streams_pb2 as pb
from freshet.v1 import streams_pb2_grpc
from tests.journeys import crash
from tests.journeys.raw import DEADLINE_S, RawStream, channel_to
from tests.journeys.scraped import scrape
from tests.oracles.unbroken import Unbroken

Array = NDArray[np.float32]

SERVING_ONLY: dict[str, Any] = {"learn": False, "head_init": 0.3, "hidden": 16}
MINUTE = 60.0


def walk(ticks: int, channels: int = 2, seed: int = 1) -> Array:
    """A random walk away from zero, (ticks, channels)."""
    steps = np.random.default_rng(seed).standard_normal((ticks, channels))
    return (100 + np.cumsum(steps, axis=0)).astype(np.float32)


async def oracle_of(client: freshet.Client, model: str) -> Unbroken:
    return Unbroken(await client.get_model(model), await client.export(model))


async def answered(stream: freshet.Stream, rows: Array, oracle: Unbroken) -> None:
    """Assert that every row is answered as by the oracle."""
    expected = iter(rows)
    async for forecast in stream.forecasts(rows):
        oracle.agrees(forecast.y, next(expected))
    assert next(expected, None) is None


SPECS: dict[str, dict[str, Any]] = {
    "lstm": {},
    "gru with two layers": {"cell": "gru", "layers": 2},
    "calendar": {"interval": MINUTE},
    "horizons of one target": {"horizon": 3, "targets": ["b"], "interval": MINUTE},
}


@pytest.mark.parametrize("case", SPECS)
async def test_forecasts_equal_the_networks_own_steps_over_300_ticks(client, name, case):
    model = await client.create_model(name, ["a", "b"], **SERVING_ONLY | SPECS[case])
    oracle = await oracle_of(client, name)
    rows, times = walk(300), [1e9 + MINUTE * i for i in range(300)] if model.spec.interval else None

    async with client.stream(name, "s") as stream:
        forecasts = [f async for f in stream.forecasts(rows, times)]

    assert [f.seq for f in forecasts] == list(range(1, 301))
    assert {f.version for f in forecasts} == {1}
    for i, (forecast, row) in enumerate(zip(forecasts, rows, strict=True)):
        oracle.agrees(forecast.y, row, times[i] if times else np.nan)
    last = rows[-1][[list(model.spec.channels).index(t) for t in model.spec.targets]]
    assert np.abs(forecasts[-1].y - last).max() > 1e-3  # the readout is not zero: more than persistence


async def test_a_stream_closed_and_reopened_continues_as_if_unbroken(client, name):
    await client.create_model(name, ["a", "b"], **SERVING_ONLY)
    oracle, rows = await oracle_of(client, name), walk(60)

    for first in (0, 20, 21, 40):
        until = {0: 20, 20: 21, 21: 40, 40: 60}[first]
        async with client.stream(name, "s") as stream:
            assert stream.next_seq == first + 1
            assert stream.welcome.durable_seq == first  # closing waits for the disk
            await answered(stream, rows[first:until], oracle)
            assert stream.welcome.state_origin == (pb.Welcome.RESUMED if first else pb.Welcome.FRESH)


async def test_a_client_that_vanishes_mid_stream_resumes_as_if_unbroken(client, channel, name):
    await client.create_model(name, ["a", "b"], **SERVING_ONLY)
    oracle, rows = await oracle_of(client, name), walk(60)
    gone = await RawStream(channel, name, "s").__aenter__()
    for seq in range(1, 41):
        await gone.say(tick=pb.Tick(seq=seq, x=rows[seq - 1]))
    early = [(await gone.answer()).forecast for _ in range(5)]

    gone.call.cancel()

    async with RawStream(channel, name, "s") as back:
        assert 6 <= back.welcome.next_seq <= 41
        late = [(await back.tick(seq, rows[seq - 1])).forecast for seq in range(6, 61)]
    for seq, forecast in enumerate([*early, *late], 1):
        assert forecast.seq == seq
        oracle.agrees(forecast.y, rows[seq - 1])


async def test_a_second_client_takes_a_stream_over_and_the_first_is_notified(client, channel, name):
    await client.create_model(name, ["a", "b"], **SERVING_ONLY)
    oracle, rows = await oracle_of(client, name), walk(6)
    first = await RawStream(channel, name, "s").__aenter__()
    for seq in (1, 2, 3):
        oracle.agrees((await first.tick(seq, rows[seq - 1])).forecast.y, rows[seq - 1])
    ending = asyncio.create_task(until_ended(first))

    async with RawStream(channel, name, "s") as second:
        messages, error = await ending
        assert second.welcome.next_seq == 4
        for seq in (4, 5, 6):
            oracle.agrees((await second.tick(seq, rows[seq - 1])).forecast.y, rows[seq - 1])

    assert [m.WhichOneof("message") for m in messages if not m.HasField("durable")] == ["taken_over"]
    assert error.code() is grpc.StatusCode.ABORTED
    assert "taken over" in (error.details() or "")


async def test_ticks_that_arrive_after_a_takeover_change_nothing(client, channel, name):
    await client.create_model(name, ["a", "b"], **SERVING_ONLY)
    oracle, rows = await oracle_of(client, name), walk(40)
    first = await RawStream(channel, name, "s").__aenter__()
    for seq in range(1, 31):  # some ticks are answered, some under way, when the other client opens it
        await first.say(tick=pb.Tick(seq=seq, x=rows[seq - 1]))

    async with RawStream(channel, name, "s") as second:
        inherited = second.welcome.next_seq - 1
        messages, error = await until_ended(first)
        answers = [(await second.tick(seq, rows[seq - 1])).forecast for seq in range(1, 41)]

    assert error.code() is grpc.StatusCode.ABORTED
    told = [m.forecast.seq for m in messages if m.HasField("forecast")]
    assert told == list(range(1, 1 + len(told)))
    assert len(told) <= inherited  # the first client heard of nothing that the second did not inherit
    for row, forecast in zip(rows, answers, strict=True):
        oracle.agrees(forecast.y, row)


async def until_ended(stream: RawStream) -> tuple[list[pb.OpenResponse], grpc.aio.AioRpcError]:
    """Return the messages until the call fails, and the error. gRPC may drop messages once it has the status."""
    messages: list[pb.OpenResponse] = []
    try:
        while (message := await stream.hear()) is not None:
            messages.append(message)
    except grpc.aio.AioRpcError as error:
        return messages, error
    raise AssertionError("the call has ended well")


async def test_the_sdk_reports_a_takeover_and_does_not_take_the_stream_back(client, server, name):
    await client.create_model(name, ["a", "b"], **SERVING_ONLY)
    rows = walk(4)
    with pytest.raises(freshet.TakenOver):  # noqa: PT012  # entering and leaving are part of the story
        async with client.stream(name, "s") as first:
            await first.step(rows[0])
            async with freshet.connect(server.grpc) as other, other.stream(name, "s") as second:
                assert second.next_seq == 2
                with pytest.raises(freshet.TakenOver):
                    await first.step(rows[1])
                assert (await second.step(rows[1])).seq == 2
                raise await told(first)


async def told(stream: freshet.Stream) -> Exception:
    """Return the error of a step on the stream."""
    try:
        await stream.step([0, 0])
    except freshet.FreshetError as error:
        return error
    raise AssertionError("the stream still works")


async def test_after_a_reset_the_state_is_fresh_and_the_numbers_continue(client, name):
    await client.create_model(name, ["a", "b"], **SERVING_ONLY)
    oracle, rows = await oracle_of(client, name), walk(30)
    async with client.stream(name, "s") as stream:
        await answered(stream, rows[:20], oracle)

        await stream.reset()

        oracle.reset()
        await answered(stream, rows[20:], oracle)
        assert stream.next_seq == 31


async def test_after_a_reset_any_event_time_is_accepted(channel, client, name):
    await client.create_model(name, ["a"], **SERVING_ONLY, interval=MINUTE)
    async with RawStream(channel, name, "s") as stream:
        assert (await stream.tick(1, [1.0], 1e9)).HasField("forecast")

        await stream.say(reset=pb.Reset())

        assert (await stream.tick(2, [1.0], 1e6)).HasField("forecast")


async def test_a_stream_that_was_reset_is_welcomed_as_fresh(channel, client, name):
    await client.create_model(name, ["a"], **SERVING_ONLY)
    async with RawStream(channel, name, "s") as stream:
        await stream.tick(1, [1.0])
        await stream.say(reset=pb.Reset())
        await stream.finish()

    async with RawStream(channel, name, "s") as again:
        assert (again.welcome.next_seq, again.welcome.state_origin) == (2, pb.Welcome.FRESH)
        await again.tick(2, [1.0])
    async with RawStream(channel, name, "s") as again:
        assert (again.welcome.next_seq, again.welcome.state_origin) == (3, pb.Welcome.RESUMED)


async def test_two_interleaved_streams_do_not_affect_each_other(client, name):
    await client.create_model(name, ["a", "b"], **SERVING_ONLY)
    oracles = [await oracle_of(client, name) for _ in range(2)]
    async with client.stream(name, "left") as left, client.stream(name, "right") as right:
        for pair in zip(walk(40, seed=1), walk(40, seed=2), strict=True):
            for stream, oracle, row in zip((left, right), oracles, pair, strict=True):
                oracle.agrees((await stream.step(row)).y, row)


async def test_many_streams_at_once_share_steps_and_each_is_answered_as_if_alone(client, server, name):
    await client.create_model(name, ["a", "b"], **SERVING_ONLY)
    n, before = 64, await scrape(server.http)
    oracles = [await oracle_of(client, name) for _ in range(n)]

    async def one(number: int) -> None:
        async with client.stream(name, f"s{number}") as stream:
            await answered(stream, walk(40, seed=number), oracles[number])

    await asyncio.gather(*map(one, range(n)))

    after = await scrape(server.http)
    steps, single = (
        after.total("freshet_batch_rows_bucket", le=le) - before.total("freshet_batch_rows_bucket", le=le)
        for le in ("+Inf", "1.0")
    )
    rows = after.total("freshet_batch_rows_sum") - before.total("freshet_batch_rows_sum")
    assert rows == n * 40
    assert single < steps  # some steps had several rows
    assert after.total("freshet_streams", model=name) == n


async def test_durable_comes_without_another_tick(client, channel, name):
    await client.create_model(name, ["a", "b"], **SERVING_ONLY)
    async with RawStream(channel, name, "s") as stream:
        for seq in (1, 2, 3):
            assert (await stream.tick(seq, [1.0, seq])).HasField("forecast")

        await stream.until_durable(3)

        assert stream.durable.seq == 3


async def test_after_a_half_close_everything_sent_is_answered_and_durable(client, channel, name):
    await client.create_model(name, ["a", "b"], **SERVING_ONLY)
    rows = walk(50)
    async with RawStream(channel, name, "s") as stream:
        for seq in range(1, 51):
            await stream.say(tick=pb.Tick(seq=seq, x=rows[seq - 1]))

        rest = await stream.finish()

        assert [m.forecast.seq for m in rest if m.HasField("forecast")] == list(range(1, 51))
        assert stream.durable.seq == 50
    async with RawStream(channel, name, "s") as again:
        assert (again.welcome.next_seq, again.welcome.durable_seq) == (51, 50)


# --- progress with forecasts


async def until_on_disk(stub, name: str, stream: str, seq: int) -> None:
    """Ask another way until the server has the tick on disk."""
    async with asyncio.timeout(DEADLINE_S):
        while (await stub.Get(pb.GetStreamRequest(model=name, stream=stream))).durable_seq < seq:
            pass


async def test_a_client_that_asks_for_it_gets_progress_with_its_forecasts_and_no_other_message(client, channel, name):
    await client.create_model(name, ["a", "b"], **SERVING_ONLY)
    stub = streams_pb2_grpc.StreamsStub(channel)
    async with RawStream(channel, name, "s", durable_in_forecasts=True) as stream:
        assert stream.welcome.durable_in_forecasts
        for seq in range(1, 6):
            answer = await stream.tick(seq, [1.0, seq])
            assert answer.forecast.durable_seq == seq - 1
            await until_on_disk(stub, name, "s", seq)
        assert stream.heard == 1 + 5

        rest = await stream.finish()
        assert [m.durable.seq for m in rest] == [5]


async def test_a_client_that_does_not_ask_for_it_gets_none_with_its_forecasts(client, channel, name):
    await client.create_model(name, ["a", "b"], **SERVING_ONLY)
    async with RawStream(channel, name, "s") as stream:
        assert not stream.welcome.durable_in_forecasts
        for seq in (1, 2, 3):
            assert not (await stream.tick(seq, [1.0, seq])).forecast.durable_seq
            await stream.until_durable(seq)


@pytest.mark.parametrize("before", [True, False], ids=["before the commit", "after the commit"])
async def test_what_a_client_expects_is_reported_at_once(client, channel, name, before):
    await client.create_model(name, ["a", "b"], **SERVING_ONLY)
    async with RawStream(channel, name, "s", durable_in_forecasts=True) as stream:
        await stream.tick(1, [1.0, 2.0])
        if not before:
            await until_on_disk(streams_pb2_grpc.StreamsStub(channel), name, "s", 1)
        await stream.say(expect=pb.Expect(durable_seq=1))
        await stream.until_durable(1)
        assert stream.heard == 1 + 1 + 1
        await stream.say(expect=pb.Expect(durable_seq=1))  # nothing new
        assert (await stream.tick(2, [1.0, 2.0])).forecast.durable_seq == 1


async def test_a_label_is_acknowledged_alone_also_where_progress_comes_with_forecasts(client, channel, name):
    await client.create_model(name, ["a"], task="regress", targets=["y"], hidden=4)
    async with RawStream(channel, name, "s", durable_in_forecasts=True) as stream:
        await stream.tick(1, [1.0])
        await stream.say(label=pb.Label(seq=1, y=[2.0]))
        while not stream.durable.labels:
            assert await stream.hear() is not None


async def test_a_stream_that_falls_silent_is_told_what_is_on_disk(tmp_path, monkeypatch):
    crash.mutate(monkeypatch, tmp_path, "from service.edge import streams\nstreams.SILENT_S = 0.05\n")
    async with crash.a_server(tmp_path) as server, freshet.connect(server.grpc) as client:
        await client.create_model("flow", ["a"], **SERVING_ONLY)
        async with (
            channel_to(server.grpc) as channel,
            RawStream(channel, "flow", "s", durable_in_forecasts=True) as stream,
        ):
            await stream.tick(1, [1.0])
            await stream.until_durable(1)
