"""People's control over models, from outside: promote, roll back, pause, import, delete; through crashes too."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto

import freshet
from freshet.v1 import models_pb2, models_pb2_grpc, types_pb2
from freshet.v1.models_pb2 import ModelEvent
from model.network import Network
from model.spec import ModelSpec
from service.engine.export import export, pack_weights, read_weights
from service.trainer.checkpoint import Checkpoints
from tests.journeys import crash
from tests.journeys.crash import GATE, SMALL, walk, within
from tests.journeys.raw import DEADLINE_S, refused_field
from tests.journeys.scraped import scrape, scraped_until
from tests.oracles import replay
from tests.oracles.unbroken import Unbroken
from tests.service.histories import digest

LINEAR: dict[str, Any] = {"channels": ["x"], "hidden": 8}


class Local:
    """What a stream must be answered: the exported .onnx of each version, run here, the state carried from tick to
    tick. Bit-equal: the same runtime, one row at a time."""

    def __init__(self, client: freshet.Client, model: str) -> None:
        self._client, self._model = client, model
        self._graphs: dict[int, Any] = {}
        self._state: Any = None
        self.versions: list[int] = []

    async def agrees(self, x: np.ndarray, forecast: freshet.Forecast) -> None:
        """The next tick's answer is that of the version it names."""
        version = forecast.version
        if version not in self._graphs:
            exported = await self._client.export(self._model, version)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            self._graphs[version] = onnxruntime.InferenceSession(exported.onnx, options)
        graph = self._graphs[version]
        if self._state is None:
            width = next(i.shape[1] for i in graph.get_inputs() if i.name == "state")
            self._state = np.zeros((1, width), np.float32)
        inputs = {"x": x[None], "u": np.zeros((1, 0), np.float32), "state": self._state}
        y, self._state = graph.run(["y", "next_state"], inputs)
        assert y.tobytes() == forecast.y.tobytes(), f"tick {forecast.seq}, version {version}"
        self.versions.append(version)


async def stepped(stream: freshet.Stream, local: Local, rows: np.ndarray) -> list[freshet.Forecast]:
    """Ticks one by one, each compared."""
    forecasts = []
    for row in rows:
        forecasts.append(await within(stream.step(row)))
        await local.agrees(row, forecasts[-1])
    return forecasts


def other_weights(model: freshet.Model, seed: int, **changed: Any) -> bytes:
    """Weights of the spec of a model, or of one with other keys, that forecast something else than persistence."""
    network = Network(ModelSpec.from_mapping(model.spec.to_mapping() | changed))
    rng = np.random.default_rng(seed)
    return pack_weights(network, rng.normal(0, 0.3, network.layout.size).astype(np.float32))


async def recorded(client: freshet.Client, name: str) -> list[tuple[str, int]]:
    """Kinds and versions of a model's events so far."""
    return [(e.kind.name, e.version) for e in await client.history(name, 128)]


async def test_a_promoted_version_answers_the_next_tick_and_learning_goes_on_from_it(client, server, name):
    model = await client.create_model(name, **LINEAR)
    x = walk(400, 1)
    async with client.stream(name, "pump") as stream:
        local = Local(client, name)
        await stepped(stream, local, x[:60])
        await within(stream.wait_judged(60))
        imported = await client.import_version(name, other_weights(model, 1))
        assert (await client.get_model(name)).champion != imported.number

        promoted = await client.promote(name, imported.number)
        first = (await stepped(stream, local, x[60:61]))[0]

        assert (promoted.champion, promoted.anchor) == (imported.number, imported.number)
        assert first.version == imported.number, "no tick is answered by another version any more"
        await stepped(stream, local, x[61:200])
        await within(stream.wait_judged(200))
    versions = {v.number: v for v in await client.versions(name)}
    children = [v for v in versions.values() if v.number > imported.number]
    assert children, "it went on learning"
    line = min(children, key=lambda v: v.number)
    assert line.parent == imported.number
    away = [np.abs(await difference(client, name, line.number, n)).max() for n in (imported.number, 1)]
    assert away[0] < 0.1 * away[1], "from these weights, by small steps"
    assert ("PUBLISHED", imported.number) in await recorded(client, name)
    assert freshet.EventKind.PUBLISHED in {e.kind for e in await client.history(name) if e.reason == "by hand"}


async def difference(client: freshet.Client, name: str, one: int, other: int) -> np.ndarray:
    """Between the weights of cells and head of two versions; those of experts have no small steps at first."""
    network = Network(ModelSpec.from_mapping((await client.get_model(name)).spec.to_mapping()))
    a, b = [read_weights(network, (await client.export(name, n)).weights) for n in (one, other)]
    return np.concatenate([(a - b)[part] for part in network.layers.values()])


async def test_a_rollback_returns_the_very_bytes_and_waits_before_it_publishes_again(client, name):
    await client.create_model(name, **LINEAR)
    x = walk(600, 2)
    async with client.stream(name, "pump") as stream:
        local = Local(client, name)
        await stepped(stream, local, x[:120])
        await within(stream.wait_judged(120))
        before = await client.export(name, 2)

        back = await client.rollback(name, 2)
        after = await client.export(name)
        again = await client.rollback(name, 2)
        assert await client.rollback(name) == again, "2 is the anchor now"

        assert (back.champion, back.anchor) == (2, 2)
        assert after == before
        assert again.offset == back.offset, "what is so already makes no record"
        answers = await stepped(stream, local, x[120:160])
        await within(stream.wait_judged(160))
        assert {a.version for a in answers} == {2}, "256 labels must be learned first"
    events = await client.history(name)
    assert [e.reason for e in events if e.kind == freshet.EventKind.ROLLED_BACK] == ["by hand"]
    assert "cooling down after a rollback" in {e.reason for e in events}


async def updates(server: Any, name: str) -> float:
    return (await scrape(server.http)).total("freshet_learner_updates_total", model=name)


async def test_a_paused_model_answers_and_does_not_learn_while_another_does_and_then_goes_on(client, server, name):
    still, moving = f"{name[:50]}-still", f"{name[:50]}-moving"
    for model in (still, moving):
        await client.create_model(model, **LINEAR)
    x = walk(400, 3)
    async with client.stream(still, "pump") as paused, client.stream(moving, "pump") as learning:

        async def both(rows: np.ndarray) -> None:
            for row in rows:
                await within(asyncio.gather(paused.step(row), learning.step(row)))

        await both(x[:40])
        await within(paused.wait_judged(40))
        assert (await client.pause(still)).paused
        assert (await client.pause(still)).paused
        await within(learning.wait_judged(40))
        champion, at = (await client.get_model(still)).champion, await updates(server, still)
        learned = await updates(server, moving)

        await both(x[40:160])
        await within(asyncio.gather(paused.wait_judged(160), learning.wait_judged(160)))

        assert await updates(server, still) == at
        assert await updates(server, moving) >= learned + 100
        assert (await client.get_model(still)).champion == champion
        assert (await client.get_model(moving)).champion > 2
        assert not (await client.resume(still)).paused
        await both(x[160:220])
        await within(paused.wait_judged(220))
        assert await updates(server, still) >= at + 50
        assert (await client.get_model(still)).champion > champion
    kinds = [kind for kind, _ in await recorded(client, still)]
    assert (kinds.count("PAUSED"), kinds.count("RESUMED")) == (1, 1)
    assert "PAUSED" not in [kind for kind, _ in await recorded(client, moving)]


async def test_a_deleted_model_ends_its_streams_and_its_name_restarts(client, server, name):
    await client.create_model(name, **LINEAR)
    x = walk(100, 4)
    stream = client.stream(name, "pump")
    await stream.__aenter__()
    for row in x[:50]:
        await within(stream.step(row))
    events = client.watch(name)
    first = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)

    await client.delete_model(name)

    with pytest.raises(freshet.NotFound, match=name):
        await within(stream.step(x[50]))
    with contextlib.suppress(freshet.FreshetError):
        await stream.aclose()
    for call in (client.get_model(name), client.versions(name), client.export(name), client.delete_model(name)):
        with pytest.raises(freshet.NotFound, match=name):
            await call
    assert name not in {m.name for m in await client.list_models()}
    first.cancel()
    assert name not in (await scraped_until(server.http, lambda s: name not in s.label_values("model"))).label_values()

    model = await client.create_model(name, ["a", "b"], cell="gru", hidden=4)  # another layout altogether
    assert (model.champion, model.streams, model.offset) == (1, 0, 2)
    async with client.stream(name, "pump") as fresh:
        oracle = Unbroken(model, await client.export(name, 1))
        for row in np.stack([x[:15, 0], x[15:30, 0]], axis=1):
            forecast = await within(fresh.step(row))
            if forecast.version == 1:
                oracle.agrees(forecast.y, row)
        assert forecast.seq == 15


async def test_a_model_can_be_deleted_while_many_streams_of_it_are_under_way(client, name):
    await client.create_model(name, **LINEAR)

    async def one(n: int) -> str:
        try:
            async with client.stream(name, f"pump-{n}") as stream:
                async for _ in stream.forecasts(itertools.cycle(walk(2000, 5))):
                    pass
        except freshet.NotFound:
            return "not found"
        return "done"

    streams = [asyncio.create_task(one(n)) for n in range(8)]
    while (await client.get_model(name)).streams < 8:
        await asyncio.sleep(0)
    await client.delete_model(name)

    assert set(await within(asyncio.gather(*streams))) == {"not found"}


# ---- import


@pytest.fixture
async def stub(channel: grpc.aio.Channel) -> models_pb2_grpc.ModelsAsyncStub:
    return models_pb2_grpc.ModelsStub(channel)


async def refusal(call: Any) -> tuple[str, str, str]:
    """(field, value and remedy as text, remedy) of a call that must be refused as INVALID_ARGUMENT."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call, DEADLINE_S)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()
    return refused_field(caught.value)[0], caught.value.details() or "", refused_field(caught.value)[1]


async def test_what_cannot_be_imported_is_refused_by_field_value_and_remedy(client, stub, name):
    model = await client.create_model(name, **LINEAR)
    good = other_weights(model, 1)
    network = Network(ModelSpec.from_mapping(model.spec.to_mapping()))
    onnx = export(network, network.weights(network.init_params())).onnx
    narrow = other_weights(model, 1, hidden=7)
    elsewhere = ModelProto.FromString(onnx)
    tensor = elsewhere.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"

    def asked(weights: bytes, digest: str = "", onnx: bytes = b"") -> Any:
        digest = digest or hashlib.sha256(weights).hexdigest()
        return stub.Import(models_pb2.ImportRequest(name=name, weights=weights, digest=digest, onnx=onnx))

    for call, field, value, remedy in (
        (asked(good, digest="0" * 64), "digest", "0" * 64, "the sha256 of these"),
        (asked(good[:-4]), "weights", f"{len(good) - 4} bytes", "not a weights file"),
        (asked(narrow), "weights", f"{len(narrow)} bytes", "expected float32"),
        (asked(b""), "weights", "(empty)", "give the weights"),
        (asked(good, onnx=elsewhere.SerializeToString()), "onnx", "bytes", "keeps its data in another file"),
        (asked(good, onnx=onnx), "onnx", f"{len(onnx)} bytes", "it answers otherwise than the weights"),
        (asked(good, onnx=b"hello"), "onnx", "5 bytes", "send the .onnx of these weights, or none"),
    ):
        got_field, details, got_remedy = await refusal(call)
        assert (got_field, value in details, remedy in got_remedy) == (field, True, True), details
    assert [v.number for v in await client.versions(name)] == [1]
    version = await client.import_version(name, good)
    assert version == await client.import_version(name, good)


async def test_a_model_moves_to_another_server_as_files_and_answers_there_as_here(client, name, tmp_path):
    """Exported, created elsewhere with these weights, it answers alike from its first tick on, and learns on."""
    model = await client.create_model(name, head_init=0.3, **LINEAR)
    x = walk(150, 6)
    async with client.stream(name, "pump") as stream:
        for row in x:
            await within(stream.step(row))
        await within(stream.wait_judged(150))
    champion = (await client.get_model(name)).champion
    exported = await client.export(name, champion)
    spec = model.spec.to_mapping()
    async with crash.a_server(tmp_path) as there, freshet.connect(there.grpc) as other:
        with pytest.raises(freshet.InvalidArgument, match="weights"):
            await other.create_model(name, weights=b"nonsense", **spec)
        await other.create_model(name, weights=exported.weights, **spec)
        assert (await other.create_model(name, weights=exported.weights, **spec)).champion == 1
        with pytest.raises(freshet.AlreadyExists, match="began with other weights"):
            await other.create_model(name, weights=(await client.export(name, 1)).weights, **spec)
        made = await other.export(name, 1)
        assert (made.onnx, made.weights) == (exported.onnx, exported.weights)
        async with other.stream(name, "pump") as stream:
            await stepped(stream, Local(other, name), x[:60])
            await within(stream.wait_judged(60))
        versions = await other.versions(name)
        assert len(versions) > 1
        files = replay.Files.of(there.data)
    chunks = list(replay.read(tmp_path / "data" / "journal"))
    until = max(c.end for c in chunks)
    assert replay.learned(chunks, files, GATE, until).learner.counts.learned >= 58


# ---- bad input


NAMES = {
    "../x": "../x", "": "(empty)", "x" * 4096: "x" * 79 + "…", "t\u0430xi": "t\u0430xi", "Taxi": "Taxi", "all": "all",
    "default": "default", "a b": "a b", "a\n": "a\n", "-a": "-a",
}  # fmt: skip


@pytest.mark.parametrize("bad", NAMES, ids=[ascii(name)[:20] for name in NAMES])
async def test_a_name_that_a_model_may_not_have_is_refused_with_what_it_may_be(stub, bad):
    spec = types_pb2.ModelSpec(channels=["x"])

    field, details, remedy = await refusal(stub.Create(models_pb2.CreateModelRequest(name=bad, spec=spec)))

    assert field == "name"
    assert details.startswith(f"name = {NAMES[bad]}: ")
    assert "choose another name" in remedy or "give 1 to 64 of a-z, 0-9" in remedy
    assert ("CYRILLIC SMALL LETTER A" in remedy) == ("\u0430" in bad)


ABSURD: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "no channels": ({}, "spec.channels", "None", "name the channels"),
    "units": ({"hidden": 2**31}, "spec.hidden", "2147483648", "give 1 to 1024"),
    "layers": ({"layers": 4_000_000_000}, "spec.layers", "4000000000", "give 1 to 8"),
    "parameters": ({"hidden": 1024, "layers": 8}, "spec.hidden", "1024", "parameters, at most"),
    "window": ({"window": 4096, "hidden": 1024}, "spec.window", "4096", "a shorter window"),
    "horizon": ({"horizon": 10**6}, "spec.horizon", "1000000", "give 1 to 1024"),
    "rate": ({"learning_rate": float("inf")}, "spec.learning_rate", "inf", "finite"),
    "clip": ({"clip": float("nan")}, "spec.clip", "nan", "finite"),
    "cell": ({"cell": "transformer"}, "spec.cell", "transformer", "choose one of"),
    "a name of a channel": ({"channels": ["x" * 5000]}, "spec.channels", "x" * 79, "1 to 256 printable"),
    "a channel twice": ({"channels": ["x", "x"]}, "spec.channels", "'x', 'x'", "different"),
    "a hundred thousand channels": ({"channels": ["x"] * 100_000}, "spec.channels", "100000 names", "at most 4096"),
    "weights of classes": ({"class_weights": [1.0] * 100_000}, "spec.class_weights", "1.0", "give 0, one per class"),
    "frozen": ({"freeze": ["tail"]}, "spec.freeze", "tail", "the parts are"),
}  # fmt: skip


@pytest.mark.parametrize("case", ABSURD)
async def test_an_absurd_spec_is_refused_by_key(stub, name, case):
    keys, field, value, remedy = ABSURD[case]
    spec = types_pb2.ModelSpec(**({"channels": ["x"]} | keys if keys else {}))

    got_field, details, got_remedy = await refusal(stub.Create(models_pb2.CreateModelRequest(name=name, spec=spec)))

    assert (got_field, value in details, remedy in got_remedy) == (field, True, True), details
    assert len(details) < 1000


async def test_a_key_that_this_server_does_not_know_is_refused_by_number(stub, name):
    """Whoever set it would otherwise believe that it counts."""
    known = types_pb2.ModelSpec(channels=["x"]).SerializeToString()
    last = max(field.number for field in types_pb2.ModelSpec.DESCRIPTOR.fields)
    for extra, number in ((b"\xf8\x7d\x01", 2015), (b"\x42\x02hi", 8)):  # a new field; text where hidden is a number
        spec = types_pb2.ModelSpec.FromString(known + extra)

        field, details, remedy = await refusal(stub.Create(models_pb2.CreateModelRequest(name=name, spec=spec)))

        assert field == "spec"
        assert f"field number {number}" in details
        assert f"this server knows fields 1 to {last}, of their own types" in remedy


async def test_a_message_that_the_server_does_not_take_is_answered_with_its_setting(client, name):
    model = await client.create_model(name, ["x"], hidden=512, learn=False)  # weights of 4 MB, messages of 1 MiB

    with pytest.raises(freshet.ResourceExhausted, match="start the server with a larger --max-message-bytes"):
        await client.import_version(name, other_weights(model, 1))


# ---- watch


async def test_a_watch_sees_whatever_a_person_does_in_its_order(client, channel, name):
    model = await client.create_model(name, **LINEAR)
    request = models_pb2.WatchRequest(name=name, recent=5)
    watch = models_pb2_grpc.ModelsStub(channel).Watch(request, timeout=2 * DEADLINE_S)
    await watch.initial_metadata()  # it watches
    version = (await client.import_version(name, other_weights(model, 1))).number
    for what in (client.promote(name, version), client.pause(name), client.resume(name), client.rollback(name, 1)):
        await what
    await client.delete_model(name)

    async def seen() -> AsyncIterator[tuple[str, int]]:
        async for event in watch:
            yield ModelEvent.Kind.Name(event.kind), event.version
            if event.kind == ModelEvent.DELETED:
                return

    assert [e async for e in seen()] == [
        ("CREATED", 1), ("IMPORTED", 2), ("PUBLISHED", 2), ("PAUSED", 2), ("RESUMED", 2), ("ROLLED_BACK", 1),
        ("DELETED", 1),
    ]  # fmt: skip
    watch.cancel()


# ---- crashes


@pytest.mark.long
async def test_what_a_person_did_just_before_a_kill_is_so_after_it(tmp_path):
    x = walk(200, 7)
    async with crash.a_server(tmp_path, snapshot_s=3600) as server, freshet.connect(server.grpc) as client:
        model = await client.create_model("flow", **SMALL)
        await client.create_model("heat", **SMALL)
        await client.create_model("gone", **SMALL)
        local = Local(client, "flow")
        async with client.stream("flow", "pump") as stream, client.stream("gone", "pump") as doomed:
            await stepped(stream, local, x[:80])
            await within(doomed.step(x[0]))
            await within(stream.wait_judged(80))
            await client.pause("flow")
            await within(stream.wait_judged(80))

            async def again() -> None:
                server.kill()
                await server.wait()
                await server.start()

            version = (await client.import_version("flow", other_weights(model, 8))).number
            await again()
            assert version in {v.number for v in await client.versions("flow")}

            await client.promote("flow", version)
            await again()
            now = await client.get_model("flow")
            assert (now.champion, now.anchor, now.paused) == (version, version, True)
            answers = await stepped(stream, local, x[80:100])
            assert {a.version for a in answers} == {version}

            await client.rollback("flow", 1)
            await again()
            now = await client.get_model("flow")
            assert (now.champion, now.anchor, now.paused) == (1, 1, True)

            await client.promote("flow", version)
            await client.resume("flow")
            await client.delete_model("gone")
            await again()
            assert not (await client.get_model("flow")).paused
            assert {m.name for m in await client.list_models()} == {"flow", "heat"}
            with pytest.raises(freshet.NotFound):
                await within(doomed.step(x[1]))
            with contextlib.suppress(freshet.FreshetError):
                await doomed.aclose()
            await stepped(stream, local, x[100:])
            await within(stream.wait_judged(200))
        assert version in {v.parent for v in await client.versions("flow") if v.number > version}, "it learned on"
        again_gone = await client.create_model("gone", **SMALL)
        assert (again_gone.streams, again_gone.champion) == (0, 1)
        files = replay.Files.of(server.data)
    chunks = list(replay.read(tmp_path / "data" / "journal"))
    served = replay.served(chunks, files)
    assert [served.answers["pump", n + 1].version for n in range(200)] == local.versions
    check_fold(tmp_path / "data", chunks, files)


def check_fold(data: Any, chunks: list[Any], files: replay.Files) -> None:
    """The trainer's checkpoint equals an uninterrupted fold of the journal."""
    store = Checkpoints(data / "trainer.db")
    _, models = store.load(GATE)
    store.close()
    saved = models[1]
    whole = replay.learned(chunks, files, GATE, saved.offset)
    assert saved.learner.weights.flat.tobytes() == whole.learner.weights.flat.tobytes(), "the weights differ"
    assert digest(saved) == digest(whole)
    assert whole.learner.counts.learned > 100
    assert 3 not in models, "of the deleted model nothing is left"


@pytest.mark.long
async def test_a_trainer_killed_between_promotions_pauses_and_a_deletion_learns_what_an_unbroken_one_would(tmp_path):
    x = walk(600, 9)
    async with crash.a_server(tmp_path, snapshot_s=3600) as server, freshet.connect(server.grpc) as client:
        for model in ("flow", "heat", "gone"):
            await client.create_model(model, **SMALL)
        async with contextlib.AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(client.stream(m, "pump")) for m in ("flow", "heat")]
            doomed = client.stream("gone", "pump")
            await doomed.__aenter__()
            for n, row in enumerate(x):
                await within(asyncio.gather(*(s.step(row) for s in streams)))
                if n < 300:
                    await within(doomed.step(row))
                if n % 60 == 59:
                    crash.kill_trainer(server)
                match n:
                    case 100 | 250 | 400:
                        await within(streams[0].wait_judged(n + 1))
                        kept = await client.versions("flow")
                        await client.promote("flow", kept[len(kept) // 2].number)
                    case 150 | 350:
                        await client.pause("flow")
                    case 170 | 380:
                        await client.resume("flow")
                    case 200 | 290:
                        await client.promote("gone", 1)
                    case 300:
                        await client.delete_model("gone")
            await within(asyncio.gather(*(s.wait_judged(600) for s in streams)))
            with contextlib.suppress(freshet.FreshetError):
                await doomed.aclose()
        files = replay.Files.of(server.data)
    check_fold(tmp_path / "data", list(replay.read(tmp_path / "data" / "journal")), files)
