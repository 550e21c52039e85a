"""Chunks read ahead: each model's own in their order, each once, in bounded memory, whatever is sent when."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.journal.records import Chunk, ModelDelete, Ticks, chunk_head, encode_chunk
from service.learning import queues
from service.learning.queues import CheckpointLost, Queues
from tests.conftest import examples

Frames = list[tuple[int, bytes]]


class Journal:
    """Frames one behind the other, as `Journal.read` gives them."""

    def __init__(self) -> None:
        self.frames: Frames = []
        self.end = 0
        self.offsets: dict[int, int] = {}

    def add(self, model: int, ticks: int = 1, *, deleted: bool = False) -> tuple[int, bytes]:
        offset = self.offsets.get(model, 0)
        n = np.arange(1, ticks + 1)
        records = (Ticks(n.astype(np.uint32), n.astype(np.uint64), np.full(ticks, np.nan), np.ones((ticks, 1), "f4")),)
        payload = encode_chunk(Chunk(model, offset, 1, (ModelDelete(),) if deleted else records))
        self.end += 8 + len(payload)
        self.frames.append((self.end, payload))
        self.offsets[model] = offset + (1 if deleted else ticks)
        return self.frames[-1]

    def read(self, position: int, count: int) -> Frames:
        return [frame for frame in self.frames if frame[0] > position][:count]

    def begin_of(self, frame: tuple[int, bytes]) -> int:
        return frame[0] - 8 - len(frame[1])


def shrink(patch: pytest.MonkeyPatch) -> None:
    """Room for a few chunks of a model, and of all."""
    for name, value in (("MAX_BYTES", 3000), ("MAX_MODEL_BYTES", 1000), ("MIN_BYTES", 300)):
        patch.setattr(queues, name, value)


@pytest.fixture
def small(monkeypatch):
    shrink(monkeypatch)


@examples(200)
@given(seed=st.integers(0, 10**9), models=st.integers(1, 6))
def test_each_chunk_is_sent_once_in_its_models_order_and_resume_is_before_all_that_was_not_sent(seed, models):
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        rng, journal, made = random.Random(seed), Journal(), Queues(lambda model: model != 99)
        weights = [rng.random() ** 3 + 0.01 for _ in range(models)]
        sent: dict[int, bytes] = {}  # payloads by their ends, in the order of sending
        left, resumed = 150, 0
        while left or made.scanned < journal.end or made.reread_at() is not None or any(map(made.has, range(models))):
            if left and rng.random() < 0.6:
                journal.add(rng.choices(range(models), weights)[0] if rng.random() < 0.9 else 99, rng.randrange(1, 9))
                left -= 1
            if rng.random() < 0.5:
                made.scan(journal.read(made.scanned, rng.randrange(1, 8)))
            if rng.random() < 0.5 and (again := made.reread_at()) is not None:
                made.reread(journal.read(again, rng.randrange(1, 8)))
            if rng.random() < 0.5 and (ready := [model for model in range(models) if made.has(model)]):
                chunk = made.pop(rng.choice(ready))
                assert chunk.end not in sent
                sent[chunk.end] = chunk.payload
            assert made.size <= 3000 + models * 600
            unsent = [
                f for f in journal.frames if f[0] not in sent and f[0] <= made.scanned and chunk_head(f[1])[0] < 99
            ]
            assert resumed <= made.resume <= min(map(journal.begin_of, unsent), default=made.scanned)
            resumed = made.resume

        assert resumed == journal.end
    for model in range(models):
        mine = [frame for frame in journal.frames if chunk_head(frame[1])[0] == model]
        assert [frame for frame in sent.items() if chunk_head(frame[1])[0] == model] == mine


def test_a_backlog_that_does_not_fit_is_left_in_the_journal_and_holds_up_no_other_model(small):
    journal, made = Journal(), Queues(lambda model: True)
    for _ in range(100):
        journal.add(1, 8)
    light = journal.add(2)

    made.scan(journal.read(0, 1000))

    assert made.scanned == journal.end
    assert made.size < 1500
    assert made.pop(2).end == light[0]
    assert made.sent_to(2) == journal.end
    assert made.sent_to(1) == made.resume == 0


def test_what_was_cut_is_read_again_only_when_there_is_room_for_it(small):
    """Or reading would go on for ever: the next chunk of a queue that is half empty may not fit."""
    journal, made = Journal(), Queues(lambda model: True)
    journal.add(1, 8)
    journal.add(1, 30)
    made.scan(journal.read(0, 10))

    assert made.reread_at() is None
    made.pop(1)
    again = made.reread_at()
    assert again is not None
    assert made.reread(journal.read(again, 10)) == {1}
    assert made.pop(1).end == journal.end
    assert made.resume == journal.end


def test_what_the_checkpoint_holds_is_passed_over():
    journal, made = Journal(), Queues(lambda model: True)
    for _ in range(4):
        journal.add(1, 2)
        journal.add(2, 3)

    made.restart(0, {1: 4, 2: 12})
    found = made.scan(journal.read(0, 100))

    assert found == {1}
    assert [chunk_head(made.pop(1).payload)[1] for _ in range(2)] == [4, 6]
    assert not made.has(1)


def test_a_model_whose_first_records_are_behind_the_checkpoint_that_lacks_it_is_refused():
    journal = Journal()
    first = journal.add(5, 3)
    journal.add(5, 3)
    made = Queues(lambda model: True)

    made.restart(first[0], {})
    with pytest.raises(CheckpointLost, match="model 5"):
        made.scan(journal.read(first[0], 10))


def test_of_a_model_that_is_gone_only_its_end_is_sent(small):
    here = {1, 2}
    journal, made = Journal(), Queues(lambda model: model in here)
    for _ in range(20):
        journal.add(1, 8)
    journal.add(2)
    made.scan(journal.read(0, 100))

    here.discard(1)
    made.remove(1)
    journal.add(1, 2)
    end = journal.add(1, deleted=True)
    found = made.scan(journal.read(made.scanned, 100))

    assert found == {1}
    assert made.pop(1).end == end[0]
    assert made.reread_at() is None
    assert made.pop(2)
    assert (made.size, made.resume) == (0, journal.end)
