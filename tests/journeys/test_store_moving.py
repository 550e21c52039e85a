"""A server outgrows its machine and returns: `freshet store import`, nodes, `freshet store export`."""

from __future__ import annotations

from pathlib import Path

import freshet
from service.programs.backtest.child import ServerChild
from tests.journeys.clusters import NODE, SHARDS, cluster, name_on, url_of
from tests.journeys.conftest import QUICK
from tests.journeys.crash import walk, within
from tests.journeys.test_backup import command

STEADY = {"publish_labels": 10**9, "publish_s": 1e9}  # the same version answers everywhere
MODELS = [name_on(shard) for shard in (1, 3)]


async def steps(address: str, model: str, rows: object) -> list[list[float]]:
    """The forecasts for more rows of the model's stream."""
    async with freshet.connect(address) as client, client.stream(model, "pump") as stream:
        return [(await within(stream.step(row))).y.tolist() for row in rows]  # type: ignore[attr-defined]


def printed(output: str) -> set[str]:
    return {line for line in output.splitlines() if len(line.split(" ")[0]) == 64}


async def test_streams_go_on_in_a_cluster_and_back_on_one_server_as_if_nothing_had_moved(tmp_path: Path):
    rows = walk(90, 1)
    data, copy, back = tmp_path / "data", tmp_path / "copy", tmp_path / "back"
    single = ServerChild(data, tmp_path / "log", settings=QUICK | STEADY)
    async with single:
        async with freshet.connect(single.grpc) as client:
            for model in MODELS:
                await within(client.create_model(model, channels=["x"], hidden=4, head_init=0.3))
        for model in MODELS:
            await steps(single.grpc, model, rows[:30])
    assert (await command("backup", "--data", data, "--out", tmp_path / "one.tar"))[0] == 0
    assert (await command("restore", tmp_path / "one.tar", "--data", copy))[0] == 0

    code, imported = await command("store", "import", data, url_of(tmp_path), "--shards", SHARDS)
    assert code == 0, imported
    assert f"2 models are in 2 of {SHARDS} shards" in imported
    code, exported = await command("store", "export", url_of(tmp_path), tmp_path / "at once")
    assert code == 0, exported
    assert printed(exported) == printed(imported) != set()

    async with ServerChild(copy, tmp_path / "log", settings=QUICK | STEADY) as unbroken:
        expected = {model: await steps(unbroken.grpc, model, rows[30:]) for model in MODELS}
    async with cluster(tmp_path, settings=STEADY) as nodes:
        for model in MODELS:
            assert await steps(nodes[0].grpc, model, rows[30:60]) == expected[model][:30]
        code, refused = await command("store", "export", url_of(tmp_path), back)
        assert code == 2
        assert any(f"the node {node.grpc} is at work" in refused for node in nodes)
    code, said = await command("store", "export", url_of(tmp_path), back)
    assert code == 0, said
    async with ServerChild(back, tmp_path / "log", settings=QUICK | STEADY) as returned:
        for model in MODELS:
            assert await steps(returned.grpc, model, rows[60:]) == expected[model][30:]

    code, said = await command("store", "import", back, url_of(tmp_path))
    assert code == 2
    assert "is not empty" in said
    assert NODE["shards"] == SHARDS
