"""Whole labelled windows: gradients over their whole length, in groups of bounded size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.fold import windows as module
from model.fold.histories import Rejected
from model.fold.learner import Learner
from model.fold.windows import groups, padded_ticks, unroll
from model.parameters import Array
from model.update.bptt import Batch, gradient, padded
from model.update.rounds import GROUP_ROWS, padded_rows
from tests.conftest import examples
from tests.model.labelled import Labels, Window, label_spec, labels_of
from tests.model.worlds import Chunk, digest, feed

every_task = pytest.mark.parametrize("task", ["forecast", "regress", "classify"])
NO_TIME: dict[str, Any] = {"interval": 0.0}  # windows have no time


def draw(learner: Learner, length: int, seed: int = 0) -> Window:
    """Return a window with a label at each tick."""
    rng, spec = np.random.default_rng(seed), learner.spec
    x = np.cumsum(rng.normal(0, (1, 30), (length + spec.horizon, 2)), axis=0).astype(np.float32)
    if spec.task == "forecast":
        y = np.concatenate([x[h : length + h] for h in range(1, spec.horizon + 1)], axis=1)
    else:
        y = labels_of(spec, x[:length], rng)
    return Window(x[:length], y, np.ones((length, spec.outputs), np.float32))


def grad_of(learner: Learner, windows: Sequence[Window]) -> tuple[float, Array]:
    """Return loss and gradient with the weights of the learner. Does not change the label statistics."""
    network, weights = learner.network, learner.weights
    start, X, y, weight, last, scale, _ = unroll(network, windows)
    Y, weight = network.task.targets(weights.target, y, weight, last, scale)
    batch = padded(Batch(start, X, Y, weight))
    grad = network.weights(np.empty_like(weights.flat))
    loss, _, _ = gradient(network, weights, batch, network.tape(*batch.X.shape[:2]), grad)
    return loss, grad.flat


@every_task
def test_the_gradient_of_a_group_is_the_mean_of_those_of_its_windows(task: str) -> None:
    learner = Learner(label_spec(task, head_init=0.3, layers=2))
    windows = [draw(learner, length, seed=length) for length in (3, 16, 7, 30, 12)]

    loss, grad = grad_of(learner, windows)

    alone = [grad_of(learner, [window]) for window in windows]
    assert loss == pytest.approx(np.mean([a for a, _ in alone]), rel=1e-5)
    expected = np.mean([g for _, g in alone], axis=0)
    # Sums of about a hundred float32 products in another order.
    np.testing.assert_allclose(grad, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("task", ["regress", "classify"])
@pytest.mark.parametrize("labelled", [[8], [0, 3, 8], range(9)])
def test_a_window_gives_the_update_of_its_single_labels_where_truncation_reaches_its_start(
    task: str, labelled: Any
) -> None:
    streamed, windowed = (Learner(label_spec(task, head_init=0.3, window=9, **NO_TIME)) for _ in range(2))
    window, n, places = draw(streamed, 9), 9, list(labelled)
    window.weight[[t for t in range(n) if t not in places]] = 0
    feed(streamed, Chunk(np.full(n, 7, np.uint32), np.arange(1, n + 1, dtype=np.uint64), np.full(n, np.nan), window.x))

    updates, _ = streamed.labels(*Labels(np.full(len(places), 7, np.uint32), np.array(places, np.uint64) + np.uint64(1),
                                         window.y[places]))  # fmt: skip
    others, _ = windowed.windows([window])

    assert [u.labels for u in updates] == [u.labels for u in others] == [len(places)]
    assert others[0].loss == pytest.approx(updates[0].loss, rel=1e-5)
    assert others[0].norm == pytest.approx(updates[0].norm, rel=1e-5)
    # The first step of Adam is ± the rate wherever the gradient exceeds the rounding error of its sum.
    rate = streamed.spec.learning_rate
    differ = np.abs(windowed.weights.flat - streamed.weights.flat) > 1e-3 * rate
    assert differ.mean() < 0.02
    first, second = streamed._grad.flat, windowed._grad.flat  # the steps
    assert np.corrcoef(first, second)[0, 1] > 0.99


def test_a_window_with_a_state_continues_after_the_ticks_that_led_to_it() -> None:
    learner = Learner(label_spec(head_init=0.3, **NO_TIME))
    network, whole = learner.network, draw(learner, 20)
    state, no_time = np.zeros((1, network.state_size), np.float32), np.zeros((1, 0), np.float32)
    for x in whole.x[:8]:
        _, state = network.step(learner.weights, x[None], no_time, state)
    rest = Window._make([*(part[8:] for part in whole[:3]), state[0]])
    whole.weight[:8] = 0

    np.testing.assert_allclose(grad_of(learner, [rest])[0], grad_of(learner, [whole])[0], rtol=1e-5)
    assert grad_of(learner, [rest._replace(initial_state=None)])[0] != pytest.approx(grad_of(learner, [whole])[0])


@every_task
def test_a_weight_scales_the_loss_of_its_label(task: str) -> None:
    learner = Learner(label_spec(task, head_init=0.3))
    window = draw(learner, 12)
    full, grad = grad_of(learner, [window])
    half, half_grad = grad_of(learner, [window._replace(weight=window.weight / 2)])
    assert half == pytest.approx(full / 2, rel=1e-6)
    np.testing.assert_allclose(half_grad, grad / 2, rtol=1e-5, atol=1e-9)


@every_task
def test_labels_of_zero_weight_do_not_matter(task: str) -> None:
    learner, other = Learner(label_spec(task)), Learner(label_spec(task))
    window = draw(learner, 12)
    window.weight[[0, 3, 11]] = 0
    noise = window.y.copy()
    noise[[0, 3, 11]] = np.nan, np.inf

    learner.windows([window])
    other.windows([window._replace(y=noise)])

    assert digest(learner) == digest(other)
    assert learner.counts.learned == 9


@every_task
def test_learning_from_windows_lowers_their_loss(task: str) -> None:
    learner = Learner(label_spec(task, learning_rate=5e-3, hidden=12))
    windows = [draw(learner, 20, seed) for seed in range(8)]
    losses = [learner.windows(windows)[0][0].loss for _ in range(150)]
    assert losses[-1] < 0.7 * losses[1]


def test_windows_change_no_stream() -> None:
    learner = Learner(label_spec())
    feed(learner, Chunk(np.ones(3, np.uint32), np.arange(1, 4, dtype=np.uint64), np.zeros(3),
                        np.zeros((3, 2), np.float32)))  # fmt: skip
    rows, marks = learner.contexts._rows.copy(), learner.contexts._marks.copy()
    learner.contexts.changes()
    learner.windows([draw(learner, 20)])
    np.testing.assert_array_equal(learner.contexts._rows, rows)
    np.testing.assert_array_equal(learner.contexts._marks, marks)
    assert learner.contexts.changes() == ({}, set())


@examples(50)
@given(st.lists(st.integers(1, 3000), max_size=80))
def test_groups_have_every_window_once_in_order_and_are_bounded(lengths: list[int]) -> None:
    network = Learner(label_spec()).network
    windows = [Window(np.zeros((n, 2)), np.zeros((n, 2)), np.zeros((n, 2))) for n in lengths]

    made = list(groups(network, windows))

    assert [i for group in made for i in group] == list(range(len(lengths)))
    for group in made:
        longest = padded_ticks(max(lengths[i] for i in group))
        assert 1 <= len(group) <= GROUP_ROWS
        assert len(group) == 1 or padded_rows(len(group)) * longest * (10 + 5) <= module.MAX_UNROLLED


def test_a_group_ends_before_its_tapes_exceed_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UNROLLED", (10 + 5) * 4 * 16)  # inputs and hidden units
    learner = Learner(label_spec())
    windows = [draw(learner, n) for n in (9, 16, 12, 14, 3, 17, 200, 1)]
    assert list(groups(learner.network, windows)) == [[0, 1, 2, 3], [4], [5], [6], [7]]
    updates, rejected = learner.windows(windows)
    assert ([u.labels for u in updates], rejected) == ([51, 3, 17, 200, 1], [])


def test_lengths_are_padded_to_a_few_and_only_tapes_in_use_are_kept() -> None:
    assert [padded_ticks(n) for n in (1, 2, 3, 4, 5, 16, 17, 4096)] == [1, 2, 4, 4, 8, 16, 32, 4096]
    learner = Learner(label_spec())
    learner.anchor = learner.weights.flat.copy()
    for length in (1, 2, 3, 5, 9, 16, 17, 33, 60, 100, 130):
        learner.windows([draw(learner, length)] * 3, score_anchor=True)
    assert len(learner._tapes) <= 2 * 3 + 2  # lengths 1, 16 and 32, separate ones for the anchor, and two others


@every_task
def test_windows_that_cannot_be_learned_are_rejected_with_a_reason_and_the_others_are_learned(task: str) -> None:
    learner = Learner(label_spec(task))
    good = draw(learner, 10)
    bad = [
        good._replace(x=good.x[:9]),
        good._replace(x=good.x[:, :1]),
        good._replace(y=good.y[:, :1]),
        good._replace(weight=good.weight[:, :1]),
        Window(good.x[:0], good.y[:0], good.weight[:0]),
        good._replace(initial_state=np.zeros(3, np.float32)),
        good._replace(weight=np.zeros_like(good.weight)),
        *(
            good._replace(**{part: np.full_like(getattr(good, part), v)})
            for part in ("x", "y")
            for v in (np.nan, -np.inf)
        ),
        good._replace(weight=np.full_like(good.weight, np.inf)),
        good._replace(initial_state=np.full(learner.network.state_size, np.nan, np.float32)),
    ]
    if task == "forecast":
        bad.append(Window(good.x[:1], good.y[:1], good.weight[:1]))  # no difference, so no scale

    updates, rejected = learner.windows([good, *bad, good])

    reasons = ["shape"] * 6 + ["no label"] + ["non-finite"] * 6 + ["no label"] * (len(bad) - 13)
    assert rejected == [Rejected(i + 1, reason) for i, reason in enumerate(reasons)]
    assert sum(u.labels for u in updates) == learner.counts.learned == 20 - 2 * (task == "forecast")
    assert (learner.counts.windows, learner.counts.rejected) == (2, len(bad))


@every_task
def test_windows_without_a_usable_label_make_no_update(task: str) -> None:
    learner = Learner(label_spec(task))
    window = draw(learner, 1)
    before = digest(learner)
    blank = window._replace(weight=np.zeros_like(window.weight))
    unscaled = [window] if task == "forecast" else []
    updates, rejected = learner.windows([blank, *unscaled])
    assert (updates, [r.reason for r in rejected]) == ([], ["no label"] * (1 + len(unscaled)))
    learner.counts.rejected = learner.counts.offered = 0
    assert digest(learner) == before


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@every_task
def test_a_refused_update_names_all_windows_of_its_group(task: str) -> None:
    learner = Learner(label_spec(task))
    windows = [draw(learner, 10), draw(learner, 20)]
    W = learner.weights.head["W"]
    W[...] = np.where(np.arange(W.shape[1]) % 2, 3e38, -3e38)
    before = learner.weights.flat.copy()

    updates, rejected = learner.windows(windows)

    assert updates[0].refused
    assert rejected == [Rejected(0, "non-finite"), Rejected(1, "non-finite")]
    np.testing.assert_array_equal(learner.weights.flat, before)
    assert (learner.counts.windows, learner.counts.learned) == (0, 0)


def test_windows_are_counted_and_not_learned_while_paused_and_thinned_windows_are_counted() -> None:
    learner = Learner(label_spec())
    window = draw(learner, 10)
    learner.paused = True
    assert learner.windows([window] * 3) == ([], [])
    learner.paused = False
    learner.windows([window] * 20, learn_every=4)
    counts = learner.counts
    assert (counts.unlearned, counts.offered, counts.windows + counts.thinned) == (3, 20, 20)
    assert counts.windows == 5


@every_task
def test_with_missing_values_a_window_learns_from_the_labels_that_are_present(task: str) -> None:
    learner, other = (Learner(label_spec(task, missing="hold")) for _ in range(2))
    window = draw(learner, 12)
    window.x[[2, 5], 1] = np.nan
    gaps = window._replace(y=window.y.copy(), weight=window.weight.copy())
    gaps.y[4], gaps.weight[4] = np.nan, 0
    window.y[4] = np.nan

    learner.windows([window])
    other.windows([gaps])

    assert digest(learner) == digest(other)
    assert learner.counts.learned == 11 - (task == "forecast")  # the first tick has no scale
