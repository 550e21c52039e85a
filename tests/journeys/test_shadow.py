"""Two models on one stream, from outside: a shadow learns beside its source, through kills, and is compared with it."""

from __future__ import annotations

import asyncio
import re

import numpy as np
import pytest

import freshet
from service.datadir.refold import refold
from service.trainer.checkpoint import Checkpoints
from tests.journeys import crash
from tests.journeys.crash import DEADLINE_S, GATE, SMALL, walk, within
from tests.journeys.scraped import scrape
from tests.journeys.test_models_cli import Shell
from tests.oracles import replay
from tests.service.histories import digest


async def test_a_shadow_learns_through_kills_what_an_uninterrupted_fold_of_its_records_would(tmp_path):
    x = walk(360, 4)
    async with crash.a_server(tmp_path, snapshot_s=3600) as server, freshet.connect(server.grpc) as client:
        await client.create_model("flow", **SMALL)
        async with client.stream("flow", "pump") as stream, client.stream("flow", "fan") as other:
            for n, row in enumerate(x):
                await within(stream.step(row))
                if n % 3 == 0:
                    await within(other.step(-row))
                match n:
                    case 40:
                        await client.create_model("try", **SMALL | {"cell": "gru", "shadow": "flow"})
                    case 100:
                        await client.update_model("try", learning_rate=0.005)
                    case 120 | 260:
                        server.kill()
                        await server.wait()
                        await server.start()
                    case 180 | 300:
                        crash.kill_trainer(server)
                    case 200:
                        await stream.reset()
            await within(stream.wait_judged(len(x)))
            async with asyncio.timeout(DEADLINE_S):  # the shadow may be behind its source
                while (await scrape(server.http)).total("freshet_trainer_backlog_entries", model="try"):
                    pass
        assert (await client.get_model("try")).streams == 0
        files = replay.Files.of(server.data, 2)
    chunks = list(replay.read(tmp_path / "data" / "journal"))
    store = Checkpoints(tmp_path / "data" / "trainer.db")
    models = store.load(GATE)[1]
    store.close()
    saved = models[2]
    whole = replay.learned(chunks, files, GATE, saved.offset, 2)
    assert digest(saved) == digest(whole)
    assert whole.learner.counts.learned > 350
    assert whole.learner.spec.learning_rate == 0.005
    for again in refold(tmp_path / "data", None):
        assert again.met
        assert not again.missed


async def test_a_b_is_one_command_and_the_better_one_is_put_into_service_by_those_that_it_prints(
    server, client, name, tmp_path
):
    run = Shell(server.grpc, tmp_path)
    x = walk(700, 8)
    slow, fast, third = f"slow-{name[-30:]}", f"fast-{name[-30:]}", f"third-{name[-30:]}"
    await client.create_model(slow, **SMALL | {"learning_rate": 1e-5, "forecaster": "network"})
    said = await run("create", fast, "--shadow", slow, "--set", "learning_rate=1e-2")
    assert said == f"{fast}: learns from the ticks of {slow}; compare them: freshet models compare {slow} {fast}\n"
    with pytest.raises(freshet.InvalidArgument, match=f"it is a shadow of model {slow}"):
        async with client.stream(fast, "pump") as refused:
            await refused.step(x[0])
    with pytest.raises(freshet.InvalidArgument, match=f"it has shadows: delete {fast} first"):
        await client.delete_model(slow)
    async with client.stream(slow, "pump") as stream:
        for row in x:
            await within(stream.step(row))
        await within(stream.wait_judged(len(x)))
        async with asyncio.timeout(DEADLINE_S):
            while (found := await client.compare_models(fast, slow)).labels <= 600:
                await stream.step(x[0])
        assert (found.shadow, found.source, found.problem) == (fast, slow, "")
        assert np.isclose(found.persistence_loss, found.source_persistence_loss)
        assert found.loss < 0.9 * found.source_loss
        said = await run("compare", slow, fast)
        assert re.search(rf"{fast} is better by \d+\.\d%", said)
        commands = [line.split()[2:] for line in said.splitlines() if line.startswith("  freshet models")]
        assert [command[0] for command in commands] == ["export", "import", "set"]
        for command in commands:
            await run(*command)
        promoted = await client.get_model(slow)
        assert promoted.spec.learning_rate == 1e-2
        assert (await within(stream.step(x[0]))).version == promoted.champion

    with pytest.raises(freshet.InvalidArgument, match="neither is a shadow of the other"):
        await client.compare_models(slow, slow)
    await client.create_model(third, **SMALL | {"scaler": "standard", "shadow": slow})
    assert "they differ in scaler" in (await client.compare_models(slow, third)).problem
    for model in (fast, third, slow):
        await client.delete_model(model)
