"""On every backend: a directory that moves into a store, also after a try that failed, comes back as it was."""

from __future__ import annotations

import asyncio

import pytest

from service.cluster.moving import copying
from service.cluster.moving.backing_up import backup_cluster, restore_cluster
from service.cluster.moving.digests import lines
from service.cluster.moving.exporting import export_directory
from service.cluster.moving.importing import import_directory
from service.cluster.moving.source import MovingRefused
from service.cluster.store.opening import open_store
from tests.cluster.test_moving import SHARDS, by_name, history
from tests.contracts.test_stores import BACKENDS


@pytest.mark.parametrize("backend", BACKENDS)
async def test_models_go_into_a_store_out_of_it_and_by_a_backup_into_another(backend, request, tmp_path, monkeypatch):
    data, back = tmp_path / "data", tmp_path / "back"
    await history(data)
    urls = [f"{BACKENDS[backend](request)}{n if backend == 'directory' else ''}" for n in range(2)]
    store, other = map(open_store, urls)
    whole = copying._renumbered
    monkeypatch.setattr(copying, "_renumbered", lambda *span: list(whole(*span))[:-1])
    with pytest.raises(MovingRefused, match="do not use it"):
        await asyncio.to_thread(import_directory, data, store, SHARDS)
    monkeypatch.undo()

    there = await asyncio.to_thread(import_directory, data, store, SHARDS, again=True)
    again = await asyncio.to_thread(export_directory, store, back)
    assert lines(again.digests) == lines(there.digests)
    assert await by_name(back) == await by_name(data)

    await asyncio.to_thread(backup_cluster, store, tmp_path / "cluster.tar", 1e9, lambda size: lambda written: None)
    store.close()
    restored = await asyncio.to_thread(
        restore_cluster, tmp_path / "cluster.tar", other, False, lambda size: lambda written: None
    )
    assert lines(restored.digests) == lines(there.digests)
    other.close()
