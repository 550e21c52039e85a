"""Real nodes, a real client: owners die, pause, drain and join, and streams continue as if nothing had happened."""

from __future__ import annotations

import asyncio
import os
import re
import signal

import pytest

import freshet
from tests.cluster.several import SHARDS, Several, check_answers, several, shard
from tests.journeys import crash
from tests.journeys.crash import SMALL, Ledger, follow, walk, within
from tests.journeys.scraped import scrape
from tests.oracles import replay
from tests.torture import verify
from tests.torture.report import Part

IN_FLIGHT = 32


async def stream(client: freshet.Client, model: str, ledger: Ledger, moved: asyncio.Event) -> None:
    """Send a ledger's ticks, then wait until all are durable and judged."""
    async with client.stream(model, ledger.stream, IN_FLIGHT) as stream:
        async with asyncio.timeout(3 * crash.DEADLINE_S):
            await follow(stream, ledger, moved, max_staleness=48)
        await within(stream.durable())
        await within(stream.wait_judged(len(ledger.sent)))


async def answers(ledgers: list[Ledger], moved: asyncio.Event, wanted: int) -> None:
    """Wait until the ledgers have this many answers together."""
    async with asyncio.timeout(3 * crash.DEADLINE_S):
        while sum(len(ledger.answers) for ledger in ledgers) < wanted:
            moved.clear()
            await moved.wait()


async def lost_owner_journey(cluster: Several, lose: object, ticks: int = 400, streams: int = 2) -> list[Ledger]:
    """Streams of a learning model; at a third and at two thirds `lose` is called with the owner's node."""
    ledgers, moved = [Ledger(f"pump-{n}", walk(ticks, n)) for n in range(streams)], asyncio.Event()
    async with freshet.connect(cluster.addresses) as client, asyncio.TaskGroup() as group:
        await client.create_model("flow", **SMALL)
        tasks = [group.create_task(stream(client, "flow", ledger, moved)) for ledger in ledgers]
        for third in (1, 2):
            await answers(ledgers, moved, third * streams * ticks // 3)
            await lose(cluster.node_at(cluster.owner("flow").address))  # type: ignore[operator]
        await asyncio.gather(*tasks)
    return ledgers


def check(cluster: Several, ledgers: list[Ledger]) -> None:
    """Every tick is once in the store's journal with the values sent, and was answered as an unbroken run would."""
    chunks, files = cluster.chunks("flow"), replay.Files.of(cluster.folder_of("flow"))
    expected = replay.served(chunks, files).answers
    assert set(expected) == {(ledger.stream, seq) for ledger in ledgers for seq in range(1, len(ledger.sent) + 1)}
    for ledger in ledgers:
        check_answers(ledger, expected, IN_FLIGHT)


def check_weights(cluster: Several) -> None:
    """What each node's trainer has saved last equals an uninterrupted fold of the store's journal."""
    part, files, checked = Part(hits=1), replay.Files.of(cluster.folder_of("flow")), 0
    for path in cluster.checkpoints("flow"):
        for hosted in verify.saved(path).values():
            verify.learning(part, cluster.chunks("flow"), files, hosted)
            checked += 1
    assert checked
    assert part.good, part.as_json()


async def test_streams_continue_when_their_owner_is_killed_and_answers_and_weights_are_those_of_an_unbroken_run(
    tmp_path,
):
    async def lose(node):
        node.kill()
        await node.wait()

    async with several(tmp_path) as cluster:
        ledgers = await lost_owner_journey(cluster, lose)
        assert cluster.owner("flow").epoch >= 3
    check(cluster, ledgers)
    check_weights(cluster)


@pytest.mark.long  # in one process: test_what_a_former_owner_appends_after_a_claim_conflicts
async def test_an_owner_that_was_paused_has_nothing_acknowledged_after_the_claim_of_the_next(tmp_path):
    async with several(tmp_path, count=2) as cluster:

        async def lose(node):
            os.kill(node.pid, signal.SIGSTOP)
            epoch = cluster.owner("flow").epoch

            async def resume():
                async with asyncio.timeout(crash.DEADLINE_S):
                    while cluster.owner("flow").epoch == epoch:
                        await asyncio.sleep(0.02)
                os.kill(node.pid, signal.SIGCONT)

            await resume()

        ledgers = await lost_owner_journey(cluster, lose)
        lost = [(await scrape(node.http)).total("freshet_shard_lost_total") for node in cluster.nodes]
    assert sum(lost) >= 1, "the former owner noticed"
    check(cluster, ledgers)
    check_weights(cluster)


@pytest.mark.long  # without joining: test_the_node_that_takes_a_shard_over_has_little_to_replay
async def test_a_node_that_drains_hands_its_shards_over_and_one_that_joins_takes_its_share(tmp_path):
    async with several(tmp_path) as cluster:

        async def lose(node):
            assert await node.stop(crash.DEADLINE_S) == 0, node.last_words()
            await node.start()

        ledgers = await lost_owner_journey(cluster, lose)
        async with asyncio.timeout(crash.DEADLINE_S):  # each shard is served by one of the three in the end
            while sum([(await scrape(node.http)).total("freshet_shards_owned") for node in cluster.nodes]) != SHARDS:
                await asyncio.sleep(0.1)
    check(cluster, ledgers)
    check_weights(cluster)


async def test_the_node_that_takes_a_shard_over_has_little_to_replay(tmp_path):
    ledger, moved = Ledger("pump", walk(200, 0)), asyncio.Event()
    async with several(tmp_path, count=2) as cluster, freshet.connect(cluster.addresses) as client:
        await client.create_model("flow", **SMALL)
        await stream(client, "flow", ledger, moved)
        left = cluster.node_at(cluster.owner("flow").address)
        assert await left.stop(crash.DEADLINE_S) == 0, left.last_words()
        await client.get_model("flow")
        heir = cluster.node_at(cluster.owner("flow").address)
        text = (tmp_path / f"log-{cluster.nodes.index(heir)}").read_text()
        assert heir is not left
    assert int(re.findall(r"event=recovered models=1 replayed=(\d+)", text)[-1]) < 20  # versions, but no ticks


async def test_any_node_lists_the_models_of_all_with_shard_owner_and_epoch(tmp_path):
    names = ["flow", "level", "power", "rain"]
    async with several(tmp_path, count=2) as cluster:
        await cluster.settle()  # lists and the store are asked one after the other
        async with freshet.connect(cluster.addresses) as client:
            for name in names:
                await client.create_model(name, **SMALL)
        for address in cluster.addresses:
            async with freshet.connect(address) as client:
                models = {model.name: model for model in await client.list_models()}
                assert sorted(models) == names
                for name, model in models.items():
                    assert (model.shard, model.node) == (shard(name), cluster.owner(name).address)
                    assert model.epoch == cluster.owner(name).epoch


async def test_a_list_right_after_the_death_of_a_node_has_its_models_too(tmp_path):
    names = ["flow", "level", "power", "rain"]
    async with several(tmp_path, count=2) as cluster:
        async with freshet.connect(cluster.addresses) as client:
            for name in names:
                await client.create_model(name, **SMALL)
        first, second = cluster.nodes
        first.kill()
        await first.wait()
        async with freshet.connect(second.grpc) as client:
            models = await client.list_models()
        assert sorted(model.name for model in models) == names
        assert {model.node for model in models} == {second.grpc}


async def test_a_shadow_is_made_beside_its_source_or_refused_with_a_name_that_fits(tmp_path):
    async with several(tmp_path, count=2) as cluster, freshet.connect(cluster.addresses) as client:
        await client.create_model("flow", **SMALL)
        elsewhere = next(name for name in ("one", "two", "three", "four", "five") if shard(name) != shard("flow"))
        with pytest.raises(freshet.errors.InvalidArgument, match="name it ") as refused:
            await client.create_model(elsewhere, **SMALL, shadow="flow")
        fitting = str(refused.value).rpartition("name it ")[2].split()[0]
        made = await client.create_model(fitting, **SMALL, shadow="flow")
        assert made.shard == shard("flow")
