"""Damaged files: their content is rebuilt, or replaced by record, and the damage is always reported."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from model.graph.step import EDITIONS, export_step
from service.common.names import Origin
from service.engine.export import export
from service.journal.records import Rollback
from service.observe import events as ev
from service.storage.versions import VersionCorrupt
from tests.service.histories import digest
from tests.service.one_process import World, key, world


def change(database: Path, statement: str) -> None:
    """Change a closed database from outside."""
    with sqlite3.connect(database) as sql:
        assert sql.execute(statement).rowcount > 0
    sql.close()


def flip(column: str) -> str:
    """Return SQL for this blob with another first byte."""
    return f"{column} = CAST(x'5A' || substr({column}, 2) AS BLOB)"


BOTH = f"{flip('onnx')}, {flip('weights')}"


def corrupt(live: World, what: str) -> float:
    value = live.server.registry.get_sample_value("freshet_corrupt_total", {"what": what})
    return value or 0.0


async def lived(data: Path, behind: tuple[str, ...] = ()) -> None:
    """Run two streams through three versions into a snapshot, and some ticks after it."""
    async with world(data) as live:
        model = await live.model()
        sessions = {id: live.open(model, id) for id in ("pump-0", "pump-1")}
        for seed in (1, 2):
            for session in sessions.values():
                await live.tick(model, session, float(seed))
            await live.publish(model, seed)
        await live.learn()
        await live.server.journal.flush()
        await live.snapshot()
        for id in behind:
            await live.tick(model, sessions[id], 0.5)
        await live.server.journal.flush()


async def opened(live: World, id: str):
    model = live.serving.catalog.model(key("flow"))
    await live.serving.residency.bring(model, [id])
    return live.open(model, id)


async def test_a_damaged_graph_is_made_again_from_its_weights_and_answers_as_before(tmp_path):
    await lived(tmp_path / "data")
    shutil.copytree(tmp_path / "data", tmp_path / "sound")
    async with world(tmp_path / "sound") as live:
        expected = (await live.tick(live.serving.catalog.model(key("flow")), await opened(live, "pump-0"), 1.0)).y
    change(tmp_path / "data" / "versions.db", f"UPDATE versions SET {flip('onnx')}, {flip('canary')} WHERE number = 3")

    async with world(tmp_path / "data") as live:
        model = live.serving.catalog.model(key("flow"))
        assert (model.champion, corrupt(live, "version")) == (3, 1)
        assert live.server.versions.blobs(model.number, 3).onnx, "mended in the file too"
        session = await opened(live, "pump-0")
        assert session.origin is Origin.RESUMED
        assert (await live.tick(model, session, 1.0)).y == expected


async def test_a_damaged_graph_of_an_earlier_edition_is_made_again_as_it_was(tmp_path, monkeypatch):
    """An earlier version of freshet wrote the directory: its graphs have other nodes than today's."""
    data = tmp_path / "data"
    with monkeypatch.context() as before:
        before.setattr("service.engine.export.export_step", partial(export_step, edition=EDITIONS[-1]))
        await lived(data)
    with closing(sqlite3.connect(data / "versions.db")) as sql:
        stored = sql.execute("SELECT onnx FROM versions WHERE number = 3").fetchone()[0]
    change(data / "versions.db", f"UPDATE versions SET {flip('onnx')} WHERE number = 3")

    async with world(data) as live:
        model = live.serving.catalog.model(key("flow"))
        assert (model.champion, corrupt(live, "version")) == (3, 1)
        mended = live.server.versions.blobs(model.number, 3).onnx
        assert mended == stored
        assert mended != export(model.network, model.network.weights(model.network.init_params())).onnx
        await live.tick(model, await opened(live, "pump-0"), 1.0)
        await live.publish(model, 3)
        assert model.champion == 4, "a version of today's edition follows"
        await live.tick(model, await opened(live, "pump-1"), 1.0)


async def test_an_older_version_serves_by_record_where_the_champion_cannot_be_read(tmp_path):
    await lived(tmp_path / "data")
    change(tmp_path / "data" / "versions.db", f"UPDATE versions SET {BOTH} WHERE number = 3")

    async with world(tmp_path / "data") as live:
        model = live.serving.catalog.model(key("flow"))
        assert (model.champion, corrupt(live, "version")) == (2, 1)
        session = await opened(live, "pump-0")
        assert session.origin is Origin.RESUMED, "its state was in the snapshot"
        assert (await live.tick(model, session, 1.0)).version == 2
        [event] = [e for e in live.server.events.recent(key("flow"), 50) if e.kind == ev.ROLLED_BACK]
        assert "version 3 cannot be read" in event.reason
        await live.learn()
        assert live.trainer.models[model.number].version == 2, "learning has followed"
        records = [r for _, chunk in live.server.journal.chunks(0) for r in chunk.records]
        assert [r.version for r in records if isinstance(r, Rollback)] == [2]

    async with world(tmp_path / "data") as live:
        assert live.serving.catalog.model(key("flow")).champion == 2


async def test_streams_whose_ticks_cannot_be_computed_again_are_lost_and_say_so_and_the_others_are_not(tmp_path):
    await lived(tmp_path / "data", behind=("pump-0",))
    change(tmp_path / "data" / "versions.db", f"UPDATE versions SET {BOTH} WHERE number = 3")

    async with world(tmp_path / "data") as live:
        lost, whole = await opened(live, "pump-0"), await opened(live, "pump-1")
        assert lost.origin is Origin.LOST
        assert lost.last_seq >= 3, "no tick is asked for twice"
        assert whole.origin is Origin.RESUMED
        assert corrupt(live, "stream") == 1


async def test_a_model_none_of_whose_versions_can_be_read_is_refused_by_name(tmp_path):
    await lived(tmp_path / "data")
    change(tmp_path / "data" / "versions.db", f"UPDATE versions SET {BOTH}")

    with pytest.raises(VersionCorrupt, match=r"versions\.db: model 1 version 3: onnx does not match its sha256"):
        World(tmp_path / "data")


async def test_a_stream_whose_line_is_damaged_is_lost_and_says_so_and_the_others_are_as_they_were(tmp_path):
    async with world(tmp_path / "data") as live:
        model = await live.model()
        for id in ("pump-0", "pump-1"):
            await live.tick(model, live.open(model, id), 1.0)
        await live.server.journal.flush()
        await live.snapshot()
    change(tmp_path / "data" / "states.db", f"UPDATE streams SET {flip('state')} WHERE id = 'pump-0'")

    async with world(tmp_path / "data") as live:
        model = live.serving.catalog.model(key("flow"))
        lost, whole = await opened(live, "pump-0"), await opened(live, "pump-1")
        assert (lost.origin, whole.origin) == (Origin.LOST, Origin.RESUMED)
        assert corrupt(live, "stream") == 1
        await live.tick(model, lost, 2.0)
        await live.server.journal.flush()

    async with world(tmp_path / "data") as live:  # after the same damaged line
        session = await opened(live, "pump-0")
        assert (session.origin, session.last_seq) == (Origin.LOST, 2)


async def test_a_reset_behind_the_damage_makes_a_lost_stream_one_like_any_other(tmp_path):
    async with world(tmp_path / "data") as live:
        model = await live.model()
        session = live.open(model, "pump-0")
        await live.tick(model, session, 1.0)
        await live.server.journal.flush()
        await live.snapshot()
        live.serving.opening.reset(model, session)
        fresh = await live.tick(model, session, 2.0)
        await live.server.journal.flush()
    change(tmp_path / "data" / "states.db", f"UPDATE streams SET {flip('state')}")

    async with world(tmp_path / "data") as live:
        session = await opened(live, "pump-0")
        assert session.origin is Origin.RESUMED
        assert session.find(2).y == fresh.y


SPOILED = {
    "flipped weights": lambda path: change(path, f"UPDATE blobs SET {flip('data')} WHERE name = 'weights'"),
    "a changed head": lambda path: change(path, "UPDATE models SET head = replace(head, '0', '1')"),
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "no database any more": lambda path: path.write_bytes(b"x" * 100 + path.read_bytes()[100:]),
    "empty": lambda path: path.write_bytes(b""),
}  # fmt: skip


@pytest.mark.parametrize("how", SPOILED)
async def test_a_damaged_checkpoint_goes_aside_and_the_same_is_learned_again(tmp_path, how):
    data = tmp_path / "data"
    async with world(data, keep_versions=1000) as live:
        model = await live.model()
        session = live.open(model, "pump")
        for n in range(60):
            await live.tick(model, session, float(np.sin(n)))
        for _ in range(2):  # the second time, the record of the first publish
            await live.learn()
        live.trainer.save()
        before = digest(live.trainer.models[model.number])
        live.stop_trainer()
        with sqlite3.connect(data / "trainer.db") as sql:
            sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        sql.close()

        SPOILED[how](data / "trainer.db")
        await live.learn()

        assert digest(live.trainer.models[model.number]) == before
        assert (how == "empty") != bool(list(data.glob("trainer.db.damaged-1")))


async def test_a_checkpoint_of_another_format_is_refused_and_stays_where_it_is(tmp_path):
    async with world(tmp_path / "data") as live:
        await live.model()
        await live.learn()
        live.trainer.save()
        live.stop_trainer()
        change_format = "PRAGMA user_version = 999"
        with sqlite3.connect(tmp_path / "data" / "trainer.db") as sql:
            sql.execute(change_format)
        sql.close()

        with pytest.raises(RuntimeError, match="database format 999"):
            await live.start_trainer()
        assert not list((tmp_path / "data").glob("*damaged*"))
