"""Values outside `label_range` are not learned, neither as labels nor as the origin of a change."""

from __future__ import annotations

import numpy as np
import pytest

from model.fold import contexts
from model.fold.contexts import out_of_range
from model.fold.histories import Rejected
from model.fold.learner import Learner
from model.spec import ModelSpec, SpecError
from tests.model.labelled import label_spec
from tests.model.test_labels import label, spec, tick
from tests.model.test_windows import draw

ABSURD_AT = 11  # seq


def values(absurd: float, channels: int = 1) -> np.ndarray:
    """Return twenty ticks around 0, one of them absurd."""
    x = np.random.default_rng(5).normal(0, 1, (20, channels)).astype(np.float32)
    x[ABSURD_AT - 1, 0] = absurd
    return x


def learned_at(horizon: int, absurd: float) -> list[int]:
    """Return the seqs of the ticks that gave labels."""
    learner = Learner(ModelSpec(channels=("x",), hidden=4, horizon=horizon, label_range=(-9.0, 9.0)))
    found = []
    for seq, row in enumerate(values(absurd), 1):
        found += [seq] * bool(learner.ticks(*one(seq, row)))
    return found


def one(seq: int, row: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return np.ones(1, np.uint32), np.full(1, seq, np.uint64), np.full(1, np.nan), row[None]


def absurd_is_left_out() -> bool:
    """Return whether, one step ahead, neither the change to the absurd value nor the one from it is learned."""
    return learned_at(1, 1e6) == [seq for seq in learned_at(1, 0.0) if seq not in (ABSURD_AT, ABSURD_AT + 1)]


def test_a_forecaster_learns_neither_the_change_to_an_absurd_value_nor_the_change_from_it(monkeypatch):
    assert absurd_is_left_out()

    monkeypatch.setattr(contexts, "out_of_range", lambda spec, values: np.zeros(values.shape[:-1], bool))
    assert not absurd_is_left_out()


def test_with_several_steps_ahead_only_the_absurd_tick_gives_no_label():
    """Every later tick has a valid origin some steps back."""
    assert learned_at(3, 1e6) == [seq for seq in learned_at(3, 0.0) if seq != ABSURD_AT]


def test_a_label_outside_the_range_is_rejected_and_the_others_are_learned():
    learner = Learner(spec(label_range=[-9.0, 9.0]))
    tick(learner, 1, range(1, 31))

    updates, rejected = label(learner, (1, 20, 1.0), (1, 21, 1e6), (1, 22, -3.0))

    assert rejected == [Rejected(1, "range")]
    assert [update.labels for update in updates] == [2]
    assert learner.weights.target["mean"].tolist() == [-1.0, 1.0], "the label statistics followed it"


def test_a_window_with_a_label_outside_the_range_is_rejected_unless_its_weight_is_zero():
    learner = Learner(label_spec("regress", label_range=[-1e3, 1e3]))
    sound, absurd = draw(learner, 12, 0), draw(learner, 12, 1)
    absurd.y[4, 1] = 1e6

    assert learner.windows([sound, absurd])[1] == [Rejected(1, "range")]
    absurd.weight[4, 1] = 0
    assert learner.windows([absurd])[1] == []


def test_a_pair_for_each_target_bounds_that_target_at_every_step():
    two = ModelSpec(channels=("a", "b", "c"), targets=("a", "c"), horizon=2, label_range=(0.0, 1.0, -100.0, 100.0))

    rows = np.array([[1, 50, 0, -50], [1, 50, 50, 0], [2, 50, 1, 0], [1, 101, 0, 0], [np.nan, 0, 0, 0]], np.float32)

    assert out_of_range(two, rows).tolist() == [False, True, True, True, False]
    assert out_of_range(two, rows[:0]).tolist() == []


def test_a_classifier_takes_no_range():
    with pytest.raises(SpecError, match=r"label_range = .*task classify has probabilities: leave it out"):
        spec("classify", label_range=[0.0, 1.0])
