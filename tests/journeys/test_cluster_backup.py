"""`freshet backup --store` beside nodes at work, and a cluster that begins from the file."""

from __future__ import annotations

import asyncio
from pathlib import Path

import freshet
from tests.journeys.clusters import cluster, name_on, url_of
from tests.journeys.crash import walk, within
from tests.journeys.test_backup import command

MODELS = [name_on(shard) for shard in (0, 2)]


async def test_a_file_written_under_load_has_all_that_was_durable_and_another_cluster_goes_on_from_it(tmp_path: Path):
    rows, ended = walk(5000, 1), asyncio.Event()
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    out = tmp_path / "cluster.tar"

    async def drive(client: freshet.Client, model: str, enough: asyncio.Event) -> None:
        async with client.stream(model, "pump") as stream:
            for seq, row in enumerate(rows, 1):
                await within(stream.step(row))
                if seq == 40:
                    enough.set()
                if ended.is_set():
                    return

    async with cluster(tmp_path / "first") as nodes, freshet.connect(nodes[0].grpc) as client:
        for model in MODELS:
            await within(client.create_model(model, channels=["x"], hidden=4))
        enough = [asyncio.Event() for _ in MODELS]
        async with asyncio.TaskGroup() as tasks:
            for model, event in zip(MODELS, enough, strict=True):
                tasks.create_task(drive(client, model, event))
            for event in enough:
                await within(event.wait())
            durable = {model: (await client.get_stream(model, "pump")).durable_seq for model in MODELS}
            code, said = await command("backup", "--store", url_of(tmp_path / "first"), "--out", out)
            ended.set()
        assert code == 0, said
        assert "shards" in said
        last = {model: (await client.get_stream(model, "pump")).last_seq for model in MODELS}

    code, said = await command("restore", out, "--store", url_of(tmp_path / "second"))
    assert code == 0, said
    assert "2 models in 2 shards" in said
    assert (await command("restore", out, "--store", url_of(tmp_path / "second")))[0] == 2
    async with cluster(tmp_path / "second") as nodes, freshet.connect(nodes[1].grpc) as client:
        for model in MODELS:
            kept = await client.get_stream(model, "pump")
            assert durable[model] <= kept.last_seq <= last[model]
            async with client.stream(model, "pump") as stream:
                assert (await within(stream.step(rows[kept.last_seq]))).seq == kept.last_seq + 1


async def test_a_backup_is_of_a_server_or_of_a_cluster(tmp_path: Path):
    for arguments in (("backup", "--out", tmp_path / "a.tar"), ("restore", tmp_path / "a.tar")):
        code, said = await command(*arguments)
        assert (code, "give --data DIR for a single server, or --store URL for a cluster" in said) == (2, True)
    code, said = await command("backup", "--store", url_of(tmp_path), "--out", tmp_path / "a.tar")
    assert code == 2
    assert "holds no cluster" in said
