"""A model in the trainer is a fold over its chunks: interrupted anywhere, it goes on to the same bits."""

import hashlib
import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from model.fold import shares
from model.spec import ModelSpec
from model.update.optimizers import OPTIMIZERS
from service.common.gate import Gate
from service.journal.records import Chunk, Promote, Record, Rollback, Ticks
from service.storage.database import DatabaseRefused
from service.trainer import checkpoint
from service.trainer.checkpoint import CheckpointCorrupt, CheckpointInUse, Checkpoints
from service.trainer.hosting import HostedModel, OutOfOrder, WeightsGone
from tests.model import worlds
from tests.service.histories import (
    GATE,
    MODEL,
    chunks,
    create,
    digest,
    fold,
    history,
    promote,
    rollback,
    swap,
    weights_of,
)


def through_a_file(path: Path, hosted: HostedModel, position: int = 1) -> HostedModel:
    """Saved, forgotten, loaded."""
    store = Checkpoints(path)
    store.save(position, [hosted])
    store.close()
    store = Checkpoints(path)
    loaded_position, models = store.load(GATE)
    store.close()
    assert loaded_position == position
    return models[hosted.number]


# ---- the fold


def test_the_history_meets_every_branch_of_the_gate():
    seen = {"contender": 0, "anchored": 0, "rolled back": 0, "promoted": 0, "scored": 0}
    hosted = fold(history()[:1])
    for chunk in history()[1:]:
        scored = hosted.gate.wealth
        fold([chunk], hosted)
        seen["contender"] += hosted.contender_weights is not None
        seen["scored"] += scored != hosted.gate.wealth
        seen["rolled back"] += any(isinstance(r, Rollback) for r in chunk.records)
        seen["promoted"] += any(isinstance(r, Promote) for r in chunk.records)
    seen["anchored"] = len(hosted.anchored) - seen["rolled back"] - seen["promoted"]  # of which it is told too

    assert all(seen.values()), seen
    assert hosted.learner.counts.thinned
    assert hosted.learner.counts.voided


@pytest.mark.parametrize(("seed", "every"), [(0, 7), *(pytest.param(s, 2, marks=pytest.mark.long) for s in range(2))])
def test_a_fold_interrupted_at_any_chunk_goes_on_from_its_checkpoint_to_the_same_bits(tmp_path, seed, every):
    whole = history(seed)
    expected = digest(fold(whole))

    for at in range(1 + seed, len(whole), every):  # the even ones of one history, the odd ones of another
        loaded = through_a_file(tmp_path / f"{at}.db", fold(whole[:at]))
        assert digest(fold(whole[at:], loaded)) == expected, f"continued after chunk {at}"


@pytest.mark.parametrize(("optimizer", "groups"), [*((name, 1) for name in sorted(OPTIMIZERS)), ("adam", 5)])
def test_a_model_of_any_optimizer_goes_on_from_its_checkpoint_to_the_same_bits(tmp_path, optimizer, groups):
    fields = {"optimizer": optimizer, "accumulate": groups, "schedule": "cosine", "warmup": 3, "freeze": ["cell0"]}
    spec = worlds.spec(hidden=4, **fields)
    ticks = [[Ticks(*chunk)] for chunk in worlds.chunks([7] * 12)]
    whole = chunks([create(spec)], *ticks)

    loaded = through_a_file(tmp_path / "trainer.db", fold(whole[:8]))

    assert loaded.learner.optimizer_state.step > 0
    assert bool(loaded.learner.accumulation.added) == (groups > 1)
    assert digest(fold(whole[8:], loaded)) == digest(fold(whole))


def test_a_fold_that_is_saved_every_few_chunks_into_one_file_writes_what_changed_and_loses_nothing(tmp_path):
    whole = history()
    store = Checkpoints(tmp_path / "trainer.db")
    hosted = None
    for at in range(0, len(whole), 3):
        hosted = fold(whole[at : at + 3], hosted)
        store.save(at, [hosted])
    position, models = store.load(GATE)
    store.close()

    assert (position, digest(models[MODEL])) == (39, digest(fold(whole)))


def test_a_checkpoint_without_one_changed_context_would_not_pass(tmp_path, monkeypatch):
    """A mutant: forget one changed context per save."""
    whole = history()
    changes = HostedModel.create(MODEL, create(), GATE).learner.contexts.__class__.changes

    def forgetful(contexts):
        changed, removed = changes(contexts)
        return dict(list(changed.items())[1:]) if len(changed) > 3 else changed, removed

    store = Checkpoints(tmp_path / "trainer.db")
    store.save(0, [hosted := fold(whole[:10])])
    monkeypatch.setattr(type(hosted.learner.contexts), "changes", forgetful)
    store.save(1, [fold(whole[10:16], hosted)])
    monkeypatch.undo()
    _, models = store.load(GATE)
    store.close()

    assert digest(fold(whole[16:], models[MODEL])) != digest(fold(whole))


@pytest.mark.parametrize("at", [0, 4, 17, 39])
def test_a_chunk_that_is_fed_twice_is_passed_over(at):
    whole = history()
    hosted = fold(whole[: at + 1])
    before = digest(hosted)

    assert hosted.apply(whole[at], weights_of) == []

    assert digest(hosted) == before


@pytest.mark.parametrize("missing", [1, 8, 30])
def test_a_gap_between_chunks_is_refused_and_changes_nothing(missing):
    whole = history()
    hosted = fold(whole[:missing])
    before, chunk = digest(hosted), whole[missing + 1]

    with pytest.raises(OutOfOrder, match=f"chunk begins at {chunk.offset}, expected {hosted.offset}"):
        hosted.apply(chunk, weights_of)

    assert digest(hosted) == before


@pytest.mark.parametrize("paused", [False, True])
def test_what_was_beyond_the_range_is_in_the_quarantine_with_its_place_unless_learning_is_off(paused):
    made = ModelSpec(channels=("x",), hidden=4, label_range=(-9.0, 9.0), learn=not paused)
    x = np.random.default_rng(5).normal(0, 1, (20, 1)).astype(np.float32)
    x[10] = 1e6
    seq = np.arange(1, 21, dtype=np.uint64)
    ticks = Ticks(np.full(20, 10, np.uint32), seq, np.full(20, np.nan), x)

    hosted = fold(chunks([create(made), swap(1), ticks]))

    items, _ = hosted.quarantine.changes()
    found = [(i.reason, i.stream, i.seq, i.offset, np.frombuffer(i.y, np.float32).tolist()) for i in items]
    assert found == ([] if paused else [("range", 10, 11, 2 + 10, [1e6])])
    assert json.loads(hosted.pack()[0])["quarantine"]["totals"] == ({} if paused else {"range": 1})


# ---- rollback, swap, anchor, pause


def test_a_rollback_restores_the_versions_weights_bit_for_bit_with_a_fresh_optimizer_and_a_cool_down():
    hosted = fold(history()[:12])
    assert hosted.learner.optimizer_state.step > 0

    fold(follow_on(hosted, [rollback(2)]), hosted)

    np.testing.assert_array_equal(hosted.learner.weights.flat, weights_of(MODEL, 2))
    np.testing.assert_array_equal(hosted.learner.anchor, weights_of(MODEL, 2))
    assert hosted.learner.optimizer_state.step == 0
    assert not hosted.learner.optimizer_state.moments.any()
    assert (hosted.version, hosted.gate.anchor, hosted.gate.cooling) == (2, 2, GATE.cool_down_labels)


def test_a_promotion_goes_on_from_the_versions_weights_without_a_cool_down_and_ends_one():
    hosted = fold(history()[:12])
    fold(follow_on(hosted, [rollback(2)]), hosted)
    assert hosted.gate.cooling

    fold(follow_on(hosted, [promote(9)]), hosted)

    np.testing.assert_array_equal(hosted.learner.weights.flat, weights_of(MODEL, 9))
    np.testing.assert_array_equal(hosted.learner.anchor, weights_of(MODEL, 9))
    assert hosted.learner.optimizer_state.step == 0
    assert not hosted.learner.optimizer_state.moments.any()
    assert (hosted.version, hosted.gate.anchor, hosted.gate.contender, hosted.gate.cooling) == (9, 9, 0, 0)


def test_a_model_that_is_created_with_weights_learns_from_them_and_not_from_the_seeds():
    first = history()[0]
    records = tuple(promote(1) if r == swap(1) else r for r in first.records)
    given = weights_of(MODEL, 9)

    hosted = HostedModel.create(MODEL, create(), GATE)
    hosted.apply(type(first)(MODEL, 0, 1, records[:-1]), lambda model, version: {1: given}[version])

    np.testing.assert_array_equal(hosted.learner.weights.flat, given)
    np.testing.assert_array_equal(hosted.learner.anchor, given)
    assert (hosted.version, hosted.gate.anchor, hosted.gate.contender) == (1, 1, 0)


def test_only_updates_since_it_began_again_are_told_of_the_line_that_goes_on():
    """A verdict on the promoted version must not count what was learned by another."""
    ticks = next(record for record in history()[20].records if isinstance(record, Ticks))
    hosted = fold(history()[:12])
    assert hosted.discarded is None

    [chunk] = follow_on(hosted, [ticks, promote(2)])
    updates = hosted.apply(chunk, weights_of)

    assert hosted.discarded == len(updates) > 0


def test_what_a_rollback_throws_away_is_not_held_against_what_follows_it():
    """Scores of the ticks before its record, also of those in the same chunk, count for the gate before it alone."""
    ticks = next(record for record in history()[20].records if isinstance(record, Ticks))
    hosted = fold(history()[:12])

    fold(follow_on(hosted, [ticks, rollback(2)]), hosted)

    assert hosted.gate.cooling == GATE.cool_down_labels
    assert hosted.gate.wealth == [1.0] * len(hosted.gate.wealth)


def test_learning_after_a_rollback_leaves_the_anchor_as_it_was():
    whole = history()
    at = next(n for n, chunk in enumerate(whole) if any(isinstance(r, Rollback) for r in chunk.records))
    version = next(r.version for r in whole[at].records if isinstance(r, Rollback))

    hosted = fold(whole[: at + 3])

    assert hosted.learner.weights.flat.tobytes() != weights_of(MODEL, version).tobytes()
    np.testing.assert_array_equal(hosted.learner.anchor, weights_of(MODEL, version))


def test_the_anchor_that_is_scored_is_the_contender_that_held():
    whole, hosted = history(), None
    for chunk in whole:
        hosted = fold([chunk], hosted)
        np.testing.assert_array_equal(hosted.learner.anchor, weights_of(MODEL, hosted.gate.anchor))
        if hosted.gate.contender:
            np.testing.assert_array_equal(hosted.contender_weights, weights_of(MODEL, hosted.gate.contender))
        else:
            assert hosted.contender_weights is None


def test_a_swap_does_not_touch_the_weights_that_learn():
    hosted = fold(history()[:6])
    before = hosted.learner.weights.flat.copy()

    fold(follow_on(hosted, [swap(9)]), hosted)

    np.testing.assert_array_equal(hosted.learner.weights.flat, before)
    assert hosted.version == 9


def test_the_first_version_is_the_anchor_whatever_its_number():
    """A creation that failed half-way has used number 1 up, for weights that may not even fit this model."""
    [first, *rest] = history()
    records = tuple(swap(2) if r == swap(1) else r for r in first.records)

    hosted = fold([type(first)(MODEL, 0, 1, records), *rest[:3]])

    assert (hosted.gate.anchor, hosted.gate.contender) == (2, 0)


def test_nothing_is_learned_between_pause_and_resume_and_the_inputs_are_kept():
    whole = history()
    hosted = fold(whole[:14])
    before = hosted.learner.weights.flat.copy()
    assert hosted.learner.paused

    paused = fold([whole[14]], hosted)

    np.testing.assert_array_equal(paused.learner.weights.flat, before)
    assert fold([whole[15]], paused).learner.weights.flat.tobytes() != before.tobytes()


def follow_on(hosted: HostedModel, records: list[Record]) -> list[Chunk]:
    """One chunk of these records that goes on where the model is."""
    [chunk] = chunks(records)
    return [Chunk(MODEL, hosted.offset, 1, chunk.records)]


# ---- checkpoints


def damage(path: Path, table: str, column: str, where: str) -> None:
    with sqlite3.connect(path) as sql:
        [(data,)] = sql.execute(f"SELECT {column} FROM {table} WHERE {where} LIMIT 1").fetchall()
        if isinstance(data, str):
            data = data.replace('"offset": ', '"offset": 1')
        else:
            data = data[:20] + bytes([data[20] ^ 1]) + data[21:]
        sql.execute(
            f"UPDATE {table} SET {column} = ? WHERE rowid IN (SELECT rowid FROM {table} WHERE {where} LIMIT 1)", (data,)
        )
    sql.close()


@pytest.mark.parametrize(
    ("table", "column", "where"),
    [
        ("blobs", "data", "name = 'weights'"),
        ("blobs", "data", "name = 'moments'"),
        ("blobs", "data", "name = 'anchor'"),
        ("contexts", "data", "stream > 0"),
        ("models", "head", "model > 0"),
    ],
    ids=["weights", "moments", "anchor", "a context", "the head"],
)
def test_a_checkpoint_with_one_flipped_bit_is_refused(tmp_path, table, column, where):
    path = tmp_path / "trainer.db"
    through_a_file(path, fold(history()[:8]))
    damage(path, table, column, where)
    store = Checkpoints(path)

    with pytest.raises(CheckpointCorrupt, match=rf"model {MODEL}: .* is not as it was saved"):
        store.load(GATE)

    store.close()


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    path, whole = tmp_path / "trainer.db", history()
    store = Checkpoints(path)
    store.save(5, [hosted := fold(whole[:5])])
    before = digest(hosted)
    monkeypatch.setattr(checkpoint, "machine_kind", lambda: 1 / 0)  # the last thing that a save asks for

    with pytest.raises(ZeroDivisionError):
        store.save(9, [fold(whole[5:9], hosted)])
    store.close()

    store = Checkpoints(path)
    position, models = store.load(GATE)
    store.close()
    assert (position, digest(models[MODEL])) == (5, before)


def test_a_new_checkpoint_file_holds_nothing_at_position_zero(tmp_path):
    store = Checkpoints(tmp_path / "trainer.db")

    assert store.load(GATE) == (0, {})

    store.close()


def test_a_second_trainer_on_the_same_file_is_refused_until_the_first_has_ended(tmp_path):
    """A trainer outlives its killed server for a moment; two writers would mix their contexts."""
    first = Checkpoints(tmp_path / "trainer.db")
    other = (
        "import sys; from service.trainer.checkpoint import Checkpoints, CheckpointInUse\n"
        "try: Checkpoints(sys.argv[1])\nexcept CheckpointInUse: sys.exit(7)"
    )
    command = [sys.executable, "-c", other, str(tmp_path / "trainer.db")]

    with pytest.raises(CheckpointInUse, match="another trainer has locked it"):
        Checkpoints(tmp_path / "trainer.db")
    assert subprocess.run(command, env={"PYTHONPATH": ":".join(sys.path)}, check=False).returncode == 7

    first.close()
    Checkpoints(tmp_path / "trainer.db").close()


def test_a_file_of_another_kind_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "trainer.db"
    path.write_bytes(b"not a database at all" * 100)

    with pytest.raises(DatabaseRefused, match="trainer"):
        Checkpoints(path)

    assert path.read_bytes() == b"not a database at all" * 100


def test_settings_of_the_gate_come_from_the_configuration_not_from_the_checkpoint(tmp_path):
    hosted = through_a_file(tmp_path / "trainer.db", fold(history()[:8]))

    assert isinstance(hosted.gate, Gate)
    assert hosted.gate.settings == GATE


def test_a_contender_that_is_gone_is_no_contender_and_the_weights_are_the_same():
    gone = {2, 3, 5, 6}

    def some(model: int, version: int) -> np.ndarray:
        if version in gone:
            raise WeightsGone(f"version {version}")
        return weights_of(model, version)

    whole = history(0)
    gone -= {r.version for c in whole for r in c.records if isinstance(r, Rollback | Promote)}
    hosted = fold(whole[:1])
    contenders = set()
    for chunk in whole[1:]:
        hosted.apply(chunk, some)
        contenders.add(hosted.gate.contender)
        assert (hosted.contender_weights is None) == (hosted.gate.contender == 0)

    expected = fold(whole)
    np.testing.assert_array_equal(hosted.learner.weights.flat, expected.learner.weights.flat)
    assert not contenders & gone


def test_a_rollback_to_a_version_that_is_gone_cannot_be_learned():
    hosted = fold(history()[:12])

    def none(model: int, version: int) -> np.ndarray:
        raise WeightsGone(f"version {version}")

    [chunk] = follow_on(hosted, [rollback(2)])
    with pytest.raises(WeightsGone, match="version 2"):
        hosted.apply(chunk, none)


def test_a_checkpoint_says_which_machine_saved_it_where_that_is_another(tmp_path, monkeypatch):
    store = Checkpoints(tmp_path / "trainer.db")
    assert store.made_elsewhere() == ""
    store.save(1, [fold(history()[:3])])
    assert store.made_elsewhere() == ""
    here = checkpoint.machine_kind()

    monkeypatch.setattr(checkpoint, "machine_kind", lambda: "another")

    assert store.made_elsewhere() == here
    store.close()


def test_the_machine_kind_names_the_lock_file_that_is_beside_the_package():
    lock = Path(checkpoint.__file__).parents[2] / "requirements.lock"

    assert checkpoint.machine_kind().endswith(f"lock {hashlib.sha256(lock.read_bytes()).hexdigest()}")


# ---- shares


def elsewhere(path: Path) -> bool:
    """Whether a restart in the middle of a history in which one stream is held back leads elsewhere."""
    spec = worlds.spec(hidden=4, max_share=0.3)
    whole = chunks([create(spec), swap(1)], *[[Ticks(*chunk)] for chunk in worlds.chunks([8] * 30, entities=2)])
    straight = fold(whole)
    assert straight.learner.counts.thinned
    return digest(fold(whole[20:], through_a_file(path, fold(whole[:20])))) != digest(straight)


def test_the_shares_of_streams_are_in_the_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(shares, "WINDOW", 40)
    assert not elsewhere(tmp_path / "a.db")

    monkeypatch.setattr(shares.Shares, "unpack", lambda data: shares.Shares())
    assert elsewhere(tmp_path / "b.db"), "a checkpoint without them would not be noticed"
