"""The learner as a fold (DESIGN R4, R7, R8): deterministic, causal; labels are learned, thinned, voided or refused."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from model.fold.contexts import Contexts
from model.fold.learner import Learner
from model.parameters import Array
from model.update.rounds import GROUP_ROWS
from tests.conftest import examples
from tests.contracts import registry
from tests.model.worlds import Checkpoint, Chunk, Server, chunks, digest, feed, spec, with_gaps

KINDS = registry.cells(brief=True) | registry.traced()
every_cell = pytest.mark.parametrize("kind", KINDS)


def learn(learner: Learner, stream: list[Chunk]) -> Array:
    """Feed chunks. Returns the forecast of every tick after its update: [ticks, O]."""
    server = Server(learner)
    answers = []
    for chunk in stream:
        feed(learner, chunk)
        answers.append(server.forecasts(chunk))
    return np.concatenate(answers)


@every_cell
@pytest.mark.parametrize("horizon", [1, 3])
@pytest.mark.parametrize("limit", [GROUP_ROWS, 100])
def test_the_same_chunks_give_the_same_bits_with_or_without_a_restart_after_each(
    kind: str, horizon: int, limit: int
) -> None:
    model = spec(**KINDS[kind], horizon=horizon)
    straight, restarted, checkpoint = Learner(model, limit), Learner(model, limit), Checkpoint()
    for chunk in chunks([1, 40, 3, 1, 90, 9, 70, 2, 1, 33], entities=40):
        feed(straight, chunk)
        feed(restarted, chunk)
        checkpoint.save(restarted)
        restarted = checkpoint.load(model, limit)
        assert digest(restarted) == digest(straight)
    assert straight.counts.updates > 5
    assert (straight.contexts.evicted > 5) == (limit == GROUP_ROWS)


def test_a_learner_copies_its_arguments() -> None:
    stream = chunks([5] * 20)
    first, second = Learner(spec()), Learner(spec())
    for chunk in stream:
        feed(first, chunk)
    for chunk in stream:
        lent = Chunk._make(array.copy() for array in chunk)
        feed(second, lent)
        for array in lent:
            array[...] = 77  # the caller reuses its buffers
    assert digest(first) == digest(second)


def test_two_learners_used_in_turn_are_independent() -> None:
    alone, first, second = (Learner(spec()) for _ in range(3))
    stream, other = chunks([5] * 20), chunks([5] * 20, seed=1)
    for chunk in stream:
        feed(alone, chunk)
    for chunk, interleaved in zip(stream, other, strict=True):
        feed(first, chunk)
        feed(second, interleaved)
    assert digest(first) == digest(alone) != digest(second)


@every_cell
@pytest.mark.parametrize(("horizon", "every"), [(3, 2), *(pytest.param(h, 1, marks=pytest.mark.long) for h in (1, 3))])
def test_no_forecast_changes_by_a_bit_when_later_values_become_noise(kind: str, horizon: int, every: int) -> None:
    model = spec(**KINDS[kind], horizon=horizon, learn_every=every, learning_rate=1e-2)
    stream, rng, cut = chunks([3] * 80, once=True), np.random.default_rng(9), 50
    noise = [c._replace(x=rng.normal(0, 1e3, c.x.shape).astype(np.float32)) for c in stream[cut:]]

    told = learn(Learner(model), stream)
    retold = learn(Learner(model), stream[:cut] + noise)

    np.testing.assert_array_equal(told[: 3 * cut], retold[: 3 * cut])
    assert (told[3 * cut :] != retold[3 * cut :]).any(axis=1).all()  # the noise has an effect
    still = learn(Learner(spec(**KINDS[kind], horizon=horizon, learn_every=every, learn=False)), stream)
    # And learning is on. A mixture that is not trusted answers as a new one does: here for up to a fifth of the ticks,
    # with the fast exact gradients of an lru for 28 %.
    assert (np.abs(told[60:] - still[60:]).max(axis=1) > 1e-4).mean() > 0.65


def test_the_causality_check_detects_a_look_into_the_future(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, cut = chunks([3] * 30, once=True), 20
    changed = stream[:cut] + [c._replace(x=c.x + np.float32(9)) for c in stream[cut:]]

    def peeking(ticks: list[Chunk]) -> Array:
        peek = [c._replace(x=after.x) for c, after in pairwise(ticks)]
        return learn(Learner(spec(learning_rate=1e-2)), peek)

    assert (peeking(stream)[: 3 * cut] != peeking(changed)[: 3 * cut]).any()


@pytest.mark.parametrize("horizon", [1, 3])
def test_with_missing_values_the_fold_restarts_bit_equal_and_no_forecast_depends_on_later_values(
    horizon: int,
) -> None:
    model, cut = spec(horizon=horizon, missing="hold", learning_rate=1e-2), 40
    stream = with_gaps(chunks([3] * 60, once=True))
    later = [c._replace(x=np.where(np.isnan(c.x), 1e3, np.nan).astype(np.float32)) for c in stream[cut:]]

    told, retold = learn(Learner(model), stream), learn(Learner(model), stream[:cut] + later)

    assert np.isfinite(told).all()
    assert np.isfinite(retold).all()
    np.testing.assert_array_equal(told[: 3 * cut], retold[: 3 * cut])
    straight, restarted, checkpoint = Learner(model, 100), Learner(model, 100), Checkpoint()
    for chunk in stream:
        feed(straight, chunk)
        feed(restarted, chunk)
        checkpoint.save(restarted)
        restarted = checkpoint.load(model, 100)
    assert digest(restarted) == digest(straight)


def test_missing_values_are_no_labels_and_nothing_is_learned_about_a_channel_without_values() -> None:
    learner = Learner(spec(missing="hold", horizon=3))
    stream = one_stream(60)
    for k, chunk in enumerate(stream):
        # Channel b is always missing, channel a at every other tick.
        here = feed(learner, chunk._replace(x=np.array([[np.nan if k % 2 else chunk.x[0, 0], np.nan]], np.float32)))
        assert len(here) == (k % 2 == 0 and k >= 4)  # the second value of a has a scale at the third, k = 4
        assert all(update.labels == 1 for update in here)

    W = learner.weights.head["W"].reshape(3, 2, -1)
    assert not W[:, 1].any()
    assert (W[:, 0] != 0).any(axis=1).all()
    assert learner.counts.refused == 0


def test_nothing_is_learned_from_ticks_without_any_value_and_forecasts_stay_finite() -> None:
    learner = Learner(spec(missing="hold"))
    server = Server(learner)
    for chunk in chunks([3] * 20, once=True):
        empty = chunk._replace(x=np.full_like(chunk.x, np.nan))
        assert feed(learner, empty) == []
        np.testing.assert_array_equal(server.forecasts(empty), 0)
    assert learner.counts.updates == learner.counts.learned == 0


def one_stream(n: int, **changes: Any) -> list[Chunk]:
    return [c._replace(**changes) for c in chunks([1] * n, entities=1)]


@pytest.mark.parametrize("horizon", [1, 3])
def test_every_tick_with_a_scale_is_learned_once(horizon: int) -> None:
    learner = Learner(spec(horizon=horizon))
    for chunk in one_stream(40):
        feed(learner, chunk)
    # Tick 1 has no tick before it. Tick 2 has no scale: before it no difference is known. The values of a tick are one
    # label, however many heads learn from them.
    assert (learner.counts.ticks, learner.counts.learned, learner.counts.updates) == (40, 38, 38)


def test_a_reset_voids_and_counts_waiting_origins_and_no_label_crosses_it() -> None:
    learner = Learner(spec(horizon=3))
    stream = one_stream(30)
    for chunk in stream[:20]:
        feed(learner, chunk)
    learner.reset(10)
    learner.reset(999)  # an unknown stream

    assert learner.counts.voided == 3
    assert len(learner.contexts) == 0
    fresh = Learner(spec(horizon=3))
    fresh.roll_back(learner.weights.flat)
    assert [len(feed(learner, chunk)) for chunk in stream[20:24]] == [len(feed(fresh, c)) for c in stream[20:24]]


@pytest.mark.parametrize(("gap_s", "voided"), [(3600.0, 0), (3601.0, 3)])
def test_a_gap_in_event_time_larger_than_max_gap_voids_pending_labels(gap_s: float, voided: int) -> None:
    learner = Learner(spec(horizon=3, max_gap=3600.0))
    stream = one_stream(30)
    for chunk in stream[:20]:
        feed(learner, chunk)
    before = learner.counts.updates
    updates = feed(learner, stream[20]._replace(time=stream[19].time + gap_s))

    assert learner.counts.voided == voided
    assert (len(updates), learner.counts.updates - before) == ((0, 0) if voided else (1, 1))


def test_without_event_times_there_are_no_gaps() -> None:
    learner = Learner(spec(interval=0.0, max_gap=10.0))
    for chunk in one_stream(20, time=np.array([np.nan])):
        feed(learner, chunk)
    assert (learner.counts.voided, learner.counts.updates) == (0, 18)


@pytest.mark.parametrize(("every", "thin"), [(1, 3), (2, 2), (3, 2)])
@pytest.mark.parametrize("horizon", [1, 3])
def test_recorded_thinning_learns_every_nth_label_and_counts_the_others(horizon: int, every: int, thin: int) -> None:
    model = spec(horizon=horizon, learn_every=every)
    plain, thinned = Learner(model), Learner(model)
    period = every * thin
    for k, chunk in enumerate(one_stream(20 * period)):
        feed(plain, chunk)
        feed(thinned, chunk, learn_every=1 if k < 2 * period else thin)

    assert plain.counts.thinned == 0
    assert plain.counts.updates - thinned.counts.updates == 18 * (thin - 1)
    assert thinned.counts.thinned == 18 * (period - every)
    assert thinned.counts.learned + thinned.counts.thinned == plain.counts.learned  # every label is counted


@examples(40)
@given(
    every=st.integers(1, 4), horizon=st.sampled_from([1, 3]),
    thinning=st.lists(st.tuples(st.integers(1, 9), st.sampled_from([1, 2, 4, 1024])), min_size=1, max_size=8),
)  # fmt: skip
@example(every=4, horizon=1, thinning=[(10, 2), (2, 1), (8, 2)])
def test_learned_plus_thinned_labels_are_those_that_an_unthinned_learner_learns(
    every: int, horizon: int, thinning: list[tuple[int, int]]
) -> None:
    model = spec(hidden=1, horizon=horizon, learn_every=every)
    plain, thinned = Learner(model), Learner(model)
    sizes = [size for size, _ in thinning]
    for chunk, (_, thin) in zip(chunks(sizes, entities=2), thinning, strict=True):
        feed(plain, chunk)
        feed(thinned, chunk, learn_every=thin)
        assert thinned.counts.learned + thinned.counts.thinned == plain.counts.learned


def test_an_untimed_tick_does_not_hide_a_gap_around_it() -> None:
    learner, stream = Learner(spec(interval=0.0, max_gap=10.0)), one_stream(12)
    for chunk in stream[:10]:
        feed(learner, chunk._replace(time=np.array([5.0 * float(chunk.seq[0])])))
    feed(learner, stream[10]._replace(time=np.array([np.nan])))
    feed(learner, stream[11]._replace(time=np.array([1e6])))

    assert learner.counts.voided == 1


def test_learn_every_in_the_spec_learns_all_labels_in_fewer_updates() -> None:
    each, second = Learner(spec(learn_every=1)), Learner(spec(learn_every=2))
    for chunk in one_stream(41):
        feed(each, chunk)
        feed(second, chunk)
    assert (each.counts.updates, each.counts.learned) == (39, 39)
    assert (second.counts.updates, second.counts.learned) == (19, 38)


def test_a_paused_learner_learns_nothing_and_keeps_its_streams_up_to_date() -> None:
    learner, stream = Learner(spec()), one_stream(60)
    for chunk in stream[:20]:
        feed(learner, chunk)
    before = learner.weights.flat.copy()
    learner.paused = True
    for chunk in stream[20:40]:
        assert feed(learner, chunk) == []
    np.testing.assert_array_equal(learner.weights.flat, before)
    learner.paused = False
    assert len(feed(learner, stream[40])) == 1
    assert isinstance(learner.contexts, Contexts)
    _, block = learner.contexts.load([10])
    np.testing.assert_array_equal(block.x[0, -1], stream[40].x[0])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("room", ["head", "all"])
def test_an_update_with_a_gradient_that_is_not_finite_is_refused_and_counted_and_the_weights_stay(room: str) -> None:
    learner, stream = Learner(spec(head_init=0.2)), one_stream(60)
    for chunk in stream[:20]:
        feed(learner, chunk)
    good, learned = learner.weights.flat.copy(), learner.counts.learned
    learner.weights.head["W"][...] = 1e38
    if room == "all":
        learner.weights.flat[...] = np.where(learner.weights.flat < 0, -3e38, 3e38)
    broken, moments = learner.weights.flat.copy(), learner.optimizer_state.moments.copy()

    (update,) = feed(learner, stream[20])

    assert update.refused
    assert not np.isfinite(update.loss)
    assert (learner.counts.refused, learner.counts.learned) == (1, learned)
    np.testing.assert_array_equal(learner.weights.flat, broken)
    np.testing.assert_array_equal(learner.optimizer_state.moments, moments)

    learner.roll_back(good)
    later = [update for chunk in stream[21:] for update in feed(learner, chunk)]
    assert not any(update.refused for update in later)
    assert len(later) == 39


def test_evicted_contexts_are_counted_with_the_labels_that_they_waited_for() -> None:
    learner, ticks = Learner(spec(horizon=2), max_contexts=GROUP_ROWS), chunks([1] * 150, entities=40)
    used, waiting = dict[int, int](), 0  # ticks of a stream since it was last empty, least recently used first
    for chunk in ticks:
        feed(learner, chunk)
        stream = int(chunk.streams[0])
        if stream not in used and len(used) == GROUP_ROWS:
            waiting += min(used.pop(next(iter(used))), 2)
        used[stream] = used.pop(stream, 0) + 1

    assert learner.contexts.order() == list(used)
    assert learner.contexts.evicted > 10
    assert learner.counts.voided == waiting


def test_a_rollback_restores_the_weights_and_resets_the_optimizer() -> None:
    learner, stream = Learner(spec()), one_stream(50)
    for chunk in stream[:20]:
        feed(learner, chunk)
    anchor = learner.weights.flat.copy()
    for chunk in stream[20:40]:
        feed(learner, chunk)
    learner.roll_back(anchor)

    np.testing.assert_array_equal(learner.weights.flat, anchor)
    assert learner.optimizer_state.step == 0
    assert not learner.optimizer_state.moments.any()
    feed(learner, stream[40])
    assert (learner.weights.flat != anchor).any()
    assert anchor is not learner.weights.flat


def test_scoring_an_anchor_changes_nothing_but_the_score() -> None:
    stream = chunks([4] * 40)
    alone, watched = Learner(spec(head_init=0.1)), Learner(spec(head_init=0.1))
    watched.anchor = watched.weights.flat.copy()
    kept = watched.anchor.copy()
    for k, chunk in enumerate(stream):
        expected = feed(alone, chunk)
        got = watched.ticks(*chunk, score_anchor=True)
        assert [u.score for u in got] == [u.score for u in expected]
        if got and alone.counts.updates == len(got):  # in the first update the candidate is still the anchor
            assert got[0].anchor_score == got[0].score
        assert all(np.isfinite(u.anchor_score) for u in got), k
    assert digest(alone) == digest(watched)
    np.testing.assert_array_equal(watched.anchor, kept)
