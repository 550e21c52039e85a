"""A cluster copied into one file while it works, and brought into another store."""

from __future__ import annotations

import asyncio
import tarfile
from pathlib import Path

import numpy as np
import pytest

from service.cluster.moving import copying, filling
from service.cluster.moving.backing_up import backup_cluster, restore_cluster
from service.cluster.moving.exporting import export_directory
from service.cluster.moving.source import MovingRefused
from service.cluster.nodes.agreed import shards_of
from service.cluster.store.directory import Directory
from service.cluster.store.seam import StoreRefused
from service.datadir.archive import ArchiveRefused, read_head, unpack
from service.datadir.restore import restore
from service.journal.records import Gathered
from tests.cluster.shard_world import ShardWorld, shard
from tests.cluster.test_moving import SHARDS, by_name
from tests.conftest import seeds
from tests.service.test_recovery import seen, some_history

OTHER = "127.0.0.1:50052"


def silent(size: int):
    return lambda written: None


def folder(path: Path) -> Directory:
    return Directory(f"file://{path}", path)


@pytest.fixture
def store(tmp_path) -> Directory:
    made = folder(tmp_path / "store")
    shards_of(made, SHARDS)
    return made


def now(node: ShardWorld) -> dict[str, object]:
    return {model.name: model for model in seen(node).values()}


async def saved(store: Directory, out: Path) -> Path:
    await asyncio.to_thread(backup_cluster, store, out, 1e9, silent)
    return out


@seeds(2)
async def test_a_file_written_while_the_owner_works_holds_all_that_was_acknowledged(store, tmp_path, seed):
    rng = np.random.default_rng(seed)
    async with shard(store, tmp_path / "node") as node:
        await some_history(node, rng, 20, snapshots=True)
        await node.server.journal.flush()
        expected = {"early": now(node)}
        early = await saved(store, tmp_path / "early.tar")  # before there is an image
        await node.learn()
        node.trainer.save()
        await node.snapshot()
        await node.keeper.make_image()
        await some_history(node, rng, 20, snapshots=True)
        await node.server.journal.flush()
        expected["late"] = now(node)
        late = await saved(store, tmp_path / "late.tar")
        await some_history(node, rng, 5, snapshots=False)
        exported = {}
        for name in ("early", "late"):
            other = folder(tmp_path / f"{name}-store")
            made = await asyncio.to_thread(restore_cluster, {"early": early, "late": late}[name], other, False, silent)
            assert (made.models, made.shards, shards_of(other, 9)) == (2, 1, SHARDS)
            back = await asyncio.to_thread(export_directory, other, tmp_path / name)
            assert back.digests == made.digests
            exported[name] = await by_name(tmp_path / name)
    assert exported == expected
    again = await saved(folder(tmp_path / "late-store"), tmp_path / "again.tar")
    third = folder(tmp_path / "third")
    assert (await asyncio.to_thread(restore_cluster, again, third, False, silent)).digests == made.digests


async def test_the_next_owner_of_a_restored_shard_goes_on_where_the_backup_was_made(store, tmp_path):
    async with shard(store, tmp_path / "node") as node:
        model = await node.model()
        session = node.open(model, "pump")
        before = await node.ticks(model, [(session, 1.0), (session, 2.0)])
        await node.server.journal.flush()
        out = await saved(store, tmp_path / "backup.tar")
        expected = await node.tick(model, session, 3.0)
    other = folder(tmp_path / "other")
    await asyncio.to_thread(restore_cluster, out, other, False, silent)
    async with shard(other, tmp_path / "next", OTHER) as node:
        model = next(iter(node.serving.catalog.models.values()))
        await node.serving.residency.bring(model, ["pump"])
        session = node.open(model, "pump")
        assert session.last_seq == len(before) == 2
        found = await node.tick(model, session, 3.0)
        assert (found.seq, found.y) == (expected.seq, expected.y)


async def test_a_file_with_a_changed_byte_or_without_its_end_is_refused_and_the_store_stays_empty(store, tmp_path):
    async with shard(store, tmp_path / "node") as node:
        await some_history(node, np.random.default_rng(1), 10, snapshots=True)
        await node.server.journal.flush()
    out = await saved(store, tmp_path / "backup.tar")
    data = bytearray(out.read_bytes())
    other = folder(tmp_path / "other")
    with tarfile.open(out) as tar:
        names = tar.getnames()
        at = next(member.offset_data for member in tar.getmembers() if member.name.endswith(".journal"))
    assert [name for name in names if name.endswith(".json")] == ["head.json", "manifest.json"]
    data[at + 60] ^= 1
    out.write_bytes(data)
    with pytest.raises(ArchiveRefused, match=r"shard-003/journal/.* is not as it was written"):
        restore_cluster(out, other, False, silent)
    out.write_bytes(data[: at + 60])
    with pytest.raises(ArchiveRefused):
        restore_cluster(out, other, False, silent)
    assert other.list("cluster") == []


async def test_a_restore_that_lost_something_is_noticed(store, tmp_path, monkeypatch):
    async with shard(store, tmp_path / "node") as node:
        await some_history(node, np.random.default_rng(1), 10, snapshots=True)
        await node.server.journal.flush()
    out, other = await saved(store, tmp_path / "backup.tar"), folder(tmp_path / "other")
    whole = copying.copy_databases
    monkeypatch.setattr(
        filling, "copy_databases", lambda parts, *rest: whole([p._replace(numbers={}) for p in parts], *rest)
    )
    with pytest.raises(MovingRefused, match="do not use it"):
        restore_cluster(out, other, False, silent)
    with pytest.raises(StoreRefused, match="--again"):
        shards_of(other, SHARDS)
    monkeypatch.undo()
    with pytest.raises(MovingRefused, match="--again"):
        restore_cluster(out, other, False, silent)
    restore_cluster(out, other, True, silent)
    assert shards_of(other, 1) == SHARDS


async def test_a_cluster_with_a_model_in_slices_is_refused_by_name(store, tmp_path):
    async with shard(store, tmp_path / "node") as node:
        model = await node.model("wide")
        node.serving.catalog.record(model, Gathered(0, 2, 0, 0, 0, 0))
        await node.server.journal.flush()
    store.put("slices/abc/count", b"2")
    with pytest.raises(MovingRefused, match="model wide is served in slices"):
        backup_cluster(store, tmp_path / "backup.tar", 1e9, silent)
    assert not (tmp_path / "backup.tar").exists()


async def test_each_kind_of_file_is_restored_only_to_its_own_kind_of_place(store, tmp_path):
    async with shard(store, tmp_path / "node") as node:
        await node.model()
        await node.server.journal.flush()
    out = await saved(store, tmp_path / "backup.tar")
    assert read_head(out).shards == SHARDS
    with pytest.raises(ArchiveRefused, match="of a cluster: restore it with --store"):
        restore(out, tmp_path / "data", silent)
    with pytest.raises(MovingRefused, match="exists"):
        backup_cluster(store, out, 1e9, silent)
    with pytest.raises(MovingRefused, match="not empty"):
        restore_cluster(out, store, False, silent)
    (tmp_path / "into").mkdir()
    unpack(out, tmp_path / "into", silent(0), cluster=True)
    assert [path.name for path in (tmp_path / "into").iterdir()] == ["shard-003"]
