"""A snapshot runs between ticks: it holds each model as it was at one moment, and with the journal after it,
everything."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from service.storage import snapshot
from service.streams import residency
from service.streams.served import ServedModel
from tests.service.one_process import World, world
from tests.service.test_turns import next_tick

STREAMS = 150


@pytest.fixture(autouse=True)
def a_row_at_a_time(monkeypatch) -> None:
    monkeypatch.setattr(snapshot, "GATHER_BYTES", 1)


async def started(service: World) -> ServedModel:
    """A model of streams with a few ticks each, all in the journal on disk and none in a snapshot."""
    model = await service.model(learn=False)
    sessions = [service.open(model, f"s{n:03}") for n in range(STREAMS)]
    for round_ in range(3):
        await service.ticks(model, [(session, float(n + round_)) for n, session in enumerate(sessions)])
    await service.server.journal.flush()
    return model


async def everything_happens(service: World, model: ServedModel) -> set[str]:
    """Change streams in every way, one in each turn of the loop, those last that are copied first, until all are; the
    ways. Afterwards nothing changes any more, which could hide what was copied wrongly."""
    done, n = set[str](), 0
    while model.saving.gathering is not None:
        n += 1
        id = f"s{STREAMS - 1 - n // 2:03}"
        how = ["tick", "tick", "reset", "put", "delete", "take over", "new"][n % 7]
        if how == "new" or id not in model.table.by_id:
            service.open(model, f"new{n}")
        elif how == "tick":
            await service.serving.ticks.answer(next_tick(model, model.session(id), float(n)))
        elif how == "reset":
            service.serving.opening.reset(model, model.session(id))
        elif how == "put":
            state = np.full(model.network.state_size, 0.01 * n, np.float32)
            service.serving.opening.put(model, id, 1, n, np.nan, state)
        elif how == "delete":
            service.serving.opening.delete(model, id)
        else:
            service.open(model, id)
        done.add(how)
        await asyncio.sleep(0)
    return done


def lines(model: ServedModel) -> dict[str, tuple[object, ...]]:
    """Return each stream's row, and its number of answers."""
    rows = [model.row(row) for row in model.table.rows().tolist()]
    return {row.id: (row.stream, row.epoch, row.last_seq, row.origin, row.last_offset, row.state) for row in rows}


async def recovered(data: Path) -> dict[str, tuple[object, ...]]:
    async with world(data) as service:
        [model] = service.serving.catalog.models.values()
        page, _ = await service.serving.residency.page(model, "", 10_000)
        await service.serving.residency.bring(model, [row.id for row, _ in page])
        return lines(model)


async def test_streams_that_change_while_a_snapshot_is_taken_are_saved_as_they_were_at_its_moment(tmp_path):
    async with world(tmp_path) as service:
        model = await started(service)
        saving = asyncio.create_task(service.server.upkeep.save())
        await asyncio.sleep(0)
        assert await everything_happens(service, model) >= {"tick", "reset", "put", "delete"}
        await saving
        await service.server.journal.flush()
        there = lines(model)

    assert await recovered(tmp_path) == there


async def test_two_models_are_saved_each_at_its_own_moment(tmp_path):
    async with world(tmp_path) as service:
        model = await started(service)
        other = await service.model("other", learn=False)
        stream = service.open(other, "x")
        saving = asyncio.create_task(service.server.upkeep.save())
        await asyncio.sleep(0)
        while model.saving.gathering is not None or other.saving.gathering is not None:
            await service.tick(other, stream, 1.0)
            await service.tick(model, model.session("s149"), 2.0)
            await asyncio.sleep(0)
        await saving
        await service.server.journal.flush()
        there = lines(model), lines(other)

    async with world(tmp_path) as service:
        found = []
        for name, ids in (("flow", [f"s{n:03}" for n in range(STREAMS)]), ("other", ["x"])):
            model = next(m for m in service.serving.catalog.models.values() if m.name == name)
            await service.serving.residency.bring(model, ids)
            found.append(lines(model))
        assert tuple(found) == there


async def test_a_model_deleted_while_it_is_saved_is_gone(tmp_path):
    async with world(tmp_path) as service:
        model = await started(service)
        saving = asyncio.create_task(service.server.upkeep.save())
        await asyncio.sleep(0)
        await service.control.delete(model.key)
        await saving
        await service.snapshot()

    async with world(tmp_path) as service:
        assert not service.serving.catalog.models


async def test_the_next_snapshot_saves_what_a_failed_one_did_not(tmp_path):
    async with world(tmp_path) as service:
        model = await started(service)
        saving = asyncio.create_task(service.server.upkeep.save())
        await asyncio.sleep(0)
        await service.tick(model, model.session("s149"), 1.0)
        saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saving
        await service.tick(model, model.session("s001"), 9.0)
        await service.snapshot()
        there = lines(model)

    assert await recovered(tmp_path) == there


async def test_many_idle_streams_are_evicted_in_turns(tmp_path, monkeypatch):
    monkeypatch.setattr(residency, "EVICTED_AT_ONCE", 7)
    async with world(tmp_path, idle_s=0.0) as service:
        model = await started(service)
        there = lines(model)
        model.table.pinned[:] = False
        model.judge(service.server.journal.offset(model.number))
        await service.snapshot()
        assert not len(model.table)
        await service.serving.residency.bring(model, list(there))
        assert lines(model) == there
