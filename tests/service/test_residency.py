"""Streams in memory are bounded; those that left are there when they are wanted."""

from __future__ import annotations

import numpy as np

from service.sessions import Origin
from tests.service.one_process import NEVER_S, world


async def test_streams_beyond_the_bound_leave_memory_and_come_back_as_they_were(tmp_path):
    async with world(tmp_path, max_resident=2, idle_s=NEVER_S) as service:
        model = await service.model()
        for id in "abcd":
            session, _ = service.serving.open_stream(model, id, pinned=False)
            await service.tick(model, session, 1.0)

        service.serving.judged(model, service.server.journal.offset(model.number))  # what is not must stay
        await service.snapshot()

        assert (len(model.table), model.known) == (2, 4)
        for id in "abcd":
            await service.serving.residency.bring(model, [id])
            assert model.row(model.table.by_id[id]).last_seq == 1


async def test_a_deleted_stream_stays_away_while_another_is_out_of_memory_and_its_line_still_on_disk(tmp_path):
    async with world(tmp_path, idle_s=0.0) as service:
        model, bring = await service.model(), service.serving.residency.bring
        for id in "ab":
            session, _ = service.serving.open_stream(model, id, pinned=False)
            await service.tick(model, session, 1.0)
        service.serving.judged(model, service.server.journal.offset(model.number))
        await service.snapshot()
        assert (len(model.table), model.known) == (0, 2)
        await bring(model, ["a"])
        number = model.session("a").number
        service.serving.delete_stream(model, "a")

        await bring(model, ["a"])
        await service.serving.residency.bring_numbers(model, np.array([number], np.uint32))

        assert (len(model.table), model.known) == (0, 1)
        session, origin = service.serving.open_stream(model, "a")
        assert (session.last_seq, origin) == (0, Origin.FRESH)
