"""Misbehaving clients: half-open connections, calls that are never read, more connections and calls than allowed."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import freshet
from freshet.v1 import models_pb2, models_pb2_grpc, streams_pb2_grpc, training_pb2, types_pb2
from freshet.v1 import streams_pb2 as pb
from service.common.limits import MAX_HTTP_CONNECTIONS
from service.programs.backtest.child import ServerChild
from tests.journeys.crash import mutate
from tests.journeys.raw import DEADLINE_S, RawLearn, RawStream, channel_to
from tests.journeys.raw_mux import RawMux, columns
from tests.journeys.scraped import get, scrape, scraped_until
from tests.journeys.test_bounds import retry_s

SETTINGS = {"write_s": 1.0, "max_calls": 8, "handshake_s": 2.0, "keepalive_s": 1.0, "stream_ticks_per_s": 40.0}

SERVING_ONLY: dict[str, Any] = {"learn": False, "head_init": 0.3, "hidden": 8}
ROWS = np.cumsum(np.random.default_rng(5).standard_normal((60, 2)), axis=0).astype(np.float32)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
OUR_SETTINGS, ACKNOWLEDGED = b"\0\0\0\4\0\0\0\0\0", b"\0\0\0\4\1\0\0\0\0"
# What a peer says before it falls silent: nothing; half a greeting; a greeting; all of it, and never answers a ping.
SILENCES = (b"", PREFACE[:10], PREFACE + OUR_SETTINGS, PREFACE + OUR_SETTINGS + ACKNOWLEDGED)


async def gone(target: str, said: bytes) -> None:
    """Open a connection, send some bytes, and wait until the server closes it."""
    host, _, port = target.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(said)
        with contextlib.suppress(ConnectionResetError):
            while await reader.read(1 << 12):
                pass
    finally:
        writer.close()


@pytest.mark.parametrize("connections", [200, pytest.param(2000, marks=pytest.mark.long)])
async def test_half_open_connections_are_closed_and_good_clients_answered(server, client, name, connections):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2 * connections + 500)), hard))
    await client.create_model(name, ["a", "b"], **SERVING_ONLY)
    waiting = [asyncio.create_task(gone(server.grpc, SILENCES[n % len(SILENCES)])) for n in range(connections)]
    try:
        async with client.stream(name, "good") as stream:
            for row in ROWS:
                await stream.step(row)
            await asyncio.wait_for(asyncio.gather(*waiting), DEADLINE_S)  # the server has closed every one of them
            await stream.step(ROWS[0])
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def small_window(target: str, window_bytes: int = 1 << 16) -> grpc.aio.Channel:
    """A channel with a fixed window for unread answers; by default gRPC grows it with the delay."""
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", window_bytes)]
    return grpc.aio.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1), *options])


async def deaf_call(kind: str, channel: grpc.aio.Channel, model: str) -> RawStream | RawMux | RawLearn:
    """A call whose client causes more answers than the connection holds, and reads none."""
    if kind == "Open":
        stream = await RawStream(channel, model, "s").__aenter__()
        for _ in range(1000):
            await stream.say(tick=pb.Tick(seq=1, x=ROWS[0]))  # 2 kB each
        return stream
    if kind == "Mux":
        mux = RawMux(channel, model)
        await mux.bind({0: "s"})
        for _ in range(1000):
            await mux.say(ticks=columns([0], [1], ROWS[:1]))
        return mux
    learn = await RawLearn(channel, model, "mill").__aenter__()
    for _ in range(3000):
        await learn.say(window=training_pb2.Window(window_seq=1))  # a refusal of about 100 bytes
    return learn


@pytest.mark.parametrize("kind", ["Open", "Mux", "Learn"])
async def test_a_client_that_does_not_read_is_cut_with_a_reason_and_its_stream_is_free(server, client, name, kind):
    await client.create_model(name, ["a", "b"], horizon=500, **SERVING_ONLY)
    before = (await scrape(server.http)).total("freshet_calls_cut_total")
    async with small_window(server.grpc) as channel:
        deaf = await deaf_call(kind, channel, name)
        await scraped_until(server.http, lambda s: s.total("freshet_calls_cut_total") > before)

        error = await deaf.error()  # when it reads again

        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert retry_s(error) > 0
        async with client.stream(name, "s") as stream:
            assert stream.next_seq == (1 if kind == "Learn" else 2)
            await stream.step(ROWS[1])


async def test_a_watcher_that_does_not_read_is_cut(server, client, name):
    before = (await scrape(server.http)).total("freshet_calls_cut_total")
    await client.create_model(name, ["a", "b"], **SERVING_ONLY)
    async with small_window(server.grpc, 1 << 10) as channel:
        deaf = models_pb2_grpc.ModelsStub(channel).Watch(models_pb2.WatchRequest(name=name), timeout=2 * DEADLINE_S)
        await deaf.initial_metadata()
        async with asyncio.timeout(DEADLINE_S):
            while (await scrape(server.http)).total("freshet_calls_cut_total") == before:
                for act in (client.pause, client.resume) * 10:  # each causes an event of some dozen bytes
                    await act(name)

        with pytest.raises(grpc.aio.AioRpcError) as cut:
            async for _ in deaf:
                pass
    assert cut.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_call_that_is_never_read_ends_nevertheless(server, client, name):
    await client.create_model(name, ["a", "b"], horizon=500, **SERVING_ONLY)
    async with small_window(server.grpc) as channel:
        deaf = await deaf_call("Open", channel, name)
        await scraped_until(server.http, lambda s: open_calls(s) == 0)  # the call is gone
        async with client.stream(name, "other") as stream:
            await stream.step(ROWS[0])
        deaf.call.cancel()


def open_calls(scraped: Any) -> float:
    """Return the number of open calls of Streams.Open."""
    began, ended = (scraped.total(f"grpc_server_{n}_total", grpc_method="Open") for n in ("started", "handled"))
    return began - ended


async def test_a_call_beyond_the_limit_is_refused_with_a_delay_and_health_still_answers(server, client, name):
    await client.create_model(name, ["a", "b"], **SERVING_ONLY)
    await scraped_until(server.http, lambda s: open_calls(s) == 0)
    async with channel_to(server.grpc) as channel, contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(RawStream(channel, name, f"s{n}")) for n in range(8)]

        error = await RawStream(channel).error()  # before it sends anything

        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert retry_s(error) > 0
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        await streams[0].finish()
        async with asyncio.timeout(DEADLINE_S):
            while True:  # a place is free once the server has seen another call end
                with contextlib.suppress(grpc.aio.AioRpcError, AssertionError):
                    async with RawStream(channel, name, "later") as stream:
                        assert (await stream.tick(1, ROWS[0].tolist())).HasField("forecast")
                        break


async def test_a_stream_that_is_too_fast_gets_a_delay_that_the_sdk_respects(server, client, channel, name):
    """At 40 ticks per second; more are sent at once than a busy machine takes seconds for."""
    await client.create_model(name, ["a", "b"], **SERVING_ONLY)
    async with RawStream(channel, name, "by hand") as stream:
        for seq in range(1, 1001):
            await stream.say(tick=pb.Tick(seq=seq, x=ROWS[seq % len(ROWS)]))
        while (answer := await stream.answer()).HasField("forecast"):
            pass
        assert answer.refused.reason == types_pb2.Refused.OVERLOADED
        assert 0 < answer.refused.retry_s <= 1 / 40

    async def refused() -> float:
        return (await scrape(server.http)).total("freshet_ticks_refused_total", reason="overloaded")

    before, seqs = await refused(), list[int]()
    async with asyncio.timeout(DEADLINE_S), client.stream(name, "by the SDK") as stream:
        while await refused() == before:  # a busy machine may send few at once
            seqs += [forecast.seq async for forecast in stream.forecasts(ROWS)]
    assert seqs == list(range(1, len(seqs) + 1))


async def test_connections_beyond_the_limit_are_closed_and_the_others_continue(tmp_path):
    child = ServerChild(tmp_path / "data", tmp_path / "log", settings={"max_connections": 4})
    async with child, freshet.connect(child.grpc) as client, contextlib.AsyncExitStack() as stack:
        await client.create_model("m", ["a", "b"], **SERVING_ONLY)
        async with client.stream("m", "s") as stream:
            await stream.step(ROWS[0])

            channels = [await stack.enter_async_context(channel_to(child.grpc)) for _ in range(8)]
            answers = await asyncio.gather(*map(reaches, channels))

            assert 0 < sum(answers) < 8
            await stream.step(ROWS[1])


async def reaches(channel: grpc.aio.Channel) -> bool:
    """Whether a call on the channel is answered at the first attempt."""
    try:
        await streams_pb2_grpc.StreamsStub(channel).List(pb.ListStreamsRequest(model="m"), timeout=DEADLINE_S)
    except grpc.aio.AioRpcError as error:
        return error.code() is not grpc.StatusCode.UNAVAILABLE
    return True


async def test_the_side_server_closes_its_oldest_connections_and_answers_probes(server):
    """Silent connections, like probes that never send a request."""
    async with crowd_at(server.http, b"GET /"):
        for _ in range(3):
            assert (await asyncio.to_thread(get, f"http://{server.http}/healthz"))[0] == 200


@contextlib.asynccontextmanager
async def crowd_at(http: str, said: bytes) -> AsyncIterator[None]:
    """Open three times as many connections as allowed, each sending only this; the oldest get closed."""
    crowd = [asyncio.create_task(gone(http, said)) for _ in range(3 * MAX_HTTP_CONNECTIONS)]
    try:
        async with asyncio.timeout(DEADLINE_S):
            while sum(task.done() for task in crowd) < len(crowd) - MAX_HTTP_CONNECTIONS:
                await asyncio.wait([task for task in crowd if not task.done()], return_when=asyncio.FIRST_COMPLETED)
        yield
    finally:
        for task in crowd:
            task.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)


async def test_a_connection_without_a_call_is_closed_and_the_client_connects_again(tmp_path):
    child = ServerChild(tmp_path / "data", tmp_path / "log", settings={"connection_idle_s": 1.0})
    async with child, channel_to(child.grpc) as channel, asyncio.timeout(DEADLINE_S):
        health = health_pb2_grpc.HealthStub(channel)
        await health.Check(health_pb2.HealthCheckRequest())
        while (state := channel.get_state()) is grpc.ChannelConnectivity.READY:
            await channel.wait_for_state_change(state)

        await health.Check(health_pb2.HealthCheckRequest())


FEW_DESCRIPTORS = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))"
NONE_RESERVED = """
import sys
if "service.cli" in sys.orig_argv:
    from service.common import limits
    limits.connections = lambda asked, descriptors: asked
"""


async def crowded(child: ServerChild) -> None:
    """Open 100 connections at once, while the server must still write to one new file after another."""
    async with freshet.connect(child.grpc) as client, asyncio.timeout(DEADLINE_S):
        await client.create_model("m", ["a", "b"], **SERVING_ONLY)
        async with client.stream("m", "s") as stream:
            await stream.step(ROWS[0])
            crowd = [asyncio.create_task(gone(child.grpc, b"")) for _ in range(100)]
            try:
                await asyncio.wait(crowd, return_when=asyncio.FIRST_COMPLETED)  # one was refused
                segments: set[Path] = set()
                while len(segments) < 4:
                    await stream.step(ROWS[1])
                    segments |= set((child.data / "journal").iterdir())
                await stream.durable()
            finally:
                for task in crowd:
                    task.cancel()
                await asyncio.gather(*crowd, return_exceptions=True)


def with_64_descriptors(tmp_path: Path) -> ServerChild:
    settings = {"segment_bytes": 4096, "snapshot_s": 0.1, "handshake_s": 60.0}
    return ServerChild(tmp_path / "data", tmp_path / "log", settings=settings)


async def test_with_64_descriptors_a_server_refuses_connections_and_still_writes_its_files(tmp_path, monkeypatch):
    mutate(monkeypatch, tmp_path, FEW_DESCRIPTORS)
    async with with_64_descriptors(tmp_path) as child:
        await crowded(child)
        async with asyncio.timeout(DEADLINE_S):
            while True:  # places are free once the server has seen the connections close
                async with channel_to(child.grpc) as another:
                    if await reaches(another):
                        break
        assert await child.stop() == 0
    assert "fewer connections than configured" in (tmp_path / "log").read_text()


@pytest.mark.long  # it waits for a timeout
async def test_a_server_that_reserves_no_descriptors_for_files_would_be_detected(tmp_path, monkeypatch):
    mutate(monkeypatch, tmp_path, FEW_DESCRIPTORS + NONE_RESERVED)
    monkeypatch.setitem(globals(), "DEADLINE_S", 10.0)
    async with with_64_descriptors(tmp_path) as child:
        with pytest.raises((TimeoutError, freshet.FreshetError)):
            await crowded(child)
