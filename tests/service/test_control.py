"""Control over models, with real parts and no processes: requests take effect at once, journaled and reported."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto

from model.spec import ModelSpec, changed
from service.common import limits
from service.common.errors import AlreadyExists, Exhausted, Invalid, NotFound, Unavailable
from service.engine.export import export, pack_weights, read_weights
from service.engine.loaded import Engine
from service.journal.records import Kind, ModelCreate, Swap
from service.observe import events as ev
from service.observe.events import Event
from service.storage.versions import Version
from service.trainer.reports import Anchored
from tests.oracles import replay
from tests.service.one_process import World, key, world

SPEC = {"channels": ["x"], "hidden": 4, "head_init": 0.5}
DEADLINE_S = 60.0


async def published(live: World, versions: int = 3, **spec):
    """A model with this many versions, one stream and some ticks learned."""
    model = await live.model(**spec)
    session = live.open(model, "pump")
    for n in range(versions - 1):
        await live.tick(model, session, float(n))
        await live.publish(model, n)
    return model, session


def weights_of(live: World, model, version: int) -> np.ndarray:
    return read_weights(model.network, live.server.versions.blobs(model.number, version).weights)


def some_weights(model_or_network, seed: int = 1) -> np.ndarray:
    network = getattr(model_or_network, "network", model_or_network)
    rng = np.random.default_rng(seed)
    return network.init_params() + rng.normal(0, 0.3, network.layout.size).astype(np.float32)


def verdicts(live: World, kind: str) -> float | None:
    """Return a counter's value for one kind."""
    labels = {"tenant": "default", "model": "flow", "kind": kind}
    return live.server.registry.get_sample_value("freshet_verdicts_total", labels)


def kinds(live: World, tmp_path, model: int = 1) -> list[Kind]:
    """Return every durable record of a model but ticks."""
    chunks = [c for c in replay.survivors(live.server.config.data, tmp_path / "read") if c.model == model]
    return [r.kind for c in chunks for r in c.records if r.kind is not Kind.TICK]


class Told:
    """Watches all events."""

    def __init__(self, live: World, monkeypatch) -> None:
        self.events: list[Event] = []
        self._emit = live.server.events.emit
        monkeypatch.setattr(live.server.events, "emit", self._keep)

    def _keep(self, event: Event) -> None:
        self.events.append(event)
        self._emit(event)

    def __call__(self) -> list[tuple[int, int, str]]:
        return [(e.kind, e.version, e.reason) for e in self.events]


BAD_WEIGHTS: dict[str, tuple[Callable[..., Any], str, str]] = {
    "a wrong digest": (lambda n, w: (pack_weights(n, w), "0" * 64), "weights_digest", "the sha256 of these"),
    "no digest": (lambda n, w: (pack_weights(n, w), ""), "weights_digest", "send the weights again"),
    "a digest and nothing else": (lambda n, w: (b"", "0" * 64), "weights", "give the weights"),
    "text": (lambda n, w: b"hello", "weights", "not a weights file"),
    "a NaN": (lambda n, w: pack_weights(n, np.where(np.arange(w.size) == 5, np.nan, w)), "weights", "not finite"),
    "an infinity": (lambda n, w: pack_weights(n, np.where(np.arange(w.size) == 5, np.inf, w)), "weights", "not finite"),
    "float64": (lambda n, w: pack_weights(n, w.astype(np.float64)), "weights", "float64"),
    "half a file": (lambda n, w: pack_weights(n, w)[:-100], "weights", "not a weights file"),
    "values that overflow": (lambda n, w: pack_weights(n, np.full_like(w, 3e38)), "weights", "no forecaster"),
}


# ---- promote and roll back


async def test_a_promoted_version_answers_the_next_tick_and_is_the_anchor(tmp_path, monkeypatch):
    async with world(tmp_path / "data") as live:
        model, session = await published(live, 4)
        told = Told(live, monkeypatch)

        await live.control.promote(key("flow"), 2)

        assert (model.champion, model.anchor) == (2, 2)
        assert (await live.tick(model, session, 9.0)).version == 2
        assert told() == [(ev.PUBLISHED, 2, "by hand")]
        assert live.server.journal.durable_offset(1) >= model.judged_offset, "on disk when it returns"


async def test_learning_goes_on_from_a_promoted_versions_weights_at_once(tmp_path):
    async with world(tmp_path / "data", publish_labels=1) as live:
        model, session = await published(live)
        for n in range(5):
            await live.tick(model, session, float(np.sin(n)))
        await live.learn()

        await live.control.promote(key("flow"), 2)
        assert await live.learn() == [], "nothing was learned since: nothing is to be judged"
        learner = live.trainer.models[1].learner
        np.testing.assert_array_equal(learner.weights.flat, weights_of(live, model, 2))
        await live.tick(model, session, 1.0)
        [verdict] = await live.learn()

        assert verdict.verdict == "publish", "there is no cool-down"
        assert verdict.numbers["labels"] == 1
        assert live.server.versions.get(1, model.champion).parent == 2
        assert learner.weights.flat.tobytes() != weights_of(live, model, 2).tobytes()


async def test_a_rollback_by_hand_returns_to_the_anchor_and_publishes_nothing_for_a_while(tmp_path, monkeypatch):
    async with world(tmp_path / "data", cool_down_labels=100) as live:
        model, session = await published(live, 4)
        told = Told(live, monkeypatch)

        await live.control.roll_back(key("flow"))
        await live.tick(model, session, 1.0)
        [verdict] = await live.learn()

        assert (model.champion, model.anchor) == (1, 1)
        assert told()[0] == (ev.ROLLED_BACK, 1, "by hand")
        assert (verdict.verdict, verdict.reason) == ("veto", "cooling down after a rollback")
        counted = {kind: verdicts(live, kind) for kind in ("veto", "cooling_down")}
        assert counted == {"veto": 0, "cooling_down": 1}, "it says nothing of the candidate"


@pytest.mark.parametrize("what", ["promote", "roll_back"])
async def test_what_is_so_already_is_answered_without_another_record(tmp_path, what):
    async with world(tmp_path / "data") as live:
        model, _ = await published(live, 3)

        for _ in range(3):
            await getattr(live.control, what)(key("flow"), 2)

        assert kinds(live, tmp_path).count(Kind.PROMOTE if what == "promote" else Kind.ROLLBACK) == 1
        assert model.champion == 2


@pytest.mark.parametrize("what", ["promote", "roll_back"])
async def test_a_version_that_is_not_kept_is_not_found_by_number(tmp_path, what):
    async with world(tmp_path / "data") as live:
        model, _ = await published(live, 5)
        live.server.versions.prune(1, {1, 2, 5})

        with pytest.raises(NotFound, match=r"version = 3: model flow has no version 3, or keeps it no longer: list"):
            await getattr(live.control, what)(key("flow"), 3)

        assert model.champion == 5


async def test_a_rollback_to_a_later_version_is_refused(tmp_path):
    async with world(tmp_path / "data") as live:
        model, _ = await published(live, 4)
        await live.control.roll_back(key("flow"), 2)

        with pytest.raises(Invalid, match="version = 4: later than the version that serves, 2: promote it instead"):
            await live.control.roll_back(key("flow"), 4)
        with pytest.raises(NotFound, match="version = 99"):
            await live.control.roll_back(key("flow"), 99)
        await live.control.promote(key("flow"), 4)

        assert model.champion == 4


async def test_a_candidate_that_was_on_its_way_does_not_replace_what_was_promoted_meanwhile(tmp_path, monkeypatch):
    """The verdict was valid on arrival; an administrator decided while its graph was loading."""
    prepare, entered, go_on = Engine.prepare, threading.Event(), threading.Event()

    async with world(tmp_path / "data") as live:
        model, session = await published(live)
        await live.tick(model, session, 1.0)
        await live.server.journal.flush()

        def slow(self, onnx, canary):
            entered.set()
            assert go_on.wait(DEADLINE_S)
            return prepare(self, onnx, canary)

        with monkeypatch.context() as patch:
            patch.setattr(Engine, "prepare", slow)
            publishing = asyncio.create_task(live.publish(model, 7))
            assert await asyncio.to_thread(entered.wait, DEADLINE_S)
        await live.control.promote(key("flow"), 2)
        go_on.set()
        await publishing

        assert model.champion == 2
        assert (await live.tick(model, session, 1.0)).version == 2


async def test_a_rollback_that_the_trainer_wished_for_does_not_undo_a_promotion(tmp_path, monkeypatch):
    prepare, entered, go_on = Engine.prepare, threading.Event(), threading.Event()

    async with world(tmp_path / "data") as live:
        model, _ = await published(live)

        def slow(self, onnx, canary):
            entered.set()
            assert go_on.wait(DEADLINE_S)
            return prepare(self, onnx, canary)

        with monkeypatch.context() as patch:
            patch.setattr(Engine, "prepare", slow)
            judging = asyncio.create_task(live.verdict(model, "veto", rollback=1))
            assert await asyncio.to_thread(entered.wait, DEADLINE_S)
        await live.control.promote(key("flow"), 2)
        go_on.set()
        await judging

        assert (model.champion, model.anchor) == (2, 2)


async def test_an_anchor_that_the_trainer_chose_before_it_saw_a_promotion_is_not_taken(tmp_path, monkeypatch):
    async with world(tmp_path / "data") as live:
        model, session = await published(live, 4)
        await live.tick(model, session, 1.0)
        await live.server.journal.flush()
        before = live.server.journal.durable_offset(1)
        await live.control.promote(key("flow"), 2)
        told = Told(live, monkeypatch)

        live.server.publisher.anchored(Anchored(1, 3, before))
        assert (model.anchor, told()) == (2, [])

        model.anchor = 3  # as if it had been accepted: the trainer reports its state when it reaches the promotion
        await live.learn()
        assert (model.anchor, live.trainer.models[1].gate.anchor) == (2, 2)


async def test_a_trainer_that_restarts_after_a_promotion_publishes_no_copy_of_what_serves(tmp_path):
    """A restarted trainer judges again what its checkpoint holds and serving has not judged."""
    async with world(tmp_path / "data") as live:
        model, session = await published(live, 4)
        for n in range(5):
            await live.tick(model, session, float(np.sin(n)))
        await live.learn()
        await live.control.promote(key("flow"), 2)
        await live.learn()
        live.trainer.save()
        before = [v.number for v in live.server.versions.list(1)]

        trainer = await live.start_trainer()
        trainer.pending._seconds = 0.0  # the time has passed
        trainer.request_verdicts({})
        [again] = await live.learn()

        assert again.verdict == "publish", "the trainer cannot know"
        assert (model.champion, model.anchor) == (2, 2)
        assert [v.number for v in live.server.versions.list(1)] == before
        assert model.judged_offset == again.offset, "a client that waits for a verdict gets one"
        assert verdicts(live, "unchanged") == 1


async def test_two_promotions_at_once_leave_the_last_one_in_the_journal_in_service(tmp_path):
    async with world(tmp_path / "data") as live:
        model, session = await published(live, 5)

        await asyncio.gather(*(live.control.promote(key("flow"), n) for n in (2, 3, 4, 2, 3)))

        answer = await live.tick(model, session, 1.0)
        await live.server.journal.flush()
        chunks = replay.survivors(tmp_path / "data", tmp_path / "copy")
        served = replay.served(chunks, replay.Files.of(tmp_path / "data"))
        assert served.version == model.champion == model.anchor == answer.version


async def test_nothing_is_promoted_while_the_server_leaves(tmp_path):
    async with world(tmp_path / "data") as live:
        model, _ = await published(live)
        live.serving.admission.draining = True

        flow, control = key("flow"), live.control
        for change in (control.promote(flow, 1), control.pause(flow), control.roll_back(flow)):
            with pytest.raises(Unavailable, match="draining"):
                await change

        assert (model.champion, model.paused) == (3, False)


# ---- import


async def imported(live: World, model, data: bytes, onnx: bytes = b"", digest: str = "") -> Version:
    return await live.control.import_version(model.key, data, digest or sha256(data).hexdigest(), onnx)


async def test_an_imported_version_waits_for_its_promotion_and_then_serves_and_learns_on(tmp_path, monkeypatch):
    async with world(tmp_path / "data") as live:
        model, session = await published(live, 3)
        told = Told(live, monkeypatch)
        flat = some_weights(model, 9)
        made = export(model.network, model.network.weights(flat))

        version = await imported(live, model, made.weights, made.onnx)

        assert (version.number, version.parent, version.offset, model.champion) == (4, 3, 0, 3)
        assert version.digest == sha256(made.onnx).hexdigest()
        assert 0 <= version.parity_error <= 1e-5
        assert told() == [(ev.IMPORTED, 4, "by hand")]
        await live.control.promote(key("flow"), 4)
        assert (await live.tick(model, session, 1.0)).version == 4
        await live.server.journal.flush()
        chunks = replay.survivors(tmp_path / "data", tmp_path / "copy")
        expected = replay.served(chunks, replay.Files.of(tmp_path / "data")).answers
        assert session.answers[-1].y == expected["pump", session.last_seq].y.tobytes()
        await live.learn()
        assert live.server.versions.get(1, model.champion).parent == 4


async def test_the_same_weights_are_imported_once(tmp_path, monkeypatch):
    async with world(tmp_path / "data") as live:
        model, _ = await published(live, 3)
        data = pack_weights(model.network, some_weights(model, 9))
        told = Told(live, monkeypatch)

        first, again = await imported(live, model, data), await imported(live, model, data)
        original = await imported(live, model, live.server.versions.blobs(1, 1).weights)

        assert first == again
        assert original.number == 1, "what the model began with is there already"
        assert len(told()) == 1
        assert len(live.server.versions.list(1)) == 4


async def test_an_imported_version_outlives_the_versions_that_come_and_go_until_somebody_promotes_it(tmp_path):
    async with world(tmp_path / "data", keep_versions=1) as live:
        model, session = await published(live, 2)
        kept = await imported(live, model, pack_weights(model.network, some_weights(model, 9)))
        for n in range(12):
            await live.tick(model, session, float(n))
            await live.publish(model, n)
            await live.verdict(model, "veto", rollback=model.champion)
            await live.learn()
            live.trainer.save()
            await live.learn()
            await live.snapshot()
            await live.snapshot()

        await live.control.promote(key("flow"), kept.number)

        assert (await live.tick(model, session, 1.0)).version == kept.number


BAD_IMPORTS = {
    name: (make, {"weights_digest": "digest"}.get(field, field), remedy)
    for name, (make, field, remedy) in BAD_WEIGHTS.items()
}


@pytest.mark.parametrize("case", BAD_IMPORTS)
async def test_bad_weights_are_refused_by_field_and_no_version_is_made(tmp_path, case):
    make, field, remedy = BAD_IMPORTS[case]
    async with world(tmp_path / "data") as live:
        model, _ = await published(live, 2)
        made: bytes | tuple[bytes, str] = make(model.network, some_weights(model))
        data, digest = made if isinstance(made, tuple) else (made, sha256(made).hexdigest())

        with pytest.raises(Invalid, match=remedy) as refused:
            await live.control.import_version(key("flow"), data, digest)

        assert refused.value.field == field
        assert len(live.server.versions.list(1)) == 2


def other_answers(model) -> bytes:
    return export(model.network, model.network.weights(some_weights(model, 10))).onnx


def external(model) -> bytes:
    graph = ModelProto.FromString(other_answers(model))
    tensor = graph.graph.initializer[0]
    tensor.data_location, tensor.name = TensorProto.EXTERNAL, "secret"
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "secret.bin"
    return graph.SerializeToString()


BAD_GRAPHS = {
    "other answers": (other_answers, "it answers otherwise than the weights, by .*, allowed 1e-05; send the .onnx of"),
    "external data": (external, "tensor 'secret' keeps its data in another file: save it inside the .onnx"),
    "no graph": (lambda model: b"nonsense", "send the .onnx of these weights, or none"),
}


@pytest.mark.parametrize("case", BAD_GRAPHS)
async def test_a_graph_that_is_not_that_of_the_weights_is_refused(tmp_path, monkeypatch, case):
    make, remedy = BAD_GRAPHS[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.bin").write_bytes(bytes(4096))  # never read
    async with world(tmp_path / "data") as live:
        model, _ = await published(live, 2)

        with pytest.raises(Invalid, match=remedy) as refused:
            await imported(live, model, pack_weights(model.network, some_weights(model, 9)), make(model))

        assert refused.value.field == "onnx"
        assert len(live.server.versions.list(1)) == 2


async def test_no_more_versions_are_imported_than_a_model_keeps_for_good(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_PINNED", 2)
    async with world(tmp_path / "data") as live:
        model, _ = await published(live, 2)
        await imported(live, model, pack_weights(model.network, some_weights(model, 9)))

        with pytest.raises(Exhausted, match="keeps 2 versions for good, its limit"):
            await imported(live, model, pack_weights(model.network, some_weights(model, 10)))


# ---- pause and resume


async def test_nothing_is_learned_of_what_comes_while_a_model_is_paused(tmp_path, monkeypatch):
    async with world(tmp_path / "data") as live:
        model, session = await published(live, 1)
        told = Told(live, monkeypatch)
        await live.control.pause(key("flow"))
        for n in range(10):
            await live.tick(model, session, float(n))
        verdicts = await live.learn()

        assert model.paused
        assert [v.verdict for v in verdicts] == ["unchanged"]
        assert model.champion == 1
        assert live.trainer.models[1].learner.counts.learned == 0
        assert model.judged_offset == verdicts[0].offset, "no client waits for labels that are never learned"

        await live.control.resume(key("flow"))
        await live.tick(model, session, 1.0)
        [verdict] = await live.learn()
        assert (verdict.verdict, verdict.numbers["labels"]) == ("publish", 1)
        assert [e for e in told() if e[0] in (ev.PAUSED, ev.RESUMED)] == [
            (ev.PAUSED, 1, "by hand"),
            (ev.RESUMED, 1, "by hand"),
        ]


async def test_pausing_and_resuming_again_adds_no_record(tmp_path):
    async with world(tmp_path / "data") as live:
        await live.model()

        for what in ("resume", "pause", "pause", "resume", "resume", "pause"):
            await getattr(live.control, what)(key("flow"))

        assert kinds(live, tmp_path)[2:] == [Kind.PAUSE, Kind.RESUME, Kind.PAUSE]


# ---- update


async def test_an_update_is_recorded_once_reported_and_learned_from_the_next_tick_on(tmp_path, monkeypatch):
    async with world(tmp_path / "data") as live:
        model, session = await published(live, 1)
        told = Told(live, monkeypatch)
        before = model.spec

        for _ in range(2):
            await live.control.update(key("flow"), {"learning_rate": 0.25, "rate_floor": 0.0, "clip": 3})
        await live.tick(model, session, 1.0)
        await live.learn()

        assert kinds(live, tmp_path)[-1:] == [Kind.MODEL_CHANGE]
        assert (model.spec.learning_rate, model.spec.clip, model.spec.hidden) == (0.25, 3, 4)
        assert (
            live.trainer.models[1].learner.spec
            == model.spec
            == changed(before, {"learning_rate": 0.25, "rate_floor": 0.0, "clip": 3})
        )
        reason = "learning_rate = 0.25, was 0.003; rate_floor = 0.0, was 0.0007; clip = 3, was 1.0"
        assert [e for e in told() if e[0] == ev.CHANGED] == [(ev.CHANGED, 1, reason)]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"hidden": 8}, "changes.hidden = 8: it is fixed .* create another model"),
        ({"clip": 2.0, "channels": ["y"]}, "changes.channels"),
        ({"clip": -1.0}, "changes.clip = -1.0: give"),
        ({"learning_rate": 1e-5, "rate_floor": 7e-4}, "changes.rate_floor = 0.0007: it is above learning_rate = 1e-05"),
        ({}, "changes"),
    ],
)
async def test_an_update_with_one_bad_key_changes_nothing(tmp_path, values, words):
    async with world(tmp_path / "data") as live:
        model = await live.model()
        before = model.spec

        with pytest.raises(Invalid, match=words):
            await live.control.update(key("flow"), values)

        assert model.spec == before
        assert Kind.MODEL_CHANGE not in kinds(live, tmp_path)


async def test_a_changed_model_is_found_by_its_first_spec_and_by_its_present_one(tmp_path):
    """Also after a snapshot and a restart, so that a deployment may create its models at each start."""
    async with world(tmp_path / "data") as live:
        model = await live.model()
        await live.control.update(key("flow"), {"clip": 3.0})
        await live.snapshot()
    async with world(tmp_path / "data") as live:
        model = live.serving.catalog.model(key("flow"))
        assert model.spec.clip == 3.0

        assert await live.model() is model
        assert await live.model(clip=3.0) is model
        with pytest.raises(AlreadyExists, match=r"clip = 3.0 there, 2.0 here; change it with Models.Update"):
            await live.model(clip=2.0)
        with pytest.raises(AlreadyExists, match="a spec is immutable: choose another name"):
            await live.model(hidden=5)


# ---- create


async def test_a_model_created_with_weights_answers_and_learns_from_them(tmp_path):
    async with world(tmp_path / "data") as live:
        other = await live.model("other")
        flat = some_weights(other)
        data = pack_weights(other.network, flat)

        model = await live.control.create(key("flow"), other.spec, data, sha256(data).hexdigest())
        await live.learn()

        assert (model.champion, model.anchor) == (1, 1)
        assert live.server.versions.blobs(2, 1).onnx == export(model.network, model.network.weights(flat)).onnx
        np.testing.assert_array_equal(live.trainer.models[2].learner.weights.flat, flat)
        assert kinds(live, tmp_path, model=2) == [Kind.MODEL_CREATE, Kind.PROMOTE]


async def test_a_model_is_created_again_with_its_weights_or_without_any_and_not_with_others(tmp_path):
    async with world(tmp_path / "data") as live:
        spec = ModelSpec.from_mapping(SPEC)
        network = (await live.model("other")).network

        async def create(seed: int):
            data = pack_weights(network, some_weights(network, seed))
            return await live.control.create(key("flow"), spec, data, sha256(data).hexdigest())

        model = await create(1)
        await live.publish(model, 3)

        assert await create(1) is model
        assert await live.control.create(key("flow"), spec) is model
        with pytest.raises(AlreadyExists, match="name = flow: began with other weights: import these"):
            await create(2)
        with pytest.raises(AlreadyExists, match="another spec"):
            await live.control.create(key("flow"), ModelSpec.from_mapping(SPEC | {"seed": 1}))


async def test_a_model_whose_creator_leaves_half_way_is_there_whole_for_the_next(tmp_path, monkeypatch):
    prepare, entered, go_on = Engine.prepare, threading.Event(), threading.Event()
    async with world(tmp_path / "data") as live:

        def slow(self, onnx, canary):
            entered.set()
            assert go_on.wait(DEADLINE_S)
            return prepare(self, onnx, canary)

        spec = ModelSpec.from_mapping(SPEC)
        monkeypatch.setattr(Engine, "prepare", slow)
        creating = asyncio.create_task(live.control.create(key("flow"), spec))
        assert await asyncio.to_thread(entered.wait, DEADLINE_S)
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating
        next_one = asyncio.create_task(live.control.create(key("flow"), spec))
        go_on.set()
        model = await next_one

        assert live.serving.catalog.model(key("flow")) is model
        assert list(live.serving.catalog.models) == [1]
        assert [v.number for v in live.server.versions.list(1)] == [1]
        assert kinds(live, tmp_path) == [Kind.MODEL_CREATE, Kind.SWAP]


async def test_a_model_created_with_weights_is_recovered_with_them(tmp_path):
    async with world(tmp_path / "data") as live:
        network = (await live.model("other")).network
        data = pack_weights(network, some_weights(network))
        model = await live.control.create(key("flow"), ModelSpec.from_mapping(SPEC), data, sha256(data).hexdigest())
        session = live.open(model, "pump")
        answers = [await live.tick(model, session, float(n)) for n in range(4)]
        judged = model.judged_offset
        await live.server.journal.flush()

    async with world(tmp_path / "data") as again:
        model = again.serving.catalog.model(key("flow"))
        assert [a.y for a in model.session("pump").answers] == [a.y for a in answers]
        assert (model.champion, model.anchor, model.judged_offset) == (1, 1, judged)


@pytest.mark.parametrize("case", BAD_WEIGHTS)
async def test_bad_first_weights_are_refused_by_field_and_no_model_is_made(tmp_path, case):
    make, field, remedy = BAD_WEIGHTS[case]
    async with world(tmp_path / "data") as live:
        network = (await live.model("other")).network
        made: bytes | tuple[bytes, str] = make(network, some_weights(network))
        data, digest = made if isinstance(made, tuple) else (made, sha256(made).hexdigest())

        with pytest.raises(Invalid, match=remedy) as refused:
            await live.control.create(key("flow"), ModelSpec.from_mapping(SPEC), data, digest)

        assert refused.value.field == field
        assert [m.name for m in live.serving.catalog.models.values()] == ["other"]


async def test_weights_of_another_spec_are_refused_and_both_layouts_named(tmp_path):
    async with world(tmp_path / "data") as live:
        other = await live.model("other", hidden=6)
        data = pack_weights(other.network, some_weights(other))

        with pytest.raises(Invalid, match=r"cell0\.W is float32 \(24, 9\), expected float32 \(16, 7\)"):
            await live.control.create(key("flow"), ModelSpec.from_mapping(SPEC), data, sha256(data).hexdigest())


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("", r"name = \(empty\): give 1 to 64"),
        ("../x", r"name = \.\./x: give 1 to 64"),
        ("Taxi", "name = Taxi: give"),
        ("a" * 65, "give 1 to 64"),
        ("x" * 4096, "^name = x{79}…: give"),
        ("t\u0430xi", "character 2 is CYRILLIC SMALL LETTER A; give"),
        ("taxi\n", "give 1 to 64"),
        ("1st", "beginning with a letter"),
        ("a/b", "give"),
        ("a\x00", "give"),
        ("all", "reserved: it stands for every model"),
        ("default", "reserved"),
        ("freshet", "reserved"),
    ],
    ids=ascii,
)
async def test_a_name_that_a_model_may_not_have_is_refused(tmp_path, name, shown):
    async with world(tmp_path / "data") as live:
        with pytest.raises(Invalid, match=shown) as refused:
            await live.control.create(key(name), ModelSpec.from_mapping(SPEC))

        assert refused.value.field == "name"
        assert not live.serving.catalog.models


async def test_the_control_of_these_tests_a_model_from_the_seed_begins_with_a_swap(tmp_path):
    async with world(tmp_path / "data") as live:
        await live.control.create(key("flow"), ModelSpec.from_mapping(SPEC))
        [chunk] = replay.survivors(tmp_path / "data", tmp_path / "read")

        assert [type(r) for r in chunk.records] == [ModelCreate, Swap]
