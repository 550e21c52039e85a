"""What a debugger or a notebook shows of each public object: one short line with its name and state, and no secret."""

from __future__ import annotations

import enum
import inspect
import socket
from collections.abc import AsyncIterator, Iterator
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

import freshet
from freshet import forks
from freshet.sync.portal import Portal
from tests.client.fake_mux import FakeMux
from tests.client.fake_server import FakeServer
from tests.client.fake_training import FakeTraining

TOKEN = "fr_a-token-that-nobody-may-see"
LONGEST = 300  # characters

CLASSES = [
    (f"{module.__name__}.{name}", getattr(module, name))
    for module in (freshet, freshet.sync)
    for name in module.__all__
    if isinstance(getattr(module, name), type)
]


def shows_itself(cls: type) -> bool:
    return cls.__repr__ is not object.__repr__


@pytest.mark.parametrize("cls", [cls for _, cls in CLASSES], ids=[name for name, _ in CLASSES])
def test_every_public_class_shows_itself(cls):
    assert shows_itself(cls)


def test_a_public_class_that_does_not_show_itself_would_be_seen():
    class Opaque:
        pass

    assert not shows_itself(Opaque)
    assert {"freshet.Client", "freshet.sync.Client", "freshet.Forecast"} <= {name for name, _ in CLASSES}


def test_no_public_class_shows_itself_by_waiting():
    for _, cls in CLASSES:
        if not issubclass(cls, enum.Enum | BaseException | tuple):
            assert not inspect.iscoroutinefunction(cls.__repr__)


# --- what needs no server


def test_a_client_shows_its_target_and_whether_it_is_encrypted_and_never_its_token():
    plain = freshet.connect("127.0.0.1:8300", token=TOKEN)
    encrypted = freshet.connect("example.org:443", tls=True, token=lambda: TOKEN)

    assert repr(plain) == "<freshet.Client of '127.0.0.1:8300': not open, plain text>"
    assert repr(encrypted) == "<freshet.Client of 'example.org:443': not open, TLS>"


def test_a_forecast_shows_its_numbers():
    y = np.array([[1.5, 2.0], [103.25, np.nan]], np.float32)
    forecast = freshet.Forecast(7, y, 3, 5, 0.00125, time=60.0, interval=60.0)

    assert repr(forecast) == (
        "Forecast(seq=7, y=[[1.5, 2], [103.25, nan]], version=3, judged_through=5, latency_s=0.00125, "
        "time=1970-01-01T00:01:00Z)"
    )


def test_a_forecast_whose_answer_is_lost_says_so():
    assert "lost=True" in repr(freshet.Forecast(7, np.full((1, 1), np.nan, np.float32), 0, 5, 0.1, lost=True))


@pytest.mark.parametrize("shape", [(1000, 1), (1, 1000), (1000, 1000)])
def test_a_long_forecast_shows_both_ends_and_its_shape(shape):
    forecast = freshet.Forecast(7, np.arange(np.prod(shape), dtype=np.float32).reshape(shape), 3, 5, 0.1)

    text = repr(forecast)

    assert f"y={shape} [[0" in text
    assert "…" in text
    assert "999" in text
    assert len(text) < 2 * LONGEST
    assert "\n" not in text


class Cells(HTMLParser):
    """The texts of a table's cells, row by row."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.feed(html)
        assert not self.open, "a tag is not closed"

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)


def test_a_notebook_shows_a_forecast_as_a_table_of_steps_and_times():
    y = np.array([[1.5, 2.0], [3.0, 4.0]], np.float32)
    html = freshet.Forecast(7, y, 3, 5, 0.1, time=60.0, interval=60.0)._repr_html_()

    assert Cells(html).rows == [
        ["step", "time (UTC)", "0", "1"],
        ["+1", "1970-01-01T00:02:00Z", "1.5", "2"],
        ["+2", "1970-01-01T00:03:00Z", "3", "4"],
    ]
    assert "Forecast of tick 7, version 3, judged through 5" in html


def test_a_notebook_shows_the_ends_of_a_long_forecast():
    rows = Cells(freshet.Forecast(7, np.zeros((500, 400), np.float32), 3, 5, 0.1)._repr_html_()).rows

    assert [row[0] for row in rows][:3] == ["step", "+1", "+2"]
    assert rows[-1][0] == "+500"
    assert ["…"] * len(rows[0]) in rows
    assert (len(rows), {len(row) for row in rows}) == (14, {11})


def test_packed_answers_show_their_counts_and_the_ends_of_their_numbers():
    y, zeros = np.arange(1000, dtype=np.float32).reshape(1000, 1, 1), np.zeros(1000, np.uint64)
    packed = freshet.Packed(y, zeros, zeros, zeros, {3: freshet.NotFound("x")}, [5])

    assert repr(packed).startswith("Packed(1000 ticks, 998 answered, 1 refused, 1 lost, y=(1000, 1, 1) [[[0]]")
    assert len(repr(packed)) < LONGEST


# --- what has a connection


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    server = FakeServer()
    await server.start()
    yield server
    await server.stop()


async def test_a_client_shows_that_it_is_open_and_closed(server):
    client = freshet.connect(f"127.0.0.1:{server.port}")
    async with client:
        assert repr(client) == f"<freshet.Client of '127.0.0.1:{server.port}': open, plain text>"
    assert repr(client) == f"<freshet.Client of '127.0.0.1:{server.port}': closed, plain text>"


async def test_a_stream_shows_how_far_it_is(server):
    async with freshet.connect(f"127.0.0.1:{server.port}", token=TOKEN) as client:
        stream = client.stream("m", "s")
        assert repr(stream) == "<freshet.Stream 's' of model 'm': not open>"
        async with stream:
            await stream.step(1.0)
            await stream.durable()
            await stream.wait_judged(1)
            assert repr(stream) == (
                "<freshet.Stream 's' of model 'm': open, next tick 2, answered to 1, on disk to 1, judged to 1>"
            )
        assert repr(stream).startswith("<freshet.Stream 's' of model 'm': closed, next tick 2")


async def test_a_stream_shows_that_it_reconnects_and_why_it_failed(server):
    async with freshet.connect(f"127.0.0.1:{server.port}") as client, client.stream("m", "s") as stream:
        await stream.step(1.0)
        await server.crash(keep=1)
        await stream.step(2.0)
        assert "1 reconnect>" in repr(stream)
        server.streams["s"].call.send(taken_over={"by": "another"})
        with pytest.raises(freshet.TakenOver):
            await stream.durable(10)
        assert "failed (TakenOver)" in repr(stream)


async def test_forecasts_show_how_many_were_delivered(server):
    async with freshet.connect(f"127.0.0.1:{server.port}") as client, client.stream("m", "s") as stream:
        forecasts = stream.forecasts([1.0, 2.0])
        assert repr(forecasts) == "<freshet.Forecasts of stream 's': not started, 0 delivered, 0 to come, 0 refused>"
        assert len([forecast async for forecast in forecasts]) == 2
        assert repr(forecasts) == "<freshet.Forecasts of stream 's': source ended, 2 delivered, 0 to come, 0 refused>"


async def test_a_mux_shows_its_model_and_how_many_streams():
    fake = FakeMux()
    await fake.start()
    async with freshet.connect(f"127.0.0.1:{fake.port}", token=TOKEN) as client:
        mux = client.mux("m")
        assert repr(mux) == "<freshet.Mux of model 'm': not open, 0 streams, 0 messages not on disk>"
        async with mux:
            await mux.step(["a", "b"], [1.0, 2.0])
            assert repr(mux).startswith("<freshet.Mux of model 'm': open, 2 streams, ")
        assert repr(mux).startswith("<freshet.Mux of model 'm': closed, 2 streams, ")
    await fake.stop()


async def test_a_sender_shows_its_source_and_what_is_not_acknowledged():
    server = FakeTraining()
    await server.start()
    async with freshet.connect(f"127.0.0.1:{server.port}", token=TOKEN) as client:
        learning = client.learn("m", "shop")
        name = "<freshet.Learning of model 'm' from source 'shop'"
        assert repr(learning) == f"{name}: not open, 0 not acknowledged, 0 refused>"
        async with learning:
            server.acknowledging.clear()
            await learning.window([1.0], [1.0])
            assert repr(learning) == f"{name}: open, 1 not acknowledged, 0 refused>"
            server.acknowledging.set()
        assert repr(learning) == f"{name}: closed, 0 not acknowledged, 0 refused>"
    await server.stop()


# --- the blocking forms


@pytest.fixture
def port() -> Iterator[int]:
    portal, server = Portal(), FakeTraining()
    portal.call(server.start())
    yield server.port
    portal.call(server.stop())
    portal.close()


def test_the_blocking_forms_show_themselves_as_such(port):
    with freshet.sync.connect(f"127.0.0.1:{port}", token=TOKEN) as client, client.stream("m", "s") as stream:
        shown = [client, stream, stream.forecasts([1.0]), client.mux("m"), client.learn("m", "shop")]
        texts = [repr(thing) for thing in shown]

    assert [text.partition(" ")[0] for text in texts] == [
        f"<freshet.sync.{name}" for name in ("Client", "Stream", "Forecasts", "Mux", "Learning")
    ]
    assert not any(TOKEN in text or len(text) > LONGEST for text in texts)


def test_showing_an_object_reads_and_writes_nothing(port, monkeypatch):
    with freshet.sync.connect(f"127.0.0.1:{port}") as client, client.stream("m", "s") as stream:
        things = [client, stream, client.mux("m"), client.learn("m", "shop")]
        with monkeypatch.context() as patched:
            patched.setattr(Portal, "call", None)  # the only way into the client's thread
            patched.setattr(socket, "socket", None)
            assert all(repr(thing) for thing in things)


def test_in_a_forked_child_an_object_shows_that_it_is_unusable(monkeypatch):
    client = freshet.connect("127.0.0.1:8300")
    monkeypatch.setattr(forks, "_forked", True)

    assert repr(client) == "<freshet.Client of '127.0.0.1:8300': unusable after a fork, plain text>"
