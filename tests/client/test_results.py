"""Results are small objects of the SDK: frozen, shown in one line, with the names of the messages they stand for."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import typing
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import Message

import freshet
from freshet import results
from freshet.messages import Result, WireEnum
from freshet.v1 import cluster_pb2, models_pb2, streams_pb2, training_pb2, types_pb2
from tests.client.fake_server import FakeServer

MADE_OF: dict[type[Result], type[Message]] = {
    results.Cluster: cluster_pb2.NodesResponse,
    results.Comparison: models_pb2.Comparison,
    results.Export: models_pb2.ExportResponse,
    results.KeptStream: streams_pb2.Stream,
    results.Model: models_pb2.Model,
    results.ModelEvent: models_pb2.ModelEvent,
    results.ModelReport: models_pb2.ModelReport,
    results.ModelSpec: types_pb2.ModelSpec,
    results.Node: cluster_pb2.Node,
    results.Quarantined: training_pb2.Quarantined,
    results.Replayed: training_pb2.ReplayResponse,
    results.Shard: cluster_pb2.Shard,
    results.Version: models_pb2.Version,
    results.Welcome: streams_pb2.Welcome,
}
NUMBERED: dict[type[WireEnum], Any] = {
    results.StateOrigin: streams_pb2.Welcome.StateOrigin,
    results.EventKind: models_pb2.ModelEvent.Kind,
}


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    server = FakeServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def client(server: FakeServer) -> AsyncIterator[freshet.Client]:
    async with freshet.connect(f"127.0.0.1:{server.port}") as client:
        yield client


def test_every_result_is_in_the_table_and_public():
    def declared(kind: type) -> set[type]:
        return {c for c in vars(results).values() if isinstance(c, type) and issubclass(c, kind) and c is not kind}

    assert declared(Result) == MADE_OF.keys()
    assert declared(WireEnum) == NUMBERED.keys()
    assert {kind.__name__ for kind in (*MADE_OF, *NUMBERED)} <= set(freshet.__all__)


@pytest.mark.parametrize("kind", MADE_OF, ids=lambda kind: kind.__name__)
def test_a_result_has_the_fields_of_its_message(kind):
    assert {f.name for f in dataclasses.fields(kind)} == set(MADE_OF[kind].DESCRIPTOR.fields_by_name)
    empty = kind.of(MADE_OF[kind]())
    assert empty == kind.of(MADE_OF[kind]())
    for field in dataclasses.fields(kind):
        assert not isinstance(getattr(empty, field.name), Message)


@pytest.mark.parametrize("kind", NUMBERED, ids=lambda kind: kind.__name__)
def test_the_names_of_numbers_are_those_of_the_protocol(kind):
    assert {member.name: member.value for member in kind} == dict(NUMBERED[kind].items())


def test_a_number_of_a_newer_server_is_kept():
    event = results.ModelEvent.of(models_pb2.ModelEvent.FromString(b"\x10\x63"))  # kind 99

    assert (event.kind, event.kind.name) == (99, "UNKNOWN_99")
    assert event.Kind.Name(2) == "PUBLISHED"
    assert int(event.kind) == models_pb2.ModelEvent.FromString(b"\x10\x63").kind


def test_a_result_is_shown_in_one_short_line_and_cannot_be_changed():
    spec = types_pb2.ModelSpec(channels=[f"channel {i}" for i in range(4096)], hidden=64, cell="lstm")
    shown = [
        repr(results.Model.of(models_pb2.Model(name="m", spec=spec, champion=3))),
        repr(results.ModelSpec.of(spec)),
        repr(results.Export.of(models_pb2.ExportResponse(onnx=b"o" * 10**6, weights=b"w"))),
        repr(results.KeptStream.of(streams_pb2.Stream(model="m", stream="s", state=bytes(4000)))),
    ]

    assert all(len(text) < 500 and "\n" not in text for text in shown)
    assert "champion=3" in shown[0]
    assert "onnx=<1000000 bytes>" in shown[2]
    model = results.Model.of(models_pb2.Model(name="m", spec=spec))
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.name = "other"  # type: ignore[misc]  # what is tested: it is frozen
    assert pickle.loads(pickle.dumps(model)) == model


def test_what_is_not_set_is_none_and_lists_are_tuples():
    version = results.Version.of(models_pb2.Version(number=1, loss=0.0))
    kept = results.KeptStream.of(streams_pb2.Stream(last_time=0.0))
    item = results.Quarantined.of(training_pb2.Quarantined(y=[0.5]))
    event = results.ModelEvent.of(models_pb2.ModelEvent(numbers={"loss": 0.5}))

    assert (version.loss, version.anchor_loss) == (0.0, None)
    assert (kept.last_time, results.KeptStream.of(streams_pb2.Stream()).last_time) == (0.0, None)
    assert (item.y, event.numbers) == ((0.5,), {"loss": 0.5})


def test_a_spec_is_taken_over_to_another_model():
    spec = types_pb2.ModelSpec(channels=["a"], horizon=3, learn=False, class_weights=[1.0])

    assert results.ModelSpec.of(spec).to_mapping()["channels"] == ["a"]
    assert results.ModelSpec.of(freshet.spec.spec_message(results.ModelSpec.of(spec).to_mapping())) == (
        results.ModelSpec.of(spec)
    )


@pytest.mark.parametrize("surface", [freshet, freshet.sync], ids=["async", "sync"])
def test_no_method_says_that_it_returns_a_message(surface):
    """What a method is annotated with is checked by mypy."""
    for cls in (surface.Client, surface.Stream, surface.Mux, surface.Learning, surface.Forecasts):
        for name, member in inspect.getmembers(cls):
            function = member.fget if isinstance(member, property) else member
            if name.startswith("_") or not inspect.isfunction(function):
                continue
            returned = str(typing.get_type_hints(function).get("return"))
            assert "_pb2" not in returned, f"{cls.__name__}.{name} returns {returned}"


async def test_what_is_returned_is_no_message(client, server):
    async with client.stream("m", "s") as stream:
        await stream.step(1.0)
        given: list[Any] = [stream.welcome, stream.spec]
    given += [await client.create_model("n", ["a"]), await client.get_model("m"), *await client.list_models()]
    given += [*await client.versions("m"), await client.export("m")]
    server.events.put_nowait(models_pb2.ModelEvent(model="m", kind=models_pb2.ModelEvent.VETOED))
    given.append(await anext(client.watch("m")))

    assert all(type(one) in MADE_OF for one in given)
    assert given[-1].kind is freshet.EventKind.VETOED
    assert int(given[-1].kind) == models_pb2.ModelEvent.VETOED


# --- the last event time


async def test_a_stream_knows_the_last_event_time_as_it_was_found_and_follows_its_ticks(client):
    async with client.stream("m", "s") as stream:
        assert (stream.last_time, stream.welcome.last_time) == (None, None)
        await stream.step(1.0, time=100.0)
        assert stream.last_time == 100.0
        await stream.step(2.0, time=np.datetime64(200, "s"))
    async with client.stream("m", "s") as stream:
        assert (stream.last_time, stream.welcome.last_time) == (200.0, 200.0)
        await stream.reset()
        assert stream.last_time is None
        await stream.step(1.0, time=50.0)
        assert stream.last_time == 50.0
        assert (stream.is_new(50), stream.is_new(np.datetime64(51, "s"))) == (False, True)
        with pytest.raises(freshet.InvalidArgument, match="time = 'soon': give seconds"):
            stream.is_new("soon")


async def test_a_source_goes_on_behind_the_last_event_time_whatever_rows_were_skipped(client, server):
    """The idiom of the guides. By the number of rows, each refused row would be sent once more, or one left out."""
    rows = [(float(t), float("nan") if t in (3, 7) else float(t)) for t in range(1, 13)]

    async def send(until: float) -> list[float]:
        async with client.stream("m", "s") as stream:
            source = [(t, [x]) for t, x in rows if stream.is_new(t) and t <= until]
            forecasts = stream.forecasts(source, on_refused="skip")
            return [f.seq async for f in forecasts]

    sent = await send(8.0) + await send(12.0)

    assert sent == list(range(1, 11))
    assert [tick.time for tick in server.streams["s"].ticks] == [t for t, x in rows if x == x]


async def test_a_resent_tick_does_not_turn_the_last_event_time_back(client, server):
    server.commit_every = None
    async with client.stream("m", "s") as stream:
        for t in (1.0, 2.0, 3.0):
            await stream.step(t, time=t)
        await server.crash()
        await stream.step(4.0, time=4.0)
        assert stream.last_time == 4.0
        assert stream.reconnects == 1
        server.commit()
