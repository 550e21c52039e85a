"""The client over real gRPC, against a server that keeps to the protocol and fails when told to."""

from __future__ import annotations

import asyncio
import datetime as dt
import math
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

import freshet
from freshet.v1 import models_pb2, types_pb2
from freshet.v1 import streams_pb2 as pb
from tests.client.fake_server import FakeServer, FakeStream, oracle

VALUES = np.arange(1.0, 201.0)


@pytest.fixture(params=[0, 16], ids=["one tick a message", "several"])
async def server(request):
    server = FakeServer()
    server.max_ticks = request.param
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def client(server):
    async with freshet.connect(f"127.0.0.1:{server.port}") as client:
        yield client


async def collect(forecasts) -> list[freshet.Forecast]:
    return [forecast async for forecast in forecasts]


async def until(condition) -> None:
    """Give way until something has come about; the test's timeout bounds it."""
    while not condition():
        await asyncio.sleep(0)


async def received(server: FakeServer, count: int) -> None:
    await until(lambda: len(server.received) >= count)


def assert_unbroken(forecasts, rows, horizon=1, resets=()):
    """Each tick has one forecast, in order, and it is the one of a run in which nothing went wrong."""
    assert [forecast.seq for forecast in forecasts] == list(range(1, len(rows) + 1))
    for forecast, y in zip(forecasts, oracle(rows, horizon, resets), strict=True):
        np.testing.assert_array_equal(forecast.y, y)


# --- ticks in, forecasts out


async def test_an_array_gives_one_forecast_per_row_in_order(client, server):
    async with client.stream("m", "s", in_flight=8) as stream:
        forecasts = await collect(stream.forecasts(VALUES))

    assert_unbroken(forecasts, VALUES)
    assert server.streams["s"].durable == len(VALUES)
    assert all(forecast.latency_s > 0 and forecast.y.dtype == np.float32 for forecast in forecasts)


async def test_forecasts_are_shaped_horizon_by_targets():
    server = FakeServer(channels=3, horizon=4)
    await server.start()
    rows = np.arange(30.0).reshape(10, 3)
    async with freshet.connect(f"127.0.0.1:{server.port}") as client, client.stream("m", "s") as stream:
        forecasts = await collect(stream.forecasts(rows))
    await server.stop()

    assert forecasts[0].y.shape == (4, 3)
    assert_unbroken(forecasts, rows, horizon=4)


async def test_step_gives_the_same_as_a_run_in_flight(client):
    async with client.stream("m", "s") as stream:
        assert_unbroken([await stream.step(value) for value in VALUES[:50]], VALUES[:50])


async def test_steps_of_several_tasks_share_the_stream(client):
    async with client.stream("m", "s") as stream:
        assert_unbroken(await asyncio.gather(*map(stream.step, VALUES[:30])), VALUES[:30])


async def rows_from_somewhere():
    for number, value in enumerate(VALUES[:20]):
        await asyncio.sleep(0)
        yield float(number), [value]


@pytest.mark.parametrize(
    "values",
    [
        lambda: VALUES[:20].reshape(-1, 1),
        lambda: list(VALUES[:20]),
        lambda: (value for value in VALUES[:20]),
        lambda: [(float(number), [value]) for number, value in enumerate(VALUES[:20])],
        lambda: [freshet.Tick(value) for value in VALUES[:20]],
        rows_from_somewhere,
    ],
    ids=["array", "list", "generator", "pairs", "Ticks", "async generator of pairs"],
)
async def test_anything_that_can_be_walked_over_is_taken(client, values):
    async with client.stream("m", "s", in_flight=4) as stream:
        assert_unbroken(await collect(stream.forecasts(values())), VALUES[:20])


@pytest.mark.parametrize(
    "times",
    [
        np.arange(1000.0, 1004.0),
        [dt.datetime(1970, 1, 1, 0, 16, 40 + second) for second in range(4)],  # noqa: DTZ001  users give such times
        np.datetime64("1970-01-01T00:16:40") + np.arange(4),
    ],
    ids=["seconds", "datetime", "datetime64"],
)
async def test_times_reach_the_server_as_seconds(client, server, times):
    async with client.stream("m", "s") as stream:
        await collect(stream.forecasts(VALUES[:4], times))

    assert [tick.time for tick in server.received] == [1000.0, 1001.0, 1002.0, 1003.0]


async def test_a_new_client_goes_on_where_the_stream_is(client):
    async with client.stream("m", "s") as stream:
        before = await collect(stream.forecasts(VALUES[:10]))
    async with client.stream("m", "s") as stream:
        assert stream.next_seq == 11
        after = await collect(stream.forecasts(VALUES[10:20]))

    assert_unbroken(before + after, VALUES[:20])


async def test_a_source_that_fails_is_heard_of_after_the_forecasts_before_it(client):
    def rows():
        yield from VALUES[:5]
        raise OSError("the sensor is gone")

    async with client.stream("m", "s") as stream:
        run = stream.forecasts(rows())
        forecasts = [await anext(run) for _ in range(5)]
        with pytest.raises(OSError, match="the sensor is gone"):
            await anext(run)
        forecasts.append(await stream.step(VALUES[5]))

    assert_unbroken(forecasts, VALUES[:6])


async def test_leaving_a_loop_early_leaves_the_stream_usable(client, server):
    async with client.stream("m", "s", in_flight=4) as stream:
        forecasts = stream.forecasts(VALUES)
        async for _ in forecasts:
            break
        await forecasts.aclose()
        taken = stream.next_seq - 1

        assert 1 <= taken <= 5
        assert (await stream.step(0.0)).seq == taken + 1
    assert server.rows() == [[value] for value in VALUES[:taken]] + [[0.0]]


async def test_cancelling_a_wait_loses_no_forecast(client, server):
    server.mute = True
    async with client.stream("m", "s", in_flight=4, answer_s=0.2) as stream:
        forecasts = stream.forecasts(VALUES[:8])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(forecasts), 0.01)
        server.mute = False

        assert_unbroken(await collect(forecasts), VALUES[:8])


# --- bounds


async def test_unanswered_ticks_are_bounded_by_in_flight(client, server):
    server.mute = True
    async with client.stream("m", "s", in_flight=5, close_s=0.0) as stream:
        steps = [asyncio.create_task(stream.step(value)) for value in VALUES[:20]]
        await received(server, 5)
        await client.list_models()  # a round trip in which more could have arrived
        assert len(server.received) == 5

        for step in steps:
            step.cancel()


async def test_ticks_that_are_not_on_disk_are_bounded_by_what_the_server_allows(client, server):
    server.max_undurable, server.commit_every = 6, None
    async with client.stream("m", "s") as stream:
        run = asyncio.create_task(collect(stream.forecasts(VALUES[:20])))
        for reached in (6, 12, 18, 20):
            await received(server, reached)
            await client.list_models()
            assert len(server.received) == reached
            server.commit()

        assert_unbroken(await run, VALUES[:20])


async def test_no_tick_is_sent_before_labels_are_judged_close_enough(client, server):
    server.judge_every = 8
    async with client.stream("m", "s") as stream:
        forecasts = await collect(stream.forecasts(VALUES, max_staleness=8))

    assert_unbroken(forecasts, VALUES)
    assert max(seq - judged for seq, judged in server.judged_when_received.items()) == 8
    assert max(forecast.staleness for forecast in forecasts) <= 8


async def test_waits_for_the_disk_and_for_judgement_end_when_the_server_says_so(client, server):
    server.commit_every = None
    async with client.stream("m", "s") as stream:
        await stream.step(1.0)
        waits = asyncio.gather(stream.durable(1), stream.durable(), stream.wait_judged(1))
        assert (stream.durable_seq, stream.judged_through) == (0, 0)
        server.commit()
        await waits

        assert (stream.durable_seq, stream.judged_through) == (1, 1)


# --- refusals


BAD = [
    ([1.0, 2.0], None, "x", freshet.Reason.SHAPE),
    ([], None, "x", freshet.Reason.SHAPE),
    (math.nan, None, "x[0]", freshet.Reason.NON_FINITE),
    (-math.inf, None, "x[0]", freshet.Reason.NON_FINITE),
    (1e38, None, "x[0]", freshet.Reason.TOO_LARGE),
    ("twelve", None, "x", freshet.Reason.NON_FINITE),
    (1.0, 5.0, "time", freshet.Reason.TIME),
    (1.0, math.nan, "time", freshet.Reason.TIME),
    (1.0, "soon", "time", freshet.Reason.TIME),
]


@pytest.mark.parametrize(("x", "time", "field", "reason"), BAD)
async def test_a_bad_tick_is_refused_without_being_sent(client, server, x, time, field, reason):
    async with client.stream("m", "s") as stream:
        first = await stream.step(1.0, 5.0)
        with pytest.raises(freshet.TickRefused) as caught:
            await stream.step(x, time)
        second = await stream.step(2.0, 6.0)

    assert (caught.value.seq, caught.value.field, caught.value.reason) == (2, field, reason)
    assert caught.value.value
    assert caught.value.remedy
    assert_unbroken([first, second], [1.0, 2.0])
    assert len(server.received) == 2


async def test_where_missing_values_are_held_nan_and_none_are_sent_and_infinities_are_not():
    server = FakeServer(channels=2)
    server.spec.missing = "hold"
    await server.start()
    try:
        async with freshet.connect(f"127.0.0.1:{server.port}") as client, client.stream("m", "s") as stream:
            for row in ([1.0, math.nan], [None, None], np.array([2.0, np.nan], np.float32)):
                await stream.step(row)
            with pytest.raises(freshet.TickRefused, match=r"x\[1\]") as caught:
                await stream.step([math.nan, math.inf])
    finally:
        await server.stop()

    assert caught.value.reason == freshet.Reason.NON_FINITE
    sent = np.array([tick.x for tick in server.received])
    np.testing.assert_array_equal(sent, [[1.0, np.nan], [np.nan, np.nan], [2.0, np.nan]])


async def test_a_refused_nan_tells_how_missing_values_can_be_held(client):
    async with client.stream("m", "s") as stream:
        with pytest.raises(freshet.TickRefused, match=r'x\[0\].*c0.*create the model with missing = "hold"'):
            await stream.step(math.nan)


async def test_a_model_with_an_interval_needs_times():
    server = FakeServer(interval=60.0)
    await server.start()
    async with freshet.connect(f"127.0.0.1:{server.port}") as client, client.stream("m", "s") as stream:
        with pytest.raises(freshet.TickRefused, match="time = missing"):
            await stream.step(1.0)
    await server.stop()


def refuse_odd_tens(tick: pb.Tick) -> types_pb2.Refused | None:
    if tick.x[0] % 20 != 10:
        return None
    reason = types_pb2.Refused.UNSUPPORTED
    return types_pb2.Refused(seq=tick.seq, field="x", value=str(tick.x[0]), remedy="another", reason=reason)


ACCEPTED = [value for value in VALUES if value % 20 != 10]


async def test_a_tick_that_the_server_refuses_is_raised_and_the_iteration_goes_on_behind_it(client, server):
    server.refuse = refuse_odd_tens
    forecasts, refused = [], []
    async with client.stream("m", "s", in_flight=16) as stream:
        run = stream.forecasts(VALUES)
        while True:
            try:
                async for forecast in run:
                    forecasts.append(forecast)
                break
            except freshet.TickRefused as error:
                refused.append(error)

    assert_unbroken(forecasts, ACCEPTED)
    assert server.rows() == [[value] for value in ACCEPTED]
    assert [float(error.value) for error in refused] == [value for value in VALUES if value % 20 == 10]


async def test_refused_ticks_can_be_skipped_whoever_refuses_them(client, server):
    server.refuse = refuse_odd_tens
    values = np.insert(VALUES, 33, np.nan)
    async with client.stream("m", "s", in_flight=16) as stream:
        run = stream.forecasts(values, on_refused="skip")
        forecasts = await collect(run)

    assert_unbroken(forecasts, ACCEPTED)
    assert len(run.refused) == len(values) - len(ACCEPTED)


async def test_an_overloaded_server_gets_the_ticks_again(client, server):
    server.overloaded = True
    async with client.stream("m", "s") as stream:
        run = asyncio.create_task(collect(stream.forecasts(VALUES[:20])))
        await received(server, 1)
        server.overloaded = False

        assert_unbroken(await run, VALUES[:20])


@pytest.mark.parametrize("times", [(0.0, 7.0), (-9.0, 0.0)], ids=["at the epoch", "before it"])
async def test_after_a_refusal_event_time_goes_on_from_the_last_tick_that_was_not_refused(client, server, times):
    server.refuse = refuse_odd_tens
    async with client.stream("m", "s") as stream:
        await stream.step(1.0, times[0])
        with pytest.raises(freshet.TickRefused, match="another"):
            await stream.step(10.0, 100.0)
        with pytest.raises(freshet.TickRefused, match=f"after {times[0]!r}"):
            await stream.step(2.0, times[0])
        await stream.step(2.0, times[1])


async def test_a_refusal_behind_a_reset_brings_no_event_time_back_from_before_it(client, server):
    server.refuse = refuse_odd_tens
    async with client.stream("m", "s") as stream:
        await stream.step(1.0, 1000.0)
        await stream.reset()
        with pytest.raises(freshet.TickRefused, match="another"):
            await stream.step(10.0, 2000.0)
        await stream.step(2.0, 500.0)


async def test_a_conflict_ends_the_stream_with_the_reason(client, server):
    async with client.stream("m", "s") as stream:
        await stream.step(1.0)
        server.streams["s"].take(pb.Tick(seq=2, x=[7.0]), horizon=1)  # someone else was here

        for _ in range(2):
            with pytest.raises(freshet.TickRefused) as caught:
                await stream.step(2.0)
            assert caught.value.reason is freshet.Reason.CONFLICT


# --- faults


@pytest.mark.parametrize("keep", [0, 95, 200], ids=["all undurable lost", "some lost", "none lost"])
async def test_a_server_that_dies_costs_no_forecast_and_gives_none_twice(client, server, keep):
    server.commit_every = None
    died = False

    def die_once(tick: pb.Tick) -> None:
        nonlocal died
        if tick.seq == 40:
            server.commit()
        if tick.seq == 100 and not died:
            died = True
            server.soon(server.crash(keep))

    server.on_tick = die_once
    async with client.stream("m", "s", in_flight=16) as stream:
        forecasts = await collect(stream.forecasts(VALUES))
        assert stream.reconnects == 1

    assert_unbroken(forecasts, VALUES)
    assert server.rows() == [[value] for value in VALUES]


async def test_ticks_answered_before_a_crash_are_sent_again_by_an_idle_client(client, server):
    server.commit_every = None
    async with client.stream("m", "s") as stream:
        forecasts = [await stream.step(value) for value in VALUES[:5]]
        await server.crash()
        server.commit_every = 1
        await stream.durable(5)
        assert len(server.received) == 10
        forecasts.append(await stream.step(VALUES[5]))

    assert_unbroken(forecasts, VALUES[:6])


async def test_a_refusal_and_a_crash_together_keep_the_order(client, server):
    server.refuse, server.commit_every = refuse_odd_tens, 7
    server.on_tick = lambda tick: server.soon(server.crash()) if tick.x[0] == 111 and server.hellos == 1 else None
    async with client.stream("m", "s", in_flight=16) as stream:
        forecasts = await collect(stream.forecasts(VALUES, on_refused="skip"))

    assert_unbroken(forecasts, ACCEPTED)
    assert server.rows() == [[value] for value in ACCEPTED]


async def test_a_server_that_leaves_is_followed_to_the_next(client, server):
    server.on_tick = lambda tick: server.reconnect() if tick.seq in (50, 100) else None
    async with client.stream("m", "s", in_flight=16) as stream:
        assert_unbroken(await collect(stream.forecasts(VALUES)), VALUES)
        assert stream.reconnects == 2


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED])
async def test_a_call_that_the_server_breaks_off_is_made_again(client, server, code):
    def break_off(tick: pb.Tick) -> None:
        call = server.streams["s"].call
        if tick.seq == 50 and call is not None:
            call.end(code, "broken off")

    server.on_tick = break_off
    async with client.stream("m", "s", in_flight=16) as stream:
        assert_unbroken(await collect(stream.forecasts(VALUES)), VALUES)


def exhausted(retry_s: int | None) -> tuple[grpc.StatusCode, str, Any]:
    """RESOURCE_EXHAUSTED as a server says it: code, text, and the metadata that may hold a retry delay."""
    details = [any_pb2.Any()] if retry_s is not None else []
    for detail in details:
        detail.Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=retry_s or 0)))
    code = code_pb2.RESOURCE_EXHAUSTED
    whole = rpc_status.to_status(status_pb2.Status(code=code, message="a bound", details=details))
    return whole.code, whole.details, whole.trailing_metadata


def ending(server: FakeServer, *status: Any) -> Callable[[pb.Tick], None]:
    """What ends the call of stream "s" once, at tick 50."""

    def end(tick: pb.Tick) -> None:
        call = server.streams["s"].call
        if tick.seq == 50 and call is not None:
            call.end(*status)

    return end


async def test_a_stream_that_a_bound_of_the_server_has_cut_goes_on_when_the_server_says_that_it_may(client, server):
    server.on_tick = ending(server, *exhausted(retry_s=1))
    async with client.stream("m", "s", in_flight=16) as stream:
        assert_unbroken(await collect(stream.forecasts(VALUES)), VALUES)
        assert stream.reconnects == 1


async def test_a_bound_that_will_not_pass_ends_the_stream(client, server):
    cut = ending(server, *exhausted(retry_s=None))

    def reach_it(tick: pb.Tick) -> None:
        cut(tick)
        if tick.seq == 50:  # it stays reached: a write that raced the end hides its status (grpc/grpc#36066)
            server.hello_status = exhausted(retry_s=None)

    server.on_tick = reach_it
    async with client.stream("m", "s", in_flight=16) as stream:
        with pytest.raises(freshet.ResourceExhausted):
            await collect(stream.forecasts(VALUES))


async def test_whoever_was_never_let_in_is_told_of_the_bound_and_when_to_come_again(client, server):
    server.hello_status = exhausted(retry_s=1)
    with pytest.raises(freshet.ResourceExhausted) as caught:
        async with client.stream("m", "s"):
            pass

    assert caught.value.retry_delay_s == 1
    assert server.hellos == 1


async def test_a_server_that_stops_answering_is_called_again(client, server):
    server.mute = True
    server.on_tick = lambda tick: None
    async with client.stream("m", "s", answer_s=0.05) as stream:
        step = asyncio.create_task(stream.step(1.0))
        await until(lambda: server.hellos >= 2)
        server.mute = False

        assert_unbroken([await step], [1.0])


async def test_an_answer_that_the_server_no_longer_keeps_is_marked_lost(client, server):
    server.mute, server.ring = True, 0
    async with client.stream("m", "s", answer_s=0.05) as stream:
        step = asyncio.create_task(stream.step(1.0))
        await received(server, 1)
        server.mute = False
        lost = await step
        server.ring = 256  # a slow machine may ask twice for the next answer
        kept = await stream.step(2.0)

    assert lost.lost
    assert np.isnan(lost.y).all()
    assert not kept.lost
    np.testing.assert_array_equal(kept.y, oracle([1.0, 2.0])[1])


async def test_a_second_client_takes_the_stream_over_and_the_first_stays_away(client, server):
    async with client.stream("m", "s") as first:
        await first.step(1.0)
        async with client.stream("m", "s") as second:
            with pytest.raises(freshet.TakenOver):
                await first.durable(99)
            with pytest.raises(freshet.TakenOver):
                await first.step(2.0)
            assert (await second.step(2.0)).seq == 2

    assert server.hellos == 2


async def test_taking_over_a_busy_stream_stops_its_first_client_every_time(client, server):
    for number in range(1, 61):  # a write that races the end of the call must not hide why it ended
        async with client.stream("m", f"s{number}", in_flight=16) as first:
            endless = first.forecasts(1.0 for _ in iter(int, 1))
            run = asyncio.create_task(collect(endless))
            await received(server, 30 * number)
            async with client.stream("m", f"s{number}") as second:
                with pytest.raises(freshet.TakenOver):
                    await run
                await second.step(1.0)

    assert server.hellos == 120


async def test_lost_state_is_an_error_unless_accepted(client, server):
    server.streams["s"] = lost = FakeStream(origin=pb.Welcome.LOST)
    with pytest.raises(freshet.StateLost, match="accept_lost=True"):
        async with client.stream("m", "s"):
            pass

    lost.origin = pb.Welcome.LOST
    async with client.stream("m", "s", accept_lost=True) as stream:
        assert stream.welcome.state_origin == pb.Welcome.LOST
        assert (await stream.step(1.0)).seq == 1


async def test_a_server_that_forgot_what_it_called_durable_is_an_error(client, server):
    async with client.stream("m", "s") as stream:
        await collect(stream.forecasts(VALUES[:10]))
        await stream.durable()
        server.streams["s"].durable = 3  # its disk lied
        await server.crash()

        with pytest.raises(freshet.StateLost, match="asks for tick 4"):
            await stream.durable(11)


async def test_a_reset_begins_the_state_anew_even_if_the_server_dies_behind_it(client, server):
    async with client.stream("m", "s") as stream:
        forecasts = await collect(stream.forecasts(VALUES[:3]))
        server.commit_every = None
        await stream.reset()
        forecasts += [await stream.step(value) for value in VALUES[3:6]]
        await server.crash()
        server.commit_every = 1
        forecasts += await collect(stream.forecasts(VALUES[6:9]))

    assert_unbroken(forecasts, VALUES[:9], resets=[4])


async def test_event_time_restarts_after_a_reset(client):
    async with client.stream("m", "s") as stream:
        await stream.step(1.0, 1000.0)
        await stream.reset()
        await stream.step(2.0, 500.0)
        with pytest.raises(freshet.TickRefused, match="after 500"):
            await stream.step(3.0, 500.0)


async def test_nobody_there_is_an_error_after_the_time_allowed(client, server):
    await server.stop()
    with pytest.raises(freshet.Unavailable, match="no success for 0 s"):
        async with client.stream("m", "s", give_up_s=0):
            pass


async def test_a_server_that_comes_late_is_waited_for(client, server):
    await server.stop()
    opening = asyncio.create_task(client.stream("m", "s").__aenter__())
    await asyncio.sleep(0)
    await server.start()
    stream = await opening

    assert (await stream.step(1.0)).seq == 1
    await stream.aclose()


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.ABORTED, freshet.TakenOver),
        (grpc.StatusCode.FAILED_PRECONDITION, freshet.FailedPrecondition),
        (grpc.StatusCode.UNAUTHENTICATED, freshet.Unauthenticated),
        (grpc.StatusCode.PERMISSION_DENIED, freshet.PermissionDenied),
        (grpc.StatusCode.ALREADY_EXISTS, freshet.AlreadyExists),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, freshet.ResourceExhausted),
        (grpc.StatusCode.UNIMPLEMENTED, freshet.Unimplemented),
        (grpc.StatusCode.UNKNOWN, freshet.RpcError),
    ],
)
async def test_a_refused_hello_is_an_error_of_its_kind_and_not_tried_again(client, server, code, error):
    server.hello_status = (code, "because")
    with pytest.raises(error, match="because"):
        async with client.stream("m", "s"):
            pass

    assert server.hellos == 1


async def test_an_unknown_model_is_not_found(client):
    with pytest.raises(freshet.NotFound, match="no model 'other'"):
        async with client.stream("other", "s"):
            pass


# --- closing


async def test_closing_waits_for_the_disk(client, server):
    server.commit_every = None
    server.disk.clear()
    stream = await client.stream("m", "s").__aenter__()
    await stream.step(1.0)
    closing = asyncio.create_task(stream.aclose())
    await client.list_models()
    assert not closing.done()
    server.disk.set()
    await closing

    assert stream.durable_seq == server.streams["s"].durable == 1


async def test_closing_outlasts_a_crash_before_the_disk(client, server):
    server.commit_every = None
    server.disk.clear()
    stream = await client.stream("m", "s").__aenter__()
    await asyncio.gather(*map(stream.step, VALUES[:9]))
    closing = asyncio.create_task(stream.aclose())
    await client.list_models()
    server.disk.set()
    await server.crash()
    await closing

    assert server.rows() == [[value] for value in VALUES[:9]]
    assert server.streams["s"].durable == 9


async def test_closing_without_the_disks_word_says_so(client, server):
    server.commit_every = None
    server.disk.clear()
    stream = await client.stream("m", "s", close_s=0.01).__aenter__()
    await stream.step(1.0)

    with pytest.raises(freshet.Unavailable, match="ticks 1 to 1 sent and not confirmed on disk"):
        await stream.aclose()
    await stream.aclose()


async def test_the_first_error_is_the_one_to_see(client, server):
    server.commit_every = None
    server.disk.clear()

    async def fail() -> None:
        async with client.stream("m", "s", close_s=0.01) as stream:
            await stream.step(1.0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        await fail()
    assert "not confirmed on disk" in caught.value.__notes__[0]


async def test_a_closed_stream_says_that_it_is_closed(client):
    async with client.stream("m", "s") as stream:
        await stream.step(1.0)
    await stream.aclose()

    for use in (stream.step(2.0), stream.durable(9), stream.reset(), anext(stream.forecasts([1.0]))):
        with pytest.raises(freshet.StreamClosed):
            await use


async def test_a_stream_that_was_never_opened_can_be_closed(client):
    stream = client.stream("m", "s")
    await stream.aclose()

    with pytest.raises(freshet.StreamClosed):
        await stream.__aenter__()


async def test_no_task_outlives_a_stream(client, server):
    server.mute, server.commit_every = True, None
    stream = await client.stream("m", "s", close_s=0.0).__aenter__()
    run = stream.forecasts(VALUES)
    pull = asyncio.create_task(anext(run))
    await received(server, 1)
    ours = set(stream._engine._tasks)
    assert ours
    with pytest.raises(freshet.Unavailable):
        await stream.aclose()

    assert all(task.done() for task in ours)
    with pytest.raises(freshet.StreamClosed):
        await pull


async def test_a_client_closes_the_streams_left_open(server):
    async with freshet.connect(f"127.0.0.1:{server.port}") as client:
        stream = await client.stream("m", "s").__aenter__()
        await stream.step(1.0)

    with pytest.raises(freshet.StreamClosed):
        await stream.step(2.0)


async def test_cancelling_a_step_does_not_harm_the_stream(client, server):
    server.mute = True
    async with client.stream("m", "s", answer_s=0.2) as stream:
        step = asyncio.create_task(stream.step(1.0))
        await received(server, 1)  # what was not sent yet would never be
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
        server.mute = False

        second = await stream.step(2.0)

    np.testing.assert_array_equal(second.y, oracle([1.0, 2.0])[1])


# --- models


async def test_models_are_created_found_and_listed(client):
    created = await client.create_model("taxi", channels=["passengers"], interval=1800.0, horizon=24)

    assert created.spec.interval == 1800.0
    assert await client.create_model("taxi", channels=["passengers"], interval=1800.0, horizon=24) == created
    assert await client.get_model("taxi") == created
    assert [model.name for model in await client.list_models()] == ["m", "taxi"]
    with pytest.raises(freshet.AlreadyExists):
        await client.create_model("taxi", channels=["fares"])
    with pytest.raises(freshet.NotFound):
        await client.get_model("bus")


async def test_a_wrong_field_is_named_with_value_and_remedy(client):
    with pytest.raises(freshet.InvalidArgument) as caught:
        await client.create_model("", channels=["a"])
    assert (caught.value.field, caught.value.value) == ("name", "''")
    assert "1 to 64" in caught.value.remedy

    with pytest.raises(freshet.InvalidArgument) as caught:
        await client.create_model("taxi", channels=["a"], hiden=3)
    assert caught.value.field == "hiden"
    assert "hidden" in caught.value.remedy


async def test_versions_and_their_files_can_be_had(client):
    assert [version.number for version in await client.versions("m")] == [2, 1]
    export = await client.export("m")
    assert (export.version.number, export.onnx, export.weights) == (2, b"onnx", b"weights")


async def test_events_are_seen_also_after_the_server_was_restarted(client, server):
    events = client.watch("m")
    server.events.put_nowait(models_pb2.ModelEvent(model="m", kind=models_pb2.ModelEvent.PUBLISHED, version=2))
    assert (await anext(events)).version == 2

    second = asyncio.ensure_future(anext(events))
    await server.crash()
    server.events.put_nowait(models_pb2.ModelEvent(model="m", kind=models_pb2.ModelEvent.VETOED, version=2))
    assert (await second).kind == models_pb2.ModelEvent.VETOED
    await events.aclose()


# --- the edges of the interface


def test_reasons_are_those_of_the_protocol():
    assert {reason.name: reason.value for reason in freshet.Reason} == {
        name.removeprefix("REASON_"): number for name, number in types_pb2.Refused.Reason.items()
    }


async def test_settings_that_make_no_sense_are_refused(client):
    with pytest.raises(ValueError, match="in_flight = 0"):
        client.stream("m", "s", in_flight=0)
    with pytest.raises(ValueError, match="in_flight = 129; give 1 to 128"):
        client.stream("m", "s", in_flight=129)
    async with client.stream("m", "s") as stream:
        with pytest.raises(freshet.InvalidArgument, match="max_staleness = 0"):
            stream.forecasts([], max_staleness=0)
        with pytest.raises(freshet.InvalidArgument, match="on_refused"):
            stream.forecasts([], on_refused="ignore")
        with pytest.raises(TypeError, match="values = int"):
            stream.forecasts(3)


async def test_a_stream_that_is_not_open_says_so(client):
    stream = client.stream("m", "s")
    for use in (stream.step(1.0), stream.durable(1), stream.reset(), anext(stream.forecasts([1.0]))):
        with pytest.raises(freshet.FreshetError, match=r"not open: use `async with client.stream"):
            await use
    with pytest.raises(freshet.NotOpen, match=r"the Mux is not open: use `async with client.mux"):
        await client.mux("m").step(["a"], [1.0])
    with pytest.raises(freshet.FreshetError, match="not open"):
        _ = stream.welcome


async def test_a_client_that_is_not_open_says_so():
    with pytest.raises(freshet.NotOpen, match=r"use `async with freshet.connect"):
        await freshet.connect("127.0.0.1:8300").list_models()


# --- progress with forecasts


async def test_a_stream_learns_from_forecasts_what_is_on_disk_and_asks_for_nothing(server, client):
    server.spares = True
    async with client.stream("m", "s") as stream:
        await stream.step(1.0)
        assert stream.durable_seq == 0
        await stream.step(2.0)
        assert stream.durable_seq == 1
        assert server.expected == []


async def test_who_waits_for_the_disk_asks_for_it_and_again_on_the_next_call(server, client):
    server.spares, server.commit_every = True, None
    async with client.stream("m", "s") as stream:
        await stream.step(1.0)
        waiting = asyncio.create_task(stream.durable())
        await until(lambda: server.expected == [(1, 0)])
        server.reconnect()
        await until(lambda: server.expected == [(1, 0), (1, 0)])
        server.commit()
        await waiting
        assert stream.durable_seq == 1
        await stream.durable()  # known
        assert len(server.expected) == 2


async def test_who_waits_for_labels_to_be_judged_asks_for_it(server, client):
    server.spares, server.commit_every = True, None
    async with client.stream("m", "s") as stream:
        await stream.step(1.0)
        waiting = asyncio.create_task(stream.wait_judged(1))
        await until(lambda: server.expected == [(0, 1)])
        server.commit()
        await waiting


async def test_a_bound_on_staleness_asks_for_every_verdict_once(server, client):
    server.spares = True
    async with client.stream("m", "s") as stream:
        assert len(await collect(stream.forecasts([1.0, 2.0, 3.0, 4.0], max_staleness=1))) == 4
    assert len(server.expected) == 1


async def test_a_server_that_does_not_know_it_is_asked_for_nothing(server, client):
    async with client.stream("m", "s") as stream:
        await stream.step(1.0)
        await stream.durable()
        await stream.wait_judged(1)
        assert stream.durable_seq == 1
    assert server.expected == []
