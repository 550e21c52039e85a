"""A candidate too far from the version before is not published; its labels are in the quarantine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest

from model.fold import learner as learning
from model.update.bptt import gradient
from service.engine.export import read_weights
from service.observe import events as ev
from service.streams.served import ServedModel
from service.trainer import verdicts
from tests.service.one_process import World, world

LIMIT = 0.05


@pytest.fixture
async def live(tmp_path) -> AsyncIterator[World]:
    async with world(tmp_path, max_movement=LIMIT, cool_down_labels=4) as made:
        yield made


def push(live: World, model: ServedModel, by: float) -> None:
    """Move the candidate's weights of cells and head by this fraction of their norm, as no update should."""
    learner = live.trainer.models[model.number].learner
    parts = list(learner.network.layers.values())
    flat = np.concatenate([learner.weights.flat[part] for part in parts])
    direction = np.random.default_rng(1).normal(0, 1, flat.shape).astype(np.float32)
    flat += direction * np.float32(by * np.linalg.norm(flat) / np.linalg.norm(direction))
    for part, moved in zip(parts, np.split(flat, np.cumsum([p.stop - p.start for p in parts])[:-1]), strict=True):
        learner.weights.flat[part] = moved


async def a_jump_is_vetoed(live: World) -> bool:
    """Assert that weights beyond the limit are vetoed with their numbers, and the anchor's are back bit for bit."""
    model = await live.model()
    session = live.open(model, "pump")
    await live.ticks(model, [(session, x) for x in (0.1, 0.4, -0.3, 0.8)])
    [first] = await live.learn()
    assert (first.verdict, first.numbers["movement"] < LIMIT) == ("publish", True)
    champion, anchor = model.champion, model.anchor

    push(live, model, 3 * LIMIT)
    await live.tick(model, session, 0.5)
    [verdict] = await live.learn()
    await live.learn()  # the rollback's own record

    if verdict.verdict != "veto":
        return False
    assert verdict.reason == "moved too far"
    assert 2 * LIMIT < verdict.numbers["movement"] < 4 * LIMIT
    events = live.server.events.recent(model.key, 2)
    assert [(e.kind, e.version) for e in events] == [(ev.ROLLED_BACK, anchor), (ev.VETOED, anchor)]
    assert {"evidence", "labels", "loss", "movement"} <= verdict.numbers.keys()
    assert events[0].numbers == events[1].numbers == verdict.numbers
    assert champion != model.champion == anchor
    weights = live.trainer.models[model.number].learner.weights.flat
    stored = live.server.versions.blobs(model.number, anchor).weights
    np.testing.assert_array_equal(weights, read_weights(model.network, stored))
    return True


async def test_a_candidate_that_jumped_is_vetoed_with_its_numbers_and_the_anchors_weights_are_back_bit_for_bit(live):
    assert await a_jump_is_vetoed(live)


async def test_a_trainer_that_does_not_measure_movement_would_be_noticed(live, monkeypatch):
    monkeypatch.setattr(verdicts, "relative_change", lambda after, before: 0.0)

    assert not await a_jump_is_vetoed(live)


async def test_a_trainer_that_began_anew_measures_from_the_version_that_serves(live):
    model = await live.model()
    session = live.open(model, "pump")
    await live.ticks(model, [(session, x) for x in (0.1, 0.4, -0.3, 0.8)])
    await live.learn()
    live.trainer.save()
    await live.start_trainer()
    assert not live.trainer.published

    push(live, model, 3 * LIMIT)
    await live.tick(model, session, 0.5)
    [verdict] = await live.learn()

    assert (verdict.verdict, verdict.reason) == ("veto", "moved too far")


async def test_steps_within_the_limit_are_published_however_far_they_lead_in_all(live):
    model = await live.model()
    session = live.open(model, "pump")
    await live.ticks(model, [(session, x) for x in (0.1, 0.4, -0.3, 0.8)])
    await live.learn()

    for _ in range(5):
        push(live, model, 0.6 * LIMIT)
        await live.tick(model, session, 0.5)
        [verdict] = await live.learn()
        assert verdict.verdict == "publish"


async def test_values_of_a_refused_update_are_in_the_quarantine_with_their_places(live, monkeypatch):
    model = await live.model()
    session = live.open(model, "pump")
    await live.ticks(model, [(session, x) for x in (0.1, 0.4, -0.3, 0.8)])
    await live.learn()
    monkeypatch.setattr(learning, "gradient", lambda *given: (np.nan, *gradient(*given)[1:]))
    await live.tick(model, session, 0.5)
    await live.learn()

    live.trainer.save()
    [item] = live.trainer.checkpoints.quarantined(model.number, 0, 10)

    assert (item.reason, item.stream, item.seq) == ("non-finite", session.number, 5)
    assert np.frombuffer(item.y, np.float32).tolist() == [0.5]
