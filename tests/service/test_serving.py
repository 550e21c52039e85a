"""The live path in one process: what no client can bring about from outside."""

from __future__ import annotations

import asyncio

import numpy as np

from service.sequence import Answer, payload_digest
from service.serving import Fenced, Tick
from service.sessions import Session, Sessions
from tests.service.one_process import world


def next_tick(model: Sessions, session: Session, x: float = 1.0) -> Tick:
    return Tick(model, session, session.epoch, session.last_seq + 1, np.nan, np.array([x], np.float32), 0.0)


async def test_a_model_whose_step_fails_fails_its_own_streams_alone(tmp_path, monkeypatch):
    async with world(tmp_path) as service:
        sound, broken = await service.model("sound"), await service.model("broken")
        streams = [(model, service.open(model, id)) for model in (broken, sound) for id in ("a", "b")]
        monkeypatch.setattr(broken, "step", _fail)

        waiting = [service.serving.ticks.submit(next_tick(*stream)) for stream in streams]
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)

        assert [type(o) for o in outcomes] == [ZeroDivisionError, ZeroDivisionError, Answer, Answer]
        assert [session.last_seq for _, session in streams] == [0, 0, 1, 1]


def _fail(*arguments: object) -> None:
    raise ZeroDivisionError("as a graph that cannot run would")


async def test_several_ticks_of_one_stream_in_one_batch_are_successive_steps(tmp_path):
    async with world(tmp_path) as service:
        model = await service.model()
        together, alone = service.open(model, "together"), service.open(model, "alone")
        values = [1.0, 3.0, 2.0, 5.0]

        batch = await service.ticks(model, [(together, x) for x in values])
        single = [await service.tick(model, alone, x) for x in values]

        assert [a.seq for a in batch] == [1, 2, 3, 4]
        assert [a.y for a in batch] == [a.y for a in single]


async def test_a_tick_of_a_former_owner_in_the_same_batch_changes_nothing(tmp_path):
    async with world(tmp_path) as service:
        model = await service.model()
        session = service.open(model, "s")
        late = next_tick(model, session, 9.0)
        service.open(model, "s")  # another call takes it over

        outcomes = await asyncio.gather(
            service.serving.ticks.submit(late),
            service.serving.ticks.submit(next_tick(model, session, 1.0)),
            return_exceptions=True,
        )

        assert isinstance(outcomes[0], Fenced)
        assert isinstance(outcomes[1], Answer)
        assert session.last_seq == 1
        assert session.answers[-1].payload == payload_digest(np.array([1.0], np.float32), np.nan)
