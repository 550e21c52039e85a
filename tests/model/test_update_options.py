"""Options of an update: accumulated gradients, the clip by value, and rates of parts."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from model.fold.learner import Learner
from model.network import Network
from model.offline.recorded import prepare
from model.offline.training import OfflineSettings, OfflineTraining
from model.parameters import Array
from model.spec import ModelSpec, changed
from model.update.accumulation import Accumulation
from model.update.bptt import gradient
from model.update.gradients import clip_gradient
from tests.contracts.test_learning import windows
from tests.model import worlds

SPEC = ModelSpec(
    channels=("a", "b"), hidden=3, horizon=2, forecaster="network", optimizer="sgd", learning_rate=0.1, clip=1e6,
    head_init=0.3,
)  # fmt: skip
CHUNKS = worlds.chunks([3] * 20, once=True)


def learned(spec: ModelSpec, *groups: slice) -> Learner:
    """Return a learner after each of these groups of windows."""
    learner, every = Learner(spec), windows(spec)
    for group in groups:
        learner.windows(every[group])
    return learner


def test_accumulated_groups_make_the_step_of_one_group_of_all_their_rows() -> None:
    together = learned(SPEC, slice(0, 5))
    apart = learned(replace(SPEC, accumulate=3), slice(0, 3), slice(3, 4), slice(4, 5))

    assert apart.optimizer_state.step == together.optimizer_state.step == 1
    moved = np.abs(together.weights.flat - Learner(SPEC).weights.flat).max()
    np.testing.assert_allclose(apart.weights.flat, together.weights.flat, rtol=0, atol=1e-6 * moved + 1e-7)
    unweighted = [learned(SPEC, g).weights.flat for g in (slice(0, 3), slice(3, 4), slice(4, 5))]
    assert np.abs(np.mean(unweighted, axis=0) - apart.weights.flat).max() > 1e-3 * moved


def test_weights_wait_for_the_last_group_and_the_schedule_counts_steps() -> None:
    spec = replace(SPEC, accumulate=2, schedule="inverse_sqrt")
    learner, every = Learner(spec), windows(spec)
    seen, rates = [], []
    for n in range(6):
        (update,), _ = learner.windows(every[n : n + 1])
        assert math.isfinite(update.norm)
        seen.append(learner.weights.flat.copy())
        rates.append(learner.schedule(learner.steps))
    assert [bool((a != b).any()) for a, b in pairwise(seen)] == [True, False, True, False, True]
    assert (learner.counts.updates, learner.optimizer_state.step, learner.steps) == (6, 3, 3)
    assert rates[-1] == Learner(spec).schedule(3)


@pytest.mark.parametrize("forecaster", ["network", "mixture"])
def test_a_learner_restored_between_two_steps_ends_with_the_same_bits(forecaster: str) -> None:
    spec = replace(worlds.spec(forecaster=forecaster), accumulate=4, optimizer="rmsprop")
    learner, checkpoint = Learner(spec), worlds.Checkpoint()
    for chunk in CHUNKS[:11]:
        worlds.feed(learner, chunk)
    assert 0 < learner.accumulation.added < 4
    checkpoint.save(learner)
    restored = checkpoint.load(spec, learner.contexts.limit)
    forgetful = checkpoint.load(spec, learner.contexts.limit)
    forgetful.accumulation.reset()
    for chunk in CHUNKS[11:]:
        for each in (learner, restored, forgetful):
            worlds.feed(each, chunk)
    assert worlds.digest(restored) == worlds.digest(learner) != worlds.digest(forgetful)


def test_the_experts_of_a_mixture_learn_from_every_group() -> None:
    learner = Learner(replace(worlds.spec(forecaster="mixture"), accumulate=1000))
    start = Learner(learner.spec).weights
    for chunk in CHUNKS:
        worlds.feed(learner, chunk)
    layers = learner.network.layout.layers()
    assert learner.counts.updates > 10 > learner.optimizer_state.step == 0
    for name, moved in (("experts", True), ("cell0", False), ("head", False)):
        assert (learner.weights.flat[layers[name]] != start.flat[layers[name]]).any() == moved, name


def test_a_refused_group_adds_nothing_and_keeps_the_groups_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(SPEC, accumulate=2)
    learner, twin, every = Learner(spec), learned(spec, slice(0, 2), slice(2, 4)), windows(spec)
    learner.windows(every[0:2])

    def broken(*args: Any) -> Any:
        out = gradient(*args)
        args[4].flat[0] = np.inf  # grad
        return out

    with monkeypatch.context() as patched:
        patched.setattr("model.fold.learner.gradient", broken)
        (update,), _ = learner.windows(every[4:6])
    assert update.refused
    assert learner.accumulation.added == 1

    learner.windows(every[2:4])

    np.testing.assert_array_equal(learner.weights.flat, twin.weights.flat)


def test_a_rollback_forgets_the_groups_before_it() -> None:
    learner = learned(replace(SPEC, accumulate=2), slice(0, 2))
    learner.roll_back(Learner(SPEC).weights.flat)
    assert (learner.accumulation.added, learner.accumulation.pack()) == (0, b"")
    assert not learner.accumulation.sum.any()


def test_an_accumulated_gradient_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="an accumulated gradient of 3 bytes, expected 24"):
        Accumulation(2, 2).unpack(b"abc")


def test_one_group_per_step_keeps_no_sum() -> None:
    assert Accumulation(1, 10).sum.nbytes == 0
    assert learned(SPEC, slice(0, 2)).accumulation.pack() == b""


def test_the_clip_by_value_comes_before_the_clip_by_norm_and_both_norms_are_true() -> None:
    grad = np.array([3.0, -0.5, 4.0])
    before, after = clip_gradient(grad, 1.0, 1.0)
    assert before == pytest.approx(math.sqrt(25.25))
    assert after == pytest.approx(1.0)
    np.testing.assert_allclose(grad, np.array([1.0, -0.5, 1.0]) / 1.5)

    small = np.array([0.1, -2.0])
    np.testing.assert_allclose(clip_gradient(small, 10.0, 0.2), [math.hypot(0.1, 2), math.hypot(0.1, 0.2)])
    np.testing.assert_allclose(small, [0.1, -0.2])

    with pytest.raises(FloatingPointError, match="gradient norm is inf"):
        clip_gradient(np.array([np.inf, 1.0]), 1.0, 0.5)


def test_the_report_of_a_gradient_clipped_by_value_has_the_norms_before_and_after() -> None:
    plain, clipped = (learned(replace(SPEC, clip_value=v), slice(0, 4)) for v in (0.0, 1e-3))
    assert (plain.counts.clipped, clipped.counts.clipped) == (0, 1)
    every = windows(SPEC)
    (update,), _ = Learner(replace(SPEC, clip_value=1e-3)).windows(every[:4])
    (unclipped,), _ = Learner(SPEC).windows(every[:4])
    assert update.report is not None
    assert update.report.norm == update.norm == unclipped.norm
    n = len(plain.weights.flat)
    assert update.report.clipped_norm <= 1e-3 * math.sqrt(n) < update.norm
    moved = np.abs(clipped.weights.flat - Learner(SPEC).weights.flat)
    assert moved.max() <= 1.001e-4 < np.abs(plain.weights.flat - Learner(SPEC).weights.flat).max()


def test_a_rate_of_a_part_scales_its_steps_and_may_change_while_it_learns() -> None:
    start, every = Learner(SPEC), windows(SPEC)
    plain, rated = learned(SPEC, slice(0, 4)), learned(replace(SPEC, layer_rates=("head:0.5",)), slice(0, 4))
    head, cell = (start.network.layout.layers()[name] for name in ("head", "cell0"))

    def moved(learner: Learner, part: slice) -> Array:
        return learner.weights.flat[part] - start.weights.flat[part]

    np.testing.assert_array_equal(moved(rated, cell), moved(plain, cell))
    np.testing.assert_allclose(moved(rated, head), 0.5 * moved(plain, head), rtol=1e-4, atol=1e-7)

    changing = learned(SPEC)
    changing.change(changed(SPEC, {"layer_rates": ("head:0.5",)}))
    changing.windows(every[:4])
    np.testing.assert_array_equal(changing.weights.flat, rated.weights.flat)


def offline(spec: ModelSpec, settings: OfflineSettings) -> OfflineTraining:
    x = np.sin(0.4 * np.arange(200)[:, None] + np.arange(2)).astype(np.float32)
    recorded = prepare(Network(spec), x, np.full(200, np.nan))
    training = OfflineTraining(Network(spec), recorded, 160, settings)
    list(training.epochs())
    return training


def test_offline_training_accumulates_and_applies_what_is_left_at_the_end_of_a_pass() -> None:
    settings = OfflineSettings(epochs=1, patience=1, rows=1, segments=1, chunk=16)
    plain, spread = (offline(replace(SPEC, accumulate=n, clip=0.05), settings) for n in (1, 4))
    assert plain.updates in (10, 11)
    assert spread.updates == -(-plain.updates // 4)
    assert spread.clipped > 0
    assert (spread.weights.flat != plain.weights.flat).any()


def test_a_pass_over_whole_segments_is_one_step_whatever_accumulates() -> None:
    settings = OfflineSettings.whole(2, 2, segments=2)
    plain, spread = (offline(replace(SPEC, accumulate=n), settings) for n in (1, 8))
    assert (plain.updates, spread.updates) == (2, 2)
    np.testing.assert_allclose(spread.weights.flat, plain.weights.flat, rtol=0, atol=1e-6)
