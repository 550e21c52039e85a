"""Retention keeps the versions that a crash of either process may need, and not all for ever."""

from __future__ import annotations

import sqlite3

import numpy as np

from service.storage.versions import Versions
from tests.service.one_process import World, key, world


async def test_pruning_leaves_a_version_that_was_stored_meanwhile(tmp_path, monkeypatch):
    async with world(tmp_path / "data", anchor_labels=1, anchor_scores=1) as live:
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

        assert live.server.versions.get(1, 2).number == 2


def add_one_more(live: World, model) -> None:
    """Add a version as a publish does in another thread, between `list` and `prune`."""
    blobs = live.server.versions.blobs(1, 1)
    facts = live.server.versions.get(1, 1)
    values = {name: getattr(facts, name) for name in facts.__slots__} | {"number": 0, "offset": 3}
    live.server.versions.add(type(facts)(**values), *blobs)


async def test_versions_that_the_trainer_would_need_again_are_kept_until_its_next_checkpoint(tmp_path):
    settings = {
        "anchor_labels": 8,
        "anchor_scores": 1,
        "score_every": 1,
        "checkpoint_chunks": 1000,
        "publish_labels": 1,
    }
    async with world(tmp_path / "data", keep_versions=2, **settings) as live:
        model = await live.model(hidden=4, head_init=0.0)
        session = live.open(model, "pump")
        await live.start_trainer()
        for n in range(120):
            await live.tick(model, session, float(np.sin(n / 3)))
            await live.learn()
            if n % 10 == 0:
                await live.snapshot()
        assert model.anchor > 20, "anchors have moved on far beyond the recent versions"
        trained = live.trainer.models[1].learner.weights.flat.copy()

        await live.start_trainer()  # the trainer before is gone and left no checkpoint
        await live.learn()

        np.testing.assert_array_equal(live.trainer.models[1].learner.weights.flat, trained)
        live.trainer.save()
        await live.learn()
        await live.snapshot()
        await live.snapshot()
        assert len(live.server.versions.list(1)) < 40, "and no longer"


async def test_a_version_that_cannot_be_rolled_back_to_leaves_the_champion_in_service(tmp_path):
    async with world(tmp_path / "data") as live:
        model = await live.model()
        session = live.open(model, "pump")
        await live.publish(model, 1)
        with sqlite3.connect(tmp_path / "data" / "versions.db") as sql:
            sql.execute("UPDATE versions SET onnx = x'00', weights = x'00' WHERE number = 1")
        sql.close()

        await live.verdict(model, "veto", rollback=1)

        assert model.champion == 2
        assert (await live.tick(model, session, 1.0)).version == 2


async def waves(live: World, model, session, first: int, last: int, checkpoints: bool = True) -> None:
    """Send ticks, each learned and judged; every tenth also in a snapshot, so that versions are pruned."""
    for n in range(first, last):
        await live.tick(model, session, float(np.sin(n / 3)))
        await live.learn()
        if n % 10 == 0:
            if checkpoints:
                live.trainer.save()
                await live.learn()
            await live.snapshot()


async def test_a_lost_checkpoint_is_learned_again_to_the_same_bits_although_versions_were_pruned(tmp_path):
    """The target of a rollback is kept, also over restarts; a missing contender affects only the gate."""
    settings = {"anchor_labels": 8, "anchor_scores": 1, "score_every": 1, "cool_down_labels": 4}
    async with world(tmp_path / "data", keep_versions=2, **settings) as live:
        model = await live.model(hidden=4, head_init=0.0)
        session = live.open(model, "pump")
        await waves(live, model, session, 0, 30)
        returned_to = model.champion
        await live.publish(model, 1)
        await live.verdict(model, "veto", rollback=returned_to)
        await waves(live, model, session, 30, 50)
    async with world(tmp_path / "data", keep_versions=2, **settings) as live:
        model = live.serving.catalog.model(key("flow"))
        session = live.open(model, "pump")
        await waves(live, model, session, session.last_seq, session.last_seq + 40)
        learner = live.trainer.models[1].learner
        trained, moments = learner.weights.flat.copy(), learner.optimizer_state.moments.copy()
        kept = {v.number for v in live.server.versions.list(1)}
        assert len(kept) < model.champion / 2, "most are pruned, contenders among them"
        live.stop_trainer()
        (tmp_path / "data" / "trainer.db").rename(tmp_path / "moved away")

        await live.start_trainer()
        await live.learn()

        learner = live.trainer.models[1].learner
        np.testing.assert_array_equal(learner.weights.flat, trained)
        np.testing.assert_array_equal(learner.optimizer_state.moments, moments)
        assert {1, returned_to} <= kept


async def test_versions_do_not_pile_up_behind_an_anchor_that_never_moves(tmp_path):
    async with world(tmp_path / "data", anchor_labels=10**6, score_every=1, keep_versions=2) as live:
        model = await live.model(hidden=4, head_init=0.0)
        await waves(live, model, live.open(model, "pump"), 0, 101)

        assert (model.anchor, model.champion > 60) == (1, True)
        await live.snapshot()
        assert len(live.server.versions.list(1)) < 10


async def test_a_version_whose_file_does_not_load_is_vetoed_and_leaves_no_row(tmp_path):
    async with world(tmp_path / "data") as live:
        model = await live.model()
        blobs = live.server.versions.blobs(1, 1)

        await live.verdict(model, "publish", b"no graph", blobs.weights, blobs.canary)

        assert model.champion == 1
        assert [v.number for v in live.server.versions.list(1)] == [1]


async def test_freshness_is_observed_of_what_went_into_service_and_of_nothing_else(tmp_path):
    async with world(tmp_path / "data") as live:
        model = await live.model()
        session = live.open(model, "pump")

        async def observed() -> float:
            count = live.server.registry.get_sample_value(
                "freshet_label_to_serving_seconds_count", {"tenant": "default", "model": model.name}
            )
            return count or 0.0

        for verdict in ("veto", "unchanged"):
            await live.tick(model, session, 1.0)
            await live.server.journal.flush()
            await live.verdict(model, verdict)
        assert await observed() == 0
        await live.tick(model, session, 1.0)
        await live.server.journal.flush()
        await live.publish(model, 1)

        assert await observed() == 1, "the marks of the others are gone with their verdicts"


async def test_a_version_carries_losses_of_candidate_and_anchor_on_one_scale(tmp_path):
    async with world(tmp_path / "data", score_every=1) as live:
        model = await live.model(hidden=4, head_init=0.0)
        session = live.open(model, "pump")
        verdicts = []
        for n in range(40):
            await live.tick(model, session, float(np.sin(n / 3)))
            verdicts += [v for v in await live.learn() if v.verdict == "publish"]

        version, numbers = live.server.versions.get(1, model.champion), verdicts[-1].numbers
        assert (version.loss, version.anchor_loss) == (numbers["score"], numbers["anchor_score"])
        assert numbers["loss"] == numbers["score"], "every label was scored"
        assert version.loss is not None
        assert version.anchor_loss is not None
        assert 0 < version.loss < 1
        assert 0 < version.anchor_loss < 1
        assert version.loss != version.anchor_loss


async def test_a_cool_down_vetoes_what_was_learned_and_calls_nothing_learned_unchanged(tmp_path):
    async with world(tmp_path / "data", cool_down_labels=1000) as live:
        model = await live.model(hidden=4)
        session = live.open(model, "pump")
        for n in range(20):
            await live.tick(model, session, float(np.sin(n)))
        await live.publish(model, 1)
        await live.verdict(model, "veto", rollback=1)
        await live.learn()

        await live.tick(model, live.open(model, "new"), 1.0)  # a first tick: nothing forecast it
        [nothing] = await live.learn()
        await live.tick(model, session, 1.0)
        [learned] = await live.learn()

        assert (nothing.verdict, learned.verdict) == ("unchanged", "veto")
