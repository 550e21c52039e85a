"""A model learns from the streams it serves, while it serves them."""

from __future__ import annotations

import asyncio
import itertools

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

import freshet
from tests.journeys.raw import DEADLINE_S

# No snapshot falls into a test: after one, old versions may go.
SETTINGS = {"snapshot_s": 600.0}

MAX_STALENESS = 32
WARM = 250  # ticks


def series(ticks: int, seed: int = 0) -> NDArray[np.float32]:
    """A noisy oscillation about 20: persistence misses its turns, a model of the last two values does not."""
    noise = np.random.default_rng(seed).standard_normal(ticks)
    return (20 + 3 * np.sin(np.arange(ticks) * (2 * np.pi / 9)) + 0.1 * noise).astype(np.float32)


async def replayed(client: freshet.Client, name: str, rows: NDArray[np.float32]) -> list[freshet.Forecast]:
    async with client.stream(name, "s") as stream:
        forecasts = [f async for f in stream.forecasts(rows, max_staleness=MAX_STALENESS)]
        await asyncio.wait_for(stream.wait_judged(len(rows)), DEADLINE_S)
        assert stream.judged_through == len(rows)
        return forecasts


async def test_a_model_that_learns_while_it_serves_beats_persistence_within_a_few_hundred_ticks(client, name):
    await client.create_model(name, ["x"], hidden=16, learning_rate=3e-3)
    rows = series(600)

    forecasts = await replayed(client, name, rows)

    truth = rows[WARM + 1 :]
    ours = np.array([f.y[0, 0] for f in forecasts[WARM:-1]])
    persistence = rows[WARM:-1]
    assert np.mean((ours - truth) ** 2) < 0.5 * np.mean((persistence - truth) ** 2)


async def test_no_forecast_is_staler_than_asked_and_versions_and_judgements_only_advance(client, name):
    await client.create_model(name, ["x"], hidden=8)

    forecasts = await replayed(client, name, series(300))

    assert max(f.staleness for f in forecasts) <= MAX_STALENESS
    for this, following in itertools.pairwise(forecasts):
        assert this.judged_through <= following.judged_through
        assert this.version <= following.version
    assert len({f.version for f in forecasts}) >= 5
    model = await client.get_model(name)
    assert forecasts[-1].version <= model.champion
    assert 0 < model.judged_offset <= model.offset


async def test_every_forecast_is_what_the_onnx_of_its_version_says(client, name):
    await client.create_model(name, ["x"], hidden=8, learning_rate=3e-3)
    rows = series(300)

    forecasts = await replayed(client, name, rows)

    runners = {
        number: onnxruntime.InferenceSession((await client.export(name, number)).onnx)
        for number in {f.version for f in forecasts}
    }
    (width,) = {i.shape[1] for i in runners[1].get_inputs() if i.name == "state"}
    state, none = np.zeros((1, width), np.float32), np.zeros((1, 0), np.float32)
    for forecast, row in zip(forecasts, rows, strict=True):
        feed = {"x": row.reshape(1, 1), "u": none, "state": state}
        y, state = runners[forecast.version].run(["y", "next_state"], feed)
        np.testing.assert_allclose(forecast.y, y, rtol=1e-6)


async def test_published_versions_are_a_line_of_descent_with_growing_offsets(client, name):
    await client.create_model(name, ["x"], hidden=8)
    await replayed(client, name, series(200))

    versions = (await client.versions(name))[::-1]

    assert len(versions) >= 5
    assert [v.number for v in versions] == list(range(1, len(versions) + 1))
    assert [v.parent for v in versions] == list(range(len(versions)))
    assert all(a.offset < b.offset for a, b in itertools.pairwise(versions))
    assert len({v.digest for v in versions}) == len(versions)
    assert all(0 <= v.parity_error <= 1e-5 for v in versions)


async def test_a_model_told_not_to_learn_never_changes_and_its_ticks_are_judged_all_the_same(client, channel, name):
    await client.create_model(name, ["x"], hidden=8, learn=False)
    rows = series(100)
    async with client.stream(name, "s") as stream:
        forecasts = [f async for f in stream.forecasts(rows)]
        with pytest.raises(freshet.InvalidArgument, match="does not learn"):
            await stream.wait_judged(1)

    assert {f.version for f in forecasts} == {1}
    assert [v.number for v in await client.versions(name)] == [1]
    np.testing.assert_array_equal([f.y[0, 0] for f in forecasts], rows)  # persistence: the readout is zero


async def test_streams_of_one_model_learn_together_and_each_is_told_its_own_progress(client, name):
    await client.create_model(name, ["x"], hidden=8)

    async def one(number: int) -> None:
        async with client.stream(name, f"s{number}") as stream:
            async for forecast in stream.forecasts(series(80, seed=number), max_staleness=MAX_STALENESS):
                assert forecast.staleness <= MAX_STALENESS
            await asyncio.wait_for(stream.wait_judged(80), DEADLINE_S)

    await asyncio.gather(*map(one, range(4)))

    model = await client.get_model(name)
    assert model.streams == 4
    assert model.champion > 1
