"""The live path while the disk is full: what is still accepted, and what is refused."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from service.common.errors import Exhausted, Reason, Refusal
from tests.service.one_process import world
from tests.service.test_serving import next_tick
from tests.service.test_space import Disk


async def test_at_the_limit_of_entries_waiting_for_the_disk_nothing_more_is_accepted(tmp_path, monkeypatch):
    async with world(tmp_path, max_undurable_bytes=100) as service:
        model, journal = await service.model(), service.server.journal
        session, other = service.open(model, "s"), service.open(model, "t")
        await service.tick(model, session, 1.0)
        await journal.flush()
        disk = Disk(monkeypatch)

        disk.room = False
        for n in range(5):  # of 24 bytes each: the last one crosses the bound
            await service.tick(model, session, float(n))
            await journal.flush(unless_full=True)
        outcome = await service.serving.ticks.submit(next_tick(model, session))
        row = np.array([other.row])
        wave = await service.serving.waves.answer(
            model, row, np.array([1], np.uint64), np.array([np.nan]), np.ones((1, 1), np.float32)
        )  # fmt: skip
        with pytest.raises(Exhausted) as opening:
            service.open(model, "another")

        assert isinstance(outcome, Refusal)
        assert (outcome.reason, "the disk is full" in outcome.remedy) == (Reason.OVERLOADED, True)
        assert isinstance(wave.others[0], Refusal)
        assert opening.value.retry_s
        assert (session.last_seq, other.last_seq) == (6, 0)

        disk.room = True
        async with asyncio.timeout(60):
            await journal.flush()
        assert (await service.tick(model, session, 9.0)).seq == 7
        assert model.table.durable_seq[session.row] >= 6


async def test_requests_that_would_wait_for_a_full_disk_are_refused_and_streams_still_open(tmp_path, monkeypatch):
    async with world(tmp_path) as service:
        model, journal = await service.model(), service.server.journal
        session = service.open(model, "s")
        disk = Disk(monkeypatch)
        disk.room = False
        await service.tick(model, session, 1.0)
        await journal.flush(unless_full=True)

        with pytest.raises(Exhausted) as creating:
            await service.model("another")
        with pytest.raises(Exhausted):
            await service.control.pause(model.key)
        service.open(model, "t")

        assert creating.value.retry_s
        disk.room = True
        async with asyncio.timeout(60):
            await journal.flush()
        await service.control.pause(model.key)
