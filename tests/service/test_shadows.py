"""Shadows: models that learn from another model's ticks and answer none."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from model.fold.learner import Learner
from service.common.errors import Invalid, NotFound
from service.journal.records import Chunk, Kind, Reset, StateDelete, Ticks
from service.serving import ticks as single_ticks
from service.streams.served import ServedModel
from tests.oracles import replay
from tests.service.one_process import World, key, world
from tests.service.test_recovery import copy_of, recovered, seen


async def a_pair(live: World, **spec):
    """A model, and a shadow of it with another cell."""
    source = await live.model("flow", **spec)
    return source, await live.model("try", **({"cell": "gru", "shadow": "flow"} | spec))


async def a_busy_time(live: World, source: ServedModel, ticks: int = 60) -> None:
    """Single ticks, ticks together, packed ticks; a reset, a deletion, a put state."""
    rng = np.random.default_rng(ticks)
    streams = [live.open(source, f"pump-{n}") for n in range(3)]
    for n in range(ticks):
        match n % 6:
            case 0 | 1:
                await live.tick(source, streams[n % 3], float(rng.normal()))
            case 2 | 3:
                await live.ticks(source, [(stream, float(rng.normal())) for stream in streams])
            case _:
                rows = np.array([stream.row for stream in streams])
                x = rng.normal(size=(3, 1)).astype(np.float32)
                seq = source.table.last_seq[rows] + np.uint64(1)
                await live.serving.waves.answer(source, rows, seq, np.full(3, np.nan), x)
        if n == 20:
            live.serving.opening.reset(source, streams[0])
        if n == 30:
            live.serving.opening.delete(source, "pump-1")
            streams[1] = live.open(source, "pump-1")
        if n == 40:
            state = np.full(source.network.state_size, 0.01, np.float32)
            live.serving.opening.put(source, "pump-2", 1, 100, np.nan, state)
            streams[2] = live.open(source, "pump-2")
    await live.server.journal.flush()


def learner_of(live: World, model: ServedModel) -> Learner:
    return live.trainer.models[model.number].learner


def seen_by(chunks: list[Chunk], model: int) -> list[tuple[object, ...]]:
    """What a model's records say of streams, tick by tick."""
    found: list[tuple[object, ...]] = []
    for record in (record for chunk in chunks if chunk.model == model for record in chunk.records):
        if isinstance(record, Ticks):
            columns = record.stream.tolist(), record.seq.tolist(), map(repr, record.time), record.x.tolist()
            found += zip(*columns, strict=True)
        elif isinstance(record, Reset | StateDelete):
            found.append((record.kind, record.stream))
    return found


async def test_a_shadow_sees_what_its_source_sees_and_learns_what_its_own_records_say(tmp_path):
    async with world(tmp_path / "data") as live:
        source, shadow = await a_pair(live)
        await a_busy_time(live, source)
        await live.learn()

        chunks = replay.survivors(live.server.config.data, tmp_path / "read")
        assert seen_by(chunks, 2) == seen_by(chunks, 1)
        mine, theirs = learner_of(live, shadow), learner_of(live, source)
        assert mine.counts.ticks == theirs.counts.ticks == 140
        assert mine.counts.learned > 120
        assert (shadow.known, len(shadow.table)) == (0, 0)
        assert shadow.champion > 1, "its versions are published, and can be exported"
        files, gate = replay.Files.of(live.server.config.data, 2), live.server.learning.trainer_settings("").gate
        whole = replay.learned(chunks, files, gate, live.trainer.models[2].offset, 2)
        assert whole.learner.weights.flat.tobytes() == mine.weights.flat.tobytes()


async def test_a_tick_that_was_not_mirrored_would_be_noticed(tmp_path, monkeypatch):
    """A mutant: single ticks go to the source alone."""
    async with world(tmp_path / "data") as live:
        source, _ = await a_pair(live)
        monkeypatch.setattr(single_ticks, "mirror_tick", lambda *_: None)
        await a_busy_time(live, source)
        chunks = replay.survivors(live.server.config.data, tmp_path / "read")

    assert seen_by(chunks, 2) != seen_by(chunks, 1)


async def test_a_recovered_shadow_is_as_the_live_one_and_gives_no_number_twice(tmp_path):
    async with world(tmp_path / "data", idle_s=0.0) as live:
        source, shadow = await a_pair(live)
        await a_busy_time(live, source)
        await live.snapshot()
        await a_busy_time(live, source, ticks=12)
        now = seen(live)
        assert await recovered(copy_of(live, tmp_path / "copy")) == now

    async with world(tmp_path / "copy") as again:
        source, shadow = (again.serving.catalog.model(key(name)) for name in ("flow", "try"))
        assert source.shadows == [shadow]
        await again.control.update(key("try"), {"shadow": ""})
        assert source.shadows == []
        last = max(int(n) for c in replay.survivors(again.server.config.data, tmp_path / "read") if c.model == 2
                   for r in c.records if isinstance(r, Ticks) for n in r.stream)  # fmt: skip
        stream = again.open(shadow, "pump-0")
        assert stream.number > last
        await again.tick(shadow, stream, 1.0)
        await again.control.delete(key("flow"))


async def test_a_shadow_answers_nothing_until_that_is_ended(tmp_path):
    async with world(tmp_path / "data") as live:
        _, shadow = await a_pair(live)
        words = r"model = try: it is a shadow of model flow: send ticks to flow, or end that with Models.Update"

        with pytest.raises(Invalid, match=words):
            live.open(shadow, "pump-0")
        with pytest.raises(Invalid, match=words):
            live.serving.opening.put(shadow, "pump", 1, 1, np.nan, np.zeros(shadow.network.state_size, np.float32))
        with pytest.raises(
            Invalid, match=r"changes.shadow = other: a running model may end being a shadow, not begin it"
        ):
            await live.control.update(key("try"), {"shadow": "other"})
        with pytest.raises(Invalid, match="not begin it"):
            await live.control.update(key("flow"), {"shadow": "try"})

        await live.control.update(key("try"), {"shadow": ""})
        await live.tick(shadow, live.open(shadow, "pump-0"), 1.0)
        assert await live.model("try", cell="gru", shadow="flow") is shadow, "by the spec of its creation"


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ({"shadow": "none"}, NotFound, "model = none"),
        ({"shadow": "try"}, Invalid, "spec.shadow = try: it is itself a shadow: name its source, flow"),
        ({"channels": ["x", "y"]}, Invalid, r"spec.channels = .* model flow has \('x',\)"),
        ({"missing": "hold"}, Invalid, "spec.missing = hold: model flow has 'refuse'"),
        ({"task": "regress", "targets": ["t"]}, Invalid, "spec.task = regress: model flow has 'forecast'"),
        ({"interval": 60.0}, Invalid, "spec.interval = 60.0: ticks of model flow need no time"),
    ],
)
async def test_a_shadow_that_cannot_see_the_same_ticks_is_not_made(tmp_path, spec, error, words):
    async with world(tmp_path / "data") as live:
        await a_pair(live)

        with pytest.raises(error, match=words):
            await live.model("third", **({"shadow": "flow"} | spec))

        assert "third" not in [model.name for model in live.serving.catalog.models.values()]


async def test_a_shadow_of_a_model_with_known_inputs_has_its_horizon(tmp_path):
    """A tick holds their values for each step, so that its width depends on the horizon."""
    async with world(tmp_path / "data") as live:
        await live.model("flow", known=["k"])

        with pytest.raises(Invalid, match=r"spec.horizon = 2: model flow has 1, and a shadow sees the same ticks"):
            await live.model("try", known=["k"], horizon=2, shadow="flow")
        await live.model("try", known=["k"], hidden=3, shadow="flow")


async def test_a_model_with_shadows_is_not_deleted_and_one_without_them_is(tmp_path):
    async with world(tmp_path / "data") as live:
        source, _ = await a_pair(live)

        with pytest.raises(Invalid, match="name = flow: it has shadows: delete try first"):
            await live.control.delete(key("flow"))
        with pytest.raises(Invalid):
            live.control.check_deletable(key("flow"))
        assert not source.deleted

        await live.control.delete(key("try"))
        await live.tick(source, live.open(source, "pump"), 1.0)
        await live.control.delete(key("flow"))


async def test_labels_of_the_source_are_labels_of_its_shadow(tmp_path):
    labelled = {"task": "regress", "targets": ["t"]}
    async with world(tmp_path / "data") as live:
        source, shadow = await a_pair(live, **labelled)
        stream = live.open(source, "pump")
        for n in range(40):
            await live.tick(source, stream, float(np.sin(n)))
            live.server.intake.label(source, "pump", n + 1, np.array([np.cos(n)], np.float32))
        await live.server.journal.flush()
        await live.learn()

        assert learner_of(live, source).counts.learned == learner_of(live, shadow).counts.learned == 40
        chunks = replay.survivors(live.server.config.data, tmp_path / "read")
        assert [r.kind for c in chunks if c.model == 2 for r in c.records].count(Kind.LABEL) == 40


async def test_losses_are_compared_on_the_labels_that_both_have_learned(tmp_path):
    """The oracle: both models' updates, noted where they are made."""
    async with world(tmp_path / "data") as live:
        source, shadow = await a_pair(live)
        stream = live.open(source, "pump")
        for n in range(120):
            await live.tick(source, stream, float(np.sin(n / 3)))
            if n % 10 == 9:
                await live.learn()
            if n == 60:
                await live.control.pause(key("try"))
            if n == 80:
                await live.control.resume(key("try"))
        await live.learn()

        found = live.server.metrics.learner.of(shadow.key).compared
        assert found is not None
        assert 80 <= found.labels <= 100, "what one has not learned does not count"
        assert found.persistence == pytest.approx(found.source_persistence, rel=1e-6), "the units are the same"
        assert found.loss != found.source_loss
        assert live.server.metrics.learner.of(source.key).compared is None


async def test_erasing_a_deleted_stream_of_the_source_keeps_the_labels_of_its_other_streams(tmp_path):
    """A shadow has no streams: which of their labels may stay in its quarantine is what the source's streams say."""
    asked: dict[int, tuple[int, ...]] = {}

    class Quarantines:
        async def quarantined_streams(self, timeout_s: float) -> dict[int, tuple[int, ...]]:
            return {1: (1, 2), 2: (1, 2)}

        async def erase(self, gone: Mapping[int, tuple[int, ...]], timeout_s: float) -> int:
            asked.update(gone)
            return 2**62

    async with world(tmp_path / "data") as live:
        source, _ = await a_pair(live)
        live.open(source, "pump-0")
        live.open(source, "pump-1")
        live.serving.opening.delete(source, "pump-0")
        erasure = live.server.erasure
        erasure._trainer = Quarantines()

        await erasure._erase_learned()

    assert asked == {1: (1,), 2: (1,)}
