"""A heavy model and a light one on a real server: the light one does not wait for the backlog of the other."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

import freshet
from service.common.names import ModelKey
from service.trainer.checkpoint import Checkpoints
from service.trainer.hosting import HostedModel
from service.trainer.placing import checkpoint_file, checkpoint_files, place
from tests.journeys import crash
from tests.journeys.crash import GATE, SMALL, children, walk, within
from tests.journeys.scraped import scrape
from tests.journeys.test_trainer_crash import NO_SNAPSHOT
from tests.oracles import replay
from tests.service.histories import digest

# A tick of it is answered in far less time than it is learned, on any machine: a backlog is quickly made.
HEAVY: dict[str, Any] = {"channels": ["load"], "horizon": 96, "hidden": 256}


async def backlog(client: freshet.Client, name: str, rows: int, streams: int = 8) -> None:
    """So many ticks of each of the model's streams, on disk, answered as fast as they come."""
    values = np.random.default_rng(1).normal(size=(rows, 1)).astype(np.float32)

    async def one(n: int) -> None:
        async with client.stream(name, f"s{n}") as stream:
            async for _ in stream.forecasts(values):
                pass
            await within(stream.durable())

    await asyncio.gather(*(one(n) for n in range(streams)))


async def test_labels_of_a_light_model_are_judged_before_the_backlog_of_a_heavy_one_that_came_first(tmp_path):
    async with crash.a_server(tmp_path) as server, freshet.connect(server.grpc) as client:
        await client.create_model("heavy", **HEAVY)
        await client.create_model("light", **SMALL)
        await backlog(client, "heavy", 100)
        async with client.stream("light", "pump") as stream:
            for row in walk(40, 1):
                await within(stream.step(row))
            await within(stream.wait_judged(40))

        heavy = await client.get_model("heavy")
        assert heavy.judged_offset < heavy.offset, "the heavy one's backlog was there all the time"
        seen = await scrape(server.http)
        assert seen.total("freshet_unjudged_seconds", model="heavy") > 0
        assert seen.total("freshet_fresh_target_seconds") == 30
        assert seen.total("freshet_learning_seconds_total", model="light") > 0
        assert seen.total("freshet_trainer_backlog_seconds", model="heavy") > 0


async def test_a_heavy_model_is_thinned_while_the_light_one_beside_it_is_not(tmp_path):
    # Twice what a light label waits on a machine four times slower; the heavy backlog is far more work on a fast one.
    async with crash.a_server(tmp_path, comfortable_s=4) as server, freshet.connect(server.grpc) as client:
        await client.create_model("heavy", **HEAVY)
        await client.create_model("light", **SMALL)
        await backlog(client, "heavy", 200)
        async with asyncio.timeout(crash.DEADLINE_S), client.stream("light", "pump") as stream:
            while (await scrape(server.http)).total("freshet_learn_every", model="heavy") <= 1:
                await backlog(client, "heavy", 20)  # until its labels have waited comfortable_s
            for row in walk(60, 1):
                await stream.step(row)
                await stream.durable()
            await backlog(client, "heavy", 10)
            await stream.wait_judged(60)
    chunks = list(replay.read(tmp_path / "data" / "journal"))
    thinned = {model: max(c.learn_every for c in chunks if c.model == model) for model in (1, 2)}
    assert thinned[1] > 1
    assert thinned[2] == 1


async def test_a_tenants_quota_of_learning_is_kept_by_thinning_and_everything_is_still_answered(tmp_path):
    settings = {"learn_s_per_s": 0.01, "comfortable_s": 1}
    async with crash.a_server(tmp_path, **settings) as server, freshet.connect(server.grpc) as client:
        await client.create_model("flow", **SMALL)
        async with client.stream("flow", "pump") as stream:
            seen = await scrape(server.http)
            async with asyncio.timeout(crash.DEADLINE_S):
                while seen.total("freshet_learn_every", model="flow") <= 1:  # until labels have waited comfortable_s
                    for row in walk(100, 1):
                        await stream.step(row)
                    seen = await scrape(server.http)
        assert seen.total("freshet_quota_reached_total", quota="learn_s_per_s") > 0
    chunks = list(replay.read(tmp_path / "data" / "journal"))
    assert max(chunk.learn_every for chunk in chunks) > 1


NAMES = [f"model-{n}" for n in range(4)]


def homes(count: int) -> dict[str, int]:
    return {name: place(ModelKey("default", name), count) for name in NAMES}


async def some(client: freshet.Client, seed: int, ticks: int = 40) -> None:
    """Ticks for every model, all judged."""

    async def of(name: str) -> None:
        async with client.stream(name, "pump") as stream:
            first = stream.welcome.next_seq
            for row in walk(ticks, seed):
                await within(stream.step(row))
            await within(stream.wait_judged(first + ticks - 1))

    await asyncio.gather(*map(of, NAMES))


def files_of(data: Path) -> dict[int, replay.Files]:
    return {number: replay.Files.of(data, number) for number in range(1, len(NAMES) + 1)}


def holder(pids: Collection[int], file: Path) -> int:
    """The process that has the file open."""
    [pid] = [pid for pid in pids if any(is_open(fd, file) for fd in Path(f"/proc/{pid}/fd").iterdir())]
    return pid


def is_open(fd: Path, file: Path) -> bool:
    try:
        return file.samefile(fd)
    except OSError:  # closed meanwhile, or no file
        return False


def checked(data: Path, files: dict[int, replay.Files]) -> dict[int, HostedModel]:
    """Every model's checkpoint equals an uninterrupted fold of the journal; each is in one file."""
    chunks, found = list(replay.read(data / "journal")), {}
    for path in checkpoint_files(data).values():
        store = Checkpoints(path)
        for number, saved in store.load(GATE)[1].items():
            assert number not in found
            whole = replay.learned(chunks, files[number], GATE, saved.offset, number)
            assert digest(saved) == digest(whole), f"model {number}"
            found[number] = saved
        store.close()
    return found


async def test_models_keep_their_weights_bit_for_bit_while_the_number_of_trainers_changes(tmp_path):
    sent = 0
    assert len(set(homes(2).values())) == 2, "a name on each side"
    for count in (1, 3, 2, 1):
        async with crash.a_server(tmp_path, **NO_SNAPSHOT, trainers=count) as server:
            async with freshet.connect(server.grpc) as client:
                for name in NAMES:
                    await client.create_model(name, **SMALL)
                assert len(children(server.pid)) == count
                await some(client, seed=count)
                sent += 40
            files = files_of(server.data)
        found = checked(tmp_path / "data", files)
        assert {hosted.learner.counts.ticks for hosted in found.values()} == {sent}
        assert len(found) == len(NAMES)


async def test_a_trainer_that_is_killed_does_not_disturb_the_models_of_another(tmp_path):
    async with crash.a_server(tmp_path, **NO_SNAPSHOT, trainers=2) as server:
        async with freshet.connect(server.grpc) as client:
            for name in NAMES:
                await client.create_model(name, **SMALL)
            await some(client, seed=1)
            victim, other = (holder(children(server.pid), server.data / checkpoint_file(n)) for n in (0, 1))
            os.kill(victim, signal.SIGSTOP)
            try:
                for name in sorted(NAMES, key=homes(2).__getitem__):
                    async with client.stream(name, "pump") as stream:
                        for row in walk(40, 2):
                            await within(stream.step(row))
                        if homes(2)[name] == 1:
                            await within(stream.wait_judged(80))
                for name in NAMES:
                    model = await client.get_model(name)
                    left = model.offset - model.judged_offset  # a swap's record is an entry too
                    assert (left < 20) == (homes(2)[name] == 1), name
            finally:
                os.kill(victim, signal.SIGKILL)
            for name in NAMES:
                async with client.stream(name, "pump") as stream:
                    await within(stream.wait_judged(80))
            assert other in children(server.pid)
            assert (await scrape(server.http)).total("freshet_trainer_restarts_total") == 1
        files = files_of(server.data)
    assert {hosted.learner.counts.ticks for hosted in checked(tmp_path / "data", files).values()} == {80}
