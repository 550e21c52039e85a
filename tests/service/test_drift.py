"""Drift in the trainer: told once, as event and metric; the reaction is a fold that a restart does not change."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest

from model.fold import drift
from model.fold.drift import Drift
from service.engine.export import read_weights
from service.journal.records import Chunk, Ticks
from service.observe import events as ev
from service.streams.served import ServedModel
from service.trainer import hosting
from tests.model import worlds
from tests.service.histories import chunks, create, digest, fold, swap
from tests.service.one_process import World, world
from tests.service.test_hosting import through_a_file


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that makes up its mind within some hundred labels, so that a few ticks show it."""
    for name, value in {"BLOCK_LABELS": 8, "WARM_BLOCKS": 6, "THRESHOLD": 4.0, "BEYOND_BLOCKS": 2}.items():
        monkeypatch.setattr(drift, name, value)


@pytest.fixture
async def live(tmp_path) -> AsyncIterator[World]:
    async with world(tmp_path, worse_evidence=1e12) as made:  # the gate has no say here
        yield made


def rising(ticks: int = 240, at: int = 120) -> list[float]:
    """A walk whose steps are 30 times as large from tick `at` on."""
    rng = np.random.default_rng(4)
    return np.cumsum(rng.normal(0, 1, ticks) * np.where(np.arange(ticks) < at, 1, 30)).tolist()


async def a_drift(live: World, reaction: str) -> tuple[ServedModel, str]:
    """A model whose loss has risen; and the verdict that followed."""
    model = await live.model(drift_reaction=reaction)
    session = live.open(model, "pump")
    said = ""
    for value in rising():
        await live.tick(model, session, value)
        if session.last_seq % 8 == 0:
            [verdict] = await live.learn()
            said = verdict.reason
            if of_kind(live, model, ev.DRIFTED):
                break
    return model, said


def of_kind(live: World, model: ServedModel, kind: int) -> list[ev.Event]:
    return [event for event in live.server.events.recent(model.key, 1000) if event.kind == kind]


async def test_a_loss_that_rises_is_an_event_with_its_numbers_and_a_metric(live):
    model, verdict = await a_drift(live, "none")

    [event] = of_kind(live, model, ev.DRIFTED)
    assert event.numbers["excess"] > drift.THRESHOLD
    assert event.numbers["score"] > event.numbers["mean_score"]
    assert event.reason == "the loss has risen; reaction: none"
    assert (
        live.server.metrics.registry.get_sample_value("freshet_drift_total", {"tenant": "default", "model": "flow"})
        == 1
    )
    assert verdict == "due", "and nothing else happens"


async def test_a_drift_that_is_learned_again_after_a_crash_is_told_once(live):
    model, _ = await a_drift(live, "none")

    await live.start_trainer()  # from no checkpoint at all
    await live.learn()

    assert live.trainer.models[model.number].learner.counts.drifts == 1
    assert len(of_kind(live, model, ev.DRIFTED)) == 1
    assert (
        live.server.metrics.registry.get_sample_value("freshet_drift_total", {"tenant": "default", "model": "flow"})
        == 1
    )


async def test_the_reaction_rollback_returns_to_the_anchors_weights_bit_for_bit_and_cools_down(live):
    model, verdict = await a_drift(live, "rollback")
    await live.learn()  # the rollback's own record

    assert verdict == "drift"
    [event] = of_kind(live, model, ev.ROLLED_BACK)
    assert (event.version, event.reason, model.champion) == (1, "drift", 1)
    hosted = live.trainer.models[model.number]
    stored = read_weights(model.network, live.server.versions.blobs(model.number, 1).weights)
    np.testing.assert_array_equal(hosted.learner.weights.flat, stored)
    assert hosted.gate.cooling == hosted.gate.settings.cool_down_labels
    assert not hosted.learner.drift.returning, "once is enough"


async def test_without_that_reaction_nothing_is_rolled_back(live):
    model, _ = await a_drift(live, "none")

    assert not of_kind(live, model, ev.ROLLED_BACK)


# ---- the fold


def whole() -> list[Chunk]:
    """A history of one model whose loss rises, and whose rate is raised then for longer than a chunk."""
    spec = worlds.spec(hidden=4, drift_reaction="raise", drift_raise=8.0, drift_labels=30)
    made = worlds.chunks([8] * 40)
    loud = [c._replace(x=c.x * np.float32(1 if n < 22 else (-1) ** n * 20)) for n, c in enumerate(made)]
    return chunks([create(spec), swap(1)], *[[Ticks(*chunk)] for chunk in loud])


def differing_restarts(tmp_path) -> list[int]:
    """Chunks after which a checkpoint and a restart lead elsewhere."""
    history = whole()
    straight = fold(history)
    assert straight.learner.counts.drifts
    places = range(17, len(history), 5)
    loaded = {at: through_a_file(tmp_path / f"{at}.db", fold(history[:at])) for at in places}
    return [at for at in places if digest(fold(history[at:], loaded[at])) != digest(straight)]


def test_a_restart_at_any_chunk_finds_the_same_drift_and_learns_to_the_same_bits(tmp_path):
    assert differing_restarts(tmp_path) == []


def test_a_checkpoint_without_the_detectors_state_would_be_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(hosting, "Drift", lambda **state: Drift())

    assert differing_restarts(tmp_path) != []
