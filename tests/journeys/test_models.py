"""Models from the outside: create, look up, export, watch; health, reflection, and the whole contract."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import onnxruntime
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import freshet
from freshet.v1 import (
    models_pb2,
    models_pb2_grpc,
)
from model.spec import ModelSpec
from service.edge import wire_models
from service.edge.models import Models
from service.edge.streams import Streams
from service.edge.training import Training
from tests.journeys.raw import DEADLINE_S, refused_field
from tests.oracles.unbroken import Unbroken

SERVICES = ["freshet.v1.Streams", "freshet.v1.Models", "freshet.v1.Training", "freshet.v1.Cluster"]


# --- create, get, list, versions


async def test_a_created_model_has_every_field_of_its_spec_filled_in(client, channel, name):
    model = await client.create_model(name, ["a", "b"], horizon=2)
    models = models_pb2_grpc.ModelsStub(channel)
    sent = (await models.Get(models_pb2.GetModelRequest(name=name), timeout=DEADLINE_S)).spec

    assert ModelSpec.from_mapping(model.spec.to_mapping()) == ModelSpec(channels=("a", "b"), horizon=2)
    assert wire_models.spec(sent) == ModelSpec(channels=("a", "b"), horizon=2)
    # A list is on the wire only where it has entries.
    lists_of_none = {"cells", "layer_rates", "classes", "class_weights", "label_range", "freeze"}
    lists_of_none |= {"seasons", "intervals", "known", "static", "categories"}
    assert {f.name for f, _ in sent.ListFields()} | lists_of_none == {f.name for f in sent.DESCRIPTOR.fields}
    assert (model.name, model.champion, model.anchor, model.paused, model.streams) == (name, 1, 1, False, 0)
    assert await client.get_model(name) == model


async def test_creating_a_model_again_with_its_spec_answers_the_existing_one(client, name):
    first = await client.create_model(name, ["a"], hidden=8)
    async with client.stream(name, "s") as stream:
        await stream.step(1.0)

    again = await client.create_model(name, ["a"], hidden=8, layers=1)  # 1 is the default anyway

    assert again.spec == first.spec
    assert again.streams == 1


async def test_creating_a_model_again_with_another_spec_is_refused(client, channel, name):
    await client.create_model(name, ["a"])

    with pytest.raises(freshet.AlreadyExists, match="another spec: hidden = 64 there, 8 here; a spec is immutable"):
        await client.create_model(name, ["a"], hidden=8)
    for long in (["\N{GRINNING FACE}" * 256], [f"{i}" * 128 for i in range(1, 10)]):  # fits in an answer's header
        with pytest.raises(freshet.AlreadyExists, match=r"another spec: channels.*; and in .*missing"):
            await client.create_model(
                name, long, hidden=8, interval=1.0, max_gap=9.0, cell="gru", layers=2, window=99, learn_every=3,
                loss="huber", huber_delta=2.0, optimizer="adamw", schedule="cosine", warmup=5, missing="hold",
            )  # fmt: skip

    assert (await client.get_model(name)).spec.hidden == 64


async def test_the_name_of_a_zone_becomes_its_rule_and_finds_the_model_again(client, name):
    keys: dict[str, Any] = {"hidden": 8, "interval": 3600.0, "holidays": "DE-BY"}
    made = await client.create_model(name, ["a"], zone="Europe/Berlin", **keys)

    assert made.spec.zone == "CET-1CEST,M3.5.0,M10.5.0/3"
    for zone in ("Europe/Berlin", "Europe/Paris", made.spec.zone):  # the two have the same rule
        assert (await client.create_model(name, ["a"], zone=zone, **keys)).spec == made.spec
    with pytest.raises(freshet.AlreadyExists, match="another spec: zone = "):
        await client.create_model(name, ["a"], zone="Europe/London", **keys)
    with pytest.raises(freshet.InvalidArgument, match=r"spec\.zone.*did you mean Europe/Berlin"):
        await client.create_model(name, ["a"], zone="Europe/Brelin", **keys)
    async with client.stream(name, "s") as stream:
        forecast = await stream.step(1.0, time=1.7e9)
    assert np.isfinite(forecast.y).all()


async def test_a_model_created_by_many_at_once_is_created_once(client, name):
    models = await asyncio.gather(*(client.create_model(name, ["a"], hidden=4) for _ in range(8)))

    assert {m.champion for m in models} == {1}
    assert [v.number for v in await client.versions(name)] == [1]
    assert [m.name for m in await client.list_models()].count(name) == 1


async def test_list_tells_of_every_model_what_get_does(client, name):
    await client.create_model(name, ["a"], learn=False)

    listed = {m.name: m for m in await client.list_models()}

    assert listed[name] == await client.get_model(name)


async def test_the_first_version_has_no_parent_and_is_the_initial_weights(client, name):
    before = time.time()
    await client.create_model(name, ["a"])

    (version,) = await client.versions(name)

    assert (version.number, version.parent, version.offset) == (1, 0, 0)
    assert 0 <= version.parity_error <= 1e-5
    assert before - 1 <= version.created <= time.time() + 1  # the same machine's clock
    assert version.loss is None


@pytest.mark.parametrize(
    "method", ["Get", "Versions", "Export", "Watch", "Import", "Promote", "Rollback", "Pause", "Resume", "Delete"]
)
async def test_every_method_names_the_model_it_does_not_find(channel, method):
    call = getattr(models_pb2_grpc.ModelsStub(channel), method)
    request = getattr(models_pb2, f"{method}Request", None) or getattr(models_pb2, f"{method}ModelRequest")

    answer = call(request(name="nobody"), timeout=DEADLINE_S)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (anext(aiter(answer)) if method == "Watch" else answer)

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert refused_field(caught.value)[0] == "model"
    assert "nobody" in (caught.value.details() or "")


async def test_a_version_that_never_was_is_not_found(client, name):
    await client.create_model(name, ["a"])

    with pytest.raises(freshet.NotFound, match="no version 99"):
        await client.export(name, 99)


# --- export


async def test_an_exported_onnx_runs_anywhere_and_equals_the_server(client, name):
    model = await client.create_model(name, ["a", "b"], horizon=2, head_init=0.3, learn=False)
    exported = await client.export(name)
    session = onnxruntime.InferenceSession(exported.onnx)  # with nobody's options
    rows = np.cumsum(np.random.default_rng(3).standard_normal((50, 2)), axis=0).astype(np.float32)
    async with client.stream(name, "s") as stream:
        served = [f.y async for f in stream.forecasts(rows)]

    oracle, (width,) = Unbroken(model, exported), {i.shape[1] for i in session.get_inputs() if i.name == "state"}
    state, none = np.zeros((1, width), np.float32), np.zeros((1, 0), np.float32)
    for row, y in zip(rows, served, strict=True):
        alone, state = session.run(["y", "next_state"], {"x": row[None], "u": none, "state": state})
        oracle.agrees(y, row)
        np.testing.assert_allclose(alone.reshape(y.shape), y, rtol=1e-6)


async def test_a_large_version_can_be_exported_by_the_sdk(client, name):
    await client.create_model(name, ["a"], hidden=1024, learn=False)

    exported = await client.export(name)

    assert len(exported.onnx) > 16e6


async def test_an_export_carries_the_digest_of_its_file(client, name):
    await client.create_model(name, ["a"])

    exported = await client.export(name, 1)

    assert exported.version.digest == hashlib.sha256(exported.onnx).hexdigest()
    assert exported.version == (await client.versions(name))[0]
    assert exported.weights


# --- watch


async def collected(events: AsyncIterator[models_pb2.ModelEvent], kinds: set[int]) -> list[models_pb2.ModelEvent]:
    """Events until one of every kind was there."""
    seen: list[models_pb2.ModelEvent] = []
    async with asyncio.timeout(DEADLINE_S):
        async for event in events:
            seen.append(event)
            if kinds <= {e.kind for e in seen}:
                return seen
    raise AssertionError("the watch has ended")


async def watching(channel: grpc.aio.Channel, name: str = "") -> Any:
    """A Watch that is under way: events from here on will come."""
    call = models_pb2_grpc.ModelsStub(channel).Watch(models_pb2.WatchRequest(name=name), timeout=2 * DEADLINE_S)
    await asyncio.wait_for(call.initial_metadata(), DEADLINE_S)
    return call


async def test_a_watch_sees_a_model_created_and_its_versions_published(client, channel, name):
    watch = await watching(channel)
    await client.create_model(name, ["a"], hidden=4)
    rows = np.sin(np.arange(80) / 3)
    async with client.stream(name, "s") as stream:
        async for _ in stream.forecasts(rows):
            pass
        mine = (e async for e in watch if e.model == name)
        events = await collected(mine, {models_pb2.ModelEvent.CREATED, models_pb2.ModelEvent.PUBLISHED})
    watch.cancel()

    created, published = events[0], events[-1]
    assert (created.kind, created.version) == (models_pb2.ModelEvent.CREATED, 1)
    assert published.version >= 2
    assert published.reason == "due"
    assert published.offset > 0
    assert {"loss", "labels", "evidence", "parity_error"} <= set(published.numbers)
    version = next(v for v in await client.versions(name) if v.number == published.version)
    assert (version.offset, version.parent) == (published.offset, published.version - 1)
    assert version.loss == published.numbers["loss"]


async def test_a_watch_of_one_model_sees_no_other(client, channel, name):
    await client.create_model(name, ["a"], hidden=4)
    watch = await watching(channel, name)
    await client.create_model(f"{name[:50]}-other", ["a"], hidden=4)
    async with client.stream(name, "s") as stream:
        async for _ in stream.forecasts(np.sin(np.arange(40) / 3)):
            pass

    events = await collected(aiter(watch), {models_pb2.ModelEvent.PUBLISHED})

    assert {e.model for e in events} == {name}
    watch.cancel()


# --- the contract


@pytest.mark.parametrize("ours", [Streams, Models, Training])
def test_every_method_of_the_contract_is_built(ours):
    (contract,) = ours.__bases__

    missing = [name for name in vars(contract) if not name.startswith("_") and name not in vars(ours)]
    assert not missing, f"{contract.__name__} promises {missing}"


# --- health and reflection


@pytest.mark.parametrize("service", ["", *SERVICES])
async def test_health_says_serving_for_every_service(channel, service):
    check = health_pb2_grpc.HealthStub(channel).Check

    answer = await check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE_S)

    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_health_does_not_know_a_service_that_there_is_not(channel):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="x"), timeout=DEADLINE_S)

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def reflected(channel: grpc.aio.Channel, **ask: str) -> reflection_pb2.ServerReflectionResponse:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(**ask)]), timeout=DEADLINE_S)
    return await call.read()


async def test_reflection_lists_every_service(channel):
    answer = await reflected(channel, list_services="")

    names = {service.name for service in answer.list_services_response.service}
    assert names >= {*SERVICES, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


@pytest.mark.parametrize("service", SERVICES)
async def test_reflection_gives_the_file_that_describes_a_service(channel, service):
    answer = await reflected(channel, file_containing_symbol=service)

    files = [
        descriptor_pb2.FileDescriptorProto.FromString(d) for d in answer.file_descriptor_response.file_descriptor_proto
    ]
    assert service in {f"{file.package}.{s.name}" for file in files for s in file.service}
