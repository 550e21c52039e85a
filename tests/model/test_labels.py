"""Late labels (DESIGN R13): each is learned once from the ticks up to its own, or rejected with a reason."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model.fold.histories import Rejected
from model.fold.learner import Learner
from model.parameters import Array
from model.spec import ModelSpec

LATE = 40  # label_horizon


def spec(task: str = "regress", **fields: Any) -> ModelSpec:
    kind = {"targets": ["t", "v"]} if task == "regress" else {"classes": ["n", "p"]}
    values = {"channels": ["a", "b"], "hidden": 5, "task": task, "label_horizon": LATE, **kind}
    return ModelSpec.from_mapping(values | fields)


def tick(learner: Learner, stream: int, seqs: Any, x: Array | None = None) -> None:
    """Feed ticks of one stream. Default values are a function of the seq."""
    seq = np.array(seqs, np.uint64)
    values = np.random.default_rng(0).normal(0, 1, (1000, 2))[seq.astype(int)] if x is None else x
    learner.ticks(np.full(len(seq), stream, np.uint32), seq, np.full(len(seq), np.nan), values.astype(np.float32))


def label(learner: Learner, *labels: tuple[int, int, float], **options: Any) -> Any:
    """Feed labels (stream, seq, value); for a classifier the values are classes 0 and 1."""
    streams, seq, y = zip(*labels, strict=True)
    both = [(v, -v) if learner.spec.task == "regress" else (1 - v, v) for v in y]
    return learner.labels(np.array(streams, np.uint32), np.array(seq, np.uint64), np.array(both, np.float32), **options)


every_task = pytest.mark.parametrize("task", ["regress", "classify"])


@every_task
def test_a_late_label_is_learned(task: str) -> None:
    learner = Learner(spec(task))
    tick(learner, 1, range(1, 31))
    before = learner.weights.flat.copy()
    label(learner, (1, 19, 0.0))

    updates, rejected = label(learner, (1, 20, 1.0), (1, 30, 0.0))

    assert (len(updates), updates[0].labels, rejected) == (1, 2, [])
    assert np.isfinite([updates[0].loss, updates[0].score, updates[0].norm]).all()
    assert (learner.weights.flat != before).any()
    assert (learner.counts.learned, learner.counts.offered) == (3, 3)


def test_labels_that_cannot_be_learned_are_rejected_with_the_reason() -> None:
    learner = Learner(spec())
    tick(learner, 1, range(1, 101))
    label(learner, (1, 90, 1.0))

    _, rejected = label(
        learner, (1, 101, 0.0), (1, 100 - LATE, 0.0), (1, 100 - LATE + 1, 0.0), (2, 5, 0.0), (1, 90, 1.0), (1, 90, 2.0)
    )

    assert rejected == [Rejected(0, "unknown"), Rejected(1, "late"), Rejected(3, "late"), Rejected(5, "conflict")]
    counts = learner.counts
    assert (counts.learned, counts.rejected, counts.duplicates) == (2, 4, 1)


def test_the_first_of_several_labels_in_one_call_wins() -> None:
    learner = Learner(spec())
    tick(learner, 1, range(1, 31))
    updates, rejected = label(learner, (1, 9, 1.0), (1, 9, 2.0), (1, 9, 1.0), (1, 8, 2.0))
    assert ([u.labels for u in updates], rejected, learner.counts.duplicates) == ([2], [Rejected(1, "conflict")], 1)


def test_labels_of_ticks_before_a_reset_a_gap_or_a_put_are_late() -> None:
    learner = Learner(spec(max_gap=10.0))
    row = np.zeros(learner.network.state_size, np.float32)
    for cut in ("reset", "put", "gap"):
        tick(learner, 1, range(1, 31))
        if cut == "reset":
            learner.reset(1)
        if cut == "put":
            learner.put(1, row)
        if cut != "gap":
            assert label(learner, (1, 30, 0.0)) == ([], [Rejected(0, "late")])
            tick(learner, 1, range(31, 33))
        else:
            for seq, time in ((31, 0.0), (32, 11.0), (33, 12.0)):
                one = np.ones(1)
                learner.ticks(one.astype(np.uint32), one.astype(np.uint64) * np.uint64(seq), one * time,
                              np.zeros((1, 2), np.float32))  # fmt: skip
        updates, rejected = label(learner, (1, 30, 0.0), (1, 32, 0.5))
        assert (updates[0].labels, rejected) == (1, [Rejected(0, "late")]), cut
        learner.reset(1)


def test_a_window_is_learned_and_changes_no_stream() -> None:
    learner = Learner(spec())
    rng = np.random.default_rng(1)

    class Window:
        x = rng.normal(0, 1, (20, 2)).astype(np.float32)
        y = rng.normal(0, 1, (20, 2)).astype(np.float32)
        weight = np.ones((20, 2), np.float32)
        initial_state = None

    before = learner.weights.flat.copy()
    updates, rejected = learner.windows([Window(), Window()])
    assert ([u.labels for u in updates], rejected, learner.counts.windows) == ([40], [], 2)
    assert (learner.weights.flat != before).any()
    assert len(learner.contexts) == 0


@every_task
@pytest.mark.parametrize("scaler", ["residual", "standard", "none"])
def test_with_missing_values_a_late_label_and_a_window_of_its_ticks_update_alike(task: str, scaler: str) -> None:
    late, whole = (Learner(spec(task, missing="hold", scaler=scaler, head_init=0.3)) for _ in range(2))
    x = np.random.default_rng(3).normal(0, 1, (20, 2)).astype(np.float32)
    x[np.random.default_rng(4).random(x.shape) < 0.3] = np.nan
    x[:5, 1] = x[11] = np.nan
    y = np.zeros((20, 2), np.float32)
    y[9], y[19] = (0, 1), (1, 0)  # two labels: after one, regression has no scale

    tick(late, 1, range(1, 21), x)
    for t in (9, 19):
        (update,), rejected = late.labels(np.ones(1, np.uint32), np.array([t + 1], np.uint64), y[t : t + 1])
        weight = np.zeros((t + 1, 2), np.float32)
        weight[t] = 1
        (other,), _ = whole.windows([SimpleNamespace(x=x[: t + 1], y=y[: t + 1], weight=weight, initial_state=None)])

    assert rejected == []
    assert np.isfinite([update.loss, update.norm]).all()
    assert update.loss > 0
    # The same float32 sums over windows of other lengths.
    np.testing.assert_allclose(update.loss, other.loss, rtol=1e-5)
    np.testing.assert_allclose(late.weights.flat, whole.weights.flat, rtol=0, atol=1e-5)
