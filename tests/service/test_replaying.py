"""What a quarantined item is learned from: the rows of the journal that led to it, found again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.common.errors import Invalid
from service.journal.records import Chunk, Label, Record, Reset, StatePut, StreamOpened, Ticks, Window, entries
from service.journal.sources import REPLAY
from service.learning.labels import RawWindow
from service.learning.replaying import MAX_REPLAYED, Replayer, find, gone
from service.trainer.quarantine import NO_STREAM, Item
from tests.service.one_process import key, world

X = np.arange(200, dtype=np.float32).reshape(100, 2)


def ticks(stream: int, first: int, last: int, beside: int = 0) -> Ticks:
    """Ticks first..last of a stream, each beside one of another stream if asked."""
    seqs = [seq for seq in range(first, last + 1) for _ in range(2 if beside else 1)]
    streams = [stream, beside] * (len(seqs) // 2) if beside else [stream] * len(seqs)
    rows = [X[seq % 100] * (1 if s == stream else -1) for s, seq in zip(streams, seqs, strict=True)]
    return Ticks(np.array(streams, np.uint32), np.array(seqs, np.uint64), np.full(len(seqs), np.nan), np.array(rows))


def chunked(*groups: list[Record]) -> list[Chunk]:
    made, offset = [], 0
    for records in groups:
        made.append(Chunk(1, offset, 1, tuple(records)))
        offset += sum(map(entries, records))
    return made


def late(seq: int, id: int = 1, stream: int = 7, y: float = 3.0) -> Item:
    return Item(id, 0, "late", stream, seq, np.array([y, -y], np.float32).tobytes(), "")


def seqs(window: Window) -> list[int]:
    """Numbers of the ticks in a window of stream 7, told from their values."""
    return [int(value) // 2 for value in window.x[:, 0]]


def test_a_label_is_learned_behind_the_last_ticks_that_led_to_it():
    chunks = chunked([ticks(7, 1, 10, beside=8)], [ticks(7, 11, 12), ticks(8, 11, 30)], [ticks(7, 13, 40)])

    window = find(chunks, [late(15)], longest=6)[1]

    assert (window.source, window.window_seq, window.initial_state) == (REPLAY, 1, None)
    assert seqs(window) == [10, 11, 12, 13, 14, 15]
    np.testing.assert_array_equal(window.y[:, 0], [0, 0, 0, 0, 0, 3])
    np.testing.assert_array_equal(window.weight, [[0, 0]] * 5 + [[1, 1]])


def test_ticks_before_a_reset_do_not_lead_to_a_label_behind_it():
    chunks = chunked([ticks(7, 1, 10), Reset(7), Reset(8), ticks(7, 11, 13), Reset(7), ticks(7, 14, 20)])

    assert seqs(find(chunks, [late(13)], 6)[1]) == [11, 12, 13]
    assert seqs(find(chunks, [late(10)], 6)[1]) == [5, 6, 7, 8, 9, 10]


def test_a_state_that_was_put_is_where_the_window_begins():
    state = np.arange(5, dtype=np.float32)
    put = StatePut(7, 10, np.nan, state)
    chunks = chunked([StreamOpened(7, "pump", 1), put, ticks(7, 11, 30)])

    begun = find(chunks, [late(13), late(16, 2), late(17, 3)], longest=6)

    np.testing.assert_array_equal(begun[1].initial_state, state)
    np.testing.assert_array_equal(begun[2].initial_state, state)
    assert begun[3].initial_state is None, "six ticks lead to it without the state"
    assert [seqs(window)[0] for window in begun.values()] == [11, 11, 12]


def test_a_journal_that_begins_later_gives_what_it_has_and_without_the_tick_itself_nothing():
    chunks = chunked([ticks(7, 12, 20)])

    found = find(chunks, [late(14), late(11, 2), late(21, 3), late(12, 4, stream=9)], longest=6)

    assert found.keys() == {1}
    assert seqs(found[1]) == [12, 13, 14]
    assert "no longer holds tick 11" in gone(late(11))


def test_a_window_is_found_by_its_entry_as_it_was_sent():
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(3, 3, 3, 2)).astype(np.float32)
    sent = [Window("mill", n, x, y, weight, None) for n, (x, y, weight) in enumerate(columns, 1)]
    chunks = chunked([ticks(7, 1, 5), sent[0], sent[1]], [Label(7, 3, X[0]), sent[2]])

    found = find(chunks, [Item(4, 6, "non-finite", NO_STREAM, 2, b"", "mill")], 6)

    assert found.keys() == {4}
    assert (found[4].source, found[4].window_seq) == (REPLAY, 4)
    for name in ("x", "y", "weight"):
        np.testing.assert_array_equal(getattr(found[4], name), getattr(sent[1], name))
    assert "send it again" in gone(Item(4, 99, "non-finite", NO_STREAM, 2, b"", "mill"))


@given(
    st.lists(st.one_of(st.integers(1, 6).map(lambda n: ("ticks", n)), st.just(("reset", 0))), min_size=1, max_size=12),
    st.integers(1, 9),
    st.data(),
)
def test_what_leads_to_a_label_is_what_a_plain_walk_finds(steps, longest, data):
    records: list[Record] = []
    walked: list[list[int]] = [[]]  # seqs since each reset
    last = 0
    for kind, n in steps:
        if kind == "reset":
            records.append(Reset(7))
            walked.append([])
        else:
            records.append(ticks(7, last + 1, last + n, beside=8))
            walked[-1] += range(last + 1, last + n + 1)
            last += n
    seq = data.draw(st.integers(1, last + 1))
    expected = next(([s for s in part if s <= seq][-longest:] for part in walked if seq in part), None)
    # Only since the tick that is `longest` back: a part of the stream may have begun before it.
    expected = expected and [s for s in expected if s > seq - longest]

    found = find(chunked(*([record] for record in records)), [late(seq)], longest)

    assert (seqs(found[1]) if found else None) == expected


# ---- windows of a source, through a crash


@pytest.mark.parametrize("snapshot", [False, True])
async def test_the_numbers_of_windows_survive_a_crash_and_nothing_else_of_them_is_forgotten(tmp_path, snapshot):
    def raw(seq: int) -> RawWindow:
        return RawWindow(seq, 20, X[:20, :1].tobytes(), X[:20, 1:].tobytes(), b"", b"")

    async with world(tmp_path / "data") as live:
        model, intake = await live.model(), live.server.intake
        for seq in (1, 2, 3):
            assert intake.window(model, "mill", raw(seq)) == live.server.journal.offset(model.number)
        if snapshot:
            await live.snapshot()
        intake.window(model, "mill", raw(4))
        intake.window(model, "saw", raw(1))
        await live.server.journal.flush()
        offset = live.server.journal.offset(model.number)

    async with world(tmp_path / "data") as again:
        model, intake = again.serving.catalog.model(key("flow")), again.server.intake
        assert model.sources.pack() == {"mill": 4, "saw": 1}
        assert intake.window(model, "mill", raw(4)) == offset, "on disk, and not journaled again"
        assert intake.window(model, "mill", raw(5)) == offset + 1


async def test_more_items_at_once_than_may_be_replayed_are_refused_before_anybody_is_asked(tmp_path):
    async with world(tmp_path) as service:
        server = service.server
        replayer = Replayer(server.intake, server.serving.residency, server.journal, server.trainers)

        with pytest.raises(Invalid, match=f"{MAX_REPLAYED + 1} ids: send at most {MAX_REPLAYED}"):
            await replayer.replay(await service.model(), range(1, MAX_REPLAYED + 2))
