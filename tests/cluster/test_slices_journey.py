"""Real nodes, a model in slices: owners of its home and its slices die; all is learned once, in one order."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import freshet
from freshet.v1 import streams_pb2, streams_pb2_grpc, types_pb2
from service.cluster.nodes.placing import shard_of
from service.cluster.shards.owner import owner_of
from service.cluster.slices.names import shard_of_slice
from service.common.names import ModelKey
from service.common.slices import slice_of
from service.journal.records import SHARD, Chunk, Gathered, Ticks
from service.programs.backtest.child import ServerChild
from tests.cluster.several import Several, check_answers, journal, several
from tests.cluster.test_failover import IN_FLIGHT, answers, stream
from tests.journeys import crash
from tests.journeys.crash import SMALL, Array, Ledger, walk
from tests.journeys.scraped import scrape
from tests.oracles import replay
from tests.oracles.unbroken import Unbroken
from tests.torture import verify
from tests.torture.report import Part

SHARDS, COUNT, TICKS = 4, 3, 300
SLICED = {"shards": SHARDS, "slices": f"flow={COUNT}", "slices_s": 0.02, "checkpoint_chunks": 1}
HOME = shard_of(ModelKey("default", "flow"), SHARDS)
SLICES = [shard_of_slice(HOME, index, SHARDS) for index in range(COUNT)]
STREAMS = [next(f"pump-{n}" for n in range(99) if slice_of(f"pump-{n}", COUNT) == index) for index in range(COUNT)]


def owner(cluster: Several, shard: int) -> ServerChild:
    """The node that owns a shard, as the store says."""
    with cluster.store() as store:
        found = owner_of(store, shard)
    assert found is not None
    return cluster.node_at(found.address)


def chunks_of(cluster: Several, shard: int) -> list[Chunk]:
    """The journal of the only model of a shard."""
    with cluster.store() as store:
        found = [chunk for chunk in journal(store, shard) if chunk.model != SHARD]
    assert len({chunk.model for chunk in found}) == 1
    return [replace(chunk, model=1) for chunk in found]


def folder(cluster: Several, shard: int) -> Path:
    return owner(cluster, shard).data / f"shard-{shard:03d}"


async def run(cluster: Several, lose: list[int]) -> list[Ledger]:
    """One stream in each slice; the owner of each shard in `lose` is killed on the way."""
    ledgers, moved = [Ledger(name, walk(TICKS, n)) for n, name in enumerate(STREAMS)], asyncio.Event()
    async with freshet.connect(cluster.addresses) as client, asyncio.TaskGroup() as group:
        await client.create_model("flow", **SMALL)
        tasks = [group.create_task(stream(client, "flow", ledger, moved)) for ledger in ledgers]
        for n, shard in enumerate(lose, 1):
            await answers(ledgers, moved, n * len(STREAMS) * TICKS // (len(lose) + 1))
            node = owner(cluster, shard)
            node.kill()
            await node.wait()
        await asyncio.gather(*tasks)
    return ledgers


def check_slices(cluster: Several, ledgers: list[Ledger]) -> None:
    """Each slice's journal has its ticks once, and every answer is that of the version which it names."""
    for ledger, shard in zip(ledgers, SLICES, strict=True):
        expected = replay.served(chunks_of(cluster, shard), replay.Files.of(folder(cluster, shard))).answers
        assert set(expected) == {(ledger.stream, seq) for seq in range(1, TICKS + 1)}
        check_answers(ledger, expected, IN_FLIGHT)


def check_learning(cluster: Several) -> None:
    """The home's journal has every tick of every slice once, in its order, and its replay gives the trainer's
    weights."""
    chunks = chunks_of(cluster, HOME)
    records = [record for chunk in chunks for record in chunk.records]
    learned = [
        (int(number), int(seq))
        for record in records
        if isinstance(record, Ticks)
        for number, seq in zip(record.stream, record.seq, strict=True)
    ]
    for index in range(COUNT):
        assert [seq for number, seq in learned if number % COUNT == index] == [*range(1, TICKS + 1)]
    assert any(isinstance(record, Gathered) for record in records)
    part, files = Part(hits=1), replay.Files.of(folder(cluster, HOME))
    # Of every node that had the home: the last one may have got it while it left, and have learned nothing.
    saved = [path for node in cluster.nodes for path in node.data.glob(f"shard-{HOME:03d}/trainer.db")]
    models = [hosted for path in saved for hosted in verify.saved(path).values()]
    assert models
    for hosted in models:
        verify.learning(part, chunks, files, hosted)
    assert part.good, part.as_json()


async def test_streams_of_one_model_are_served_by_three_shards_and_learned_in_one(tmp_path):
    async with several(tmp_path, settings=SLICED) as cluster:
        await cluster.settle()  # another owner counts from 0
        ledgers = await run(cluster, [])
        for shard in SLICES:
            found = await scrape(owner(cluster, shard).http)
            fresh = found.total("freshet_label_to_serving_seconds_count", model="flow", shard=f"{shard:03d}")
            assert fresh > 0, "how fresh the answers are is counted where they are given"
            assert not found.total("freshet_slices_waiting")
    check_slices(cluster, ledgers)
    check_learning(cluster)


@pytest.mark.long  # in one process: test_slices_endings.py
async def test_nothing_is_learned_twice_or_left_out_when_owners_of_home_and_slice_are_killed(tmp_path):
    async with several(tmp_path, settings=SLICED) as cluster:
        ledgers = await run(cluster, [HOME, SLICES[1]])
    check_slices(cluster, ledgers)
    check_learning(cluster)


async def step_all(mux: freshet.Mux, ids: list[str], rows: Array, seq: int, alone: list[Unbroken]) -> None:
    """One tick of each stream, the `seq`-th, is answered as an unbroken run would. rows: [n, channels]."""
    answers = await mux.step(ids, rows)
    assert not answers.refused
    assert answers.seq.tolist() == [seq] * len(ids)
    for i, oracle in enumerate(alone):
        oracle.agrees(answers.y[i], rows[i])


async def test_packed_streams_lists_and_verbs_of_a_model_in_slices_are_those_of_any_other(tmp_path):
    spec: dict[str, Any] = {"channels": ["a", "b"], "learn": False, "head_init": 0.3, "hidden": 8}
    ids, x = [f"m{n}" for n in range(9)], np.random.default_rng(1).normal(size=(12, 9, 2)).astype(np.float32)
    async with several(tmp_path, count=1, settings=SLICED) as cluster, freshet.connect(cluster.addresses) as client:
        model = await client.create_model("flow", **spec)
        alone = [Unbroken(model, await client.export("flow")) for _ in ids]
        async with asyncio.timeout(crash.DEADLINE_S), client.mux("flow") as mux:
            for t, rows in enumerate(x):
                await step_all(mux, ids, rows, t + 1, alone)
        listed = [kept.stream async for kept in client.list_streams("flow", page_size=2)]
        assert sorted(listed) == ids
        assert [slice_of(id, COUNT) for id in listed] == sorted(slice_of(id, COUNT) for id in ids)
        assert (await client.get_stream("flow", "m3")).last_seq == len(x)
        await client.delete_stream("flow", "m3")
        with pytest.raises(freshet.NotFound):
            await client.get_stream("flow", "m3")
        with pytest.raises(freshet.InvalidArgument, match="cannot be erased yet"):
            await client.delete_stream("flow", "m4", erase=True)
        assert [found.name for found in await client.list_models()] == ["flow"]
        with pytest.raises(freshet.InvalidArgument, match="cannot be erased yet"):
            await client.delete_model("flow", erase=True)
        await client.delete_model("flow")
        assert not await client.list_models()


async def test_a_packed_call_tells_on_which_node_the_other_slices_are(tmp_path):
    async with several(tmp_path, count=2, settings=SLICED) as cluster, freshet.connect(cluster.addresses) as client:
        await cluster.settle()
        await client.create_model("flow", **SMALL)
        for name in STREAMS:  # each slice exists then
            async with client.stream("flow", name) as stream:
                await stream.step([1.0])
        owners = {name: owner(cluster, shard).grpc for name, shard in zip(STREAMS, SLICES, strict=True)}
        for address in cluster.addresses:
            async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(crash.DEADLINE_S):
                call: Any = streams_pb2_grpc.StreamsStub(channel).Mux()
                binds = [streams_pb2.Bind(handle=n, stream=name) for n, name in enumerate(STREAMS)]
                await call.write(streams_pb2.MuxRequest(model="flow", bind=binds))
                bound, moved = set[str](), dict[str, str]()
                while len(bound) + len(moved) < COUNT:
                    message = await call.read()
                    bound |= {STREAMS[found.handle] for found in message.bound}
                    for refused in message.refused:
                        assert refused.refused.reason == types_pb2.Refused.MOVED
                        moved[STREAMS[refused.handle]] = refused.address
                assert bound == {name for name, at in owners.items() if at == address}
                assert moved == {name: at for name, at in owners.items() if at != address}
                unknown = streams_pb2.Columns(handle=np.uint32(77).tobytes(), seq=np.uint64(1).tobytes(), x=bytes(4))
                await call.write(streams_pb2.MuxRequest(ticks=unknown))
                message = await call.read()
                while not message.refused:
                    message = await call.read()
                assert message.refused[0].refused.field == "ticks.handle"
                call.cancel()


@pytest.mark.long  # without slices: test_failover.py; without a kill: the tests above
async def test_packed_streams_of_slices_on_several_nodes_go_on_when_one_of_them_is_killed(tmp_path):
    spec: dict[str, Any] = {"channels": ["a"], "learn": False, "head_init": 0.3, "hidden": 8}
    ids, x = [f"m{n}" for n in range(12)], np.random.default_rng(1).normal(size=(30, 12, 1)).astype(np.float32)
    async with several(tmp_path, settings=SLICED) as cluster, freshet.connect(cluster.addresses) as client:
        model = await client.create_model("flow", **spec)
        alone = [Unbroken(model, await client.export("flow")) for _ in ids]
        async with asyncio.timeout(crash.DEADLINE_S), client.mux("flow") as mux:
            for t, rows in enumerate(x):
                await step_all(mux, ids, rows, t + 1, alone)
                if t in (10, 20):
                    node = owner(cluster, SLICES[t // 10 - 1])
                    node.kill()
                    await node.wait()
                    await node.start()
