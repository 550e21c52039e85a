"""Errors per stream and step: recomputed from the forecasts that the client received, and kept over restarts."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

import freshet
from tests.journeys import crash
from tests.journeys.scraped import scraped_until
from tests.journeys.test_models_cli import Shell

HORIZON = 4
STEPS = (1, 2, 3, 4)
TICKS = 120
DEADLINE_S = 240.0
# The rate is above zero, but too small to move a weight: the forecasts served are then those that are measured.
SPEC: dict[str, Any] = {
    "horizon": HORIZON,
    "hidden": 4,
    "learning_rate": 1e-30,
    "schedule": "constant",
    "head_init": 0.3,
}


def series(seed: int) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).normal(0, 1 + seed, TICKS)).astype(np.float32)[:, None]


async def answered(client: freshet.Client, model: str, stream: str, values: np.ndarray) -> np.ndarray:
    async with client.stream(model, stream) as opened:
        return np.stack([(await opened.step(row)).y.reshape(HORIZON) for row in values]).astype(np.float64)


def expected(values: np.ndarray, y: np.ndarray, step: int) -> list[float]:
    """Mean squared and absolute error of the received forecasts, and of the present value; the first has no scale."""
    present, truth = values[step:-step, 0].astype(np.float64), values[2 * step :, 0]
    own, naive = y[step:-step, step - 1] - truth, present - truth
    return [(own**2).mean(), abs(own).mean(), (naive**2).mean(), abs(naive).mean()]


def measured(errors: freshet.MeanErrors) -> list[float]:
    return [errors.squared, errors.absolute, errors.persistence_squared, errors.persistence_absolute]


async def learned(server, model: str) -> None:
    await scraped_until(
        server.http, lambda seen: seen.total("freshet_labels_learned_total", model=model) == 3 * (TICKS - 2)
    )


async def test_errors_are_those_of_the_forecasts_received_and_outlive_a_restart(tmp_path):
    async with (
        asyncio.timeout(DEADLINE_S),
        crash.a_server(tmp_path) as server,
        freshet.connect(server.grpc) as client,
    ):
        await client.create_model("flow", ["x"], **SPEC)
        assert await client.stream_errors("flow") == []
        values = {f"pump-{seed}": series(seed) for seed in range(3)}
        answers = {id: await answered(client, "flow", id, rows) for id, rows in values.items()}
        await learned(server, "flow")

        found = await client.stream_errors("flow")
        assert [one.stream for one in found] == list(values)
        for one in found:
            assert tuple(step.step for step in one.steps) == STEPS
            for step in one.steps:
                assert step.labels == TICKS - 2 * step.step
                wanted = expected(values[one.stream], answers[one.stream], step.step)
                np.testing.assert_allclose(measured(step.total), wanted, rtol=2e-3)
        by_step = await client.horizon_errors("flow")
        for step, *of_streams in zip(by_step, *(one.steps for one in found), strict=True):
            assert step.labels == sum(part.labels for part in of_streams)
            mean = np.mean([measured(part.total) for part in of_streams], axis=0)
            np.testing.assert_allclose(measured(step.total), mean, rtol=1e-5)

        ranked = await client.stream_errors("flow", worst=2)
        ratios = {one.stream: one.ratio or 0.0 for one in found}
        assert [one.stream for one in ranked] == sorted(ratios, key=lambda id: -ratios[id])[:2]
        await shown(server, tmp_path, ranked)

        await client.delete_stream("flow", "pump-1")
        assert await server.stop() == 0
        await server.start()
        await scraped_until(server.http, lambda seen: seen.total("freshet_trainer_ready") == 1)
        left = await client.stream_errors("flow")
        assert left == [one for one in found if one.stream != "pump-1"]
        assert await client.horizon_errors("flow") == by_step


async def shown(server, tmp_path, ranked: list[freshet.StreamErrors]) -> None:
    """The commands show them."""
    run = Shell(server.grpc, tmp_path, "streams")
    header, first, *_ = (await run("errors", "flow", "--worst", "2")).splitlines()
    assert header.split()[:4] == ["stream", "ratio", "step", "labels"]
    assert first.split()[:4] == [ranked[0].stream, f"{ranked[0].ratio:.4g}", "1", str(TICKS - 2)]
    assert [one["stream"] for one in await run.json("errors", "flow", "--worst", "2")] == [one.stream for one in ranked]
    steps = (await run("errors", "flow", "--by-step")).splitlines()
    assert [line.split()[0] for line in steps] == ["step", *map(str, STEPS)]
