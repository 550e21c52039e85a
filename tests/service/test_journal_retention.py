"""The journal is bounded by size and age, and never loses what a restart of either process would read."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.export import read_weights
from service.journal import writer as journals
from service.journal.retention import ClosedSegment, droppable
from service.journal.writer import JournalDamaged
from service.observe import events as ev
from tests.conftest import seeds
from tests.service.histories import digest
from tests.service.one_process import World, key, world
from tests.service.test_recovery import copy_of, recovered, seen, some_history

SMALL = {"segment_bytes": 4096, "keep_versions": 10**6}
NOTHING = {"journal_keep_bytes": 0, "journal_keep_s": 0.0}  # is kept that is not needed


@given(
    st.lists(st.tuples(st.integers(1, 50), st.floats(0, 100)), max_size=8),
    st.integers(0, 50), st.integers(0, 400), st.integers(0, 400), st.floats(0, 100),
)  # fmt: skip
def test_what_goes_is_over_size_or_age_and_before_everything_that_is_needed(sizes, open_size, needed, keep, keep_s):
    ends = np.cumsum([size for size, _ in sizes]).tolist()
    closed = [ClosedSegment(end, size, 100 - age) for end, (size, age) in zip(ends, sizes, strict=True)]
    total = open_size + sum(size for size, _ in sizes)

    n = droppable(closed, total, needed, keep, keep_s, now=100.0)

    assert all(segment.end <= needed for segment in closed[:n])
    for i in range(n):  # the last one to go, too, was over one of the two
        assert total - sum(s.size for s in closed[:i]) > keep or 100 - closed[i].closed > keep_s
    if n < len(closed) and closed[n].end <= needed:  # and the first one to stay is over neither
        assert total - sum(s.size for s in closed[:n]) <= keep
        assert 100 - closed[n].closed <= keep_s


async def checkpoint(live: World) -> None:
    """The trainer learns all there is and saves it, and serving hears of it."""
    await live.learn()
    live.trainer.save()
    await live.learn()


async def long_history(live: World, rng: np.random.Generator) -> None:
    """Enough for several segments, with a snapshot and a checkpoint in the middle and more behind them."""
    for _ in range(5):
        await some_history(live, rng, 30, snapshots=False)
    await checkpoint(live)
    await live.snapshot()
    await some_history(live, rng, 30, snapshots=False)
    await live.server.journal.flush()


@seeds(3)
async def test_after_dropping_both_processes_recover_what_the_uninterrupted_run_has(tmp_path, seed):
    rng = np.random.default_rng(seed)
    async with world(tmp_path / "data", **SMALL, **NOTHING) as live:
        await long_history(live, rng)
        journal = live.server.journal
        assert journal.first_position > 2 * 4096, "the test would prove nothing"
        copy = copy_of(live, tmp_path / "copy")
        serves = seen(live)
        await live.learn()
        learned = {n: digest(hosted) for n, hosted in live.trainer.models.items()}

    assert await recovered(Path(shutil.copytree(copy, tmp_path / "another"))) == serves
    async with world(copy, **SMALL) as other:
        await other.learn()
        assert {n: digest(hosted) for n, hosted in other.trainer.models.items()} == learned


async def test_what_only_the_trainer_or_only_a_snapshot_still_needs_stays(tmp_path):
    rng = np.random.default_rng(0)
    async with world(tmp_path / "data", **SMALL, **NOTHING) as live:
        for _ in range(5):
            await some_history(live, rng, 30, snapshots=True)
        await live.snapshot()
        assert live.server.journal.first_position == 0, "there is no checkpoint"

        await checkpoint(live)
        held = live.server.learning.checkpoint
        for _ in range(5):
            await some_history(live, rng, 30, snapshots=False)
        await live.snapshot()
        assert 0 < live.server.journal.first_position <= held, "the snapshot is far ahead of it"

        first = live.server.journal.first_position
        await checkpoint(live)
        assert live.server.journal.first_position == first, "no snapshot has been taken since"


async def test_retention_that_forgot_what_is_needed_would_be_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(journals, "droppable", lambda closed, *_: len(closed))
    async with world(tmp_path / "data", **SMALL, **NOTHING) as live:
        await long_history(live, np.random.default_rng(0))
        for _ in range(5):
            await some_history(live, np.random.default_rng(1), 30, snapshots=False)
        await live.server.journal.flush()
        await live.server.journal.retain(0, 0, 0.0, 0.0)

    with pytest.raises(JournalDamaged, match="the journal begins at position"):
        async with world(tmp_path / "data"):
            pass


async def test_whoever_reads_from_the_start_keeps_it(tmp_path):
    async with world(tmp_path / "data", **SMALL, **NOTHING) as live:
        with live.server.journal.held() as start:
            await long_history(live, np.random.default_rng(0))
            assert start == live.server.journal.first_position == 0

        await live.snapshot()
        assert live.server.journal.first_position > 0


async def test_size_and_age_bound_what_is_kept_and_the_metrics_say_so(tmp_path):
    rng = np.random.default_rng(0)
    now = [1e9]
    async with world(tmp_path / "data", **SMALL, journal_keep_bytes=16384, journal_keep_s=1e9) as live:
        live.wall = lambda: now[0]
        value = live.server.registry.get_sample_value
        for _ in range(8):
            await some_history(live, rng, 30, snapshots=False)
            await checkpoint(live)
            await live.snapshot()
            await live.server.journal.flush()
            on_disk = sum(path.stat().st_size for path in (tmp_path / "data" / "journal").glob("*.journal"))
            assert value("freshet_journal_bytes") == on_disk
            assert on_disk <= 16384 + 2 * 4096 + 2048, "the bound, the open segment, and what is behind the checkpoint"
        by_size = value("freshet_journal_segments_dropped_total") or 0
        assert by_size >= 3

        now[0] = 1e12  # all of it is old by now
        await live.snapshot()

        assert (value("freshet_journal_segments_dropped_total") or 0) > by_size
        assert len(list((tmp_path / "data" / "journal").glob("*.journal"))) <= 2


async def test_a_lost_checkpoint_restarts_from_what_serves_says_so_and_learns_nothing_twice(tmp_path):
    async with world(tmp_path / "data", **SMALL, **NOTHING) as live:
        await long_history(live, np.random.default_rng(0))
        await live.learn()
        served = {model.number: model.champion for model in live.serving.catalog.models.values()}
        live.stop_trainer()
        for path in (tmp_path / "data").glob("trainer.db*"):
            path.unlink()

        trainer = await live.start_trainer()

        for model in live.serving.catalog.models.values():
            hosted = trainer.models[model.number]
            stored = live.server.versions.blobs(model.number, served[model.number]).weights
            np.testing.assert_array_equal(hosted.learner.weights.flat, read_weights(model.network, stored))
            assert (hosted.gate.anchor, hosted.learner.paused) == (model.champion, model.paused)
            [event] = [e for e in live.server.events.recent(model.key, 100) if e.kind == ev.SKIPPED]
            learned = live.server.versions.get(model.number, model.champion).offset
            assert (event.version, event.offset) == (model.champion, learned)
            assert "the journal is kept from" in event.reason
            assert model.skips.pack() in ([], [[learned, hosted.offset - 1]]), "up to its own record"
            assert hosted.offset == live.server.journal.durable_offset(model.number)
        flow = live.serving.catalog.model(key("flow"))
        await live.control.resume(key("flow"))
        session = live.open(flow, "pump-0")
        for n in range(60):
            await live.tick(flow, session, float(np.sin(n)))
        verdicts = await live.learn()
        counts = trainer.models[flow.number].learner.counts
        assert 0 < counts.learned < 60, "of the ticks since then, those that a tick before them forecast"
        assert verdicts[-1].offset == live.server.journal.durable_offset(flow.number)
        weights = trainer.models[flow.number].learner.weights.flat.copy()

        await live.start_trainer()  # the checkpoint that it left at once is one like any other
        await live.learn()
        np.testing.assert_array_equal(live.trainer.models[flow.number].learner.weights.flat, weights)
        assert len([e for e in live.server.events.recent(key("flow"), 100) if e.kind == ev.SKIPPED]) == 1
