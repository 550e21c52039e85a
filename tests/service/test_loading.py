"""Sessions are loaded when a tick needs them, off the loop, and leave when others need the room."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import numpy as np
import pytest

from service.common.errors import Refusal
from service.engine import loaded as engine
from service.engine.session import StepSession
from service.journal.records import Rollback
from service.storage.versions import VersionCorrupt
from service.streams.answers import Answer
from service.streams.served import ServedModel
from tests.service.one_process import World, world
from tests.service.test_serving import next_tick

NAMES = "abcde"


@pytest.fixture
async def live(tmp_path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


def answered(outcome: Answer | Refusal) -> Answer:
    assert isinstance(outcome, Answer)
    return outcome


def loads_of(live: World, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, bool]]:
    """Record (model, version, whether on the loop's thread) of each load."""
    loop, load, seen = threading.get_ident(), live.serving.loader.load, []

    def noted(model: ServedModel, number: int) -> StepSession:
        seen.append((model.number, number, threading.get_ident() == loop))
        return load(model, number)

    monkeypatch.setattr(live.serving.loader, "load", noted)
    return seen


async def a_cold_model(tmp_path) -> None:
    async with world(tmp_path) as live:
        model = await live.model()
        await live.tick(model, live.open(model, "pump"), 1.0)
        await live.publish(model, 1)
        await live.snapshot()


async def test_a_server_that_starts_loads_nothing_and_the_first_tick_loads_off_the_loop(tmp_path, monkeypatch):
    await a_cold_model(tmp_path)
    async with world(tmp_path) as live:
        seen = loads_of(live, monkeypatch)
        model = await live.model()
        assert len(live.server.engine) == 0
        await live.serving.residency.bring(model, ["pump"])
        session = live.open(model, "pump")

        answers = [answered(await live.serving.ticks.answer(next_tick(model, session, x))) for x in (1.0, 2.0)]

        assert seen == [(model.number, 2, False)]
        assert [a.version for a in answers] == [2, 2]
        sample = live.server.registry.get_sample_value
        assert (sample("freshet_sessions_loaded"), sample("freshet_session_load_seconds_count")) == (1.0, 1.0)


async def test_ticks_that_come_while_a_session_is_loading_wait_for_the_one_load(tmp_path, monkeypatch):
    await a_cold_model(tmp_path)
    async with world(tmp_path) as live:
        seen = loads_of(live, monkeypatch)
        model = await live.model()
        sessions = [live.open(model, id) for id in "abc"]

        cancelled = asyncio.create_task(live.serving.ticks.answer(next_tick(model, live.open(model, "gone"))))
        await asyncio.sleep(0)
        cancelled.cancel()
        answers = await asyncio.gather(*(live.serving.ticks.answer(next_tick(model, s)) for s in sessions))

        assert seen == [(model.number, 2, False)]
        assert [a.seq for a in answers] == [1, 1, 1]


async def test_a_swap_into_a_model_that_is_not_loaded_loads_nothing_and_the_next_tick_is_its(tmp_path, monkeypatch):
    await a_cold_model(tmp_path)
    async with world(tmp_path) as live:
        seen = loads_of(live, monkeypatch)
        model = await live.model()
        await live.publish(model, 2)
        assert (len(live.server.engine), seen) == (0, [])

        answer = answered(await live.serving.ticks.answer(next_tick(model, live.open(model, "new"))))
        assert (answer.version, seen) == (3, [(model.number, 3, False)])
        await live.publish(model, 3)
        answer = answered(await live.serving.ticks.answer(next_tick(model, live.open(model, "other"))))
        assert (answer.version, len(seen)) == (4, 1), "one that is loaded is replaced"


async def answers(folder, limit: int) -> list[bytes]:
    """Return the answers of five models that tick in turn, with this much memory for sessions."""
    given = []
    async with world(folder, session_memory_bytes=limit) as live:
        streams = []
        for n, name in enumerate(NAMES):
            model = await live.model(name, seed=n)
            streams.append((model, live.open(model, "pump")))
        for round in range(3):
            for model, session in streams:
                outcome = answered(
                    await live.serving.ticks.answer(next_tick(model, session, np.sin(round + model.number)))
                )
                given.append(outcome.y)
        assert len(live.server.engine) == (1 if limit == 1 else len(NAMES))
    return given


async def test_models_that_share_one_place_answer_as_those_that_all_have_one(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "KEPT", 1)

    assert await answers(tmp_path / "tight", 1) == await answers(tmp_path / "roomy", 1 << 30)


async def test_a_session_that_left_between_its_loading_and_the_step_is_loaded_once_more(live, monkeypatch):
    model = await live.model()
    session = live.open(model, "pump")
    live.server.engine.retire(model.number, set())
    seen = loads_of(live, monkeypatch)

    outcome = await live.serving.ticks.submit(next_tick(model, session))

    assert (outcome.seq, seen) == (1, [(model.number, 1, True)])


async def test_models_that_are_created_make_no_session_leave_that_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "KEPT", 1)
    async with world(tmp_path, session_memory_bytes=1) as live:
        first = await live.model("first")
        for name in NAMES:
            await live.model(name)

        assert live.server.engine.get(first.number, 1) is not None


async def test_a_version_that_is_found_unreadable_by_a_tick_gives_way_to_an_older_one_by_record(tmp_path):
    await a_cold_model(tmp_path)
    async with world(tmp_path) as live:
        with live.server.versions._database.transaction() as sql:
            sql.execute("UPDATE versions SET onnx = x'00', weights = x'00' WHERE number = 2")
        model = await live.model()

        answer = answered(await live.serving.ticks.answer(next_tick(model, live.open(model, "new"))))

        assert (answer.version, model.champion, model.anchor) == (1, 1, 1)
        await live.server.journal.flush()
        records = [r for _, chunk in live.server.journal.chunks(0) for r in chunk.records]
        assert [r.version for r in records if isinstance(r, Rollback)] == [1]
    async with world(tmp_path) as live:
        assert (await live.model()).champion == 1


async def test_a_tick_of_a_model_without_any_readable_version_fails_alone(tmp_path):
    await a_cold_model(tmp_path)
    async with world(tmp_path) as live:
        with live.server.versions._database.transaction() as sql:
            sql.execute("UPDATE versions SET onnx = x'00', weights = x'00'")
        model, other = await live.model(), await live.model("other")

        with pytest.raises(VersionCorrupt):
            await live.serving.ticks.answer(next_tick(model, live.open(model, "new")))

        outcome = await live.serving.ticks.answer(next_tick(other, live.open(other, "pump")))
        assert outcome.seq == 1


def test_an_engine_keeps_what_was_used_last_within_its_bytes(monkeypatch):
    monkeypatch.setattr(engine, "KEPT", 1)

    class Fake(StepSession):
        nbytes = 10

        def __init__(self) -> None:
            pass

    held = engine.Engine(limit_bytes=30)
    for model in (1, 2, 3):
        held.install(model, 1, Fake())
    held.get(1, 1)
    held.install(4, 1, Fake())
    assert [held.get(m, 1) is not None for m in (1, 2, 3, 4)] == [True, False, True, True]

    held.offer(5, 1, Fake())
    assert (held.get(5, 1), len(held)) == (None, 3), "there is no room without making another leave"
    held.offer(3, 2, Fake())
    assert held.get(3, 2) is None
    held.replace(3, 2, Fake())
    held.replace(6, 9, Fake())
    assert [held.get(*key) is not None for key in ((3, 1), (3, 2), (6, 9))] == [False, True, False]
    held.retire(3, set())
    assert len(held) == 2
