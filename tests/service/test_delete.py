"""A deleted model is gone from both processes and every file, whenever they crash. Its name is free, not its number."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest

from service.common.errors import NotFound
from service.engine.export import pack_weights
from service.engine.loaded import Engine
from service.journal.records import Kind
from service.journal.writer import JournalDamaged
from service.observe import events as ev
from service.server.shard.recovery import MODEL_END
from service.serving.ticks import Fenced, Tick
from service.storage.versions import VersionMissing, Versions
from service.streams.served import ServedModel
from service.streams.session import Session
from service.trainer.checkpoint import Checkpoints
from service.trainer.reports import Passed
from tests.oracles import replay
from tests.service.one_process import World, key, world
from tests.service.test_control import DEADLINE_S, Told, imported, kinds, published, some_weights
from tests.service.test_recovery import copy_of, recovered, seen


async def two_models(live: World) -> tuple[ServedModel, Session, ServedModel, Session]:
    """`flow`, to be deleted, and `heat`, which stays; both with versions, streams and ticks."""
    flow, pump = await published(live, 3, name="flow")
    heat = await live.model("heat", hidden=3)
    boiler = live.open(heat, "boiler")
    for n in range(5):
        await live.ticks(flow, [(pump, float(n)), (pump, 0.5)])
        await live.tick(heat, boiler, float(n))
    return flow, pump, heat, boiler


def rows_of(data: Path, model: int) -> dict[str, int]:
    """Count the rows of a model in each database, without the row that keeps the highest number."""
    found = {}
    for file in ("states.db", "versions.db", "trainer.db"):
        sql = sqlite3.connect(f"file:{data / file}?mode=ro", uri=True)
        tables = [name for (name,) in sql.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            columns = [row[1] for row in sql.execute(f"PRAGMA table_info({table})")]
            if "model" in columns and table != "numbers":
                (n,) = sql.execute(f"SELECT count(*) FROM {table} WHERE model = ?", (model,)).fetchone()
                found[f"{file} {table}"] = n
        sql.close()
    return found


# ---- at once


async def test_a_deleted_model_is_not_found_under_its_name_and_the_other_goes_on(tmp_path, monkeypatch):
    async with world(tmp_path / "data") as live:
        flow, _, heat, boiler = await two_models(live)
        told = Told(live, monkeypatch)

        await live.control.delete(key("flow"))

        with pytest.raises(NotFound, match="model = flow: no such model"):
            live.serving.catalog.model(key("flow"))
        assert list(live.serving.catalog.models) == [heat.number]
        assert told() == [(ev.DELETED, flow.champion, "by hand")]
        assert live.server.events.recent(key("flow"), 10) == []
        assert (await live.tick(heat, boiler, 9.0)).version == 1
        assert kinds(live, tmp_path)[-1] is Kind.MODEL_DELETE


async def test_every_owner_of_a_stream_is_woken_and_finds_itself_fenced(tmp_path):
    async with world(tmp_path / "data") as live:
        flow, pump, *_ = await two_models(live)
        woken = []
        owner = flow.owners.add(lambda: woken.append(1))
        session, _ = live.serving.opening.open(flow, "valve", owner)

        await live.control.delete(key("flow"))

        assert woken
        for stream in (pump, session):
            tick = Tick(flow, stream, 1, stream.last_seq + 1, np.nan, np.zeros(1, np.float32), 0.0)
            with pytest.raises(Fenced):
                await live.serving.ticks.submit(tick)
        with pytest.raises(NotFound, match="model = flow: deleted meanwhile"):
            live.serving.opening.open(flow, "late")
        live.serving.opening.close(flow, owner)
        one, never = np.ones(1, np.uint64), np.full(1, np.nan)
        with pytest.raises(NotFound, match="model = flow: deleted meanwhile"):
            await live.serving.waves.answer(flow, np.array([pump.row]), 11 * one, never, np.zeros((1, 1), np.float32))
        end = live.server.journal.offset(flow.number)
        chunks = [c for c in replay.survivors(tmp_path / "data", tmp_path / "read") if c.model == flow.number]
        assert chunks[-1].end == end, "nothing comes behind a model's last record"


async def test_a_deleted_model_leaves_no_series_behind_and_one_of_the_same_name_begins_at_zero(tmp_path):
    async with world(tmp_path / "data") as live:
        flow, _pump, _heat, _ = await two_models(live)
        await live.learn()
        owner = flow.owners.add(lambda: None)
        live.serving.opening.open(flow, "pump", owner)

        def series(name: str) -> set[str]:
            samples = [s for metric in live.server.registry.collect() for s in metric.samples]
            return {s.name for s in samples if s.labels.get("model") == name}

        before = len(series("heat"))
        assert len(series("flow")) >= before > 20
        await live.control.delete(key("flow"))
        live.serving.opening.close(flow, owner)
        await live.learn()
        assert series("flow") == set()
        assert len(series("heat")) == before

        again = await live.model("flow")
        await live.tick(again, live.open(again, "pump"), 1.0)
        assert live.server.registry.get_sample_value("freshet_ticks_total", {"tenant": "default", "model": "flow"}) == 1


async def test_the_name_may_be_created_anew_and_the_number_is_never_used_again(tmp_path):
    async with world(tmp_path / "data") as live:
        numbers: list[int] = []
        for _ in range(4):
            model = await live.model("flow", hidden=int(np.random.default_rng(len(numbers)).integers(2, 6)))
            numbers.append(model.number)
            assert model.known == 0
            await live.tick(model, live.open(model, "pump"), 1.0)
            await live.control.delete(key("flow"))
        assert numbers == [1, 2, 3, 4]
    for _ in range(2):  # whether or not a snapshot was taken
        async with world(tmp_path / "data") as again:
            model = await again.model("flow")
            numbers.append(model.number)
            await again.control.delete(key("flow"))
            await again.snapshot()
    assert numbers == [1, 2, 3, 4, 5, 6]


async def test_a_candidate_or_an_import_that_comes_too_late_leaves_nothing_behind(tmp_path, monkeypatch):
    prepare, entered, all_in, go_on = Engine.prepare, [], threading.Event(), threading.Event()
    async with world(tmp_path / "data") as live:
        flow, *_ = await two_models(live)

        def slow(self, onnx, canary):
            entered.append(onnx)
            if len(entered) == 3:
                all_in.set()
            assert go_on.wait(DEADLINE_S)
            return prepare(self, onnx, canary)

        data = pack_weights(flow.network, some_weights(flow, 9))
        with monkeypatch.context() as patch:
            patch.setattr(Engine, "prepare", slow)
            publishing = asyncio.create_task(live.publish(flow, 5))
            promoting = asyncio.create_task(live.control.promote(key("flow"), 1))
            importing = asyncio.create_task(imported(live, flow, data))
            assert await asyncio.to_thread(all_in.wait, DEADLINE_S)
            await live.control.delete(key("flow"))
            go_on.set()
            await publishing
            for refused in (promoting, importing):
                with pytest.raises(NotFound):
                    await refused

        assert live.server.versions.list(flow.number) == []
        assert live.server.engine.get(flow.number, flow.champion) is None
        assert live.server.events.recent(key("flow"), 10) == []


async def test_deleting_what_is_not_there_is_refused(tmp_path):
    async with world(tmp_path / "data") as live:
        await two_models(live)
        await live.control.delete(key("flow"))

        with pytest.raises(NotFound, match="flow"):
            await live.control.delete(key("flow"))


# ---- files and recovery


@pytest.mark.parametrize("before", [False, True], ids=["no snapshot before", "a snapshot before"])
@pytest.mark.parametrize("after", [False, True], ids=["none after", "one after"])
async def test_serving_is_recovered_without_the_model_and_with_the_other_as_it_was(tmp_path, before, after):
    async with world(tmp_path / "data") as live:
        flow, pump, heat, boiler = await two_models(live)
        if before:
            await live.snapshot()
            await live.ticks(flow, [(pump, 7.0)])
            await live.publish(flow, 9)
            await live.ticks(flow, [(pump, 8.0)])
        await live.control.delete(key("flow"))
        await live.tick(heat, boiler, 3.0)
        if after:
            await live.snapshot()
        again = await live.model("flow", hidden=2)
        await live.tick(again, live.open(again, "pump"), 1.0)
        await live.server.journal.flush()
        now = seen(live)

        assert set(now) == {heat.number, again.number}
        assert await recovered(copy_of(live, tmp_path / "copy")) == now


async def test_a_crash_before_the_deletion_is_on_disk_keeps_the_model_whole(tmp_path, monkeypatch):
    async with world(tmp_path / "data") as live:
        await two_models(live)
        await live.server.journal.flush()
        now, copy = seen(live), copy_of(live, tmp_path / "copy")
        await live.control.delete(key("flow"))

        assert await recovered(copy) == now


async def test_a_crash_between_the_record_and_the_dropping_of_the_versions_leaves_none_behind(tmp_path, monkeypatch):
    async with world(tmp_path / "data") as live:
        flow, *_ = await two_models(live)
        monkeypatch.setattr(Versions, "drop", lambda self, model: None)
        await live.control.delete(key("flow"))
        assert live.server.versions.list(flow.number)

    async with world(tmp_path / "data") as again:
        assert again.server.versions.list(flow.number) == []
        assert again.serving.catalog.last_number == 2


async def test_nothing_is_left_of_a_deleted_model_once_both_processes_have_saved(tmp_path):
    async with world(tmp_path / "data") as live:
        flow, _, heat, _ = await two_models(live)
        await live.learn()
        live.trainer.save()
        await live.snapshot()
        assert all(rows_of(tmp_path / "data", flow.number)[f"{file} models"] for file in ("states.db", "trainer.db"))

        await live.control.delete(key("flow"))
        await live.learn()
        live.trainer.save()
        await live.snapshot()

        left = rows_of(tmp_path / "data", flow.number)
        assert not any(left.values()), left
        assert rows_of(tmp_path / "data", heat.number)["trainer.db models"] == 1


async def test_a_record_of_a_model_that_was_never_created_still_stops_a_start(tmp_path):
    """The control: recovery skips only a model that ends in the journal."""
    async with world(tmp_path / "data") as live:
        flow, pump, *_ = await two_models(live)
        await live.snapshot()
        await live.ticks(flow, [(pump, 1.0)])
        await live.server.journal.flush()
        copy = copy_of(live, tmp_path / "copy")
    with sqlite3.connect(copy / "states.db") as sql:
        sql.execute("PRAGMA foreign_keys = ON")
        sql.execute("DELETE FROM models WHERE model = ?", (flow.number,))
    sql.close()

    with pytest.raises(JournalDamaged, match="model 1: the journal continues at entry"):
        World(copy)


async def test_a_tick_whose_bytes_end_like_a_deletion_is_a_tick(tmp_path):
    """Recovery first looks for deletions by a chunk's last bytes."""
    async with world(tmp_path / "data") as live:
        model = await live.model(channels=["a", "b"])
        session = live.open(model, "pump")
        await live.server.journal.flush()
        x = np.frombuffer(MODEL_END, np.float32)
        assert np.isfinite(x).all()
        await live.serving.ticks.submit(Tick(model, session, 1, 1, np.nan, x, 0.0))
        await live.server.journal.flush()
        *_, (_, payload) = live.server.journal.read(0, 1 << 20)
        assert payload.endswith(MODEL_END), "the test tests it"
        now = seen(live)

        assert await recovered(copy_of(live, tmp_path / "copy")) == now


# ---- the trainer


async def test_the_trainer_forgets_the_model_and_goes_on_with_the_other(tmp_path):
    async with world(tmp_path / "data") as live:
        _flow, _, heat, boiler = await two_models(live)
        await live.learn()
        before = live.trainer.models[heat.number].learner.weights.flat.copy()

        await live.control.delete(key("flow"))
        for n in range(4):
            await live.tick(heat, boiler, float(np.sin(n)))
        [verdict] = await live.learn()

        assert (list(live.trainer.models), list(live.trainer.pending)) == ([heat.number], [])
        assert verdict.model == heat.number
        assert live.trainer.models[heat.number].learner.weights.flat.tobytes() != before.tobytes()


@pytest.mark.parametrize("checkpoint", [False, True], ids=["from the start", "from a checkpoint before the deletion"])
async def test_a_trainer_that_starts_after_a_deletion_learns_the_other_to_the_same_bits(tmp_path, checkpoint):
    """The versions of the deleted model are gone: none may be requested again."""
    async with world(tmp_path / "data") as live:
        flow, pump, heat, boiler = await two_models(live)
        await live.learn()
        if checkpoint:
            live.trainer.save()
        await live.control.promote(key("flow"), 2)
        await live.ticks(flow, [(pump, 3.0)])
        await live.control.pause(key("heat"))
        await live.tick(heat, boiler, 0.5)
        await live.control.resume(key("heat"))
        await live.control.promote(key("heat"), 1)
        await live.learn()
        await live.control.delete(key("flow"))
        await live.tick(heat, boiler, 0.25)
        await live.learn()
        await live.learn()  # the resulting swap
        trained = live.trainer.models[heat.number].pack()

        await live.start_trainer()
        await live.learn()

        assert list(live.trainer.models) == [heat.number]
        assert live.trainer.models[heat.number].pack() == trained


async def test_a_trainer_that_is_behind_gives_a_model_up_when_its_versions_are_gone(tmp_path):
    """The trainer starts before the deletion and meets a promotion of the model first."""
    async with world(tmp_path / "data") as live:
        flow, pump, heat, boiler = await two_models(live)
        await live.start_trainer()
        await live.control.promote(key("flow"), 2)
        await live.server.journal.flush()
        await live.ticks(flow, [(pump, 3.0)])
        await live.control.delete(key("flow"))
        await live.tick(heat, boiler, 0.25)

        await live.learn()

        assert list(live.trainer.models) == [heat.number]
        assert live.trainer.models[heat.number].offset == live.server.journal.durable_offset(heat.number)


async def test_weights_that_are_gone_of_a_model_that_is_not_still_stop_the_trainer(tmp_path):
    async with world(tmp_path / "data") as live:
        _flow, *_ = await two_models(live)
        await live.start_trainer()
        await live.control.promote(key("flow"), 2)
        await live.server.journal.flush()
        with sqlite3.connect(tmp_path / "data" / "versions.db") as sql:
            sql.execute("DELETE FROM versions WHERE number = 2")
        sql.close()

        with pytest.raises(LookupError, match="no version 2"):
            await live.learn()


async def test_chunks_of_a_deleted_model_that_come_late_are_passed_over_and_their_place_is_kept(tmp_path):
    async with world(tmp_path / "data") as live:
        _flow, *_ = await two_models(live)
        await live.control.delete(key("flow"))
        late = list(live.chunks(0))
        trainer = await live.start_trainer()

        for chunk in late * 2:
            trainer.handle(chunk)

        assert list(trainer.models) == [2]
        assert trainer.position == late[-1].position
        passed = [m.position for m in live.sent if isinstance(m, Passed)]
        assert passed, "serving is told, or it would wait for its chunks to be learned"


async def test_a_checkpoint_drops_what_it_holds_of_models_that_are_gone(tmp_path):
    async with world(tmp_path / "data") as live:
        _flow, *_ = await two_models(live)
        await live.learn()
        live.trainer.save()
        await live.control.delete(key("flow"))
        trainer = await live.start_trainer()
        trainer.save()
        live.stop_trainer()

        store = Checkpoints(tmp_path / "data" / "trainer.db")
        _, models = store.load(live.server.config.gate)
        store.close()
        assert list(models) == [2]


def test_the_versions_of_all_other_models_go_and_the_last_number_stays(tmp_path):
    from tests.service.test_versions import add

    versions = Versions(tmp_path / "versions.db")
    for model in (1, 2, 3):
        add(versions, b"a", 10, model=model)
        versions.pin(model, 1)

    versions.drop_all_but({1})

    assert [len(versions.list(m)) for m in (1, 2, 3)] == [1, 0, 0]
    assert versions.pinned(3) == set()
    assert versions.last_model() == 3
    with pytest.raises(VersionMissing):
        versions.get(3, 1)
    versions.close()
    shutil.rmtree(tmp_path)
