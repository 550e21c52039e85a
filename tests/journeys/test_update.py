"""Settings of learning changed while a model runs, from outside; through crashes of the server and of its trainer."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

import freshet
from freshet import EventKind
from service.datadir.refold import refold
from service.trainer.checkpoint import Checkpoints
from tests.journeys import crash
from tests.journeys.crash import GATE, SMALL, walk, within
from tests.journeys.test_models_cli import Shell
from tests.oracles import replay
from tests.service.histories import digest


async def test_a_rate_is_changed_by_one_command_seen_by_watchers_and_lost_by_no_kill(tmp_path):
    x = walk(300, 5)
    async with crash.a_server(tmp_path, snapshot_s=3600) as server, freshet.connect(server.grpc) as client:
        await client.create_model("flow", **SMALL)
        async with client.stream("flow", "pump") as stream:
            for n, row in enumerate(x):
                await within(stream.step(row))
                if n == 80:
                    model = await client.update_model("flow", learning_rate=0.02, rate_floor=0.0, schedule="constant")
                    assert (model.spec.learning_rate, model.spec.schedule, model.spec.hidden) == (0.02, "constant", 8)
                if n in (81, 200):  # the change is on disk, and perhaps not learned yet
                    server.kill()
                    await server.wait()
                    await server.start()
                    assert (await client.get_model("flow")).spec.learning_rate == 0.02
                if n == 150:
                    await client.update_model("flow", clip=0.2, max_share=0.5, defaults=["schedule"])
                    crash.kill_trainer(server)
                if n == 230:
                    await client.update_model("flow", clip=0.2)  # as it is: no other record
            await within(stream.wait_judged(len(x)))
        assert (await client.create_model("flow", **SMALL)).spec.clip == 0.2, "a deployment finds its model again"
        with pytest.raises(freshet.InvalidArgument, match=r"changes.hidden = 16: it is fixed .* create another model"):
            await client.update_model("flow", hidden=16)
        events = [e for e in await client.history("flow", 128) if e.kind is EventKind.CHANGED]
        assert not events or "clip = 0.2, was 1.0" in events[-1].reason  # a server keeps those since its start
        files = replay.Files.of(server.data)
    chunks = list(replay.read(tmp_path / "data" / "journal"))
    assert [r.kind.name for c in chunks for r in c.records].count("MODEL_CHANGE") == 2
    store = Checkpoints(tmp_path / "data" / "trainer.db")
    saved = store.load(GATE)[1][1]
    store.close()
    whole = replay.learned(chunks, files, GATE, saved.offset)
    assert saved.learner.weights.flat.tobytes() == whole.learner.weights.flat.tobytes()
    assert digest(saved) == digest(whole)
    [again] = await asyncio.to_thread(refold, tmp_path / "data", None)
    assert again.met
    assert not again.missed


async def test_the_command_line_changes_keys_and_says_what_they_are_now(server, client, name, tmp_path):
    run = Shell(server.grpc, tmp_path)
    await client.create_model(name, **SMALL)

    said = await run("set", name, "learning_rate=1e-4", "rate_floor=0", "label_range=[-5, 5]")
    assert said == f"{name}: learning_rate = 0.0001, rate_floor = 0.0, label_range = [-5.0, 5.0]\n"
    said = await run.json("set", name, "label_range=")
    assert said["spec"]["label_range"] == []

    [first, last] = [e for e in await client.history(name) if e.kind is EventKind.CHANGED]
    assert "label_range = [-5.0, 5.0], was []" in first.reason
    assert last.reason == "label_range = [], was [-5.0, 5.0]"
    assert np.isclose((await client.get_model(name)).spec.learning_rate, 1e-4)
