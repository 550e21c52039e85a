"""A mixture through a server that is killed: answers, weights and covariances are those of an unbroken fold."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import freshet
from service.trainer.checkpoint import Checkpoints
from tests.journeys import crash
from tests.oracles import replay
from tests.service.histories import digest

HOUR, START_S = 3600.0, 1.4e9 // 86400 * 86400
SETTINGS: dict[str, object] = {"snapshot_s": 0.3}


def load(n: int) -> np.ndarray:
    """(n, 2) noisy daily curves."""
    rng, t = np.random.default_rng(0), np.arange(n)
    return (20 + np.sin(2 * np.pi * t / 24)[:, None] * (3, -1) + rng.normal(0, 0.3, (n, 2))).astype(np.float32)


@pytest.mark.parametrize("keys", [{"horizon": 2}, {"own_readout": True}], ids=str)
async def test_a_killed_server_answers_and_learns_as_if_it_had_not_been(
    tmp_path: Path, name: str, keys: dict[str, Any]
) -> None:
    rows, got = load(180), []
    times = START_S + HOUR * np.arange(len(rows))
    async with crash.a_server(tmp_path, **SETTINGS) as server:
        for part in (slice(0, 70), slice(70, 130), slice(130, 180)):
            async with freshet.connect(server.grpc) as client, asyncio.timeout(crash.DEADLINE_S):
                await client.create_model(
                    name, ["a", "b"], hidden=8, interval=HOUR, forecaster="mixture",
                    seasons=[6 * HOUR, 24 * HOUR], **keys,
                )  # fmt: skip
                async with client.stream(name, "s") as stream:
                    got += [f async for f in stream.forecasts(rows[part], times[part], max_staleness=16)]
                    await stream.wait_judged(part.stop)
            if part.stop < len(rows):
                server.kill()
                await server.wait()
                await server.start()
        files = replay.Files.of(server.data)
    files |= replay.Files.of(server.data)
    chunks = list(replay.read(server.data / "journal"))
    answers = replay.served(chunks, files).answers
    for forecast in got:
        np.testing.assert_array_equal(forecast.y.reshape(-1), answers["s", forecast.seq].y)
    assert len({forecast.version for forecast in got}) >= 3

    checkpoints = Checkpoints(server.data / "trainer.db")
    _, models = checkpoints.load(crash.GATE)
    checkpoints.close()
    saved = models[1]
    assert saved.learner.experts is not None
    assert digest(saved) == digest(replay.learned(chunks, files, crash.GATE, saved.offset))
    # What comes is forecast better than by what is there.
    y = np.array([f.y for f in got])[100:-2].reshape(len(rows) - 102, -1, 2)
    truth = np.stack([rows[101:-1], rows[102:]], axis=1)[:, : y.shape[1]]
    assert np.mean((y - truth) ** 2) < 0.7 * np.mean((rows[100:-2, None] - truth) ** 2)
