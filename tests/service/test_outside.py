"""Labels and windows in the trainer's fold: learned once, or in the quarantine, whatever interrupts it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.network import Network
from service.journal.records import Chunk, Label, Paused, Record, Reset, Resumed, StatePut, Ticks, Window, entries
from service.journal.sources import REPLAY
from service.trainer import quarantine
from service.trainer.checkpoint import PAGE_BYTES, CheckpointCorrupt, Checkpoints
from service.trainer.hosting import HostedModel
from service.trainer.process import countable
from service.trainer.quarantine import KEPT, NO_STREAM, Item, Quarantine
from tests.model import worlds
from tests.service.histories import GATE, MODEL, chunks, create, digest, rollback, swap

HORIZON = 8
SPEC = worlds.spec(
    task="regress", targets=["q"], hidden=4, seed=3, head_init=0.3, learning_rate=0.003, label_horizon=HORIZON
)

STATE = Network(SPEC).state_size


def weights_of(model: int, version: int) -> Any:
    first = HostedModel.create(MODEL, create(SPEC), GATE).learner.weights.flat
    rng = np.random.default_rng(version)
    return first + rng.normal(0, 0.02 * (version > 1), first.shape).astype(np.float32)


def fold(history: list[Chunk], hosted: HostedModel | None = None) -> HostedModel:
    hosted = hosted or HostedModel.create(MODEL, create(SPEC), GATE)
    for chunk in history:
        hosted.apply(chunk, weights_of)
    return hosted


def label(stream: int, seq: int, y: float) -> Label:
    return Label(stream, seq, np.array([y], np.float32))


def window(source: str, seq: int, steps: int = 5, y: float | None = None) -> Window:
    rng = np.random.default_rng([len(source), seq])
    x, labels = rng.normal(size=(steps, 2)).astype(np.float32), rng.normal(size=(steps, 1)).astype(np.float32)
    return Window(source, seq, x, labels if y is None else np.full_like(labels, y), np.ones_like(labels), None)


def history(seed: int = 0) -> list[Chunk]:
    """Forty chunks: ticks of four streams, labels up to a little too late, some again, some another value, windows of
    two sources, some of them again; swaps, a rollback, a pause, resets, a state that was put, replays."""
    rng = np.random.default_rng(seed)
    last = dict.fromkeys(range(10, 14), 0)
    sent = {"left": 0, "right": 0}
    groups: list[list[Record]] = [[create(SPEC), swap(1)]]
    for part in worlds.chunks(rng.integers(2, 12, 40).tolist(), seed=seed):
        group: list[Record] = [Ticks(*part)]
        last |= {int(s): int(q) for s, q in zip(part.streams, part.seq, strict=True)}
        for _ in range(int(rng.integers(0, 6))):
            stream = int(rng.integers(10, 14))
            back = int(rng.integers(0, HORIZON + 2))
            if last[stream] > back:
                group.append(label(stream, last[stream] - back, float(rng.integers(0, 2))))
        for source in sent:
            if rng.random() < 0.3:
                again = rng.random() < 0.2
                sent[source] += not again
                group.append(window(source, max(1, sent[source])))
        rng.shuffle(group)
        groups.append(group)
    for at, version in ((4, 2), (9, 3), (21, 4), (30, 5)):
        groups[at].insert(0, swap(version))
    groups[17].append(rollback(2))
    groups[12].append(Paused())
    groups[14].insert(0, Resumed())
    groups[19].append(Reset(11))
    groups[25].append(StatePut(12, last[12], 1e9, np.zeros(STATE, np.float32)))
    for at in (20, 24, 33, 34):
        groups[at].append(window(REPLAY, int(rng.integers(1, 6))))
    return chunks(*groups, thinned=frozenset({5, 22}))


def rows(path: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(path) as sql:
        found = sql.execute("SELECT * FROM quarantine ORDER BY id").fetchall()
    sql.close()
    return found


def saved(path: Path, hosted: HostedModel) -> HostedModel:
    store = Checkpoints(path)
    store.save(1, [hosted])
    _, models = store.load(GATE)
    store.close()
    return models[hosted.number]


def test_the_history_meets_every_outcome():
    hosted = fold(history())
    counts = hosted.learner.counts

    assert {"late", "conflict"} <= set(hosted.quarantine.totals)
    assert min(counts.learned, counts.windows, counts.thinned, counts.unlearned, counts.duplicates) > 0
    assert len(hosted.quarantine) < sum(hosted.quarantine.totals.values()), "something was replayed"


@pytest.mark.parametrize("seed", range(3))
def test_every_label_and_window_is_learned_thinned_unlearned_a_duplicate_or_quarantined(seed):
    whole = history(seed)
    hosted = fold(whole)

    records = [record for chunk in whole for record in chunk.records]
    labels = sum(isinstance(r, Label) for r in records)
    windows = {(r.source, r.window_seq) for r in records if isinstance(r, Window) and r.source != REPLAY}
    replayed = sum(hosted.quarantine.totals.values()) - len(hosted.quarantine)
    counts = hosted.learner.counts
    learned_labels = counts.learned - 5 * counts.windows  # a window here has five
    assert (
        learned_labels
        + counts.windows
        + counts.thinned
        + counts.unlearned
        + counts.duplicates
        + sum(hosted.quarantine.totals.values())
        == labels + len(windows) + replayed
    )


@pytest.mark.parametrize(("seed", "every"), [(0, 7), *(pytest.param(s, 2, marks=pytest.mark.long) for s in range(2))])
def test_a_fold_interrupted_at_any_chunk_goes_on_to_the_same_weights_and_the_same_quarantine(tmp_path, seed, every):
    whole = history(seed)
    expected = digest(fold(whole))
    saved(tmp_path / "whole.db", fold(whole))

    for at in range(1 + seed, len(whole), every):
        path = tmp_path / f"{at}.db"
        hosted = saved(path, fold(whole[:at]))
        assert digest(fold(whole[at:], hosted)) == expected, f"continued after chunk {at}"
        saved(path, hosted)
        assert rows(path) == rows(tmp_path / "whole.db"), f"continued after chunk {at}"


def test_a_trainer_that_forgets_what_was_quarantined_since_its_checkpoint_would_be_noticed(tmp_path, monkeypatch):
    """A mutant: one item of each save is not written."""
    whole = history()
    saved(tmp_path / "whole.db", fold(whole))
    changes = Quarantine.changes

    def without_the_first(quarantine):
        added, gone = changes(quarantine)
        return added[1:], gone

    monkeypatch.setattr(Quarantine, "changes", without_the_first)

    saved(tmp_path / "mutant.db", fold(whole))

    assert rows(tmp_path / "mutant.db") != rows(tmp_path / "whole.db")


def test_labels_are_learned_in_runs_and_a_record_between_two_splits_them():
    """Labels next to each other in a chunk are one update; what comes between them is learned in its place."""
    ticks = Ticks(*worlds.chunks([40])[0])
    last = {int(s): int(q) for s, q in zip(ticks.stream, ticks.seq, strict=True)}
    some = [label(stream, seq - back, 1.0) for stream, seq in last.items() for back in range(3)]

    together = fold(chunks([create(SPEC), swap(1), ticks, *some]))
    apart = fold(chunks([create(SPEC), swap(1), ticks, *some[:5], swap(2), *some[5:]]))

    assert (together.learner.counts.updates, apart.learner.counts.updates) == (1, 2)
    assert together.learner.counts.learned == apart.learner.counts.learned == len(some)


def test_an_item_names_the_entry_that_it_is():
    whole = history()
    hosted = fold(whole)
    at = {}
    for chunk in whole:
        offset = chunk.offset
        for record in chunk.records:
            at[offset] = record
            offset += entries(record)

    added, _ = hosted.quarantine.changes()

    assert added
    for item in added:
        record = at[item.offset]
        if item.stream == NO_STREAM:
            assert isinstance(record, Window)
            assert (record.source, record.window_seq) == (item.source, item.seq)
        else:
            assert isinstance(record, Label)
            assert (record.stream, record.seq, record.y.tobytes()) == (item.stream, item.seq, item.y)


def test_a_window_that_was_learned_is_passed_over_when_its_number_comes_again():
    first = fold(chunks([create(SPEC), swap(1), window("left", 1), window("left", 2)]))
    before = first.learner.weights.flat.copy()
    offset = first.offset

    again = Chunk(MODEL, offset, 1, (window("left", 1), window("left", 2), window("left", 2)))
    first.apply(again, weights_of)

    np.testing.assert_array_equal(first.learner.weights.flat, before)
    assert (first.learner.counts.windows, first.offset) == (2, offset + 3)


def test_a_window_whose_update_is_refused_is_quarantined_and_learned_when_it_is_replayed():
    """Weights that are not finite refuse every update; after a rollback the same window can be learned."""
    hosted = fold(chunks([create(SPEC), swap(1)]))
    hosted.learner.weights.flat[:5] = np.nan
    hosted.apply(Chunk(MODEL, hosted.offset, 1, (window("left", 1),)), weights_of)
    (item,), _ = hosted.quarantine.changes()
    assert (item.id, item.reason, item.source, item.seq) == (1, "non-finite", "left", 1)

    replay = Window(REPLAY, 1, *window_rows(window("left", 1)))
    hosted.apply(Chunk(MODEL, hosted.offset, 1, (rollback(2), replay, replay)), weights_of)

    assert len(hosted.quarantine) == 0
    assert hosted.learner.counts.windows == 1
    assert hosted.quarantine.totals == {"non-finite": 1}


def window_rows(w: Window) -> tuple[Any, ...]:
    return w.x, w.y, w.weight, w.initial_state


# ---- the quarantine itself


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(quarantine, "KEPT", 5)
    return 5


def test_beyond_its_bound_the_oldest_items_are_dropped_and_counted(tmp_path, few):
    hosted = fold(chunks([create(SPEC), swap(1)]))
    for n in range(3):
        hosted.quarantine.add(n, "late", label(10, n + 1, 1.0))
    hosted = saved(tmp_path / "a.db", hosted)
    for n in range(3, 12):
        hosted.quarantine.add(n, "conflict", label(10, n + 1, 1.0))

    hosted = saved(tmp_path / "a.db", hosted)

    assert hosted.quarantine.ids == [8, 9, 10, 11, 12]
    assert (hosted.quarantine.dropped, hosted.quarantine.totals) == (7, {"late": 3, "conflict": 9})
    assert [row[1] for row in rows(tmp_path / "a.db")] == [8, 9, 10, 11, 12]
    assert KEPT == 10_000


def test_an_item_leaves_the_quarantine_once():
    hosted = fold(chunks([create(SPEC), swap(1)]))
    hosted.quarantine.add(3, "late", label(10, 1, 1.0))

    assert hosted.quarantine.release(1)
    assert not hosted.quarantine.release(1)
    assert not hosted.quarantine.release(2)
    assert hosted.quarantine.changes() == ([], set())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Checkpoints]:
    store = Checkpoints(tmp_path / "trainer.db")
    yield store
    store.close()


def test_pages_follow_ids_and_are_cut_where_values_are_large(store):
    hosted = fold(chunks([create(SPEC), swap(1)]))
    large = np.ones(PAGE_BYTES // 10, np.float32)  # a page holds two
    for n in range(5):
        hosted.quarantine.add(n, "late", Label(10, n + 1, large))
    hosted.quarantine.add(9, "non-finite", window("left", 3))
    store.save(1, [hosted])

    def page(after: int, limit: int = 100, ids: tuple[int, ...] = ()) -> list[int]:
        return [item.id for item in store.quarantined(MODEL, after, limit, ids)]

    assert [page(0), page(2), page(4), page(6)] == [[1, 2], [3, 4], [5, 6], []]
    assert page(0, limit=1) == [1]
    assert page(0, ids=(2, 6, 77)) == [2, 6]
    assert store.quarantined(MODEL + 1, 0, 100) == []
    assert store.quarantined(MODEL, 5, 100) == [Item(6, 9, "non-finite", NO_STREAM, 3, b"", "left")]


def test_an_item_with_one_changed_bit_is_refused(store, tmp_path):
    hosted = fold(chunks([create(SPEC), swap(1)]))
    hosted.quarantine.add(3, "late", label(10, 1, 1.0))
    store.save(1, [hosted])
    with sqlite3.connect(tmp_path / "trainer.db") as sql:
        sql.execute("UPDATE quarantine SET seq = 2")
    sql.close()

    with pytest.raises(CheckpointCorrupt, match=r"item 1 of the quarantine is not as it was saved"):
        store.quarantined(MODEL, 0, 10)


# ---- what makes a verdict due


@pytest.mark.parametrize(("task", "fresh"), [("forecast", 43), ("regress", 3), ("classify", 3)])
def test_ticks_make_a_verdict_due_where_they_carry_the_labels_and_labels_and_windows_everywhere(task, fresh):
    labels = label(10, 1, 1.0), label(10, 2, 1.0)
    records = Ticks(*worlds.chunks([40])[0]), *labels, window("left", 1), Reset(10)

    assert countable(task, Chunk(MODEL, 0, 1, records)) == (43, fresh)
