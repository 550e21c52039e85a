"""Streams in memory are bounded; those that left are there when they are wanted."""

from __future__ import annotations

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
