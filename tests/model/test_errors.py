"""Errors per stream and per step, against the forecasts that a server gives and the values that follow."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from numpy.typing import NDArray

from model.answers.tasks import TARGET_CLIP
from model.fold.errors import LEAST_LABELS, MEANS, MEMORY, QUANTITIES, Errors, StreamErrors, kept_steps
from model.fold.learner import Learner
from tests.model.labelled import Window, label_spec, labels_of
from tests.model.worlds import Server, chunks, feed, spec

STILL = {"learning_rate": 1e-30, "schedule": "constant", "head_init": 0.3}  # forecasts of the weights that serve
Key = tuple[int, int]  # stream, or 0 for the model, and step


def counted(learner: Learner) -> Errors:
    assert learner.errors is not None
    return learner.errors


class Kept:
    """Forecasts with their origins and scales by stream and seq, and errors recomputed one label at a time."""

    def __init__(self, learner: Learner) -> None:
        self.learner, self.server = learner, Server(learner)
        self.origins: dict[tuple[int, int], tuple[NDArray[np.float64], ...]] = {}
        self.errors: dict[Key, list[NDArray[np.float64]]] = defaultdict(list)

    def tick(self, chunk) -> None:
        network, H, index = self.learner.network, self.learner.spec.horizon, self.learner.spec.target_index
        fresh = np.zeros(network.state_size, np.float32)
        rows = np.stack([self.server.states.get(int(s), fresh) for s in chunk.streams])[:, : network.scaler.size]
        _, scale, last = network.observe(rows, chunk.x, network.ahead.inputs(chunk.time))
        answers = self.server.forecasts(chunk).reshape(len(rows), H, -1)
        for i, stream in enumerate(chunk.streams.tolist()):
            seq, truth = int(chunk.seq[i]), chunk.x[i, index].astype(np.float64)
            for step in range(1, H + 1):
                if (stream, seq - step) in self.origins:
                    self.label(stream, step, truth, *(part for part in self.origins[stream, seq - step]))
            self.origins[stream, seq] = tuple(part[i].astype(np.float64) for part in (answers, scale, last))

    def label(self, stream, step, truth, answers, scale, last) -> None:
        unit = scale[step - 1]
        for k in np.flatnonzero(unit > 0):
            change = np.clip((truth - last)[k] / unit[k], -TARGET_CLIP, TARGET_CLIP)
            scaled = (answers[step - 1, k] - last[k]) / unit[k] - change, -change
            raw = answers[step - 1, k] - truth[k], last[k] - truth[k]
            found = np.array([v for own, naive in (scaled, raw) for v in (own**2, abs(own), naive**2, abs(naive))])
            self.errors[0, step].append(found)
            self.errors[stream, step].append(found)


def learned(horizon: int, **fields) -> tuple[Learner, Kept]:
    learner = Learner(spec(horizon=horizon, window=12 + horizon, **STILL, **fields))
    learner.errors = Errors(learner.network)
    kept = Kept(learner)
    for chunk in chunks([3] * 160, entities=4, once=True):
        kept.tick(chunk)
        feed(learner, chunk)
    counted(learner).flush()
    return learner, kept


@pytest.mark.parametrize("targets", [["a"], ["b", "a"]], ids=len)
@pytest.mark.parametrize("horizon", [1, 6])
def test_totals_equal_the_errors_of_the_forecasts_that_a_server_gave(horizon, targets):
    learner, kept = learned(horizon, targets=targets)
    for step in range(1, horizon + 1):
        expected, row = np.array(kept.errors[0, step]), counted(learner).model[step - 1]
        assert row[0] == len(expected) > 300
        np.testing.assert_allclose(row[1 + MEANS :], expected.mean(axis=0), rtol=1e-3)
    for stream in (10, 11, 12, 13):
        (rows,) = counted(learner).streams.of([stream])
        for step, row in zip(kept_steps(horizon), rows, strict=True):
            expected = np.array(kept.errors[stream, step])
            assert row[0] == len(expected)
            np.testing.assert_allclose(row[1 + MEANS :], expected.mean(axis=0), rtol=1e-3)


def test_a_recent_mean_forgets_as_an_exponential_mean_does():
    learner, kept = learned(1, targets=["a"])
    recent = np.zeros(MEANS)
    for n, found in enumerate(kept.errors[10, 1], start=1):
        recent += max(1 / n, 1 / MEMORY) * (found - recent)
    np.testing.assert_allclose(counted(learner).streams.of([10])[0, 0, 1 : 1 + MEANS], recent, rtol=1e-3)


def test_blocks_of_labels_count_each_label():
    learner, kept = learned(3, targets=["a"], learn_every=2)
    for step in (1, 2, 3):
        expected, row = np.array(kept.errors[0, step]), counted(learner).model[step - 1]
        assert len(expected) - 8 <= row[0] <= len(expected)  # a stream's last block may be open
        np.testing.assert_allclose(row[1 + MEANS :], expected.mean(axis=0), rtol=0.1)


def test_counting_errors_changes_nothing_that_is_learned():
    with_errors, without = (Learner(spec(horizon=3, targets=["a"])) for _ in range(2))
    with_errors.errors = Errors(with_errors.network)
    for chunk in chunks([5] * 40):
        feed(with_errors, chunk)
        feed(without, chunk)
    np.testing.assert_array_equal(with_errors.weights.flat, without.weights.flat)


@pytest.mark.parametrize("task", ["regress", "classify"])
def test_errors_of_labels_from_outside_are_those_of_the_answers_to_their_ticks(task):
    learner, rng = Learner(label_spec(task, **STILL)), np.random.default_rng(0)
    server = Server(learner)
    errors: dict[int, list[list[float]]] = defaultdict(list)
    for n, chunk in enumerate(chunks([3] * 80, entities=4, once=True)):
        if n == 20:  # a regression's first labels set its units, and change its answers
            learner.errors = Errors(learner.network)
            errors.clear()
        y = labels_of(learner.spec, chunk.x, rng)
        answers = server.forecasts(chunk)
        feed(learner, chunk)
        learner.labels(chunk.streams, chunk.seq, y)
        for stream, row in zip(chunk.streams.tolist(), answers.astype(np.float64) - y, strict=True):
            errors[stream].append([(row**2).mean(), abs(row).mean()])
    counted(learner).flush()
    raw = slice(1 + MEANS + 4, 1 + MEANS + 6)
    for stream, found in errors.items():
        row = counted(learner).streams.of([stream])[0, 0]
        assert row[0] == len(found) * learner.spec.outputs
        np.testing.assert_allclose(row[raw], np.mean(found, axis=0), rtol=1e-2)


def test_a_window_counts_for_the_model_alone():
    learner = Learner(label_spec("forecast", horizon=2))
    learner.errors = Errors(learner.network)
    x = np.cumsum(np.random.default_rng(0).normal(0, 1, (30, 2)), axis=0).astype(np.float32)
    y = np.concatenate([x[1:29], x[2:30]], axis=1)
    learner.windows([Window(x[:28], y, np.ones_like(y))])
    counted(learner).flush()
    row = counted(learner).model[1]
    assert row[0] == 2 * 26  # two channels; the first two ticks have no scale two steps ahead
    naive = (y[2:, 2:] - x[2:28]).astype(np.float64)
    np.testing.assert_allclose(row[1 + MEANS + 6 :], [(naive**2).mean(), abs(naive).mean()], rtol=1e-4)
    assert not len(counted(learner).streams)


def test_an_error_that_is_not_finite_does_not_count():
    learner, _ = learned(1, targets=["a"])
    before = counted(learner).model.copy()
    learner.weights.head["W"][...] = np.nan
    feed(learner, chunks([3], seed=3, once=True)[0])
    counted(learner).flush()
    np.testing.assert_array_equal(counted(learner).model, before)


@pytest.mark.parametrize(("horizon", "steps"), [(1, (1,)), (2, (1, 2)), (24, (1, 6, 12, 18, 24))])
def test_five_steps_are_kept_per_stream_at_most(horizon, steps):
    assert kept_steps(horizon) == steps


def test_removed_streams_are_forgotten_and_the_memory_is_bounded():
    learner, _ = learned(1, targets=["a"])
    errors = counted(learner)
    errors.remove(11)
    assert errors.streams.page(0, 9) == [10, 12, 13]
    errors.streams.limit = 64
    for start in range(100, 1000, 50):
        errors.streams.slots(range(start, start + 50))
    assert len(errors.streams) == 64
    assert errors.streams.table.shape == (64, QUANTITIES)


def test_the_worst_streams_come_first_and_new_ones_last():
    streams = StreamErrors(1)
    streams.slots(range(1, 6))
    streams.table[:5, 0] = [99, LEAST_LABELS, LEAST_LABELS - 1, 99, 99]
    streams.table[:5, 1] = [1, 3, 9, 2, 1]
    streams.table[:5, 3] = [1, 1, 1, 1, 0]  # the last one's values never change: it has no ratio
    assert streams.worst(10) == [2, 4, 1, 3]
    assert streams.worst(2) == [2, 4]
    streams.remove(2)
    assert streams.worst(2) == [4, 1]
    assert streams.page(1, 2) == [3, 4]
