"""A state put by a client: the stream restarts from it, in learning as in serving."""

from __future__ import annotations

import numpy as np
import pytest

from model.fold.contexts import Contexts
from model.fold.learner import Learner
from model.parameters import Array
from tests.model.labelled import label_spec
from tests.model.worlds import Chunk, chunks, feed

every_task = pytest.mark.parametrize("task", ["forecast", "regress", "classify"])


def walk(learner: Learner, ticks: list[Chunk], state: Array | None = None) -> Array:
    """Return the state row [S] that serving carries after these ticks of one stream."""
    network = learner.network
    row = np.zeros((1, network.state_size), np.float32) if state is None else state[None]
    for chunk in ticks:
        u = learner.network.ahead.inputs(chunk.time)
        _, row = network.step(learner.weights, chunk.x, u, row)
    return row[0]


def carried(learner: Learner, stream: int) -> Array:
    """Return the learner's statistics of a stream and, if kept, its newest hidden state."""
    contexts = learner.contexts
    row = contexts._rows[contexts._slots[stream]]
    parts = contexts.parts[:2] if learner.spec.label_horizon else contexts.parts[:1]
    return np.concatenate([row[part] for part in parts])


@every_task
def test_learning_continues_from_a_put_state_as_serving_does(task: str) -> None:
    learner, ticks = Learner(label_spec(task, learn=False)), chunks([1] * 60, entities=1)
    for chunk in ticks[:20]:
        feed(learner, chunk)
    elsewhere = walk(learner, chunks([1] * 30, entities=1, seed=9))

    learner.put(10, elsewhere)
    for chunk in ticks[20:]:
        feed(learner, chunk)

    expected = walk(learner, ticks[20:], elsewhere)
    np.testing.assert_array_equal(carried(learner, 10), expected[: len(carried(learner, 10))])
    assert (carried(learner, 10) != walk(learner, ticks)[: len(carried(learner, 10))]).any()


@every_task
def test_windows_after_a_put_start_from_its_hidden_state(task: str) -> None:
    learner, ticks = Learner(label_spec(task)), chunks([1] * 5, entities=1)
    row = walk(learner, chunks([1] * 30, entities=1, seed=9))
    row[learner.network.statistics_size :] = 0.25
    learner.put(10, row)
    for chunk in ticks:
        feed(learner, chunk)
    if isinstance(learner.contexts, Contexts):
        start = learner.contexts.load([10])[1].start
    else:
        slots = learner.contexts.slots([10])
        start, _, _, position = learner.contexts.windows(slots, np.array([4]))
        assert position == [4]
    assert isinstance(learner.contexts, Contexts) == (task == "forecast")
    np.testing.assert_array_equal(start[0], row[learner.network.statistics_size :])


def test_no_label_reaches_an_origin_before_a_put_and_waiting_origins_are_counted() -> None:
    learner, ticks = Learner(label_spec("forecast", horizon=3)), chunks([1] * 40, entities=1)
    for chunk in ticks[:30]:
        feed(learner, chunk)
    row = walk(learner, ticks[:30])

    learner.put(10, row)

    assert learner.counts.voided == 3
    assert feed(learner, ticks[30]) == []  # no tick before it to learn from
    assert len(feed(learner, ticks[31])) == 1  # the put state has a scale


@every_task
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_a_broken_state_affects_only_its_stream_and_the_weights_stay_finite(task: str, value: float) -> None:
    learner = Learner(label_spec(task))
    learner.put(10, np.full(learner.network.state_size, value, np.float32))
    with np.errstate(all="ignore"):
        for chunk in chunks([4] * 30, once=True):
            feed(learner, chunk)
            if task != "forecast":
                learner.labels(chunk.streams, chunk.seq, np.full((4, 2), 0.5, np.float32))
    assert np.isfinite(learner.weights.flat).all()
    assert learner.counts.refused == 0
    assert learner.counts.learned > 50


def test_a_state_of_another_length_is_refused_and_the_stream_is_unchanged() -> None:
    learner, ticks = Learner(label_spec("regress")), chunks([1] * 5, entities=1)
    for chunk in ticks:
        feed(learner, chunk)
    before = carried(learner, 10)
    with pytest.raises(ValueError, match=r"state has shape \(3,\), expected \(\d+,\)"):
        learner.put(10, np.zeros(3, np.float32))
    np.testing.assert_array_equal(carried(learner, 10), before)


@every_task
def test_a_put_row_is_copied(task: str) -> None:
    learner = Learner(label_spec(task))
    row = np.full(learner.network.state_size, 0.03125, np.float32)  # a valid value for every part of a state
    learner.put(10, row)
    row[:] = 7
    np.testing.assert_array_equal(carried(learner, 10), 0.03125)
