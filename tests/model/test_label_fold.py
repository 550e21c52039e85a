"""Late labels as a fold (DESIGN R4, R13): deterministic, causal; each is learned once, thinned or rejected by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.answers.popart import FOLLOWED
from model.fold.histories import Histories, Rejected
from model.fold.keeping import width
from model.fold.learner import Learner, Update
from model.network import Network
from model.update.rounds import GROUP_ROWS
from tests.conftest import examples
from tests.model.labelled import Labels, label_spec, labels_of, world
from tests.model.worlds import Checkpoint, Chunk, Server, chunks, digest, feed

every_task = pytest.mark.parametrize("task", ["regress", "classify"])
HORIZON = 40  # label_horizon of label_spec


def take(learner: Learner, event: Chunk | Labels, **options: Any) -> list[Update]:
    """Feed one event. Asserts that all labels are accepted."""
    if isinstance(event, Chunk):
        return feed(learner, event)
    updates, rejected = learner.labels(*event, **options)
    assert not rejected
    return updates


def stream(n: int, entities: int = 1, seed: int = 0) -> tuple[list[Chunk], Labels]:
    """Return n ticks and the regression label of each."""
    made = chunks([1] * n, entities, seed)
    x = np.concatenate([c.x for c in made])
    y = labels_of(label_spec(), x, np.random.default_rng(seed))
    return made, Labels(np.concatenate([c.streams for c in made]), np.concatenate([c.seq for c in made]), y)


def at(labels: Labels, *places: int) -> Labels:
    return Labels._make(part[list(places)] for part in labels)


@every_task
@pytest.mark.parametrize("limit", [GROUP_ROWS, 100])
def test_the_same_events_give_the_same_bits_with_or_without_a_restart_after_each(task: str, limit: int) -> None:
    spec = label_spec(task, layers=2)
    straight, restarted, checkpoint = Learner(spec, limit), Learner(spec, limit), Checkpoint()
    for event in world(spec, [1, 40, 3, 1, 90, 9, 70, 2, 1, 33] * 2, entities=40):
        if isinstance(event, Chunk):
            feed(straight, event)
            feed(restarted, event)
        else:
            straight.labels(*event)
            restarted.labels(*event)
        checkpoint.save(restarted)
        restarted = checkpoint.load(spec, limit)
        assert digest(restarted) == digest(straight)
    assert straight.counts.updates > 10
    assert (straight.contexts.evicted > 5) == (straight.counts.rejected > 0) == (limit == GROUP_ROWS)


@every_task
def test_a_label_is_learned_from_ticks_up_to_its_own_and_no_later_ones(task: str) -> None:
    ticks, labels = stream(60)
    for n, place in ((60, 30), (30, 9), (9, 8), (1, 0)):
        told, retold = Learner(label_spec(task)), Learner(label_spec(task))
        rng = np.random.default_rng(1)
        for k, chunk in enumerate(ticks[:n]):
            feed(told, chunk)
            noise = chunk._replace(x=rng.normal(0, 1e3, (1, 2)).astype(np.float32))
            feed(retold, noise if k > place else chunk)
        for learner in (told, retold):
            take(learner, at(labels, place) if task == "regress" else at(labels, place)._replace(y=np.eye(2)[:1]))
        np.testing.assert_array_equal(told.weights.flat, retold.weights.flat)


def test_the_causality_check_detects_a_look_into_the_future(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks, labels = stream(60)
    first, second = Learner(label_spec()), Learner(label_spec())
    for k, chunk in enumerate(ticks):
        feed(first, chunk)
        feed(second, chunk._replace(x=chunk.x + np.float32(50 * (k == 31))))
    for learner in (first, second):
        assert isinstance(learner.contexts, Histories)
        windows = learner.contexts.windows
        monkeypatch.setattr(learner.contexts, "windows", lambda s, t, windows=windows: windows(s, t + 1))
        take(learner, at(labels, 28, 30))
    assert (first.weights.flat != second.weights.flat).any()


@examples(40)
@given(data=st.data(), n=st.integers(1, 90), window=st.integers(9, 21))
def test_each_label_is_learned_once_in_any_order_and_within_any_allowed_delay(data: Any, n: int, window: int) -> None:
    ticks, labels = stream(n)
    learner = Learner(label_spec(hidden=1, window=window))
    lateness = data.draw(st.lists(st.integers(0, HORIZON - 1), min_size=n, max_size=n))
    for now in range(n + HORIZON):
        if now < n:
            feed(learner, ticks[now])
        due = [i for i in range(n) if i + lateness[i] == now or (now == n - 1 and i + lateness[i] >= n)]
        due = data.draw(st.permutations(due)) if due else []
        if due and now < n:
            assert not learner.labels(*at(labels, *due))[1]
            assert not learner.labels(*at(labels, *due))[1]  # repeated labels are ignored
    counts = learner.counts
    assert (counts.learned, counts.offered, counts.duplicates, counts.rejected) == (n, n, n, 0)


@examples(30)
@given(n=st.integers(45, 120), window=st.integers(9, 21), seed=st.integers(0, 9))
def test_the_label_horizon_does_not_change_labels_that_arrive_in_time(n: int, window: int, seed: int) -> None:
    """A ring that is too short, or overwritten too early, holds other inputs than a long one."""
    ticks, labels = stream(n, seed=seed)
    short, long = (Learner(label_spec(window=window, label_horizon=h)) for h in (HORIZON, 500))
    rng = np.random.default_rng(seed)
    for k, chunk in enumerate(ticks):
        oldest = max(0, k + 1 - HORIZON)
        places = [oldest, k] if rng.random() < 0.5 and oldest < k else [oldest]
        for learner in (short, long):
            feed(learner, chunk)
            learner.labels(*at(labels, *places))
    np.testing.assert_array_equal(short.weights.flat, long.weights.flat)
    assert short.counts == long.counts


@examples(30)
@given(
    picks=st.lists(st.tuples(st.integers(1, 2), st.integers(1, 70), st.integers(0, 2)), min_size=1, max_size=60),
    data=st.data(),
)
def test_the_outcome_of_a_label_does_not_depend_on_the_labels_sent_with_it(picks: Any, data: Any) -> None:
    alone, together = Learner(label_spec(hidden=1)), Learner(label_spec(hidden=1))
    ticks, _ = stream(130, entities=2)
    for chunk in ticks:
        for learner in (alone, together):
            feed(learner, chunk)
    streams, seq, value = zip(*picks, strict=True)
    labels = Labels(np.array(streams, np.uint32) + np.uint32(9), np.array(seq, np.uint64),
                    np.array([(v, -v) for v in value], np.float32))  # fmt: skip
    cut = data.draw(st.integers(0, len(picks)))

    one_by_one = [learner_reasons(alone, at(labels, i)).get(0, "") for i in range(len(picks))]
    halves = [learner_reasons(together, at(labels, *part)) for part in (range(cut), range(cut, len(picks))) if part]

    reasons = [half.get(i, "") for half, size in zip(halves, sizes(cut, len(picks)), strict=True) for i in range(size)]
    assert reasons == one_by_one
    assert alone.counts.duplicates == together.counts.duplicates
    assert alone.counts.learned == together.counts.learned


def learner_reasons(learner: Learner, labels: Labels) -> dict[int, str]:
    return {r.index: r.reason for r in learner.labels(*labels)[1]}


def sizes(cut: int, n: int) -> list[int]:
    return [size for size in (cut, n - cut) if size]


def test_a_long_run_of_labels_is_learned_32_at_a_time_in_record_order() -> None:
    ticks, labels = stream(70)
    order = np.random.default_rng(0).permutation(np.arange(30, 70))
    whole, parts = Learner(label_spec()), Learner(label_spec())
    for chunk in ticks:
        feed(whole, chunk)
        feed(parts, chunk)
    updates = take(whole, at(labels, *order))
    expected = take(parts, at(labels, *order[:32])) + take(parts, at(labels, *order[32:]))
    assert [u.labels for u in updates] == [u.labels for u in expected] == [32, 8]
    np.testing.assert_array_equal(whole.weights.flat, parts.weights.flat)


def test_learning_from_a_label_does_not_change_the_history_of_its_stream() -> None:
    ticks, labels = stream(60)
    labelled, alone = Learner(label_spec(learning_rate=1e-30)), Learner(label_spec(learning_rate=1e-30))
    for k, chunk in enumerate(ticks):
        feed(labelled, chunk)
        feed(alone, chunk)
        take(labelled, at(labels, k // 2))
    for name in ("hidden", "inputs", "starts", "statistics"):
        np.testing.assert_array_equal(getattr(labelled.contexts, name)[0], getattr(alone.contexts, name)[0])


def test_sequence_numbers_may_start_anywhere_and_a_gap_in_them_makes_earlier_labels_late() -> None:
    for first in (1, 1000, 2**63 - 5, 2**64 - 40):
        learner = Learner(label_spec())
        ticks, labels = stream(30)
        shift = np.uint64(first - 1)
        for k, chunk in enumerate(ticks):
            feed(learner, chunk._replace(seq=chunk.seq + shift + np.uint64(3 * (k >= 20))))
        moved = labels._replace(seq=labels.seq + shift)
        _, rejected = learner.labels(*at(moved, 19, 18))
        assert rejected == [Rejected(0, "late"), Rejected(1, "late")]
        take(learner, at(moved, 29)._replace(seq=moved.seq[29:] + np.uint64(3)))
        assert learner.counts.learned == 1


def test_labels_of_evicted_streams_are_late() -> None:
    learner = Learner(label_spec(), max_contexts=GROUP_ROWS)
    for chunk in chunks([40], entities=40, once=True):
        feed(learner, chunk)
        y = np.zeros((40, 2), np.float32)
        _, rejected = learner.labels(chunk.streams, chunk.seq, y)
    assert rejected == [Rejected(i, "late") for i in range(8)]
    assert learner.contexts.evicted == 8


def test_a_label_keeps_its_stream_in_use() -> None:
    learner = Learner(label_spec(), max_contexts=GROUP_ROWS)
    ticks = chunks([GROUP_ROWS], entities=GROUP_ROWS, once=True)[0]
    feed(learner, ticks)
    oldest = int(ticks.streams[0])
    take(learner, Labels(ticks.streams[:1], ticks.seq[:1], np.zeros((1, 2), np.float32)))
    feed(learner, Chunk(np.array([999], np.uint32), np.ones(1, np.uint64), np.zeros(1), np.zeros((1, 2), np.float32)))
    assert oldest in learner.contexts.order()
    assert int(ticks.streams[1]) not in learner.contexts.order()


@pytest.mark.parametrize("off", ["paused", "learn = false"])
def test_labels_that_arrive_while_learning_is_off_are_counted_and_never_learned(off: str) -> None:
    ticks, labels = stream(30)
    learner = Learner(label_spec(learn=off == "paused"))
    learner.paused = off == "paused"
    for chunk in ticks:
        feed(learner, chunk)
    before = learner.weights.flat.copy()

    assert take(learner, at(labels, 20, 21)) == []

    learner.paused = False
    assert take(learner, at(labels, 20)) == []  # repeated, with learning on
    _, rejected = learner.labels(*at(labels, 21)._replace(y=labels.y[:1]))
    assert rejected == [Rejected(0, "conflict")]
    np.testing.assert_array_equal(learner.weights.flat, before)
    assert (learner.counts.unlearned, learner.counts.duplicates, learner.counts.offered) == (2, 1, 0)


@pytest.mark.parametrize("thin", [1, 2, 3, 7, 1024])
def test_thinning_learns_one_label_in_n_of_every_stream_for_any_interleaving(thin: int) -> None:
    learner, n = Learner(label_spec(hidden=1)), 2000
    due = learner._due(n, thin)
    assert abs(len(due) - n / thin) <= 1 + np.log2(n) * (thin > 1)
    for turns in (2, 3, 5, 8, 13, 21, 50):
        for turn in range(turns):
            share = int((due % turns == turn).sum())
            assert abs(share - n / turns / thin) <= 4 + 0.35 * n / turns / thin
    assert (learner.counts.offered, learner.counts.thinned) == (n, n - len(due))


def test_thinned_labels_are_counted_and_the_others_are_learned_as_without_thinning() -> None:
    ticks, labels = stream(60)
    whole, halves = Learner(label_spec()), Learner(label_spec())
    for k, chunk in enumerate(ticks):
        feed(whole, chunk)
        feed(halves, chunk)
        whole.labels(*at(labels, k), learn_every=2)
        if k % 10 == 9:
            halves.labels(*at(labels, *range(k - 9, k + 1)), learn_every=2)
    assert whole.counts.learned == halves.counts.learned > 25
    assert whole.counts.learned + whole.counts.thinned == whole.counts.offered == 60


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_label_that_is_not_finite_is_rejected_and_its_tick_may_still_be_labelled(value: float) -> None:
    ticks, labels = stream(20)
    learner = Learner(label_spec())
    for chunk in ticks:
        feed(learner, chunk)
    broken = at(labels, 5, 6)
    broken.y[0, 1] = value
    updates, rejected = learner.labels(*broken)
    assert ([u.labels for u in updates], rejected) == ([1], [Rejected(0, "non-finite")])
    take(learner, at(labels, 5))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@every_task
def test_a_refused_update_names_its_labels_and_leaves_the_weights_unchanged(task: str) -> None:
    learner = Learner(label_spec(task))
    events = world(learner.spec, [4] * 40)
    for event in events[:-2]:
        take(learner, event)
    learner.weights.flat[: learner.network.readout.stop - 9] *= np.float32(1e37)
    learner.weights.head["W"][...] = np.where(np.arange(learner.weights.head["W"].shape[1]) % 2, 3e38, -3e38)
    broken, learned = learner.weights.flat.copy(), learner.counts.learned
    labels = next(e for e in events[:-2] if isinstance(e, Labels))
    feed(learner, next(c for c in reversed(events) if isinstance(c, Chunk)))
    contexts = learner.contexts
    assert isinstance(contexts, Histories)
    slot = contexts.slots([int(labels.streams[0])])[0]
    seq = int(contexts.last_seq[slot])
    contexts.digests[slot] = 0

    updates, rejected = learner.labels(labels.streams[:1], np.array([seq], np.uint64), labels.y[:1])

    assert updates[0].refused
    assert rejected == [Rejected(0, "non-finite")]
    np.testing.assert_array_equal(learner.weights.flat, broken)
    assert (learner.counts.refused, learner.counts.learned, learner.counts.rejected) == (1, learned, 1)


@every_task
def test_scoring_an_anchor_changes_nothing_but_the_score(task: str) -> None:
    spec = label_spec(task, head_init=0.1)
    alone, watched = Learner(spec), Learner(spec)
    watched.anchor = watched.weights.flat.copy()
    for event in world(spec, [8] * 30):
        take(alone, event)
        updates = take(watched, event, score_anchor=True)
        assert all(0 <= u.anchor_score <= 1 and 0 <= u.score <= 1 for u in updates)
    assert digest(alone) == digest(watched)


@every_task
def test_an_anchor_equal_to_the_candidate_has_the_same_score_although_their_units_differ(task: str) -> None:
    spec = label_spec(task, head_init=0.1)
    learner = Learner(spec)
    events = world(spec, [20] * 60)
    for event in events:
        take(learner, event)
    assert learner.counts.learned > FOLLOWED
    learner.anchor = learner.weights.flat.copy()
    last = next(e for e in reversed(events) if isinstance(e, Chunk))
    assert isinstance(learner.contexts, Histories)
    learner.contexts.digests[...] = 0
    y = np.full((len(np.unique(last.streams)), 2), 60 if task == "regress" else 0.5, np.float32)
    streams = np.unique(last.streams)
    seq = np.array([last.seq[last.streams == s].max() for s in streams])

    (update,), _ = learner.labels(streams, seq, y, score_anchor=True)

    if task == "regress":
        target = learner.network.weights(learner.anchor).target
        assert (learner.weights.target["scale"] > 1.001 * target["scale"]).all()
    assert update.anchor_score == pytest.approx(update.score, rel=1e-4)  # answers are unchanged up to float32 rounding


def test_a_forecaster_takes_no_external_labels() -> None:
    learner = Learner(label_spec("forecast"))
    with pytest.raises(ValueError, match="task forecast takes no labels: they come from the stream"):
        learner.labels(np.zeros(1, np.uint32), np.ones(1, np.uint64), np.zeros((1, 2), np.float32))


@pytest.mark.parametrize("shape", [(1, 3), (1, 1), (2, 2), (1,)])
def test_labels_of_another_shape_are_refused_and_change_nothing(shape: tuple[int, ...]) -> None:
    ticks, labels = stream(20)
    learner = Learner(label_spec())
    for chunk in ticks:
        feed(learner, chunk)
    with pytest.raises(ValueError, match=r"labels have shape .*, expected \(1, 2\)"):
        learner.labels(labels.streams[:1], labels.seq[:1], np.zeros(shape, np.float32))
    take(learner, at(labels, 0))


def test_an_empty_call_makes_no_update() -> None:
    empty = Labels(np.zeros(0, np.uint32), np.zeros(0, np.uint64), np.zeros((0, 2), np.float32))
    assert Learner(label_spec()).labels(*empty) == ([], [])


def test_a_history_of_512_ticks_of_three_channels_takes_40_kb() -> None:
    """LSTM of 64, T = 16: 544 inputs of 9 numbers, 34 states of 128, 512 digests, and the serving state."""
    network = Network(label_spec(channels=["a", "b", "c"], hidden=64, interval=0.0, label_horizon=512))
    assert width(network) == 544 * 9 + 34 * 128 + 512 + 128 + network.scaler.size
    assert 4 * width(network) < 40_000


def learned_from(a: float, b: float) -> Learner:
    """Return a learner after labels a·(y + b), y of a few units."""
    learner = Learner(label_spec(learning_rate=5e-3))
    for event in world(learner.spec, [6] * 80):
        if isinstance(event, Labels):
            event = event._replace(y=(a * (event.y.astype(np.float64) * [1, 1000] + b)).astype(np.float32))
        take(learner, event)
    return learner


@pytest.mark.parametrize("a", [2.0**-20, 2.0**20])
def test_labels_scaled_by_a_power_of_two_give_the_same_bits(a: float) -> None:
    plain, moved = learned_from(1, 0), learned_from(a, 0)
    network = plain.network
    views, others = (network.layout.views(learner.weights.flat) for learner in (plain, moved))
    for name, value in views.items():
        unit = a if name in ("target.mean", "target.scale", "target.floor") else 1
        np.testing.assert_array_equal(others[name], np.float32(unit) * value, err_msg=name)


@pytest.mark.parametrize("a", [1e-6, pytest.param(1.0, marks=pytest.mark.long), 1e6])
@pytest.mark.parametrize("b", [pytest.param(0.0, marks=pytest.mark.long), 1e4])
def test_a_model_of_labels_a_times_y_plus_b_answers_a_times_the_answer_plus_b(a: float, b: float) -> None:
    plain, moved = learned_from(1, 0), learned_from(a, b)
    probe = chunks([4] * 20, once=True)

    y, z = (np.concatenate([server.forecasts(c) for c in probe]) for server in (Server(plain), Server(moved)))

    scale = plain.weights.target["scale"]
    assert (np.std(y, axis=0) > 0.2 * scale).all()
    # Labels are rounded differently, near 1e4 by 1e-3. Where a gradient is zero, as many are at the start, Adam makes a
    # full step of its rounding error. Measured 3e-3 and 6e-3, a percent of the spread of the answers.
    assert np.abs((z / a - b - y) / scale).max() < 2e-2
