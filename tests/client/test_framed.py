"""Frames in, frames out; and the event times that a forecast is for."""

from __future__ import annotations

import asyncio
import datetime as dt
import importlib
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

import freshet
from freshet.forecast import Forecast
from freshet.framed import columns_of
from tests.client.fake_server import FakeServer, oracle

ROWS = [[float(i)] for i in range(1, 6)]
TIMES = [1_700_000_000.0 + 1800 * i for i in range(5)]
MOMENTS = np.array(TIMES).astype("datetime64[s]").astype("datetime64[ns]")


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    server = FakeServer(horizon=2, interval=1800.0)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def stream(server: FakeServer) -> AsyncIterator[freshet.Stream]:
    async with freshet.connect(f"127.0.0.1:{server.port}") as client, client.stream("m", "s") as stream:
        yield stream


def library(name: str) -> Any:
    return importlib.import_module(name)


def expected() -> np.ndarray[Any, Any]:
    """(5, 2): the one target, 1 and 2 steps ahead."""
    return np.stack(oracle(ROWS, 2))[:, :, 0]


# --- the times of a forecast


@pytest.mark.parametrize("time", [TIMES[0], dt.datetime.fromtimestamp(TIMES[0], dt.UTC), MOMENTS[0]], ids=type)
async def test_a_forecast_knows_the_event_times_that_it_is_for(stream, time):
    forecast = await stream.step([1.0], time=time)

    assert forecast.time == TIMES[0]
    np.testing.assert_array_equal(forecast.times, [TIMES[1], TIMES[2]])


async def test_without_an_interval_or_a_time_there_are_none():
    server = FakeServer()
    await server.start()
    async with freshet.connect(f"127.0.0.1:{server.port}") as client, client.stream("m", "s") as stream:
        assert (await stream.step(1.0)).times is None
        timed = await stream.step(1.0, time=5.0)
        assert (timed.time, timed.times) == (5.0, None)
    await server.stop()


@pytest.mark.parametrize("task", ["regress", "classify"])
async def test_an_answer_about_the_tick_itself_is_for_no_other_time(server, task):
    server.spec.task, server.spec.horizon = task, 1
    async with freshet.connect(f"127.0.0.1:{server.port}") as client, client.stream("m", "t") as stream:
        assert (await stream.step([1.0], time=TIMES[0])).times is None


async def test_a_lost_answer_keeps_its_times(server, stream):
    server.commit_every = None
    await stream.step(ROWS[0], time=TIMES[0])
    server.mute = True
    forecast = Forecast(1, np.full((2, 1), np.nan, np.float32), 0, 0, 0.0, lost=True, time=TIMES[0], interval=1800.0)
    np.testing.assert_array_equal(forecast.times, TIMES[1:3])
    server.commit()


# --- frames


async def test_a_frame_of_pandas_gives_one_with_its_index_and_a_column_per_step(stream):
    pandas = library("pandas")
    index = pandas.DatetimeIndex(MOMENTS, name="when", tz="UTC")

    out = await stream.forecasts(pandas.DataFrame(ROWS, columns=["c0"], index=index)).frame()

    assert isinstance(out, pandas.DataFrame)
    assert list(out.columns) == ["c0+1", "c0+2"]
    assert out.index.equals(index)
    assert out.index.name == "when"
    np.testing.assert_array_equal(out.to_numpy(), expected())


@pytest.mark.parametrize("times", ["column", "apart"])
async def test_times_that_are_no_index_become_the_index(stream, times):
    pandas = library("pandas")
    frame = pandas.DataFrame(ROWS, columns=["c0"])
    if times == "column":
        frame["when"] = MOMENTS

    out = await stream.forecasts(frame, "when" if times == "column" else MOMENTS).frame()

    np.testing.assert_array_equal(out.index.to_numpy(), MOMENTS)
    np.testing.assert_array_equal(out.to_numpy(), expected())


async def test_a_series_gives_a_frame(stream):
    pandas = library("pandas")

    out = await stream.forecasts(pandas.Series([1.0, 2, 3, 4, 5], index=pandas.DatetimeIndex(MOMENTS))).frame()

    np.testing.assert_array_equal(out.to_numpy(), expected())


async def test_a_skipped_row_stays_in_the_frame_as_nan(stream):
    pandas = library("pandas")
    rows = [[np.nan], *ROWS[:2], [np.nan], ROWS[2], [np.nan]]
    index = pandas.DatetimeIndex(np.arange(6) * np.timedelta64(1800, "s") + MOMENTS[0])
    forecasts = stream.forecasts(pandas.DataFrame(rows, columns=["c0"], index=index), on_refused="skip")

    out = await forecasts.frame()

    assert len(forecasts.refused) == 3
    assert np.isnan(out.to_numpy()).all(axis=1).tolist() == [True, False, False, True, False, True]
    np.testing.assert_array_equal(out.dropna().to_numpy(), expected()[:3])
    assert out.index.equals(index)


@pytest.mark.parametrize("kind", ["polars", "pyarrow", "dict"])
async def test_other_frames_give_their_own_with_the_times_as_first_column(stream, kind):
    columns = {"c0": [row[0] for row in ROWS], "when": MOMENTS}
    make: dict[str, Any] = {
        "polars": lambda: library("polars").DataFrame(columns),
        "pyarrow": lambda: library("pyarrow").table(columns),
        "dict": lambda: columns,
    }
    frame = make[kind]()

    out = await stream.forecasts(frame, "when").frame()

    assert type(out) is type(frame)
    names = list(out) if kind == "dict" else list(getattr(out, "column_names", out.columns))
    assert names == ["when", "c0+1", "c0+2"]
    np.testing.assert_array_equal(np.asarray(out["when"]).astype("datetime64[ns]"), MOMENTS)
    np.testing.assert_array_equal(np.asarray(out["c0+2"]), expected()[:, 1])


async def test_the_blocking_form_gives_frames_too(server):
    def run() -> dict[str, Any]:
        with freshet.sync.connect(f"127.0.0.1:{server.port}") as client, client.stream("m", "s") as stream:
            return stream.forecasts({"c0": [row[0] for row in ROWS]}, TIMES).frame()

    out = await asyncio.to_thread(run)

    assert list(out) == ["time", "c0+1", "c0+2"]
    assert out["time"] == TIMES
    np.testing.assert_array_equal(out["c0+1"], expected()[:, 0])


async def test_rows_that_came_in_no_frame_and_forecasts_that_were_taken_are_named(stream):
    forecasts = stream.forecasts(np.array(ROWS), TIMES)
    with pytest.raises(freshet.InvalidArgument, match="values is not a frame; give forecasts"):
        await forecasts.frame()
    forecasts = stream.forecasts({"c0": [1.0, 2.0]}, TIMES[:2])
    await anext(forecasts)
    with pytest.raises(freshet.FreshetError, match="before iterating"):
        await forecasts.frame()


def test_columns_have_the_names_of_targets_and_classes():
    y = np.arange(4, dtype=np.float32).reshape(2, 2)
    forecast = Forecast(1, y, 1, 0, 0.0)

    two = columns_of(freshet.ModelSpec(channels=("a", "b", "c"), targets=("a", "b"), horizon=2), [forecast, None])
    assert {name: column.tolist()[0] for name, column in two.items()} == {"a+1": 0, "a+2": 2, "b+1": 1, "b+2": 3}
    assert all(np.isnan(column[1]) for column in two.values())
    one = columns_of(freshet.ModelSpec(channels=("a",), classes=("x", "y"), horizon=1), [])
    assert {name: len(column) for name, column in one.items()} == {"x": 0, "y": 0}
