"""A server that gets SIGTERM notifies every stream and flushes to disk; the next server continues from there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import freshet
from freshet.v1 import models_pb2, models_pb2_grpc
from freshet.v1 import streams_pb2 as pb
from service.console.failures import ServerFailed
from service.programs.backtest.child import ServerChild
from tests.journeys.conftest import QUICK
from tests.journeys.raw import DEADLINE_S, RawLearn, RawStream, channel_to
from tests.journeys.raw_mux import RawMux
from tests.journeys.scraped import get, scrape
from tests.journeys.test_training import window
from tests.oracles.unbroken import Unbroken
from tests.ports import free_port

SERVING_ONLY: dict[str, Any] = {"learn": False, "head_init": 0.3, "hidden": 8}
ROWS = np.cumsum(np.random.default_rng(5).standard_normal((60, 2)), axis=0).astype(np.float32)


def server_at(folder: Path, **settings: object) -> ServerChild:
    """A server on a port that it can use again after a restart."""
    listen = settings.pop("listen", f"127.0.0.1:{free_port()}")
    http = settings.pop("http", "127.0.0.1:0")
    return ServerChild(
        folder / "data", folder / "log", listen=str(listen), http=str(http), settings={**QUICK, **settings}
    )


async def test_the_sdk_carries_a_stream_over_a_restart_without_a_difference(tmp_path):
    child = server_at(tmp_path)
    await child.start()
    async with freshet.connect(child.grpc) as client:
        model = await client.create_model("m", ["a", "b"], **SERVING_ONLY)
        oracle = Unbroken(model, await client.export("m"))
        leaving = asyncio.Event()

        async def ticks() -> AsyncIterator[list[float]]:
            for i, row in enumerate(ROWS):
                if i == 30:  # some ticks are answered, some under way
                    leaving.set()
                yield row.tolist()

        async def restart() -> int:
            await leaving.wait()
            code = await child.stop()
            await child.start()
            return code

        restarting = asyncio.create_task(restart())
        async with client.stream("m", "s", in_flight=8) as stream:
            forecasts = [f async for f in stream.forecasts(ticks())]
            assert await asyncio.wait_for(restarting, 2 * DEADLINE_S) == 0
            late = [await stream.step(row) for row in ROWS]  # certainly after the restart
            assert stream.reconnects >= 1
    assert await child.stop() == 0

    assert [f.seq for f in (*forecasts, *late)] == list(range(1, 121))
    for forecast, row in zip((*forecasts, *late), (*ROWS, *ROWS), strict=True):
        oracle.agrees(forecast.y, row)


async def test_every_open_stream_is_notified_and_has_everything_on_disk(tmp_path):
    child = server_at(tmp_path)
    await child.start()
    async with freshet.connect(child.grpc) as client, channel_to(child.grpc) as channel:
        await client.create_model("m", ["a", "b"], **SERVING_ONLY)
        streams = [await RawStream(channel, "m", f"s{i}").__aenter__() for i in range(5)]
        for stream in streams:
            for seq in (1, 2, 3):
                await stream.tick(seq, ROWS[seq - 1].tolist())
        endings = [asyncio.create_task(ending(stream)) for stream in streams]

        assert await child.stop() == 0

        for messages, error in await asyncio.gather(*endings):
            assert messages[0] == "reconnect"
            assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert [stream.durable.seq for stream in streams] == [3] * 5

    await child.start()
    async with channel_to(child.grpc) as channel:
        for i in range(5):
            async with RawStream(channel, "m", f"s{i}") as again:
                assert (again.welcome.next_seq, again.welcome.durable_seq) == (4, 3)
                assert again.welcome.state_origin == pb.Welcome.RESUMED
    assert await child.stop() == 0


async def ending(stream: RawStream) -> tuple[Sequence[str | None], grpc.aio.AioRpcError]:
    """Return the kinds of messages until the call fails, without Durable, and the error."""
    kinds = []
    try:
        while (message := await stream.hear()) is not None:
            if not message.HasField("durable"):
                kinds.append(message.WhichOneof("message"))
    except grpc.aio.AioRpcError as error:
        return kinds, error
    raise AssertionError("the call has ended well")


async def test_a_watch_ends_when_the_server_leaves(tmp_path):
    child = server_at(tmp_path)
    async with child, channel_to(child.grpc) as channel:
        watch = models_pb2_grpc.ModelsStub(channel).Watch(models_pb2.WatchRequest(), timeout=DEADLINE_S)
        await watch.initial_metadata()

        stopping = asyncio.create_task(child.stop())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watch.read()

        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await stopping == 0


async def held_open(channel: grpc.aio.Channel) -> Any:
    """A call that the server does not end by itself, so the drain waits for it."""
    call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    assert (await call.read()).status == health_pb2.HealthCheckResponse.SERVING
    return call


async def test_a_call_that_stays_open_is_cut_when_the_drain_time_is_over(tmp_path):
    child = server_at(tmp_path, drain_s=0.2)
    async with child, channel_to(child.grpc) as channel:
        await held_open(channel)

        assert await child.stop() == 0


async def flood(stream: RawStream) -> None:
    """Send ticks forever."""
    seq = 0
    while True:
        seq += 1
        await stream.call.write(pb.OpenRequest(tick=pb.Tick(seq=seq, x=ROWS[0])))


async def test_a_client_that_never_reads_does_not_delay_the_end_of_the_server(tmp_path):
    child = server_at(tmp_path, drain_s=0.5)
    async with child, freshet.connect(child.grpc) as client, channel_to(child.grpc) as channel:
        await client.create_model("m", ["a", "b"], horizon=100, **SERVING_ONLY)  # long answers soon fill the connection
        deaf = await RawStream(channel, "m", "s").__aenter__()
        flooding = asyncio.create_task(flood(deaf))
        answered, before = 1.0, 0.0
        while answered != before:  # until the connection is full: no more answers than at the last scrape
            before, answered = answered, (await scrape(child.http)).total("freshet_ticks_total")

        assert await child.stop() == 0

        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
async def test_a_draining_server_reports_it_and_a_second_signal_ends_it_at_once(tmp_path, first):
    child = server_at(tmp_path, drain_s=600)
    async with child, channel_to(child.grpc) as channel:
        call = await held_open(channel)

        os.kill(child.pid, first)

        assert (await call.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await asyncio.to_thread(get, f"http://{child.http}/readyz") == (503, "not ready: draining\n")
        assert await asyncio.to_thread(get, f"http://{child.http}/healthz") == (200, "alive\n")
        os.kill(child.pid, signal.SIGTERM)
        assert await asyncio.wait_for(child.wait(), DEADLINE_S) == 130


async def test_a_second_server_on_the_same_data_is_refused_in_one_clear_line(tmp_path):
    async with server_at(tmp_path) as first:
        with pytest.raises(ServerFailed) as caught:
            await ServerChild(tmp_path / "data", tmp_path / "log of the second").start()

        assert first.running
    (line,) = (tmp_path / "log of the second").read_text().splitlines()
    assert str(tmp_path / "data") in line
    assert "another" in line
    assert "exit code 2" in str(caught.value)


@pytest.mark.parametrize("door", ["listen", "http"])
async def test_a_port_in_use_is_refused_in_one_clear_line(tmp_path, door):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"

        with pytest.raises(ServerFailed) as caught:
            await server_at(tmp_path, **{door: address}).start()

    (line,) = (tmp_path / "log").read_text().splitlines()
    assert f"{door} = {address}: Address already in use" in line
    assert "exit code 2" in str(caught.value)


async def test_a_server_that_could_not_start_leaves_the_data_free_for_the_next(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ServerFailed):
        await server_at(tmp_path, http=f"127.0.0.1:{taken.getsockname()[1]}").start()

    async with server_at(tmp_path) as child:
        assert child.running


async def test_a_server_drains_under_load_of_every_kind_of_call_with_all_answers_on_disk(tmp_path):
    child = server_at(tmp_path, drain_s=10.0)
    await child.start()
    async with freshet.connect(child.grpc) as client, channel_to(child.grpc) as channel:
        await client.create_model("m", ["a", "b"], hidden=4)
        opened = [await RawStream(channel, "m", f"s{n}").__aenter__() for n in range(8)]
        muxes = [RawMux(channel, "m") for _ in range(2)]
        for n, mux in enumerate(muxes):
            await mux.bind({handle: f"mux{n}-{handle}" for handle in range(16)})
        mills = [await RawLearn(channel, "m", f"mill{n}").__aenter__() for n in range(2)]
        busy = Busy(len(opened) + len(muxes) + len(mills))
        calls = [
            *(load_stream(call, busy) for call in opened),
            *(load_mux(call, busy) for call in muxes),
            *(load_mill(call, busy) for call in mills),
        ]
        loads = [asyncio.create_task(call) for call in calls]
        await asyncio.wait_for(busy.all.wait(), DEADLINE_S)  # every call is in the middle of its work

        assert await child.stop() == 0
        answered = await asyncio.wait_for(asyncio.gather(*loads), DEADLINE_S)

    assert "Traceback" not in (tmp_path / "log").read_text()
    await child.start()
    async with channel_to(child.grpc) as channel:
        for n, last in enumerate(answered[: len(opened)]):
            async with RawStream(channel, "m", f"s{n}") as again:
                assert again.welcome.next_seq > last
                assert again.welcome.durable_seq == again.welcome.next_seq - 1
        for n, last in enumerate(answered[len(opened) : -len(mills)]):
            async with RawMux(channel, "m") as mux:
                bound = await mux.bind({handle: f"mux{n}-{handle}" for handle in range(16)})
                assert all(b.durable_seq >= last for b in bound.values())
        for n, last in enumerate(answered[-len(mills) :]):
            async with RawLearn(channel, "m", f"mill{n}") as learn:
                assert learn.welcome.next_window_seq > last == mills[n].acknowledged.window_seq
    assert await child.stop() == 0


class Busy:
    """Set once this many calls have been answered a few times each."""

    def __init__(self, calls: int) -> None:
        self._left, self.all = calls, asyncio.Event()

    def answered(self, times: int) -> None:
        self._left -= times == 5
        if not self._left:
            self.all.set()


async def until_ended(call: Any, step: Callable[[], Awaitable[None]]) -> None:
    """Repeat the step until the draining server ends the call."""
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        while True:
            await step()
    # A write at the end of the call can replace the status by gRPC's own INTERNAL (grpc/grpc#36066).
    assert await call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)


async def load_stream(stream: RawStream, busy: Busy) -> int:
    """Tick until the server ends the call. Returns the last seq answered."""
    seq = 0

    async def tick() -> None:
        nonlocal seq
        answer = await stream.tick(seq + 1, ROWS[seq % len(ROWS)].tolist())
        if answer.HasField("reconnect"):
            raise await stream.error()
        seq += answer.HasField("forecast")
        busy.answered(seq)

    await until_ended(stream.call, tick)
    return seq


async def load_mux(mux: RawMux, busy: Busy) -> int:
    """Send packed ticks of all 16 handles until the server ends the call. Returns the last seq answered for all."""
    seq = 0

    async def ticks() -> None:
        nonlocal seq
        await mux.ticks(range(16), [seq + 1] * 16, ROWS[:16])
        seq += 1
        busy.answered(seq)

    await until_ended(mux.call, ticks)
    return seq


async def load_mill(learn: RawLearn, busy: Busy) -> int:
    """Send windows until the server ends the call. Returns the last one acknowledged."""
    seq = 0

    async def send() -> None:
        nonlocal seq
        seq += 1
        await learn.say(window=window(seq))
        await learn.until(windows=seq)
        busy.answered(seq)

    await until_ended(learn.call, send)
    return learn.acknowledged.window_seq
