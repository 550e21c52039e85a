"""Settings of learning that change while a learner runs: the rest of the learner stays as it is."""

import json
from dataclasses import replace

import numpy as np
import pytest

from model.fold.learner import Learner
from model.spec import CHANGEABLE, ModelSpec, SpecError, changed, keeps_layout
from model.update.schedules import schedule_of
from service.trainer.hosting import HostedModel
from tests.model import worlds
from tests.service.histories import GATE, SPEC, change, chunks, create, digest, fold, history

OTHER = {
    "learning_rate": 0.02, "rate_floor": 0.001, "schedule": "cosine", "warmup": 7, "schedule_updates": 99, "clip": 0.1,
    "drift_reaction": "raise", "drift_raise": 2.0, "drift_labels": 64, "label_range": (-9.0, 9.0), "max_share": 0.5,
    "shadow": "", "clip_value": 0.01, "layer_rates": ("head:0.5",),
}  # fmt: skip


def test_every_key_that_may_change_keeps_the_layout_and_every_other_one_is_refused_by_name():
    assert OTHER.keys() == set(CHANGEABLE)
    assert keeps_layout(SPEC, changed(SPEC, OTHER))
    for name in {*SPEC.to_mapping()} - {*CHANGEABLE}:
        with pytest.raises(SpecError, match=f"{name} = .*: it is fixed .* create another model"):
            changed(SPEC, {name: getattr(SPEC, name)})
    with pytest.raises(SpecError, match=r"learning_rat = 1: unknown key; a running model takes learning_rate"):
        changed(SPEC, {"learning_rat": 1})
    assert not keeps_layout(SPEC, replace(SPEC, seed=9))


def test_zero_stands_for_what_a_new_spec_would_hold():
    spec = ModelSpec(channels=("x",), learning_rate=0.5, schedule="cosine", label_range=(0.0, 1.0))

    back = changed(spec, {"learning_rate": 0.0, "schedule": "", "schedule_updates": 0, "label_range": ()})

    assert back == ModelSpec(channels=("x",))


def test_a_floor_that_would_replace_the_rate_is_refused():
    with pytest.raises(SpecError, match=r"rate_floor = 0.0007: it is above learning_rate = 1e-05"):
        changed(ModelSpec(channels=("x",), forecaster="mixture"), {"learning_rate": 1e-5})


@pytest.mark.parametrize("at", [1, 8, 16, 30])
def test_a_changed_learner_continues_as_a_checkpoint_with_the_other_spec_in_it_would(at):
    """The twin is built from the stored parts, so that it shows what a change must keep and what it must replace."""
    whole = history()
    live = fold(whole[:at])
    head, blobs = live.pack()
    spec = changed(live.learner.spec, OTHER)
    facts = json.loads(head) | {"spec": spec.to_stored()}
    twin = HostedModel.unpack(live.number, json.dumps(facts), blobs, live.learner.contexts.changes()[0], GATE)
    live.learner.change(spec)

    later = [chunk for chunk in whole[at:] if not any(record.kind.name == "MODEL_CHANGE" for record in chunk.records)]
    offset = live.offset
    for chunk in later:
        again = replace(chunk, offset=offset)
        for hosted in (live, twin):
            fold([again], hosted)
        offset = again.end

    assert digest(live) == digest(twin)
    assert digest(live) != digest(fold(whole))


def test_the_schedule_continues_from_the_updates_so_far():
    learner = Learner(SPEC)
    for chunk in worlds.chunks([4] * 30):
        learner.ticks(*chunk)
    spec = changed(SPEC, {"schedule": "cosine", "schedule_updates": 500, "warmup": 1000})

    learner.change(spec)

    assert learner.counts.updates > 10
    assert learner.schedule(learner.counts.updates) == schedule_of(spec)(learner.counts.updates) < spec.learning_rate


def test_a_reaction_to_drift_that_the_new_spec_does_not_name_ends():
    learner = Learner(changed(SPEC, {"drift_reaction": "raise", "drift_labels": 500}))
    learner.drift.raised, learner.drift.returning = 400, True

    learner.change(changed(SPEC, {"drift_reaction": "raise", "drift_labels": 100}))
    assert (learner.drift.raised, learner.drift.returning) == (100, False)

    learner.change(changed(SPEC, {"drift_reaction": "none"}))
    assert learner.drift.raised == 0


def test_a_fold_that_forgot_a_change_would_be_noticed(monkeypatch):
    whole = chunks([create()], *[[r] for chunk in history()[1:6] for r in chunk.records], [change(learning_rate=0.05)],
                   *[[r] for chunk in history()[6:12] for r in chunk.records])  # fmt: skip
    weights = fold(whole).learner.weights.flat.copy()

    monkeypatch.setattr(Learner, "change", lambda *_: None)

    assert not np.array_equal(fold(whole).learner.weights.flat, weights)
