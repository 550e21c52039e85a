"""Models of the trainer in memory and on disk: which are where changes nothing that is learned or saved."""

from __future__ import annotations

import dataclasses
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from service.storage.disk import NoSpace
from service.trainer import due
from service.trainer import models as resident
from service.trainer.checkpoint import Checkpoints, open_or_set_aside
from service.trainer.due import Pending
from service.trainer.hosting import ERRORS_FROM, HostedModel
from service.trainer.models import Models
from service.trainer.process import INCOMPLETE
from service.trainer.reports import Saved
from tests.service import histories
from tests.service.histories import GATE, digest, fold, history
from tests.service.one_process import World, world

NUMBERS = (3, 7, 9)
SEEDS = dict(zip(NUMBERS, (0, 1, 2), strict=True))


def weights_of(model: int, version: int) -> np.ndarray:
    return histories.weights_of(histories.MODEL, version)


def interleaved(path: Path, limit: int, every: int, forgetful: bool = False) -> dict[int, HostedModel]:
    """Three models' histories, chunk by chunk in turn, with so little memory; saved now and then, and loaded last."""
    with closing(Checkpoints(path)) as checkpoints:
        models = Models(checkpoints, GATE, {}, limit)
        turns = [(number, chunk) for round in zip(*map(history, SEEDS.values()), strict=True)
                 for number, chunk in zip(NUMBERS, round, strict=True)]  # fmt: skip
        for at, (number, chunk) in enumerate(turns):
            if number not in models:
                models[number] = HostedModel.create(number, chunk.records[0], GATE)
            models[number].apply(dataclasses.replace(chunk, model=number), weights_of)
            if not forgetful:
                models.changed(number)
            if not models.make_room() or at % every == 0:
                models.save(at)
        assert len(models.in_memory) == (1 if limit == 1 else len(NUMBERS))
        models.save(len(turns))
    with closing(Checkpoints(path)) as checkpoints:
        return checkpoints.load(GATE)[1]


@pytest.mark.parametrize("every", [1, 5])
def test_models_that_leave_memory_and_return_learn_to_the_same_bits(tmp_path, monkeypatch, every):
    monkeypatch.setattr(resident, "KEPT", 1)

    tight = interleaved(tmp_path / "tight.db", 1, every)
    roomy = interleaved(tmp_path / "roomy.db", 1 << 30, every)

    for number, seed in SEEDS.items():
        whole = digest(fold(history(seed)))
        assert (digest(tight[number]), digest(roomy[number])) == (whole, whole), number


def test_a_model_that_left_with_what_it_had_learned_would_be_noticed(tmp_path, monkeypatch):
    """A mutant: nothing counts as changed, so nothing is saved before it leaves."""
    monkeypatch.setattr(resident, "KEPT", 1)
    with pytest.raises(Exception, match=r"expected|3|7|9"):
        interleaved(tmp_path / "trainer.db", 1, 5, forgetful=True)


def test_a_save_writes_the_changed_models_and_of_them_the_changed_blobs(tmp_path):
    path = tmp_path / "trainer.db"
    with closing(Checkpoints(path)) as checkpoints:
        models = Models(checkpoints, GATE, {}, 1 << 30)
        for number in NUMBERS:
            models[number] = fold(history()[:6])
            models[number].number = number
        assert list(models.save(1)) == list(NUMBERS)
        with sqlite3.connect(path) as sql:
            sql.executescript(
                "CREATE TABLE written (what TEXT);"
                "CREATE TRIGGER m AFTER INSERT ON models BEGIN INSERT INTO written VALUES (new.model || ' head'); END;"
                "CREATE TRIGGER b AFTER INSERT ON blobs "
                "BEGIN INSERT INTO written VALUES (new.model || ' ' || new.name); END;"
            )
        sql.close()

        models[7].apply(dataclasses.replace(history()[6], model=7), weights_of)
        models.changed(7)
        assert list(models.save(2)) == [7]
        assert models.save(3) == {}

    with sqlite3.connect(path) as sql:
        written = sorted(row[0] for row in sql.execute("SELECT what FROM written"))
    sql.close()
    assert "7 head" in written
    assert "7 weights" in written
    assert "7 anchor" not in written, "it is as it was"
    assert {what[0] for what in written} == {"7"}


def test_a_model_that_is_removed_leaves_the_file_and_the_others_stay(tmp_path):
    path = tmp_path / "trainer.db"
    with closing(Checkpoints(path)) as checkpoints:
        models = Models(checkpoints, GATE, {}, 1 << 30)
        for number in NUMBERS:
            models[number] = fold(history()[:6])
            models[number].number = number
        models.save(1)
        del models[7]
        assert (list(models), 7 in models) == ([3, 9], False)
        with pytest.raises(KeyError):
            models[7]
        models.save(2)
        assert list(checkpoints.load(GATE)[1]) == [3, 9]
        with checkpoints._database.transaction() as sql:
            for table in ("models", "blobs", "contexts"):
                assert {row[0] for row in sql.execute(f"SELECT model FROM {table}")} == {3, 9}


def test_what_found_no_room_is_written_by_the_next_save_also_where_the_model_was_replaced(tmp_path, monkeypatch):
    with closing(Checkpoints(tmp_path / "trainer.db")) as checkpoints:
        models = Models(checkpoints, GATE, {}, 1 << 30)
        models[7] = fold(history()[:10])
        models.save(1)
        for chunk in history()[10:20]:
            models[7].apply(chunk, weights_of)
        models.changed(7)
        with checkpoints._database.transaction() as sql:
            pages = sql.execute("PRAGMA page_count").fetchone()[0]
            sql.execute(f"PRAGMA max_page_count = {pages}")
        head, blobs = models[7].pack()
        monkeypatch.setattr(models[7], "pack", lambda: (head, blobs | {"too much": bytes(4 << 20)}))
        with pytest.raises(NoSpace):
            models.save(2)
        with checkpoints._database.transaction() as sql:
            sql.execute("PRAGMA max_page_count = 1000000")

        models[7] = fold(history(1)[:8])
        models.save(3)
        loaded = checkpoints.load_model(7, GATE)
        assert digest(loaded) == digest(fold(history(1)[:8]))
        with checkpoints._database.transaction() as sql:
            stored = {row[0] for row in sql.execute("SELECT stream FROM contexts")}
        errors = {ERRORS_FROM + stream for stream in loaded.errors.streams.order()}
        assert stored == set(loaded.learner.contexts.order()) | errors, "none of the former model's is left"


# ---- the process


async def two_learned(live: World) -> None:
    for name in ("flow", "heat"):
        model = await live.model(name)
        await live.ticks(model, [(live.open(model, "pump"), x) for x in (0.1, 0.4, -0.3, 0.8)])
    await live.learn()
    await live.learn()  # the swaps
    assert live.trainer is not None
    live.trainer.save()


async def test_a_trainer_that_starts_where_all_is_judged_loads_nothing_and_judges_nothing(tmp_path):
    async with world(tmp_path / "data") as live:
        await two_learned(live)

        trainer = await live.start_trainer()

        assert (len(trainer.models), trainer.models.in_memory, list(trainer.pending)) == (2, [], [])
        assert await live.learn() == []


async def test_a_trainer_that_starts_behind_a_verdict_that_serving_does_not_know_judges_that_model_again(tmp_path):
    async with world(tmp_path / "data") as live:
        await two_learned(live)
        flow = live.serving.catalog.model((await live.model("flow")).key)
        await live.tick(flow, flow.session("pump"), 0.5)
        await live.server.journal.flush()
        trainer = live.trainer
        for chunk in live.chunks(trainer.position):
            trainer.handle(chunk)
        trainer.save()  # learned, and no verdict given

        assert list((await live.start_trainer()).pending) == [flow.number]


async def test_a_model_that_asked_for_a_rollback_asks_again_after_a_restart(tmp_path):
    async with world(tmp_path / "data") as live:
        await two_learned(live)
        number = (await live.model("flow")).number
        live.trainer.models[number].learner.drift.returning = True
        live.trainer.models.changed(number)
        live.trainer.save()

        assert list((await live.start_trainer()).pending) == [number]


async def test_saved_names_the_models_that_changed_and_ready_all(tmp_path):
    async with world(tmp_path / "data") as live:
        await two_learned(live)
        live.sent.clear()
        flow = await live.model("flow")
        await live.tick(flow, flow.session("pump"), 0.5)
        await live.learn()
        live.trainer.save()

        [saved] = [m for m in live.sent if isinstance(m, Saved)]
        assert list(saved.models) == [flow.number]
        assert len(live.trainer.ready().models) == 2


async def test_beginning_anew_in_little_memory_ends_where_it_does_in_much(tmp_path, monkeypatch):
    monkeypatch.setattr(resident, "KEPT", 1)
    digests = []
    for limit in (1, 1 << 30):
        async with world(tmp_path / str(limit), trainer_memory_bytes=limit) as live:
            await two_learned(live)
            trainer = await live.start_trainer()
            trainer.handle(await live.server.learning.prepare_restart("a test's"))
            assert len(trainer.models.in_memory) == (1 if limit == 1 else 2)
            digests.append([digest(trainer.models[n]) for n in sorted(trainer.models)])
            found = open_or_set_aside_position(live, trainer.checkpoints)
            assert found == live.server.journal.durable_position
    assert digests[0] == digests[1]


def open_or_set_aside_position(live: World, checkpoints: Checkpoints) -> int:
    return checkpoints.survey(live.server.config.gate)[0]


async def test_a_trainer_that_dies_while_it_restarts_restarts_again(tmp_path, monkeypatch):
    monkeypatch.setattr(resident, "KEPT", 1)
    async with world(tmp_path / "data", trainer_memory_bytes=1) as live:
        await two_learned(live)
        trainer = await live.start_trainer()
        monkeypatch.setattr(trainer, "save", lambda: (_ for _ in ()).throw(SystemExit(9)))
        with pytest.raises(SystemExit):
            trainer.handle(await live.server.learning.prepare_restart("a test's"))

        live.stop_trainer()
        opened = open_or_set_aside(tmp_path / "data" / "trainer.db", live.server.config.gate)
        with closing(opened.checkpoints):
            assert opened.position == INCOMPLETE


async def saves_of(live: World, took: float, ticks: int) -> int:
    """How often the trainer saves in so many chunks, after a save that took so long."""
    model = live.serving.catalog.model((await live.model("flow")).key)
    trainer = live.trainer
    trainer.save()
    trainer.saves.took_s = took
    live.sent.clear()
    for n in range(ticks):
        await live.tick(model, model.session("pump"), 0.01 * n)
        await live.server.journal.flush()
        for chunk in live.chunks(trainer.position):
            trainer.handle(chunk)
    return sum(isinstance(message, Saved) for message in live.sent)


async def test_saves_that_take_long_come_less_often_and_are_not_put_off_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(due, "MOST_INTERVALS", 5)
    monkeypatch.setattr(due, "LONG_SAVE_S", 1e3)  # a real save takes long on a busy disk
    async with world(tmp_path / "data", checkpoint_chunks=2) as live:
        await two_learned(live)

        assert await saves_of(live, 0.0, 8) == 4
        assert await saves_of(live, 1e6, 8) == 0, "learning has had no time yet"
        assert await saves_of(live, 1e6, 10) == 1, "and yet"


# ---- what is due


def test_verdicts_are_due_by_time_in_the_order_of_the_first_entry_and_at_the_end_by_number():
    pending = Pending(publish_labels=3, publish_s=10.0)
    assert (pending.wait(0.0), pending.next(0.0, True)) == (None, None)
    pending.note(1, 0.0, 2, 2)
    pending.note(2, 4.0, 5, 5)
    pending.note(1, 5.0, 0, 0)

    assert pending.wait(4.0) == 6.0
    assert pending.next(9.0, end_reached=False) is None
    assert pending.next(9.0, end_reached=True) == 2, "it has enough, the older one has not"
    assert pending.next(10.0, end_reached=False) == 1
    pending.remove(1)
    assert (pending.next(10.0, False), pending.wait(11.0), list(pending)) == (None, 3.0, [2])
    pending.note(1, 12.0, 1, 1)
    assert list(pending) == [2, 1]
