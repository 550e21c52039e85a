"""After any history of streams, a server recovered from the files equals the live one."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from service.journal.records import ModelChange, Paused, Promote, Reset, StatePut, Swap
from service.streams.served import ServedModel
from service.streams.session import Session
from tests import memory
from tests.service.one_process import World, world
from tests.service.test_recovery import copy_of, recovered, seen

IDS = [f"pump-{n}" for n in range(4)]
STREAMS = (
    "tick", "tick", "together", "packed", "packed", "take over", "reset", "put", "delete",
)  # fmt: skip
SERVER = ("publish", "roll back", "promote", "pause", "resume", "change", "commit", "snapshot")
Step = tuple[str, str, float]  # the event, its stream, its value

steps = st.tuples(st.sampled_from(STREAMS * 3 + SERVER), st.sampled_from(IDS), st.floats(-3, 3, width=32))
histories = st.lists(steps, min_size=20, max_size=80)


async def present(live: World, model: ServedModel, id: str) -> Session:
    """Return the stream in memory: brought back, or opened if it is new."""
    await live.serving.residency.bring(model, [id])
    if id not in model.table.by_id:
        live.serving.opening.open(model, id, pinned=False)
    return model.session(id)


async def happens(live: World, model: ServedModel, step: Step) -> None:
    """Run one step of a history. Streams are not pinned, so each snapshot evicts those that may leave."""
    what, id, value = step
    session, back = await present(live, model, id), 1 + int(abs(value))
    match what:
        case "tick":
            await live.tick(model, session, value)
        case "together":
            await live.ticks(model, [(session, value), (await present(live, model, IDS[0]), -value), (session, 0.5)])
        case "packed":
            for other in IDS:
                await present(live, model, other)
            rows = np.array([model.table.by_id[other] for other in IDS])
            x = np.float32(value) + np.arange(len(IDS), dtype=np.float32)[:, None]
            wave = await live.serving.waves.answer(
                model, rows, model.table.last_seq[rows] + np.uint64(1), np.full(len(IDS), np.nan), x
            )
            assert len(wave.stepped.at) == len(IDS)
        case "take over":
            live.serving.opening.open(model, id, pinned=False)
        case "reset":
            live.serving.opening.reset(model, session)
        case "put":
            state = np.full(model.network.state_size, abs(value) / 100, np.float32)  # valid in every part
            live.serving.opening.put(model, id, session.epoch, session.last_seq + back, np.nan, state)
        case "delete":
            live.serving.opening.delete(model, id)
        case "publish":
            await live.publish(model, seed=live.server.journal.offset(model.number))  # other weights each time
        case "roll back":
            await live.control.roll_back(model.key, max(1, model.champion - back))
        case "promote":
            await live.control.promote(model.key, max(1, model.champion - back))
        case "pause":
            await live.control.pause(model.key)
        case "resume":
            await live.control.resume(model.key)
        case "change":
            await live.control.update(model.key, {"clip": 1.0 + abs(value)})
        case "commit":
            await live.server.journal.flush()
        case "snapshot":
            await live.snapshot()


async def lives_through(live: World, history: list[Step]) -> None:
    """Run a whole history; then it is on disk, and every stream in memory."""
    model = await live.model()
    for step in history:
        await happens(live, model, step)
    await live.server.journal.flush()
    await live.serving.residency.bring(model, IDS)


async def compare(history: list[Step], folder: Path) -> bool:
    """Assert that a server recovered after this history equals the live one."""
    async with world(folder / "data", idle_s=0.0) as live:
        await lives_through(live, history)
        return await recovered(copy_of(live, folder / "copy")) == seen(live)


def holds(history: list[Step]) -> None:
    with tempfile.TemporaryDirectory(dir=memory.folder()) as folder:
        assert asyncio.run(compare(history, Path(folder)))


@settings(max_examples=15, derandomize=True, phases=[Phase.generate])
@given(histories)
def test_a_recovered_server_has_every_stream_as_the_live_one(history):
    holds(history)


@pytest.mark.long
@pytest.mark.timeout(900)
@settings(max_examples=300, derandomize=True, phases=[Phase.generate])
@given(histories)
def test_three_hundred_histories_are_recovered_as_they_were(history):
    holds(history)


EVERYTHING: list[Step] = [
    ("tick", IDS[0], 1.0), ("publish", IDS[0], 1.0), ("tick", IDS[0], 2.0), ("snapshot", IDS[0], 0.0),
    ("put", IDS[1], 2.0), ("tick", IDS[1], 1.0), ("tick", IDS[2], 1.0), ("reset", IDS[2], 0.0), ("pause", IDS[0], 0.0),
    ("change", IDS[0], 1.0),
    ("promote", IDS[0], 0.0), ("tick", IDS[0], 1.0), ("publish", IDS[0], 2.0), ("tick", IDS[3], 1.0),
]  # fmt: skip


@pytest.mark.parametrize("forgotten", [StatePut, Reset, Paused, Promote, Swap, ModelChange])
async def test_a_recovery_that_forgot_a_kind_of_record_would_be_noticed(tmp_path, monkeypatch, forgotten):
    async with world(tmp_path / "data", idle_s=0.0) as live:
        await lives_through(live, EVERYTHING)
        now, copies = seen(live), [copy_of(live, tmp_path / name) for name in ("sound", "mutant")]
        assert await recovered(copies[0]) == now
        apply = ServedModel.apply

        def forgetful(model, record, offset):
            if not isinstance(record, forgotten) or (forgotten is Swap and record.version == 1):
                apply(model, record, offset)

        monkeypatch.setattr(ServedModel, "apply", forgetful)

        assert await recovered(copies[1]) != now
