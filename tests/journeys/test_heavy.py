"""A model whose messages are too much for the event loop, in a real server: whatever happens meanwhile, each answer is
bit for bit that of the version that the journal names at its tick."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import Any

import numpy as np

import freshet
from model.network import Network
from model.spec import ModelSpec
from service.common import limits
from service.engine.export import pack_weights
from tests.journeys import crash
from tests.journeys.scraped import scrape
from tests.oracles import replay

SPEC: dict[str, Any] = {"channels": ["x"], "hidden": 512, "learn": False}
STREAMS, MESSAGES = 120, 10
DEADLINE_S = 240.0
SETTINGS = {"max_message_bytes": 1 << 24}  # for weights of 4 MB


def weights(seed: int) -> bytes:
    network = Network(ModelSpec.from_mapping(SPEC))
    flat = network.init_params()
    flat += np.random.default_rng(seed).normal(0, 0.05, flat.shape).astype(np.float32)
    return pack_weights(network, network.weights(flat).flat)


Noted = dict[tuple[str, int], tuple[int, bytes]]  # by stream and seq: version and y


async def packed(client: freshet.Client, prefix: str, noted: Noted, messages: int) -> None:
    """So many full messages; every answer is noted."""
    ids = [f"{prefix}{n}" for n in range(STREAMS)]
    rng = np.random.default_rng(len(prefix))
    async with client.mux("heavy") as mux:
        for _ in range(messages):
            answer = await mux.step(ids, rng.standard_normal((STREAMS, 1)))
            assert not answer.refused
            for i, id in enumerate(ids):
                noted[id, int(answer.seq[i])] = int(answer.version[i]), answer.y[i].tobytes()


async def single(client: freshet.Client, id: str, model: str, noted: Noted, until: asyncio.Event) -> int:
    """Ticks of one stream until told to stop; how many."""
    n = 0
    async with client.stream(model, id) as stream:
        while not until.is_set():
            n += 1
            forecast = await stream.step([float(n % 5)])
            noted[id, forecast.seq] = forecast.version, forecast.y.tobytes()
    return n


async def test_answers_of_large_steps_are_those_of_the_versions_named_whatever_happens_meanwhile(tmp_path):
    row = limits.row_work(Network(ModelSpec.from_mapping(SPEC)))
    assert limits.step_work(row, min(STREAMS, limits.step_rows(Network(ModelSpec.from_mapping(SPEC))))) > (
        limits.MAX_TURN_WORK
    )
    noted: Noted = {}
    light: Noted = {}
    done = asyncio.Event()
    async with (
        asyncio.timeout(DEADLINE_S),
        crash.a_server(tmp_path, **SETTINGS) as server,
        freshet.connect(server.grpc) as client,
    ):
        await client.create_model("heavy", **SPEC)
        await client.create_model("light", channels=["x"], learn=False)
        for number in (2, 3):
            assert (await client.import_version("heavy", weights(number))).number == number

        async def swaps() -> None:
            for version in itertools.cycle((2, 3, 1)):
                if done.is_set():
                    return
                await client.promote("heavy", version)

        async def cut() -> None:
            """Calls that end in the middle of a message; their streams go on in another."""
            for _ in range(3):
                with contextlib.suppress(TimeoutError):
                    async with freshet.connect(server.grpc) as other, asyncio.timeout(0.2):
                        await packed(other, "cut", {}, 1000)

        async with asyncio.TaskGroup() as group:
            loads = [group.create_task(packed(client, prefix, noted, MESSAGES)) for prefix in ("a", "bb")]
            others = [
                group.create_task(swaps()),
                group.create_task(single(client, "alone", "heavy", noted, done)),
                group.create_task(single(client, "light", "light", light, done)),
                group.create_task(cut()),
            ]
            await asyncio.gather(*loads)
            while len({version for version, _ in noted.values()}) < 3:  # a busy machine may swap late
                await asyncio.sleep(0)
            done.set()
            await asyncio.gather(*others)
        await packed(client, "cut", noted, 1)
        files = replay.Files.of(server.data)
        assert (await scrape(server.http)).total("freshet_large_step_wait_seconds_count") > MESSAGES
    expected = replay.served(list(replay.read(tmp_path / "data" / "journal")), files).answers

    wrong = [key for key, (version, y) in noted.items()
             if (expected[key].version, expected[key].y.tobytes()) != (version, y)]  # fmt: skip
    assert not wrong, f"{len(wrong)} of {len(noted)} answers"
    assert len({version for version, _ in noted.values()}) == 3
    assert light
