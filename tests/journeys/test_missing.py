"""Values that do not come: held and never learned from, where the model was created for that; refused elsewhere."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

import freshet
from freshet.v1 import streams_pb2 as pb
from freshet.v1 import types_pb2
from model import calendar
from service.programs.backtest.child import ServerChild
from tests.journeys.conftest import QUICK
from tests.journeys.raw import DEADLINE_S, RawStream
from tests.journeys.raw_mux import RawMux, columns, unpacked

# No snapshot falls into a test: after one, old versions may go.
SETTINGS = {"snapshot_s": 600.0}

MINUTE, START_S = 60.0, 1.4e9
NAN = math.nan


def gappy(ticks: int) -> NDArray[np.float32]:
    """[ticks, 2] noisy oscillations: a quarter of the values missing, channel b for the first 20 ticks, all for 10."""
    rng = np.random.default_rng(0)
    x = 20 + 3 * np.sin(np.arange(ticks) * (2 * np.pi / 9))[:, None] + 0.1 * rng.standard_normal((ticks, 2))
    x[rng.random((ticks, 2)) < 0.25] = NAN
    x[:20, 1] = x[100:110] = NAN
    return x.astype(np.float32)


async def replayed(client: freshet.Client, name: str, rows: NDArray[np.float32]) -> list[freshet.Forecast]:
    times = START_S + MINUTE * np.arange(len(rows))
    async with client.stream(name, "s") as stream:
        forecasts = [f async for f in stream.forecasts(rows, times, max_staleness=32)]
        await asyncio.wait_for(stream.wait_judged(len(rows)), DEADLINE_S)
    return forecasts


def assert_answers(
    forecasts: Sequence[Any], rows: NDArray[np.float32], ahead: NDArray[np.float32], files: dict[int, bytes]
) -> None:
    """Each forecast is what the .onnx of its version says, run here from an empty state. ahead: [n, F]."""
    runners = {number: onnxruntime.InferenceSession(data) for number, data in files.items()}
    (width,) = {i.shape[1] for i in runners[1].get_inputs() if i.name == "state"}
    state = np.zeros((1, width), np.float32)
    for forecast, row, u in zip(forecasts, rows, ahead, strict=True):
        feed = {"x": row[None], "u": u[None], "state": state}
        y, state = runners[forecast.version].run(["y", "next_state"], feed)
        np.testing.assert_allclose(forecast.y, y, rtol=1e-6)


async def test_a_stream_with_gaps_is_answered_and_learned_from_and_each_answer_is_what_its_versions_onnx_says(
    client, name
):
    await client.create_model(name, ["a", "b"], hidden=8, learning_rate=3e-3, interval=MINUTE, missing="hold")
    rows = gappy(400)

    forecasts = await replayed(client, name, rows)

    files = {number: (await client.export(name, number)).onnx for number in {f.version for f in forecasts}}
    assert len(files) >= 5
    assert np.isfinite([f.y for f in forecasts]).all()
    assert_answers(
        forecasts, rows, calendar.inputs(START_S + MINUTE * np.arange(len(rows), dtype=np.float64), MINUTE), files
    )
    # What came is forecast better than by what was held.
    y = np.array([f.y[0] for f in forecasts])[250:-1]
    held = np.array([rows[: t + 1, c][~np.isnan(rows[: t + 1, c])][-1] for t in range(250, 399) for c in (0, 1)])
    truth = rows[251:]
    assert np.nanmean((y - truth) ** 2) < 0.8 * np.nanmean((held.reshape(-1, 2) - truth) ** 2)


async def test_a_tick_of_which_all_is_missing_needs_its_time_and_is_answered_again_when_repeated(client, channel, name):
    await client.create_model(name, ["a", "b"], hidden=8, interval=MINUTE, missing="hold", head_init=0.3)
    async with RawStream(channel, name, "s") as stream:
        first = (await stream.tick(1, [NAN, NAN], START_S)).forecast
        assert list(first.y) == [0, 0]  # nothing was ever seen of either channel
        await stream.tick(2, [7.0, NAN], START_S + MINUTE)
        gone = (await stream.tick(3, [NAN, NAN], START_S + 2 * MINUTE)).forecast
        assert list(gone.y) == [7.0, 0.0]

        refused = (await stream.tick(4, [NAN, NAN])).refused
        assert (refused.reason, refused.field) == (types_pb2.Refused.TIME, "time")
        again = await stream.tick(3, [NAN, NAN], START_S + 2 * MINUTE)
        assert again.forecast == gone
        other = (await stream.tick(3, [NAN, 1.0], START_S + 2 * MINUTE)).refused
        assert other.reason == types_pb2.Refused.CONFLICT
        infinite = (await stream.tick(4, [NAN, math.inf], START_S + 3 * MINUTE)).refused
        assert (infinite.reason, infinite.field) == (types_pb2.Refused.NON_FINITE, "x[1]")


async def test_packed_ticks_with_gaps_are_answered_as_the_onnx_says_and_infinities_refused_alone(client, channel, name):
    await client.create_model(name, ["a", "b"], hidden=8, learn=False, missing="hold", head_init=0.3)
    rows, other = gappy(120), gappy(240)[120:]
    async with RawMux(channel, name) as mux:
        await mux.bind({1: "s", 2: "t"})
        seq = np.arange(1, 121)
        answers = await mux.ticks([1] * 120 + [2] * 120, [*seq, *seq], np.concatenate([rows, other]))
        await mux.say(ticks=columns([1, 2], [121, 121], [[NAN, NAN], [NAN, math.inf]]))
        last = await mux.answer()
    (refused,) = last.refused
    assert (refused.handle, refused.refused.field) == (2, "x[1]")
    answers |= unpacked(last.forecasts)
    rows = np.append(rows, [[NAN, NAN]], axis=0).astype(np.float32)
    files = {1: (await client.export(name, 1)).onnx}
    for handle, sent in ((1, rows), (2, other)):
        made = [SimpleNamespace(y=answers[handle, n + 1][0][None], version=1) for n in range(len(sent))]
        assert_answers(made, sent, np.zeros((len(sent), 0), np.float32), files)


async def test_a_model_not_made_for_it_refuses_nan_and_says_what_to_do(client, channel, name):
    await client.create_model(name, ["a", "b"], hidden=8)
    async with RawStream(channel, name, "s") as stream:
        refused = (await stream.ask(tick=pb.Tick(seq=1, x=[1.0, NAN]))).refused
    assert (refused.reason, refused.field, refused.value) == (types_pb2.Refused.NON_FINITE, "x[1]", "nan")
    assert 'create the model with missing = "hold"' in refused.remedy
    async with client.stream(name, "t") as stream:
        with pytest.raises(freshet.TickRefused, match=r'x\[1\] .*create the model with missing = "hold"'):
            await stream.step([1.0, NAN])


async def test_what_was_held_survives_a_crash(tmp_path: Path, name: str) -> None:
    rows, got = gappy(80), []
    async with ServerChild(tmp_path / "data", tmp_path / "log", settings=QUICK) as server:
        for part in (rows[:50], rows[50:]):
            async with freshet.connect(server.grpc) as client, asyncio.timeout(DEADLINE_S):
                await client.create_model(name, ["a", "b"], hidden=8, head_init=0.3, learn=False, missing="hold")
                async with client.stream(name, "s") as stream:
                    got += [f async for f in stream.forecasts(part)]
                    await stream.durable()
                model = await client.export(name, 1)
            server.kill()
            await server.wait()
            await server.start()
    assert_answers(got, rows, np.zeros((len(rows), 0), np.float32), {1: model.onnx})
