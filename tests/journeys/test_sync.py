"""The client that blocks, with a real server: everything that the server does for it."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import freshet
from freshet import EventKind as Event

ROWS = np.cumsum(np.random.default_rng(3).standard_normal((300, 2)), axis=0).astype(np.float32)


async def test_forecasts_are_those_of_the_async_client(server, client, name):
    fixed: dict[str, Any] = {"learn": False, "head_init": 0.3, "hidden": 8}
    with freshet.sync.connect(server.grpc) as blocking:
        blocking.create_model(name, ["a", "b"], **fixed)
        with blocking.stream(name, "one") as stream:
            ours = list(stream.forecasts(ROWS))
            assert (stream.spec.hidden, stream.welcome.stream_id) == (8, "one")
    async with client.stream(name, "other") as stream:
        theirs = [forecast async for forecast in stream.forecasts(ROWS)]

    assert [f.seq for f in ours] == [f.seq for f in theirs] == list(range(1, 301))
    np.testing.assert_array_equal([f.y for f in ours], [f.y for f in theirs])


def test_a_gateway_steps_many_streams(server, name):
    ids = [f"meter-{n}" for n in range(500)]
    with freshet.sync.connect(server.grpc) as client:
        client.create_model(name, ["kw"], hidden=8)
        with client.mux(name) as mux:
            for hour in range(3):
                packed = mux.step(ids, np.full(500, hour, np.float32))
            assert packed.y.shape == (500, 1, 1)
            assert (set(packed.seq.tolist()), packed.refused, mux.streams) == ({3}, {}, ids)
        assert [stream.last_seq for stream in client.list_streams(name, page_size=100)] == [3] * 500


def test_labels_from_inside_and_outside_are_learned(server, name):
    with freshet.sync.connect(server.grpc) as client:
        client.create_model(name, ["x"], task="regress", targets=["y"], hidden=8, label_horizon=64)
        with client.stream(name, "s") as stream, client.learn(name, "laboratory", "learned") as learn:
            for x in ROWS[:8, :1]:
                forecast = stream.step(x)
            stream.label(forecast.seq, 0.5)
            with pytest.raises(freshet.LabelRefused, match=r"label\.seq"):
                stream.label(99, 0.5)
            learn.label("s", 3, [0.25])
            learn.window(ROWS[:16, :1], ROWS[:16, 1])
            learn.flush()
            assert learn.next_window == 2
        assert list(client.quarantine(name)) == []
        assert client.get_stream(name, "s").last_seq == 8


def test_versions_are_moved_by_hand_and_every_move_is_an_event(server, name):
    with freshet.sync.connect(server.grpc) as client:
        client.create_model(name, ["a", "b"], hidden=8)
        with client.stream(name, "s") as stream:
            forecasts = list(stream.forecasts(ROWS, max_staleness=16))
            stream.wait_judged(len(forecasts))  # no verdict is left to come between what is done below
        newest = client.versions(name)[0].number
        assert newest > 1

        client.pause(name)
        assert client.import_version(name, client.export(name, 1).weights).number == 1, "the same weights are there"
        assert client.rollback(name, 1).champion == 1
        assert client.promote(name, newest).champion == newest
        assert not client.resume(name).paused

        last = [event.kind for event in client.history(name) if event.kind != Event.ANCHORED][-4:]
        assert last == [Event.PAUSED, Event.ROLLED_BACK, Event.PUBLISHED, Event.RESUMED]
        client.delete_model(name)
        with pytest.raises(freshet.NotFound):
            client.get_model(name)


def test_events_are_watched_by_one_thread_while_another_works(server, name):
    with freshet.sync.connect(server.grpc) as client, ThreadPoolExecutor(1) as pool:
        client.create_model(name, ["x"], hidden=8)
        events = client.watch(name)
        first = pool.submit(next, events)
        while not first.done():  # a watch that is just being opened misses what happens
            client.pause(name)
            client.resume(name)

        assert first.result().kind in (Event.PAUSED, Event.RESUMED)
        assert isinstance(events, Generator)
        events.close()
