"""Offsets and lost changes through the SDK: what is sent, what comes back, and what is refused before it is sent."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pandas
import pytest
import pytest_asyncio

import freshet
import freshet.sync
from freshet.windows import WindowLayout, window_message
from tests.client.fake_mux import FakeMux
from tests.client.fake_server import FakeServer, oracle

COUNTER = 1e8 + np.arange(300.0)


@pytest_asyncio.fixture
async def server():
    server = FakeServer()
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture
async def stream(server):
    async with (
        freshet.connect(f"127.0.0.1:{server.port}") as client,
        client.stream("m", "s", offset=[1e8]) as stream,
    ):
        yield stream


async def test_values_are_sent_without_the_offset_and_forecasts_have_it(server, stream):
    forecasts = [forecast async for forecast in stream.forecasts(COUNTER[:20])]
    step = await stream.step(COUNTER[20])
    assert server.rows() == [[float(n)] for n in range(21)]
    expected = [y.astype(np.float64) + 1e8 for y in oracle(np.arange(21.0))]
    for made, want in zip([*forecasts, step], expected, strict=True):
        assert made.y.dtype == np.float64
        np.testing.assert_array_equal(made.y, want)
    frame = await stream.forecasts(pandas.DataFrame({"c0": COUNTER[21:30]})).frame()
    assert abs(frame["c0"].iloc[0] - 1e8 - 40) < 2


async def test_a_counter_is_refused_with_the_remedy_before_anything_is_sent(server):
    async with freshet.connect(f"127.0.0.1:{server.port}") as client, client.stream("m", "s") as stream:
        for values in (COUNTER, COUNTER[:, None], {"c0": COUNTER}):
            with pytest.raises(
                freshet.InvalidArgument, match=r"x\[8, 0\] \(c0\) = 100000007.0 to 100000008.0.*offset="
            ):
                stream.forecasts(values)
        assert server.rows() == []
        assert (await stream.step(1e8)).seq == 1


async def test_a_counter_that_comes_tick_by_tick_is_refused_at_the_eighth_lost_change(server):
    async with freshet.connect(f"127.0.0.1:{server.port}") as client, client.stream("m", "s") as stream:
        for value in COUNTER[:8]:
            await stream.step(value)
        for _ in range(2):
            with pytest.raises(freshet.InvalidArgument, match="offset=") as caught:
                await stream.step(COUNTER[8])
        assert (caught.value.field, caught.value.value) == ("x[0]", "100000007.0 to 100000008.0")
        forecasts = stream.forecasts(iter([1e8 + 1000, *COUNTER[:40]]), on_refused="skip")
        assert (await anext(forecasts)).seq == 9
        with pytest.raises(freshet.InvalidArgument, match="offset="):
            await drained(forecasts)
        assert forecasts.refused == []
        await stream.reset()
        assert (await stream.step(COUNTER[9])).seq == len(server.rows())


async def drained(forecasts: freshet.Forecasts) -> None:
    async for _ in forecasts:
        pass


async def test_an_offset_of_other_channels_is_refused_when_the_stream_opens(server):
    async with freshet.connect(f"127.0.0.1:{server.port}") as client:
        for wrong in ([1.0, 2.0], {"other": 1.0}):
            with pytest.raises(freshet.InvalidArgument, match="offset"):
                async with client.stream("m", "s", offset=wrong):
                    pass
        text: Any = "1e8"
        for make in (client.stream, client.learn):
            with pytest.raises(freshet.InvalidArgument, match="offset"):
                make("m", "s", offset=text)
        with pytest.raises(freshet.InvalidArgument, match="offset"):
            client.mux("m", offset=text)


async def test_a_blocking_stream_and_mux_have_offsets_too(server):
    def use() -> None:
        with freshet.sync.connect(f"127.0.0.1:{server.port}") as client:
            with client.stream("m", "s", offset={"c0": 1e8}) as stream:
                assert [f.y.dtype.name for f in stream.forecasts(COUNTER[:12])] == ["float64"] * 12
                assert stream.step(COUNTER[12]).y[0, 0] > 1e8
            with client.stream("m", "t") as stream:
                with pytest.raises(freshet.InvalidArgument, match="offset="):
                    stream.forecasts(COUNTER)
                with pytest.raises(freshet.InvalidArgument, match="offset="):
                    list(stream.forecasts(iter(COUNTER)))

    await asyncio.to_thread(use)
    assert server.rows()[:13] == [[float(n)] for n in range(13)]


# --- Mux


@pytest_asyncio.fixture
async def mux_server():
    fake = FakeMux()
    await fake.start()
    yield fake
    await fake.stop()


async def test_a_mux_subtracts_and_adds_and_refuses_one_row_alone(mux_server):
    async with freshet.connect(f"127.0.0.1:{mux_server.port}") as client, client.mux("m") as mux:
        for n in range(12):
            packed = await mux.step(["a", "b", "c"], [1e8 + n, float(n), np.float64(np.float32(0.1 * n))])
            assert list(packed.refused) == ([0] if n > 7 else [])
        error = packed.refused[0]
        assert isinstance(error, freshet.InvalidArgument)
        assert "offset={'x': 100000000}" in str(error)
        assert np.isnan(packed.y[0]).all()
        assert packed.seq.tolist() == [0, 12, 12]
        packed = await mux.step(["d"] * 12, 1e8 + np.arange(12.0))
        assert list(packed.refused) == [8, 9, 10, 11]


async def test_offsets_of_a_mux_are_of_all_streams_or_of_each_row(mux_server):
    async with freshet.connect(f"127.0.0.1:{mux_server.port}") as client, client.mux("m", offset=1e8) as mux:
        for n in range(40):
            packed = await mux.step(["a", "b"], [1e8 + n, 1e8 - n])
            assert (packed.refused, packed.y.ravel().tolist()) == ({}, [1e8 + n, 1e8 - n])
            packed = await mux.step(["c", "d"], [1e9 + n, float(n)], offset=[1e9, 0.0])
            assert (packed.refused, packed.y.ravel().tolist()) == ({}, [1e9 + n, float(n)])
        assert mux_server.streams["a"].rows == [float(n) for n in range(40)]
        assert mux_server.streams["c"].rows == [float(n) for n in range(40)]
        for wrong in ([1.0], [np.nan, 0.0], "1e8"):
            with pytest.raises((freshet.InvalidArgument, ValueError)):
                await mux.step(["a", "b"], [1e8, 1e8], offset=wrong)


# --- windows


def layout(offset: Any = None, **spec: Any) -> WindowLayout:
    return WindowLayout.of(freshet.results.ModelSpec(**({"channels": ("a", "b")} | spec)), offset)


def sent(data: bytes) -> list[float]:
    return [float(value) for value in np.frombuffer(data, "<f4")]


def test_windows_are_sent_without_the_offset_and_labels_of_forecasts_too():
    x = np.column_stack([1e8 + np.arange(20.0), np.arange(20.0)])
    message = window_message(layout({"a": 1e8}, horizon=2, targets=("a",)), x, [1e8 + 20, 1e8 + 21], None, None)
    assert sent(message.x)[::2] == [float(n) for n in range(20)]
    assert sent(message.y)[-2:] == [20.0, 21.0]
    message = window_message(layout({"a": 1e8}, horizon=1, targets=("b", "a")), x, x[:, ::-1], None, None)
    assert sent(message.y)[:4] == [0.0, 0.0, 1.0, 1.0]
    message = window_message(layout({"a": 1e8}, task="regress", targets=("q",)), x, 1e8, None, None)
    assert sent(message.y)[-1] == 1e8


@pytest.mark.parametrize("ticks", [7, 20, 300])
def test_a_window_that_float32_would_flatten_is_refused(ticks):
    x = np.column_stack([np.arange(1.0 * ticks), 1e8 + np.arange(1.0 * ticks)])
    with pytest.raises(freshet.InvalidArgument, match=r"window.x\[\d+, 1\] \(b\) = .*offset=\{'b': 100000000\}"):
        window_message(layout(task="regress", targets=("q",)), x, 1.0, None, None)
    window_message(layout(task="regress", targets=("q",)), x.round(-3), 1.0, None, None)


@pytest.mark.parametrize("ticks", [7, 300])
def test_labels_of_a_window_that_float32_would_flatten_are_refused(ticks):
    x, y = np.zeros((ticks, 2)), 1e8 + np.arange(1.0 * ticks)
    with pytest.raises(
        freshet.InvalidArgument, match=r"window.y\[\d+, 0\] \(q\) = .*subtract 100000000 from the labels"
    ):
        window_message(layout(task="regress", targets=("q",)), x, y, None, None)
    window_message(layout(task="regress", targets=("q",)), x, y - 1e8, None, None)
    window_message(layout(task="classify", classes=("q", "r")), x, np.eye(2)[np.zeros(ticks, int)], None, None)


async def test_labels_that_float32_would_flatten_are_refused(server):
    server.spec.task = "regress"
    async with freshet.connect(f"127.0.0.1:{server.port}") as client, client.stream("m", "s") as stream:
        for n in range(10):
            await stream.step(float(n))
        labels = [asyncio.create_task(stream.label(n + 1, 1e8 + n)) for n in range(8)]
        with pytest.raises(freshet.InvalidArgument, match=r"label.y\[0\].*subtract 100000000 from the labels"):
            await asyncio.gather(*labels, stream.label(9, 1e8 + 8))
        for label in labels:
            label.cancel()


# --- without the check


async def test_without_the_check_a_counter_would_stand_still(server, monkeypatch):
    monkeypatch.setattr("freshet.precision._lost", lambda before, after, offset: False)
    async with freshet.connect(f"127.0.0.1:{server.port}") as client, client.stream("m", "s") as stream:
        for value in COUNTER[:64]:
            await stream.step(value)
    assert np.count_nonzero(np.diff(server.rows(), axis=0)) <= 8
