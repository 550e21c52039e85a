"""A cluster seen from any of its nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

import freshet
from tests.journeys.clusters import SHARDS, cluster, name_on, shared_out, until
from tests.journeys.crash import DEADLINE_S, within
from tests.journeys.test_models_cli import Shell
from tests.journeys.web import act, ask


async def test_any_node_names_all_nodes_and_the_owner_and_models_of_every_shard(tmp_path):
    async with cluster(tmp_path) as nodes:
        seen = await until(nodes[0].grpc, lambda found: True)
        async with freshet.connect(seen.shards[2].node) as client:
            await within(client.create_model(name_on(2), channels=["x"], hidden=4))
        # A busy machine may write a node's note so late that others miss it once.
        found = await until(seen.shards[2].node, lambda found: shared_out(found, 2) and found.shards[2].models == 1)
        assert [node.address for node in found.nodes] == sorted(node.grpc for node in nodes)
        assert {node.address: node.http for node in found.nodes} == {node.grpc: node.http for node in nodes}
        assert sorted(n for node in found.nodes for n in node.shards) == list(range(SHARDS))
        assert [shard.models for shard in found.shards] == [0, 0, 1, 0]
        assert all(shard.epoch >= 1 for shard in found.shards)

        with freshet.sync.connect(nodes[1].grpc) as blocking:
            await until(nodes[1].grpc, lambda again: again == found == blocking.cluster())

        run = Shell(nodes[1].grpc, tmp_path, group="nodes")
        addresses = sorted(node.grpc for node in nodes)
        header, *lines = await lines_of(run, lambda lines: [line.split()[0] for line in lines[1:3]] == addresses)
        assert header.split() == ["node", "http", "started", "shards", "state"]
        assert lines[3].split() == ["shard", "node", "epoch", "models"]
        assert [line.split()[0] for line in lines[4:]] == ["000", "001", "002", "003"]
        told = await run.json()
        assert [shard["node"] for shard in told["shards"]] == [shard.node for shard in found.shards]

        models = Shell(nodes[0].grpc, tmp_path)
        names, row = await lines_of(partial(models, "list"), lambda lines: len(lines) == 2)
        assert names.split()[-3:] == ["shard", "node", "epoch"]
        assert row.split()[-3:] == ["002", found.shards[2].node, str(found.shards[2].epoch)]
        for node in nodes:
            top = Shell(node.grpc, tmp_path, group="top")
            told = await top.json("--once", "--interval", "0.2", "--http", node.http)
            assert [(m["model"], m["shard"], m["node"]) for m in told["models"]] == [
                (name_on(2), 2, found.shards[2].node)
            ]
            assert told["models"][0]["version"] == 1
            assert told["server"]["shards"] == len(next(n.shards for n in found.nodes if n.address == node.grpc))

        nodes[0].kill()
        await within(nodes[0].wait())
        left = await until(nodes[1].grpc, lambda found: len(found.nodes) == 1 and all(s.node for s in found.shards))
        assert {shard.node for shard in left.shards} == {nodes[1].grpc}


async def lines_of(command: Callable[[], Awaitable[str]], wanted: Callable[[list[str]], bool]) -> list[str]:
    """Return the lines that a command prints, once they are as wanted."""
    async with asyncio.timeout(DEADLINE_S):
        while not wanted(lines := (await command()).splitlines()):
            pass
    return lines


async def test_a_watch_of_all_models_has_the_events_of_all_nodes(tmp_path):
    async with cluster(tmp_path) as nodes:
        seen = await until(nodes[0].grpc, lambda found: True)
        names = [name_on(shard.shard) for shard in seen.shards]
        async with freshet.connect(nodes[0].grpc) as client, asyncio.timeout(DEADLINE_S):
            await client.create_model(names[0], channels=["x"], hidden=4)
            watched = client.watch()
            first = asyncio.ensure_future(anext(watched))
            while not first.done():  # until the call is open
                await client.pause(names[0])
                await client.resume(names[0])
            for name in names[1:]:
                await client.create_model(name, channels=["x"], hidden=4)
            created = set[str]()
            while created != {*names[1:]}:
                event = await anext(watched)
                created |= {event.model} if event.kind == freshet.EventKind.CREATED else set()
            for node in nodes:
                async with freshet.connect(node.grpc) as other:
                    assert {event.model for event in await other.history("", 100)} == {*names}
                    assert len(await other.history("", 2)) == 2
                    assert {event.model for event in await other.history(names[0], 100)} == {names[0]}


async def test_a_single_server_says_that_it_is_alone(server, tmp_path):
    async with freshet.connect(server.grpc) as client:
        with pytest.raises(freshet.Unimplemented, match="this server is alone: give it a store"):
            await client.cluster()
    assert "this server is alone" in await Shell(server.grpc, tmp_path, group="nodes")(code=1)


async def test_any_node_lists_all_models_over_http_and_answers_for_its_own(tmp_path):
    async with cluster(tmp_path) as nodes:
        seen = await until(nodes[0].grpc, lambda found: True)
        names = sorted(name_on(shard.shard) for shard in seen.shards)
        async with freshet.connect(nodes[0].grpc) as client:
            for name in names:
                await within(client.create_model(name, channels=["x"], hidden=4))
            owner = {model.name: model.node for model in await client.list_models()}
        http = {node.grpc: node.http for node in nodes}
        for node in nodes:
            listed = (await ask(node.http, "/api/v1/models")).json["models"]
            assert [model["name"] for model in listed] == names
            page = (await ask(node.http, f"/api/v1/models?limit=1&after={names[0]}")).json
            assert ([model["name"] for model in page["models"]], page["next"]) == ([names[1]], names[1])
            assert (await ask(node.http, "/api/v1")).json["node"] == node.grpc
            for name in names:
                path = f"/api/v1/models/{name}"
                read, acted = await ask(node.http, path), await act(node.http, f"{path}/pause")
                if owner[name] == node.grpc:
                    assert (read.status, acted.status) == (200, 200)
                else:
                    assert (read.status, acted.status) == (421, 421)
                    assert (read.error["address"], read.error["http"]) == (owner[name], http[owner[name]])
