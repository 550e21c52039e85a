"""How long a node takes that claims every shard of a store with many streams; and how much code a cluster is."""

from __future__ import annotations

import asyncio
import io
import re
import sys
import time
import tokenize
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from bench._nodes import Backend, Nodes, nodes, timed_start
from bench.memory import tick_all
from bench.report import Row
from freshet.v1 import models_pb2, models_pb2_grpc, streams_pb2, streams_pb2_grpc, types_pb2
from service.cluster.nodes.placing import shard_of
from service.common.names import ModelKey
from tests.journeys.scraped import scrape

SHARDS = 16
ROOT = Path(__file__).resolve().parents[1]
SDK = ("nodes", "search", "leg")


async def startup(backend: Backend, streams: int) -> list[Row]:
    """Make streams in every shard, stop the node, and start another one with an empty folder; again after kill -9."""
    began, each, url = time.perf_counter(), streams // SHARDS, backend.url("startup")
    settings = {"shards": SHARDS, "max_resident": 2 * streams, "image_s": 1e6}  # images when it stops, and no others
    async with nodes(url, 1, settings) as made:
        await _tick_once(made, each, 1)
        await made.each[0].stop(120)
        making = time.perf_counter() - began
        print(f"startup, {backend.name}: {streams} streams made in {making:.0f} s", file=sys.stderr, flush=True)
        drained, left = await _start(made)
        await _tick_once(made, each, 2)
        made.each[0].kill()
        await made.each[0].wait()
        killed, replayed = await _start(made)
    case = f"start, {backend.name}, {streams} streams in {SHARDS} shards, empty folder"
    return [
        Row(case, "making them: Mux, one tick each, drained", making, "s"),
        Row(case, "exec to ready, all shards claimed, after an orderly stop", drained, "s"),
        Row(case, "of it replayed", left, "entries"),
        Row(case, "exec to ready after kill -9", killed, "s"),
        Row(case, "of it replayed", replayed, "entries"),
    ]


async def _start(made: Nodes) -> tuple[float, int]:
    """Start the one node again, with an empty folder; return the seconds until it is ready, and entries replayed.

    At another address it would first wait for the former one, whose note is still there.
    """
    [node] = made.each
    logged = len(made.log(node))
    node.data.rename(node.data.with_name(f"former-{logged}"))  # trainers of a killed node may still be ending
    seconds = await timed_start(node)
    return seconds, sum(map(int, re.findall(r"replayed=(\d+)", made.log(node)[logged:])))


async def _tick_once(made: Nodes, each: int, seq: int) -> None:
    """Tick each stream once, in a model per shard, and wait until that is durable."""
    rng, options = np.random.default_rng(seq), [("grpc.max_receive_message_length", 64 << 20)]
    async with grpc.aio.insecure_channel(made.addresses[0], options=options) as channel:
        for name in models():
            if seq == 1:
                spec = types_pb2.ModelSpec(channels=["v"], hidden=32)
                await models_pb2_grpc.ModelsStub(channel).Create(models_pb2.CreateModelRequest(name=name, spec=spec))
            call: Any = streams_pb2_grpc.StreamsStub(channel).Mux()
            bind = [streams_pb2.Bind(handle=i, stream=f"meter-{i:08}") for i in range(each)]
            await call.write(streams_pb2.MuxRequest(model=name, bind=bind))
            while not (await call.read()).bound:
                pass
            await tick_all(call, each, seq, rng)
            call.cancel()
    while (await scrape(made.each[0].http)).total("freshet_journal_undurable_entries"):
        await asyncio.sleep(0.05)


def models() -> list[str]:
    """Return the name of a model for each shard."""
    found: dict[int, str] = {}
    for n in range(100 * SHARDS):
        found.setdefault(shard_of(ModelKey("default", f"m{n}"), SHARDS), f"m{n}")
    return [found[shard] for shard in range(SHARDS)]


def lines() -> list[Row]:
    """Count the lines of code that only a cluster needs: no blank lines, comments and docstrings."""
    rooms = sorted(path for path in (ROOT / "service" / "cluster").iterdir() if path.is_dir() and path.name[0] != "_")
    parts = {f"service/cluster/{room.name}": sorted(room.rglob("*.py")) for room in rooms}
    parts["SDK: " + ", ".join(SDK)] = [ROOT / "client" / "freshet" / f"{name}.py" for name in SDK]
    counts = {
        part: sum(code_lines(path.read_text(encoding="utf-8")) for path in paths) for part, paths in parts.items()
    }
    rows = [Row("lines of code", part, count, "lines") for part, count in counts.items()]
    return [*rows, Row("lines of code", "together", sum(counts.values()), "lines")]


def code_lines(source: str) -> int:
    """Return the number of lines with code."""
    found, new = set[int](), True  # new: a statement begins; a string alone there is a docstring
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NEWLINE:
            new = True
        elif token.type not in skipped:
            if not (new and token.type == tokenize.STRING):
                found |= set(range(token.start[0], token.end[0] + 1))
            new = False
    return len(found)
