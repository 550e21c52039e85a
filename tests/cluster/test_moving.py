"""Models that move between a data directory and a store are the same there, bit for bit."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import time
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from service.cluster.moving import copying
from service.cluster.moving.digests import lines
from service.cluster.moving.exporting import export_directory
from service.cluster.moving.importing import import_directory
from service.cluster.moving.source import MovingRefused
from service.cluster.nodes.agreed import shards_in, shards_of
from service.cluster.nodes.notes import Note, note_name
from service.cluster.nodes.placing import shard_of
from service.cluster.shards.opening import open_shard
from service.cluster.store.directory import Directory
from service.cluster.store.seam import Missing, StoreRefused
from service.common.names import ModelKey
from service.journal.log import JournalLocked, lock
from service.journal.records import Gathered
from service.server.config import ServeConfig
from service.trainer.hosting import HostedModel
from tests.cluster.shard_world import NODE, shard
from tests.conftest import seeds
from tests.service.one_process import World, world
from tests.service.test_recovery import recovered, seen, some_history

SHARDS = 4


@pytest.fixture
def store(tmp_path) -> Directory:
    return Directory(f"file://{tmp_path / 'store'}", tmp_path / "store")


async def history(data: Path, seed: int = 0, **settings: object) -> None:
    """A server's directory as a kill leaves it: models, one deleted, records beyond snapshot and checkpoint."""
    rng = np.random.default_rng(seed)
    async with world(data, **settings) as live:
        gone = await live.model("gone")
        await live.ticks(gone, [(live.open(gone, "pump"), 1.0)])
        await some_history(live, rng, 40, snapshots=True)
        await live.control.delete(gone.key)
        await live.learn()
        live.trainer.save()
        await live.snapshot()
        late = await live.model("late")
        await live.ticks(late, [(live.open(late, "pump"), 1.0)])
        await some_history(live, rng, 30, snapshots=False)
        await live.server.journal.flush()


def files(data: Path) -> dict[str, str]:
    """The digests of the files that hold data."""
    paths = [*data.glob("*.db"), *data.glob("journal/*.journal")]
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in paths}


async def by_name(data: Path) -> dict[str, object]:
    """What a server on a copy of the directory recovers."""
    copy = Path(shutil.copytree(data, data.with_name(f"{data.name}-copy")))
    return {model.name: model for model in (await recovered(copy)).values()}


async def learned(data: Path) -> dict[str, bytes]:
    """The weights that a trainer has on a copy of the directory once it has learned all records."""
    copy = Path(shutil.copytree(data, data.with_name(f"{data.name}-learned")))
    async with world(copy) as other:
        await other.learn()
        return {other.serving.catalog.models[n].name: weights(other, n) for n in other.serving.catalog.models}


def weights(live: World, number: int) -> bytes:
    hosted = live.trainer.models.get(number)
    assert isinstance(hosted, HostedModel)
    return hosted.learner.weights.flat.tobytes()


@seeds(2)
async def test_each_model_is_on_its_shard_with_streams_versions_and_progress(store, tmp_path, seed):
    data = tmp_path / "data"
    await history(data, seed)
    before, there = files(data), await by_name(data)

    moved = await asyncio.to_thread(import_directory, data, store, SHARDS)
    assert files(data) == before, "the directory stays as it is"
    assert {key.name for key, _ in moved.digests} == there.keys() == {"flow", "heat", "late"}

    found: dict[str, object] = {}
    for number in {shard_of(ModelKey("default", name), SHARDS) for name in there}:
        async with shard(store, tmp_path / f"node-{number}", number=number) as node:
            for model in node.serving.catalog.models.values():
                assert shard_of(model.key, SHARDS) == number
                ids = [row.id for row in node.server.states.page(model.number, "", 10_000)]
                await node.serving.residency.bring(model, ids)
            found |= {model.name: model for model in seen(node).values()}
    assert found == there
    assert shards_in(store) == SHARDS


@seeds(2)
async def test_what_comes_back_from_a_store_is_what_went_in(store, tmp_path, seed):
    data, back = tmp_path / "data", tmp_path / "back"
    await history(data, seed)
    there = await asyncio.to_thread(import_directory, data, store, SHARDS)
    again = await asyncio.to_thread(export_directory, store, back)

    assert lines(again.digests) == lines(there.digests)
    assert {what.split()[0] for _, what in there.digests} == {
        "records", "state", "streams", "answers", "learned", "version", "numbers",
    }  # fmt: skip
    assert await by_name(back) == await by_name(data)
    assert await learned(back) == await learned(data)
    assert not [path.name for path in back.rglob("*") if path.suffix in (".lock", ".json")]


async def test_a_journal_without_its_beginning_moves_too_and_nobody_expects_the_beginning(store, tmp_path):
    data, back = tmp_path / "data", tmp_path / "back"
    settings = {"segment_bytes": 1 << 12, "journal_keep_bytes": 0}
    await history(data, **settings)
    async with world(data, **settings) as live:
        await live.learn()
        live.trainer.save()
        for _ in range(2):
            await live.learn()
            await live.snapshot()
        assert live.server.journal.first_position > 0
    there = await asyncio.to_thread(import_directory, data, store, SHARDS)
    again = await asyncio.to_thread(export_directory, store, back)
    assert lines(again.digests) == lines(there.digests)
    assert await by_name(back) == await by_name(data)
    async with world(back) as other:
        assert other.server.journal.first_position > 0


async def test_one_shard_is_exported_with_its_journal_as_it_is(store, tmp_path):
    await history(tmp_path / "data")
    there = await asyncio.to_thread(import_directory, tmp_path / "data", store, SHARDS)
    number = shard_of(ModelKey("default", "heat"), SHARDS)
    alone = await asyncio.to_thread(export_directory, store, tmp_path / "alone", number)
    assert {key.name for key, _ in alone.digests} >= {"heat"}
    assert alone.digests.items() <= there.digests.items()
    extents = store.extents(number, 0)
    [segment] = (tmp_path / "alone" / "journal").glob("*.journal")
    assert segment.read_bytes().endswith(b"".join(store.read(number, extents)))
    assert "heat" in await by_name(tmp_path / "alone")


# ---- what is refused


async def test_a_store_with_something_in_it_and_a_directory_in_use_are_refused(store, tmp_path):
    data = tmp_path / "data"
    await history(data)
    fd = lock(data / "journal")
    with pytest.raises(JournalLocked):
        await asyncio.to_thread(import_directory, data, store, SHARDS)
    os.close(fd)
    open_shard(store, 2, tmp_path / "node", NODE).log.close()
    with pytest.raises(MovingRefused, match="not empty, it has shards/002/claims/"):
        await asyncio.to_thread(import_directory, data, store, SHARDS)
    with pytest.raises(MovingRefused, match=r"holds no states\.db"):
        await asyncio.to_thread(import_directory, tmp_path, store, SHARDS)


async def test_an_import_that_lost_something_is_noticed_and_no_node_may_use_it_until_it_is_done_again(
    store, tmp_path, monkeypatch
):
    data = tmp_path / "data"
    await history(data)
    whole = copying._renumbered

    def without_the_last(*span):
        found = list(whole(*span))
        yield from found[:-1]

    monkeypatch.setattr(copying, "_renumbered", without_the_last)
    with pytest.raises(MovingRefused, match=r"model default/\w+: records: sha256 .*; do not use it"):
        await asyncio.to_thread(import_directory, data, store, SHARDS)
    with pytest.raises(StoreRefused, match="data is being brought into it"):
        shards_of(store, SHARDS)
    monkeypatch.undo()
    with pytest.raises(MovingRefused, match="--again"):
        await asyncio.to_thread(import_directory, data, store, SHARDS)
    await asyncio.to_thread(import_directory, data, store, SHARDS, again=True)
    assert shards_of(store, 7) == SHARDS


async def test_a_shadow_apart_from_its_source_is_refused_by_name_before_anything_is_written(store, tmp_path):
    source, other = "flow", next(
        name for name in map("shadow{}".format, range(99))
        if shard_of(ModelKey("default", name), SHARDS) != shard_of(ModelKey("default", "flow"), SHARDS)
    )  # fmt: skip
    async with world(tmp_path / "data") as live:
        await live.model(source)
        await live.model(other, shadow=source)
        await live.server.journal.flush()
    with pytest.raises(MovingRefused, match=f"model {other} is a shadow of flow, .* the shards"):
        await asyncio.to_thread(import_directory, tmp_path / "data", store, SHARDS)
    with pytest.raises(Missing):
        shards_in(store)


@pytest.mark.parametrize("saved", [False, True], ids=["in the journal alone", "in the snapshot"])
async def test_a_model_in_slices_is_refused_by_name(store, tmp_path, saved):
    async with world(tmp_path / "data") as live:
        model = await live.model("wide")
        live.serving.catalog.record(model, Gathered(0, 2, 0, 0, 0, 0))
        await live.server.journal.flush()
        if saved:
            await live.snapshot()
    with pytest.raises(MovingRefused, match="model wide is served in slices"):
        await asyncio.to_thread(import_directory, tmp_path / "data", store, SHARDS)


async def test_data_that_is_still_to_be_erased_is_not_moved(store, tmp_path):
    data = tmp_path / "data"
    await history(data)
    (data / "erase-owed.json").write_text(json.dumps([1]))
    with pytest.raises(MovingRefused, match="still to be erased"):
        await asyncio.to_thread(import_directory, data, store, SHARDS)


async def test_nothing_is_exported_while_a_node_takes_connections_or_renews_its_note(store, tmp_path, monkeypatch):
    await history(tmp_path / "data")
    await asyncio.to_thread(import_directory, tmp_path / "data", store, SHARDS)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        open_shard(store, 1, tmp_path / "node", address).log.close()
        with pytest.raises(MovingRefused, match=f"the node {address} is at work"):
            await asyncio.to_thread(export_directory, store, tmp_path / "back")

    def note(beat: int) -> None:
        made = Note("elsewhere:1", "elsewhere:2", 5.0, beat, 0.01)
        store.note(note_name(made.address), made.encode())

    note(1)
    monkeypatch.setattr(time, "sleep", lambda seconds: note(2))
    with pytest.raises(MovingRefused, match="the node elsewhere:1 is at work"):
        await asyncio.to_thread(export_directory, store, tmp_path / "back")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    await asyncio.to_thread(export_directory, store, tmp_path / "back")
    with pytest.raises(MovingRefused, match="is not empty"):
        await asyncio.to_thread(export_directory, store, tmp_path / "back")


def test_the_number_of_shards_is_the_settings(tmp_path):
    from service.cli.store_moving import SHARDS as OFFERED

    assert ServeConfig(data=tmp_path).shards == OFFERED


async def test_a_store_without_a_cluster_is_refused(store, tmp_path):
    with pytest.raises(MovingRefused, match="holds no cluster"):
        export_directory(store, tmp_path / "back")
