"""Streams in memory are bounded; those that left come back when they are needed."""

from __future__ import annotations

import numpy as np

from service.common.names import Origin
from service.streams.totals import Totals
from tests.service.one_process import NEVER_S, world


async def test_streams_beyond_the_bound_leave_memory_and_come_back_as_they_were(tmp_path):
    async with world(tmp_path, max_resident=2, idle_s=NEVER_S) as service:
        model = await service.model()
        for id in "abcd":
            session, _ = service.serving.opening.open(model, id, pinned=False)
            await service.tick(model, session, 1.0)

        model.judge(service.server.journal.offset(model.number))  # streams that are not judged must stay
        await service.snapshot()

        assert (len(model.table), model.known) == (2, 4)
        for id in "abcd":
            await service.serving.residency.bring(model, [id])
            assert model.row(model.table.by_id[id]).last_seq == 1


async def test_a_deleted_stream_stays_away_while_another_is_out_of_memory_and_its_line_still_on_disk(tmp_path):
    async with world(tmp_path, idle_s=0.0) as service:
        model, bring = await service.model(), service.serving.residency.bring
        for id in "ab":
            session, _ = service.serving.opening.open(model, id, pinned=False)
            await service.tick(model, session, 1.0)
        model.judge(service.server.journal.offset(model.number))
        await service.snapshot()
        assert (len(model.table), model.known) == (0, 2)
        await bring(model, ["a"])
        number = model.session("a").number
        service.serving.opening.delete(model, "a")

        await bring(model, ["a"])
        await service.serving.residency.bring_numbers(model, np.array([number], np.uint32))

        assert (len(model.table), model.known) == (0, 1)
        session, origin = service.serving.opening.open(model, "a")
        assert (session.last_seq, origin) == (0, Origin.FRESH)


async def test_an_idle_stream_leaves_although_nothing_happens_to_its_model_any_more(tmp_path):
    async with world(tmp_path, idle_s=10.0) as service:
        now = 100.0
        service.clock = lambda: now
        other = await service.model("other")
        model = await service.model()
        for id in "ab":
            session, _ = service.serving.opening.open(model, id, owner=model.owners.add(lambda: None), pinned=id == "b")
            await service.ticks(model, [(session, 1.0)])
            model.table.touched[session.row] = now
        model.judge(service.server.journal.offset(model.number))
        await service.snapshot()
        assert (len(model.table), model.saving.is_changed) == (2, False)

        now = 111.0
        await service.tick(other, service.open(other, "pump"), 1.0)
        await service.snapshot()
        assert list(model.table.by_id) == ["b"], "it has been idle, and the other is pinned"

        now = 200.0
        await service.snapshot()
        assert list(model.table.by_id) == ["b"]
        service.serving.opening.close(model, int(model.table.owner[model.table.by_id["b"]]))
        await service.snapshot()
        assert (len(model.table), model.known, service.serving.catalog.totals.resident) == (0, 2, 1)


async def test_a_stream_that_was_only_read_leaves_memory_again(tmp_path):
    async with world(tmp_path, idle_s=10.0) as service:
        now = 100.0
        service.clock = lambda: now
        model = await service.model()
        session, _ = service.serving.opening.open(model, "a", pinned=False)
        await service.tick(model, session, 1.0)
        model.judge(service.server.journal.offset(model.number))
        now = 200.0
        await service.snapshot()
        assert len(model.table) == 0
        await service.serving.residency.bring(model, ["a"])
        await service.snapshot()
        assert (len(model.table), service.serving.catalog.totals.resident) == (1, 1)

        now = 211.0
        await service.snapshot()
        assert (len(model.table), service.serving.catalog.totals.resident) == (0, 0)


def test_totals_follow_models_and_streams_that_come_and_go():
    totals = Totals()
    totals.count(1, "a", 3, 2)
    totals.count(2, "a", 5, 5)
    totals.count(3, "b", 1, 0)
    totals.count(1, "a", 2, 1)
    assert (totals.streams, totals.resident) == (8, 6)
    assert [totals.models_of(t) for t in "abc"] == [2, 1, 0]
    assert [totals.streams_of(t) for t in "abc"] == [7, 1, 0]

    totals.forget(2)
    totals.forget(3)
    assert (totals.streams, totals.resident, totals.models_of("b"), totals.streams_of("a")) == (2, 1, 0, 2)
