"""Frames, tables, series and times of the libraries that people have, as observations: by name, nulls as NaN."""

from __future__ import annotations

import asyncio
import datetime as dt
import importlib
import zoneinfo
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

import freshet
from freshet import results
from freshet.ticks import Tick, ticks
from freshet.v1 import types_pb2
from freshet.windows import WindowLayout, window_message
from tests.client.fake_server import FakeServer

CHANNELS = ["c0", "c1"]
ROWS = [[1.0, 10.0], [2.0, np.nan], [3.0, 30.0]]
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
# Before, in and after the hour that a clock in Berlin shows twice.
MOMENTS = [1729987200.0, 1729990800.0, 1729994400.0]
ZONED = [dt.datetime.fromtimestamp(moment, BERLIN) for moment in MOMENTS]
NAIVE_UTC = [moment.astimezone(dt.UTC).replace(tzinfo=None) for moment in ZONED]


class Columns:
    """A library of its own: `columns`, and a column by name, as lists."""

    def __init__(self, **columns: list[Any]) -> None:
        self.columns = list(columns)
        self._values = columns

    def __getitem__(self, name: str) -> list[Any]:
        return self._values[name]


def structured(a: list[Any], b: list[Any]) -> Any:
    values = np.zeros(len(a), [("c1", "f4"), ("c0", "f8")])
    values["c0"], values["c1"] = a, b
    return values


def library(name: str) -> Any:
    return importlib.import_module(name)


A, B = [1, 2, 3], [10, None, 30]
FRAMES: dict[str, Any] = {
    "dict": lambda: {"c1": [10, None, 30], "c0": A},
    "structured array": lambda: structured(A, [10, np.nan, 30]),
    "any columns": lambda: Columns(c1=B, c0=A),
    "pandas": lambda: library("pandas").DataFrame({"c1": B, "c0": A}),
    "pandas nullable": lambda: library("pandas").DataFrame({"c1": B, "c0": A}).convert_dtypes(),
    "pandas on arrow": lambda: library("pyarrow") and library("pandas").DataFrame(
        {"c1": B, "c0": A}, dtype="int64[pyarrow]"
    ),
    "pandas without names": lambda: library("pandas").DataFrame(ROWS),
    "polars": lambda: library("polars").DataFrame({"c1": B, "c0": A}),
    "pyarrow table": lambda: library("pyarrow").table({"c1": B, "c0": A}),
    "pyarrow chunks": lambda: library("pyarrow").concat_tables(
        [library("pyarrow").table({"c1": B[:1], "c0": A[:1]}), library("pyarrow").table({"c1": B[1:], "c0": A[1:]})]
    ),
    "pyarrow batch": lambda: library("pyarrow").record_batch({"c1": B, "c0": A}),
    "masked array": lambda: np.ma.masked_invalid(ROWS),
    "rows by name": lambda: [{"c1": b, "c0": a} for a, b in zip(A, B, strict=True)],
    "rows of pandas": lambda: [row for _, row in library("pandas").DataFrame({"c1": B, "c0": A}).iterrows()],
    "rows of polars": lambda: library("polars").DataFrame({"c1": B, "c0": A}).rows(named=True),
}  # fmt: skip
TIMES: dict[str, Any] = {
    "seconds": lambda: MOMENTS,
    "datetimes of a zone": lambda: ZONED,
    "naive datetimes": lambda: NAIVE_UTC,
    "datetime64": lambda: np.array(NAIVE_UTC, "datetime64[ns]"),
    "pandas index": lambda: library("pandas").DatetimeIndex(ZONED),
    "pandas index without zone": lambda: library("pandas").DatetimeIndex(NAIVE_UTC),
    "pandas series": lambda: library("pandas").Series(ZONED),
    "pandas on arrow": lambda: library("pyarrow") and library("pandas").Series(ZONED).astype(
        "timestamp[ms, tz=Europe/Berlin][pyarrow]"
    ),
    "pandas seconds": lambda: library("pandas").Series(MOMENTS),
    "polars": lambda: library("polars").Series(ZONED),
    "polars without zone": lambda: library("polars").Series(NAIVE_UTC),
    "pyarrow": lambda: library("pyarrow").array(ZONED, library("pyarrow").timestamp("s", "Europe/Berlin")),
    "pyarrow chunks": lambda: library("pyarrow").chunked_array([NAIVE_UTC[:1], NAIVE_UTC[1:]]),
    "generator": lambda: iter(ZONED),
}  # fmt: skip


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    server = FakeServer(channels=2, interval=3600.0)
    server.spec.missing = "hold"
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def stream(server: FakeServer) -> AsyncIterator[freshet.Stream]:
    async with freshet.connect(f"127.0.0.1:{server.port}") as client, client.stream("m", "s") as stream:
        yield stream


def received(server: FakeServer) -> list[list[float]]:
    return [list(tick.x) for tick in server.received]


@pytest.mark.parametrize("frame", FRAMES)
async def test_columns_are_matched_to_channels_by_name_and_nulls_are_nan(server, stream, frame):
    forecasts = [f async for f in stream.forecasts(FRAMES[frame](), MOMENTS)]

    assert [f.seq for f in forecasts] == [1, 2, 3]
    np.testing.assert_array_equal(received(server), ROWS)


@pytest.mark.parametrize("times", TIMES)
async def test_times_are_the_moments_that_they_name_whatever_their_zone(server, stream, times):
    async for _ in stream.forecasts(np.zeros((3, 2)), TIMES[times]()):
        pass

    assert [tick.time for tick in server.received] == MOMENTS


@pytest.mark.parametrize("frame", ["dict", "pandas", "polars", "pyarrow table"])
async def test_the_times_may_be_a_column(server, stream, frame):
    columns = {"c0": A, "when": ZONED, "c1": B}
    make = {"pandas": "DataFrame", "polars": "DataFrame", "pyarrow table": "table"}
    given = columns if frame == "dict" else getattr(library(frame.split()[0]), make[frame])(columns)
    async for _ in stream.forecasts(given, "when"):
        pass

    assert [tick.time for tick in server.received] == MOMENTS
    np.testing.assert_array_equal(received(server), ROWS)


@pytest.mark.parametrize("zone", [BERLIN, None], ids=["of a zone", "naive"])
async def test_the_times_may_be_the_index(server, stream, zone):
    index = library("pandas").DatetimeIndex(ZONED if zone else NAIVE_UTC)
    async for _ in stream.forecasts(library("pandas").DataFrame({"c1": B, "c0": A}, index)):
        pass

    assert [tick.time for tick in server.received] == MOMENTS
    np.testing.assert_array_equal(received(server), ROWS)


async def test_times_given_apart_go_before_those_of_the_index(server, stream):
    index = library("pandas").DatetimeIndex(ZONED) + library("pandas").Timedelta(days=1)
    async for _ in stream.forecasts(library("pandas").DataFrame({"c1": B, "c0": A}, index), MOMENTS):
        pass

    assert [tick.time for tick in server.received] == MOMENTS


async def test_another_number_of_times_than_of_rows_is_told_before_anything_is_sent(server, stream):
    with pytest.raises(freshet.InvalidArgument, match="times: 2 times for 3 rows; give one for each row"):
        stream.forecasts(ROWS, MOMENTS[:2])
    assert not server.received


VALUES = [1.0, None, 3.0]
SERIES: dict[str, Any] = {
    "masked array": lambda: np.ma.masked_invalid([1.0, np.nan, 3.0]),
    "objects": lambda: np.array(VALUES, object),
    "pandas": lambda: library("pandas").Series(VALUES, dtype="Float64"),
    "polars": lambda: library("polars").Series(VALUES),
    "pyarrow": lambda: library("pyarrow").array(VALUES),
    "pyarrow chunks": lambda: library("pyarrow").chunked_array([VALUES]),
}


@pytest.mark.parametrize("kind", SERIES)
async def test_a_series_of_one_channel_is_its_values(kind):
    given, server = SERIES[kind](), FakeServer()
    server.spec.missing = "hold"
    await server.start()
    async with freshet.connect(f"127.0.0.1:{server.port}") as client, client.stream("m", "s") as stream:
        async for _ in stream.forecasts(given):
            pass
    np.testing.assert_array_equal(server.rows(), [[1.0], [np.nan], [3.0]])
    await server.stop()


async def test_one_row_may_be_a_dict(server, stream):
    await stream.step({"c1": 20, "c0": 2}, MOMENTS[0])
    assert received(server) == [[2.0, 20.0]]
    with pytest.raises(freshet.TickRefused, match="no column 'c0' and 'c2', which is not a channel") as refused:
        await stream.step({"c1": 20, "c2": 2}, MOMENTS[1])
    assert (refused.value.reason, refused.value.seq) == (freshet.Reason.SHAPE, 2)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"c0": A}, r"values: no column 'c1'; give just the channels c0, c1"),
        ({"c0": A, "c1": A, "c2": A, "c3": A}, r"'c2', 'c3', which is not a channel"),
        ({"c0": A, "c1": A, "when": A}, r"'when', which is not a channel; .* contains the times, add times='when'"),
        ({"c0": A, "C1": A}, r"no column 'c1' and 'C1', which is not a channel"),
        ({"c0": A, "c1": A[:2]}, r"columns of different lengths: c0 3, c1 2"),
        ({"c0": A, "c1": ["x", "y", "z"]}, r"column 'c1' of <U1"),
        ({"c0": A, "c1": NAIVE_UTC}, r"column 'c1' of object"),
        ({"c0": A, "c1": np.array(NAIVE_UTC, "datetime64[s]")}, r"column 'c1' of datetime64\[s\]"),
        ({"c0": A, "c1": [[1], [2], [3]]}, r"column 'c1' of shape \(3, 1\)"),
    ],
)
async def test_what_does_not_fit_is_named_before_anything_is_sent(server, stream, values, said):
    with pytest.raises(freshet.InvalidArgument, match=said) as raised:
        stream.forecasts(values, MOMENTS)
    assert raised.value.field == "values"
    assert raised.value.remedy
    await stream.step([0.0, 0.0], MOMENTS[0])
    assert len(server.received) == 1


async def test_times_that_are_no_column_and_columns_that_occur_twice_are_named(stream):
    with pytest.raises(freshet.InvalidArgument, match="times = 'when'; give times, or the name of a column"):
        stream.forecasts({"c0": A, "c1": B}, "when")
    with pytest.raises(freshet.InvalidArgument, match="times = 'when'"):
        stream.forecasts(ROWS, "when")
    twice = library("pandas").DataFrame([[1, 2, 3]], columns=["c0", "c1", "c1"])
    with pytest.raises(freshet.InvalidArgument, match="two columns 'c1'; give each channel once"):
        stream.forecasts(twice, MOMENTS[:1])


def test_a_moment_that_is_none_is_refused_and_not_now():
    for times in (np.array(["NaT"], "datetime64[s]"), library("pandas").DatetimeIndex([None])):
        made = ticks([[1.0]], times)
        assert isinstance(made, Iterator)
        (tick,) = made
        assert isinstance(tick, Tick)
        assert not np.isfinite(tick.time)


def test_windows_take_frames_by_name():
    spec = types_pb2.ModelSpec(channels=CHANNELS, task="regress", targets=["t1", "t0"], missing="hold")
    layout = WindowLayout.of(results.ModelSpec.of(spec))
    plainly = window_message(layout, ROWS, [[1, 4], [2, 5], [3, 6]], None, None)
    labels = {"t0": [4, 5, 6], "t1": [1, 2, 3]}
    for frame in ("pandas", "polars", "pyarrow table", "masked array"):
        x = FRAMES[frame]()
        y = {"pandas": "DataFrame", "polars": "DataFrame", "pyarrow table": "table"}.get(frame)
        given = getattr(library(frame.split()[0]), y)(labels) if y else np.array([[1, 4], [2, 5], [3, 6]])
        assert window_message(layout, x, given, None, None) == plainly
    with pytest.raises(freshet.WindowRefused, match=r"window\.x = no column 'c1'; give just the channels c0, c1"):
        window_message(layout, {"c0": A}, [[1, 4]] * 3, None, None)


async def test_the_blocking_client_takes_the_same(server):
    def work() -> list[int]:
        with (
            freshet.sync.connect(f"127.0.0.1:{server.port}") as client,
            client.stream("m", "s") as stream,
        ):
            return [f.seq for f in stream.forecasts({"c1": B, "c0": A}, iter(ZONED))]

    assert await asyncio.to_thread(work) == [1, 2, 3]
    np.testing.assert_array_equal(received(server), ROWS)
    assert [tick.time for tick in server.received] == MOMENTS
