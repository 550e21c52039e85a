"""What the trainer has not saved holds the journal up to a cap; beyond it, it is left out of learning by record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.engine.export import read_weights
from service.journal.records import Label
from service.journal.retention import is_held_too_long
from service.journal.skips import Skips
from service.learning import dispatch as learning
from service.observe import events as ev
from service.server.config import ConfigError, load
from tests.service.one_process import World, key, world
from tests.service.test_journal_retention import NOTHING, SMALL, checkpoint
from tests.service.test_recovery import copy_of, recovered, seen, some_history

CAP = 16384
ROUND = 8192  # bytes of journal, more than one round of history writes; asserted


async def rounds_without_a_checkpoint(live: World, data: Path, n: int) -> int:
    """Histories and snapshots while no trainer saves anything; the most bytes of journal that were there."""
    live.server.trainers.clients[0].tried.set()
    rng, most = np.random.default_rng(0), 0
    for _ in range(n):
        before = live.server.journal.durable_position
        await some_history(live, rng, 30, snapshots=False)
        await live.snapshot()
        assert live.server.journal.durable_position - before < ROUND
        most = max(most, sum(path.stat().st_size for path in (data / "journal").glob("*.journal")))
    return most


async def test_what_a_trainer_does_not_save_is_skipped_by_record_and_goes_at_the_cap(tmp_path):
    data = tmp_path / "data"
    async with world(data, **SMALL, **NOTHING, journal_cap_bytes=CAP) as live:
        most = await rounds_without_a_checkpoint(live, data, 14)

        assert most <= CAP + ROUND + 2 * 4096, "the cap, a round behind it, and the open segment"
        assert live.server.journal.first_position > CAP
        for model in live.serving.catalog.models.values():
            event = next(e for e in live.server.events.recent(model.key, 1000) if e.kind == ev.SKIPPED)
            assert f"journal_cap_bytes = {CAP}" in event.reason
            assert event.offset in model.skips
            assert live.server.registry.get_sample_value(
                "freshet_entries_skipped_total", {"tenant": "default", "model": model.name}
            )
        serves = seen(live)
        assert await recovered(copy_of(live, tmp_path / "copy")) == serves

        trainer = await live.start_trainer()

        for number, model in live.serving.catalog.models.items():
            stored = live.server.versions.blobs(number, model.champion).weights
            np.testing.assert_array_equal(
                trainer.models[number].learner.weights.flat, read_weights(model.network, stored)
            )
        await live.control.resume(key("flow"))
        flow = live.serving.catalog.model(key("flow"))
        session = live.open(flow, "pump-0")
        for n in range(60):
            await live.tick(flow, session, float(np.sin(n)))
        await live.learn()
        assert trainer.models[flow.number].learner.counts.learned > 0, "learning goes on"


async def test_without_the_cap_the_same_journal_would_have_grown(tmp_path, monkeypatch):
    monkeypatch.setattr(learning, "is_held_too_long", lambda *_: False)
    async with world(tmp_path / "data", **SMALL, **NOTHING, journal_cap_bytes=CAP) as live:
        assert await rounds_without_a_checkpoint(live, tmp_path / "data", 14) > CAP + ROUND + 2 * 4096


async def test_a_trainer_that_saves_in_time_loses_nothing(tmp_path):
    async with world(tmp_path / "data", **SMALL, **NOTHING, journal_cap_bytes=CAP) as live:
        live.server.trainers.clients[0].tried.set()
        rng = np.random.default_rng(0)
        for _ in range(14):
            await some_history(live, rng, 30, snapshots=False)
            await checkpoint(live)
            await live.snapshot()

        assert live.server.journal.durable_position > 2 * CAP
        assert not [model.skips.pack() for model in live.serving.catalog.models.values() if model.skips.pack()]


async def test_the_quarantine_outlives_a_trainer_that_restarts(tmp_path):
    async with world(tmp_path / "data", **SMALL) as live:
        flow = await live.model("flow")
        await live.tick(flow, live.open(flow, "pump"), 1.0)
        await live.learn()
        label = Label(1, 1, np.array([2.0], np.float32))
        live.trainer.models[flow.number].quarantine.add(3, "too late", label)
        live.trainer.save()
        trainer = await live.start_trainer()

        trainer.handle(await live.server.learning.prepare_restart("a test's"))
        trainer.models[flow.number].quarantine.add(9, "conflict", label)
        trainer.models.changed(flow.number)
        trainer.save()

        held = trainer.checkpoints.quarantined(flow.number, 0, 10)
        assert [(item.id, item.reason) for item in held] == [(1, "too late"), (2, "conflict")]


@pytest.mark.parametrize(
    ("end", "first", "checkpoint", "held"),
    [(100, 0, 50, False), (101, 0, 50, True), (101, 60, 50, False), (500, 460, 0, False), (500, 0, 500, False)],
)
def test_what_counts_is_what_is_kept_and_not_in_the_checkpoint(end, first, checkpoint, held):
    assert is_held_too_long(end, first, checkpoint, cap_bytes=50) is held


def test_what_is_skipped_already_is_not_skipped_again():
    skips = Skips([[3, 5], [8, 9]])

    assert [skips.after(offset) for offset in (0, 3, 4, 5, 8, 9)] == [0, 5, 5, 5, 9, 9]


def test_a_cap_below_what_is_kept_is_refused():
    with pytest.raises(ConfigError, match="journal_cap_bytes = 1: below journal_keep_bytes"):
        load({"journal_cap_bytes": 1})
