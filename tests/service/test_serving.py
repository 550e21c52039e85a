"""The live path in one process: situations that no client can provoke."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from service.common.errors import Reason, Refusal
from service.serving.progress import FEW, mark_durable
from service.serving.ticks import Fenced, Tick
from service.streams.answers import Answer
from service.streams.served import ServedModel
from service.streams.session import Session
from tests.service.one_process import world


def next_tick(model: ServedModel, session: Session, x: float = 1.0) -> Tick:
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
        service.open(model, "s")  # another call takes the stream over

        outcomes = await asyncio.gather(
            service.serving.ticks.submit(late),
            service.serving.ticks.submit(next_tick(model, session, 1.0)),
            return_exceptions=True,
        )

        assert isinstance(outcomes[0], Fenced)
        assert isinstance(outcomes[1], Answer)
        assert session.last_seq == 1
        assert session.answers[-1].x == np.array([1.0], np.float32).tobytes()


async def test_an_untimed_tick_does_not_let_event_time_go_back(tmp_path):
    async with world(tmp_path) as service:
        model = await service.model()
        session = service.open(model, "s")

        outcomes = []
        for time in (1000.0, np.nan, 500.0):
            outcomes.append(await service.serving.ticks.submit(replace(next_tick(model, session), time=time)))

        assert [type(o) for o in outcomes] == [Answer, Answer, Refusal]
        assert isinstance(outcomes[2], Refusal)
        assert outcomes[2].reason is Reason.TIME
        assert session.last_time == 1000.0


async def test_a_reset_of_a_fresh_stream_is_not_journaled(tmp_path):
    async with world(tmp_path) as service:
        model = await service.model()
        session = service.open(model, "s")
        offsets = []
        for act in ("reset", "tick", "reset", "reset"):
            if act == "tick":
                await service.tick(model, session, 1.0)
            else:
                service.serving.opening.reset(model, session)
            offsets.append(service.server.journal.offset(model.number))

        first = offsets[0]
        assert offsets == [first, first + 1, first + 2, first + 2]
        assert not session.state.any()


@pytest.mark.parametrize("ticks", [1, FEW, FEW + 1])
async def test_a_commit_marks_each_streams_last_tick_and_wakes_each_owner_once(tmp_path, ticks):
    async with world(tmp_path) as service:
        model, woken = await service.model(), list[tuple[str, list[int]]]()
        ids = [f"s{i}" for i in range(3)]

        def wake(name: str) -> None:
            woken.append((name, [session.durable_seq for session in sessions]))

        owners = {name: model.owners.add(partial(wake, name)) for name in ("both", "one")}
        pairs = zip(ids, ("both", "both", "one"), strict=True)
        sessions = [service.serving.opening.open(model, id, owners[name])[0] for id, name in pairs]
        numbers = np.array([sessions[i % 3].number for i in range(ticks)] + [99], np.uint32)  # 99: not in memory
        seqs = np.arange(1, ticks + 2, dtype=np.uint64)
        last = [int(seqs[numbers == session.number].max(initial=0)) for session in sessions]

        mark_durable(model, numbers, seqs)

        assert [session.durable_seq for session in sessions] == last
        heard = sorted({"both", "one" if ticks > 2 else "both"})
        assert sorted(woken) == [(name, last) for name in heard], "all rows are marked before anyone is woken"


async def test_a_stream_that_waits_for_its_next_request_is_open_and_in_no_call(tmp_path):
    async with world(tmp_path) as service:
        model = await service.model()
        call, requests = model.owners.add(lambda: None), model.owners.add(lambda: None, lasting=True)
        service.serving.opening.open(model, "in a call", call, pinned=False)
        waits, _ = service.serving.opening.open(model, "between requests", requests, pinned=False)
        assert (model.owners.open, model.owners.in_calls) == (2, 1)

        model.table.pinned[waits.row] = True
        assert model.owners.in_calls == 2

        model.table.pinned[waits.row] = False
        model.owners.remove(call)
        assert (model.owners.open, model.owners.in_calls) == (1, 0)
