"""Which versions are kept: whatever the next crash of either process will need, and not everything for ever."""

from __future__ import annotations

import sqlite3

import numpy as np

from service.storage.versions import Versions
from tests.service.one_process import World, world


async def test_pruning_leaves_a_version_that_was_stored_meanwhile(tmp_path, monkeypatch):
    async with world(tmp_path / "data", anchor_labels=1) as live:
        model = await live.model()
        session = live.open(model, "pump")
        listed = Versions.list

        def list_then_publish(self, number):
            found = listed(self, number)
            add_one_more(live, model)
            return found

        await live.tick(model, session, 1.0)
        monkeypatch.setattr(Versions, "list", list_then_publish)
        await live.snapshot()

        assert live.serving.versions.get(1, 2).number == 2


def add_one_more(live: World, model) -> None:
    """As a publish does in another thread, between `list` and `prune`."""
    blobs = live.serving.versions.blobs(1, 1)
    facts = live.serving.versions.get(1, 1)
    values = {name: getattr(facts, name) for name in facts.__slots__} | {"number": 0, "offset": 3}
    live.serving.versions.add(type(facts)(**values), *blobs)


async def test_versions_that_the_trainer_would_need_again_are_kept_until_its_next_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("service.publisher.RECENT_VERSIONS", 2)
    settings = {"anchor_labels": 8, "score_every": 1, "checkpoint_chunks": 1000, "publish_labels": 1}
    async with world(tmp_path / "data", **settings) as live:
        model = await live.model(hidden=4, head_init=0.0)
        session = live.open(model, "pump")
        live.start_trainer()
        for n in range(120):
            await live.tick(model, session, float(np.sin(n / 3)))
            await live.learn()
            if n % 10 == 0:
                await live.snapshot()
        assert model.anchor > 20, "anchors have moved on far beyond the recent versions"
        trained = live.trainer.models[1].learner.weights.flat.copy()

        live.start_trainer()  # the one before is gone, and left no checkpoint
        await live.learn()

        np.testing.assert_array_equal(live.trainer.models[1].learner.weights.flat, trained)
        live.trainer._save()
        await live.learn()
        await live.snapshot()
        await live.snapshot()
        assert len(live.serving.versions.list(1)) < 40, "and no longer"


async def test_a_version_that_cannot_be_rolled_back_to_leaves_the_champion_in_service(tmp_path):
    async with world(tmp_path / "data") as live:
        model = await live.model()
        session = live.open(model, "pump")
        await live.publish(model, 1)
        with sqlite3.connect(tmp_path / "data" / "versions.db") as sql:
            sql.execute("UPDATE versions SET onnx = x'00' WHERE number = 1")
        sql.close()

        await live.verdict(model, "veto", rollback=1)

        assert model.champion == 2
        assert (await live.tick(model, session, 1.0)).version == 2
