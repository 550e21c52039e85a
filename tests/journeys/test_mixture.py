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
LAST = 6  # ticks


def load(n: int) -> np.ndarray:
    """(n, 2) noisy daily curves."""
    rng, t = np.random.default_rng(0), np.arange(n)
    return (20 + np.sin(2 * np.pi * t / 24)[:, None] * (3, -1) + rng.normal(0, 0.3, (n, 2))).astype(np.float32)


@pytest.mark.parametrize("keys", [{"horizon": 2}, pytest.param({"own_readout": True}, marks=pytest.mark.long)], ids=str)
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


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("entities", [1, 2], ids=["single ticks", "packed ticks"])
async def test_512_steps_ahead_are_forecast_and_learned_with_the_default_sizes(
    tmp_path: Path, name: str, entities: int
) -> None:
    ticks, H = 1030, 512  # a step has a scale, and so a label, only after twice as many ticks
    rows = load(ticks + LAST)[:, :1] + np.arange(entities, dtype=np.float32)  # (ticks + LAST, entities)
    times, ids, made = START_S + HOUR * np.arange(len(rows)), [f"s{n}" for n in range(entities)], []
    thinned = {"comfortable_s": 3.0}  # as after 15 s by default: all labels would take minutes
    async with crash.a_server(tmp_path, **thinned) as server, freshet.connect(server.grpc) as client:
        await client.create_model(name, ["a"], horizon=H, interval=HOUR, forecaster="mixture")
        if entities == 1:
            async with client.stream(name, "s0") as stream:
                made = [f.y[None] async for f in stream.forecasts(rows[:ticks], times[:ticks])]
        else:
            async with client.mux(name) as mux:
                for x, time in zip(rows[:ticks], times[:ticks], strict=True):
                    made.append((await mux.step(ids, x[:, None], np.full(entities, time))).y)
        async with asyncio.timeout(800), client.stream(name, ids[-1]) as stream:
            await stream.wait_judged(ticks)
            for x, time in zip(rows[ticks:, -1], times[ticks:], strict=True):  # none of these is left out
                await stream.wait_judged((await stream.step(x, time)).seq)
        steps = await client.horizon_errors(name)
    answers = np.array(made)  # [ticks, entities, H, 1]
    assert answers.shape == (ticks, entities, H, 1)
    assert np.isfinite(answers).all()
    assert [each.step for each in steps] == list(range(1, H + 1))
    for step in (1, 12, 200):
        recent = steps[step - 1].recent
        assert recent.scaled_squared < 0.7 * recent.persistence_scaled_squared
