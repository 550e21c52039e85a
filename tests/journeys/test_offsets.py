"""Offsets of the SDK against a real server: forecasts are those of the small values, moved."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

import freshet
from service.console.remote import Remote
from service.programs.backtest import core, through_service
from service.programs.backtest.plan import make_plan

DEADLINE_S = 60.0
SPEC: dict[str, Any] = {"channels": ["count", "level"], "learn": False, "head_init": 0.3, "hidden": 8, "horizon": 2}
OFFSET = {"count": 1e8, "level": 1e9}
ROWS = np.column_stack([np.arange(60.0), 0.1 * (-1.0) ** np.arange(60)])
HIGH = ROWS + np.array([1e8, 1e9])


@pytest.mark.parametrize("scaler", ["residual", "standard", "residual_v1", "standard_v1"])
async def test_forecasts_of_a_high_level_are_those_of_a_low_one_moved(client, name, scaler):
    await client.create_model(name, **SPEC, scaler=scaler)
    async with (
        asyncio.timeout(DEADLINE_S),
        client.stream(name, "low") as low,
        client.stream(name, "high", offset=OFFSET) as high,
        client.mux(name, offset=OFFSET) as mux,
    ):
        lows = [f.y async for f in low.forecasts((HIGH - np.array([1e8, 1e9])).astype(np.float32))]
        highs = [f.y async for f in high.forecasts(HIGH)]
        muxed = [(await mux.step(["packed"], row[None])).y[0] for row in HIGH]
        for a, b, c in zip(lows, highs, muxed, strict=True):
            np.testing.assert_array_equal(b, a.astype(np.float64) + np.array([1e8, 1e9]))
            np.testing.assert_array_equal(c, b)
    assert abs(highs[-1][0, 0] - HIGH[-1, 0]) < 100


async def test_a_counter_without_an_offset_is_refused_and_nothing_is_sent(client, name):
    await client.create_model(name, **SPEC)
    async with asyncio.timeout(DEADLINE_S), client.stream(name, "s") as stream:
        with pytest.raises(freshet.InvalidArgument, match=r"\(count\).*offset=\{'count': 100000000\}"):
            stream.forecasts(HIGH)
        assert stream.next_seq == 1
        await stream.step([1e8, 0.0])


async def test_windows_with_an_offset_are_learned_as_windows_of_low_values(client, name):
    await client.create_model(name, channels=["count", "level"], targets=["level"], task="regress", learn=True)
    async with asyncio.timeout(DEADLINE_S), client.learn(name, "here", "learned", offset=OFFSET) as learning:
        await learning.window(HIGH, 3.0)
        await learning.flush()
    async with client.learn(name, "there") as learning:
        with pytest.raises(freshet.InvalidArgument, match="window"):
            await learning.window(HIGH, 3.0)


@pytest.mark.parametrize("jump", [False, True])
async def test_a_backtest_through_the_service_is_that_through_the_core(server, name, tmp_path, jump):
    """Of levels that an offset mends, and of one that jumps too far for any, which goes out as float32."""
    level = HIGH[:, 1] * (np.arange(60) > 20) if jump else HIGH[:, 1]
    path = tmp_path / "high.csv"
    path.write_text(
        "count,level\n" + "".join(f"{a!r},{b!r}\n" for a, b in zip(HIGH[:, 0].tolist(), level.tolist(), strict=True))
    )
    plan = make_plan(path, model={key: value for key, value in SPEC.items() if key != "channels"})
    assert ("changes of level are lost in float32" in plan.how) == jump
    made: dict[int, np.ndarray] = {}
    async with asyncio.timeout(DEADLINE_S):
        await through_service.replay(Remote(server.grpc), name, "s", plan, 32, made.__setitem__)
    for row, expected in enumerate(core.forecasts(core.learner(plan), plan)):
        np.testing.assert_allclose(made[row], expected, rtol=2e-7 if jump else 0, atol=1e-2)
        assert jump or abs(made[row][0, 1] - 1e9) < 10
