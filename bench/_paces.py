"""What a store costs while all is well: latency of a tick, lag of Durable, requests; and CPU per forecast by nodes."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

import grpc
import numpy as np

import freshet
from bench._costs import cpu_s
from bench._drives import drive_packed
from bench._nodes import Backend, Nodes, nodes, store_calls
from bench.report import Row
from freshet.v1 import models_pb2, models_pb2_grpc, streams_pb2, streams_pb2_grpc, types_pb2
from tests.journeys.scraped import scrape

EMBEDDED = "embedded"
TICKS, DURABLES = 100, 8  # per round: ticks one at a time, and of these, those whose Durable is waited for
SHARDS = 16  # the default
BUSY_S, TICK_S = 3.0, 0.002
BEAT_S = 0.25  # instead of 2 s: nodes share out one shard after the other, each in some beats
IDLE_IMAGE_S = 8.0  # instead of 30 s, so that some pass while idle nodes are watched
NODES, STREAMS, MESSAGES = 3, 1024, 60


# ---- latency and Durable


async def latency(backends: Sequence[Backend], rounds: int) -> list[Row]:
    """Compare a server without a store with a node on each backend, in turns."""
    async with contextlib.AsyncExitStack() as stack:
        streams = {}
        for name, url in {EMBEDDED: "", **{one.name: one.url("latency") for one in backends}}.items():
            made = await stack.enter_async_context(nodes(url, 1, {"shards": 1} if url else {}))
            client = await stack.enter_async_context(freshet.connect(made.addresses))
            await client.create_model("m", channels=["x"], learn=False)
            streams[name] = await stack.enter_async_context(client.stream("m", "s"))
        steps: dict[str, list[float]] = {name: [] for name in streams}
        lags: dict[str, list[float]] = {name: [] for name in streams}
        for n in range(rounds + 1):
            for name, stream in streams.items():
                taken, late = await _block(stream)
                if n:  # the first round warms up
                    steps[name].append(median(taken))
                    lags[name] += late
        print(f"latency: {rounds} rounds", file=sys.stderr, flush=True)
    return [row for name in streams for row in _latency_rows(name, steps, lags)]


async def _block(stream: freshet.Stream) -> tuple[list[float], list[float]]:
    """Return the seconds of each of some ticks until its answer, and of some from the answer to Durable."""
    taken, late = [], []
    for n in range(TICKS):
        began = time.perf_counter()
        await stream.step([float(n % 7)])
        answered = time.perf_counter()
        taken.append(answered - began)
        if n % (TICKS // DURABLES) == 0:
            await stream.durable()
            late.append(time.perf_counter() - answered)
    return taken, late


def _latency_rows(name: str, steps: dict[str, list[float]], lags: dict[str, list[float]]) -> list[Row]:
    pairs = zip(steps[name], steps[EMBEDDED], strict=True)
    rows = [
        Row(f"tick, {name}", "median latency", median(steps[name]), "s"),
        Row(f"tick, {name}", "Durable after the answer, p50", float(np.quantile(lags[name], 0.5)), "s"),
        Row(f"tick, {name}", "Durable after the answer, p99", float(np.quantile(lags[name], 0.99)), "s"),
    ]
    if name != EMBEDDED:
        ratio = median(ours / base for ours, base in pairs)
        rows.insert(1, Row(f"tick, {name}", "latency over embedded, median of rounds", ratio, "ratio", asked=1.1))
    return rows


# ---- requests


async def requests(backends: Sequence[Backend], idle_s: float) -> list[Row]:
    """Count the calls of the store by a node with one busy shard, at two paces, and by an idle one."""
    rows = []
    for backend in backends:
        for commit_s in (0.01, 0.1):
            rows += await _busy(backend, commit_s)
            print(f"requests, {backend.name}, commit_s {commit_s}", file=sys.stderr, flush=True)
    idle = await asyncio.gather(*(_idle(backends[0], count, idle_s) for count in (1, NODES)))
    return rows + [row for of_count in idle for row in of_count]


async def _busy(backend: Backend, commit_s: float) -> list[Row]:
    """Return the calls per second and shard while a stream ticks without a pause."""
    settings = {"commit_s": commit_s, "shards": SHARDS}
    async with (
        nodes(backend.url(f"requests_{round(1000 * commit_s)}"), 1, settings) as made,
        freshet.connect(made.addresses) as client,
    ):
        await client.create_model("m", channels=["x"])
        async with client.stream("m", "s") as stream:
            before = await _calls(made)
            end = time.perf_counter() + BUSY_S
            while time.perf_counter() < end:
                await stream.step([1.0])
                await asyncio.sleep(TICK_S)
            calls = await _calls(made) - before
    case = f"requests, {backend.name}, 1 busy shard, commit_s {commit_s:g}"
    puts = [Row(case, "append", calls["append"] / BUSY_S, "1/s", asked=1.1 / commit_s)]
    others = sum(calls.values()) - calls["append"]
    return [*puts, Row(case, "all others of the node, versions too", others / BUSY_S, "1/s")]


async def _idle(backend: Backend, count: int, idle_s: float) -> list[Row]:
    """Return the calls of nodes whose shards are all idle, after their first images: alike on any backend."""
    settings = {"shards": SHARDS, "image_s": IDLE_IMAGE_S, "heartbeat_s": BEAT_S}
    async with nodes(backend.url(f"idle_{count}"), count, settings) as made:
        await asyncio.sleep(1.5 * IDLE_IMAGE_S)
        before = await _calls(made)
        await asyncio.sleep(idle_s)
        calls = await _calls(made) - before
    case = f"requests, idle, {count} node{'s' * (count > 1)}, {SHARDS} shards"
    print(f"{case}: {dict(calls)} in {idle_s:g} s", file=sys.stderr, flush=True)
    of_notes = calls["note"] + calls["get"] + calls["list"]
    of_shards = sum(calls.values()) - of_notes
    return [
        Row(case, "per node, in each heartbeat_s", of_notes * BEAT_S / idle_s / count, "calls"),
        Row(case, "per shard, in each image_s", of_shards * IDLE_IMAGE_S / idle_s / SHARDS, "calls"),
    ]


async def _calls(made: Nodes) -> Counter[str]:
    found = [store_calls(await scrape(node.http)) for node in made.each]
    return sum(found, Counter[str]())


# ---- packed forecasts


async def packed(backend: Backend, rounds: int) -> list[Row]:
    """Let 1, 2 and 3 nodes forecast at once, in turns, and return the rate and the CPU of each number of nodes."""
    url, options = backend.url("packed"), [("grpc.max_receive_message_length", 64 << 20)]
    settings = {"shards": SHARDS, "heartbeat_s": BEAT_S}
    async with nodes(url, NODES, settings) as made, contextlib.AsyncExitStack() as stack:
        calls = []
        for node, model in _a_model_of_each(made):
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(node.grpc, options=options))
            calls.append((node.pid, await _bound(channel, model)))
        seqs, cpu, rates = [1] * NODES, dict[int, list[float]](), dict[int, list[float]]()
        for n in range(rounds + 1):
            for count in range(1, NODES + 1):
                # Each time other nodes, so that none of them decides the comparison.
                active = [(n + i) % NODES for i in range(count)]
                spent, wall = await _together([(*calls[i], seqs[i]) for i in active])
                for i in active:
                    seqs[i] += MESSAGES
                if n:
                    cpu.setdefault(count, []).append(spent / (count * STREAMS * MESSAGES))
                    rates.setdefault(count, []).append(count * STREAMS * MESSAGES / wall)
        for _, call in calls:
            call.cancel()
    print(f"packed: {rounds} rounds", file=sys.stderr, flush=True)
    return [row for count in cpu for row in _packed_rows(backend.name, count, cpu, rates)]


def _packed_rows(backend: str, count: int, cpu: dict[int, list[float]], rates: dict[int, list[float]]) -> list[Row]:
    case = f"packed, {backend}, {count} node{'s' * (count > 1)}"
    ratio = median(ours / base for ours, base in zip(cpu[count], cpu[1], strict=True))
    rows = [
        Row(case, "forecasts per second, all together", median(rates[count]), "1/s", better="higher"),
        Row(case, "CPU per forecast", median(cpu[count]), "s"),
    ]
    return rows if count == 1 else [*rows, Row(case, "CPU per forecast over 1 node's", ratio, "ratio", asked=1.1)]


def _a_model_of_each(made: Nodes) -> list[tuple[Any, str]]:
    """Return each node with the name of a model whose shard it owns."""
    names = [f"m{n}" for n in range(64)]
    owners = made.owners(names, SHARDS)
    return [(node, next(name for name in names if owners[name] is node)) for node in made.each]


async def _bound(channel: Any, model: str) -> Any:
    """Create a model, and return a call of Mux with its streams."""
    spec = types_pb2.ModelSpec(channels=["v"], hidden=32, learn=False)
    await models_pb2_grpc.ModelsStub(channel).Create(models_pb2.CreateModelRequest(name=model, spec=spec))
    call = streams_pb2_grpc.StreamsStub(channel).Mux()
    bind = [streams_pb2.Bind(handle=i, stream=f"s{i}") for i in range(STREAMS)]
    await call.write(streams_pb2.MuxRequest(model=model, bind=bind))
    await call.read()
    return call


async def _together(active: Sequence[tuple[int, Any, int]]) -> tuple[float, float]:
    """Drive calls, each with its node's pid and its first seq; return the seconds of CPU of the nodes, and of clock."""
    before, began = sum(cpu_s(pid) for pid, _, _ in active), time.perf_counter()
    await asyncio.gather(*(drive_packed(call, STREAMS, seq, MESSAGES) for _, call, seq in active))
    return sum(cpu_s(pid) for pid, _, _ in active) - before, time.perf_counter() - began
