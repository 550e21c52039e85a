"""The log of answers finds what was appended, as long as it is kept."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.streams.answers import FIRST_SIZE, KEPT_ANSWERS, LONGEST_WALK, NONE, Answer, AnswerLog

CHANNELS, OUTPUTS = 2, 3


class Twin:
    """The plain twin: every answer in a list, and each stream's newest position, as the log's caller keeps it."""

    def __init__(self, log: AnswerLog) -> None:
        self.log = log
        self.given: list[tuple[int, Answer]] = []
        self.newest: dict[int, int] = {}

    def wave(self, streams: list[int], rng: np.random.Generator) -> None:
        """The next ticks of some distinct streams."""
        n, seqs = len(streams), [self.last(s) + 1 for s in streams]
        x, y = rng.normal(0, 1, (n, CHANNELS)).astype(np.float32), rng.normal(0, 1, (n, OUTPUTS)).astype(np.float32)
        previous = [self.newest.get(s, NONE) for s in streams]
        offsets = np.arange(len(self.given), len(self.given) + n) + 1
        columns: dict[str, Any] = {
            "stream": streams, "seq": seqs, "x": x, "y": y, "previous": previous, "offset": offsets,
            "judged": [0] * n, "time": [float(s) for s in seqs],
        }  # fmt: skip
        one = n == 1 and rng.random() < 0.5
        if one:
            columns = {name: column[0] for name, column in columns.items()}
        positions = self.log.add(version=7, **columns) if one else self.log.append(n, version=7, **columns)
        self.newest |= dict(zip(streams, np.atleast_1d(positions).tolist(), strict=True))
        self.given += [
            (s, Answer(seq, float(seq), x[i].tobytes(), y[i].tobytes(), 7, 0))
            for i, (s, seq) in enumerate(zip(streams, seqs, strict=True))
        ]

    def last(self, stream: int) -> int:
        return max((a.seq for s, a in self.given if s == stream), default=0)

    def kept(self, stream: int) -> list[Answer]:
        """Return what must be found of a stream: its answers among the log's last."""
        return [a for s, a in self.given[-self.log.capacity :] if s == stream]

    def agrees(self) -> None:
        for stream, newest in self.newest.items():
            kept = self.kept(stream)
            assert self.log.chain(newest) == kept
            found = [self.log.find(newest, seq) for seq in range(self.last(stream) + 2)]
            assert found == [next((a for a in kept if a.seq == seq), None) for seq in range(self.last(stream) + 2)]


waves = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=5, unique=True), max_size=300)


@given(waves, st.integers(0, 99))
def test_every_kept_answer_is_found_and_no_other(history: list[list[int]], seed: int) -> None:
    twin, rng = Twin(AnswerLog(CHANNELS, OUTPUTS, limit_bytes=1)), np.random.default_rng(seed)
    for streams in history:
        twin.wave(streams, rng)
    twin.agrees()


def test_it_grows_to_its_bound_and_then_loses_the_oldest() -> None:
    log = AnswerLog(CHANNELS, OUTPUTS, limit_bytes=2 * FIRST_SIZE * AnswerLog(CHANNELS, OUTPUTS).entry_bytes)
    twin, rng = Twin(log), np.random.default_rng(0)
    for _ in range(3 * FIRST_SIZE):
        twin.wave([1, 2, 3], rng)

    assert (log.capacity, log.end - log.start) == (2 * FIRST_SIZE, 2 * FIRST_SIZE)
    twin.agrees()


def test_however_wide_an_answer_is_so_many_are_kept_as_a_client_may_send_again() -> None:
    assert AnswerLog(4096, 8192).capacity == KEPT_ANSWERS


def test_a_lookup_does_not_walk_through_a_whole_log() -> None:
    twin, rng = Twin(AnswerLog(CHANNELS, OUTPUTS)), np.random.default_rng(0)
    for _ in range(LONGEST_WALK + 10):
        twin.wave([1], rng)

    assert twin.log.find(twin.newest[1], 11) is not None
    assert twin.log.find(twin.newest[1], 10) is None


@given(waves, waves, waves, st.integers(1, 2))
def test_a_log_put_together_from_its_saved_parts_is_the_log_that_was_saved(
    first: list[list[int]], second: list[list[int]], third: list[list[int]], blocks: int
) -> None:
    twin, rng = Twin(AnswerLog(CHANNELS, OUTPUTS, limit_bytes=1)), np.random.default_rng(1)
    saved, parts = 0, []
    for history in (first, second):
        for streams in history:
            twin.wave(streams, rng)
        parts.append(twin.log.pack(saved))
        saved = twin.log.end
    restored = AnswerLog(CHANNELS, OUTPUTS, limit_bytes=1)
    for position, data in parts if blocks == 2 else [twin.log.pack(0)]:
        restored.unpack(position, data)
    twin.log = restored
    twin.agrees()
    for streams in third:
        twin.wave(streams, rng)
    twin.agrees()


def test_parts_with_a_gap_between_them_or_of_another_width_are_refused() -> None:
    twin, rng = Twin(AnswerLog(CHANNELS, OUTPUTS)), np.random.default_rng(1)
    for _ in range(4):
        twin.wave([1], rng)
    first, data = twin.log.pack(0)
    log = AnswerLog(CHANNELS, OUTPUTS)
    log.unpack(first, data)

    with pytest.raises(ValueError, match="after 4"):
        log.unpack(5, data)
    with pytest.raises(ValueError, match="bytes"):
        log.unpack(4, data[:-1])


def test_what_is_judged_is_what_the_offset_reaches() -> None:
    twin, rng = Twin(AnswerLog(CHANNELS, OUTPUTS)), np.random.default_rng(1)
    for streams in ([1, 2], [1], [2, 3], [1]):  # offsets 1 2, 3, 4 5, 6
        twin.wave(streams, rng)

    end, streams_judged, seqs = twin.log.judged_part(1, 4)

    assert (end, streams_judged.tolist(), seqs.tolist()) == (4, [2, 1, 2], [1, 2, 2])
    assert [twin.log.judged_seq(twin.newest[s], 4) for s in (1, 2, 3)] == [2, 2, 0]


def test_the_last_ticks_of_a_stream_are_those_of_its_chain_up_to_the_first_gap() -> None:
    rng = np.random.default_rng(0)
    log = AnswerLog(3, 4, limit_bytes=1)
    newest, seqs = {1: -1, 2: -1}, {1: 0, 2: 0}
    for n in range(2 * KEPT_ANSWERS):
        stream = 1 + int(rng.integers(2))
        seqs[stream] += 1 if n != 300 else 5
        position = log.add(
            stream=stream, seq=seqs[stream], time=float(n), x=rng.normal(size=3).astype(np.float32),
            y=rng.normal(size=4).astype(np.float32), version=n // 100, judged=n // 2, offset=n + 1,
            previous=newest[stream],
        )  # fmt: skip
        assert isinstance(position, int)
        newest[stream] = position
    for stream in (1, 2):
        chain = log.chain(newest[stream])
        after = [i for i, (a, b) in enumerate(pairwise(chain), 1) if b.seq != a.seq + 1]
        whole = chain[after[-1] if after else 0 :]
        for most, since in ((1000, 0), (7, 0), (1000, seqs[stream] - 3), (1000, seqs[stream]), (0, 0)):
            expected = [a for a in whole[len(whole) - min(most, len(whole)) :] if a.seq > since]
            got = log.last(newest[stream], most, since)
            assert got.seq.tolist() == [a.seq for a in expected]
            assert got.x.tobytes() == b"".join(a.x for a in expected)
            assert got.y.tobytes() == b"".join(a.y for a in expected)
            assert got.version.tolist() == [a.version for a in expected]
            assert got.judged.tolist() == [a.judged_through for a in expected]
            some = log.last(newest[stream], most, since, np.array([2]), np.array([3, 0]))
            np.testing.assert_array_equal(some.x, got.x[:, [2]])
            np.testing.assert_array_equal(some.y, got.y[:, [3, 0]])
    assert any(b.seq != a.seq + 1 for s in (1, 2) for a, b in pairwise(log.chain(newest[s]))), "no case has a gap"
    assert len(log.last(-1, 10).seq) == 0
