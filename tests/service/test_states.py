"""Snapshots of serving: what was saved is what loads, in one piece or not at all."""

import dataclasses
import math
import sqlite3
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.storage.database import DatabaseRefused
from service.storage.states import AnswerBlock, ModelRow, States, StatesCorrupt, StreamRow
from service.storage.versions import Versions

FLOW = ModelRow(1, "acme", "flow", '{"channels": ["x"]}', 40, 3, 2, False, 32, 9)
HEAT = ModelRow(2, "acme", "heat", "{}", 7, 1, 1, True, 7, 2500)


def stream(model: int, number: int, last_seq: int = 5, last_time: float = 1.5e9) -> StreamRow:
    state = np.arange(6, dtype=np.float32).tobytes()
    return StreamRow(model, number, f"pump-{number}", 1, last_seq, last_time, 2, 4, 40, 0, state)


@pytest.fixture
def states(tmp_path):
    states = States(tmp_path / "states.db")
    yield states
    states.close()


def loaded(states: States):
    snapshot = states.load()
    streams = [row for model in snapshot.models for row in states.by_number(model.model, range(3000))]
    assert snapshot.streams == Counter(row.model for row in streams)
    return snapshot.position, list(snapshot.models), streams


def test_a_new_file_holds_an_empty_snapshot_at_position_zero(states):
    assert loaded(states) == (0, [], [])


def test_a_snapshot_is_there_after_reopening(tmp_path):
    states = States(tmp_path / "states.db")
    states.save(1000, [FLOW, HEAT], [stream(1, 1), stream(2, 1)])
    states.close()

    reopened = States(tmp_path / "states.db")

    assert loaded(reopened) == (1000, [FLOW, HEAT], [stream(1, 1), stream(2, 1)])
    reopened.close()


def test_streams_that_did_not_change_need_not_be_saved_again(states):
    states.save(10, [FLOW], [stream(1, 1), stream(1, 2), stream(1, 3)])

    states.save(20, [dataclasses.replace(FLOW, offset=50)], [stream(1, 2, last_seq=9)], deleted=[(1, 3)])

    assert loaded(states) == (20, [dataclasses.replace(FLOW, offset=50)], [stream(1, 1), stream(1, 2, last_seq=9)])


def test_a_model_that_is_gone_takes_its_streams_with_it(states):
    states.save(10, [FLOW, HEAT], [stream(1, 1), stream(2, 1)])

    states.save(20, [HEAT], [], gone=[FLOW.model])

    assert loaded(states) == (20, [HEAT], [stream(2, 1)])


def test_no_event_time_comes_back_as_no_event_time(states):
    states.save(10, [FLOW], [stream(1, 1, last_time=math.nan)])

    assert math.isnan(loaded(states)[2][0].last_time)


def test_numpy_scalars_are_saved_as_numbers(states):
    numbers: list[Any] = [np.uint32(1), np.uint32(1), np.uint64(5), np.float64(3)]
    states.save(10, [FLOW], [stream(*numbers)])

    assert loaded(states)[2] == [stream(1, 1, 5, 3.0)]


def test_streams_are_found_by_id_and_by_number_however_many_are_asked_for(states):
    rows = [stream(1, number) for number in range(2500)]
    states.save(10, [FLOW, HEAT], [*reversed(rows), stream(2, 7)])

    asked = [row.id for row in rows[3:1703]]
    assert sorted(states.by_id(1, [*asked, "pump-unknown"]), key=lambda row: row.stream) == rows[3:1703]
    assert states.by_number(1, [7, 2500, 8]) == [rows[7], rows[8]]
    assert states.by_number(2, [7]) == [stream(2, 7)]
    assert states.by_id(1, []) == []


def test_pages_walk_over_all_streams_in_the_order_of_their_ids(states):
    rows = [stream(1, number) for number in range(25)]
    states.save(10, [FLOW, HEAT], [*rows, stream(2, 7)])

    seen, after = [], ""
    while page := states.page(1, after, 10):
        seen += page
        after = page[-1].id
    assert seen == sorted(rows, key=lambda row: row.id)


def test_the_id_of_a_deleted_stream_may_be_that_of_a_new_one(states):
    states.save(10, [FLOW], [stream(1, 1)])
    again = dataclasses.replace(stream(1, 2), id="pump-1")

    states.save(20, [FLOW], [again], deleted=[(1, 1)])

    assert loaded(states)[2] == [again]


def test_answers_are_added_block_by_block_and_go_when_they_are_no_longer_kept(states):
    blocks = [AnswerBlock(1, first, first + 10, b"%d" % first) for first in (0, 10, 20)]
    states.save(10, [FLOW, HEAT], [], answers=[blocks[0], AnswerBlock(2, 0, 0, b"")])
    states.save(20, [FLOW, HEAT], [], answers=blocks[1:], answers_start={1: 10})

    assert states.load().answers == tuple(blocks[1:])

    states.save(30, [HEAT], [], gone=[FLOW.model])
    assert states.load().answers == ()


def test_streams_are_read_while_a_snapshot_is_being_written(states):
    states.save(10, [FLOW], [stream(1, 1)])
    reading = []
    with states._database.transaction():  # a writer in the middle of its work
        thread = threading.Thread(target=lambda: reading.append(states.by_id(1, ["pump-1"])))
        thread.start()
        thread.join(60)

    assert reading == [[stream(1, 1)]]


def test_a_save_that_fails_changes_nothing(states):
    states.save(10, [FLOW], [stream(1, 1)])

    with pytest.raises(sqlite3.IntegrityError):
        states.save(20, [FLOW], [stream(1, 1, last_seq=6), stream(99, 1)])  # no model 99

    assert loaded(states) == (10, [FLOW], [stream(1, 1)])


def test_a_snapshot_never_goes_back(states):
    states.save(20, [FLOW], [])

    with pytest.raises(ValueError, match="position 10 is older than the snapshot's, 20"):
        states.save(10, [FLOW], [])


def test_a_number_that_sqlite_cannot_hold_is_refused_by_name(states):
    with pytest.raises(ValueError, match=r"StreamRow\.last_seq: 9223372036854775808"):
        states.save(10, [FLOW], [stream(1, 1, last_seq=2**63)])


def damaged(folder: Path, change: str) -> States:
    """The file with two streams, changed from outside."""
    states = States(folder / "states.db")
    states.save(10, [FLOW], [stream(1, 1), stream(1, 2)])
    states.close()
    with sqlite3.connect(folder / "states.db") as sql:
        sql.execute(change)
    sql.close()
    return States(folder / "states.db")


def test_a_changed_line_of_a_model_is_refused_when_loaded(tmp_path):
    states = damaged(tmp_path, "UPDATE models SET champion = 77")

    with pytest.raises(StatesCorrupt, match=r"is not as it was saved"):
        states.load()
    states.close()


@pytest.mark.parametrize("change", ["state = zeroblob(24)", "last_seq = 77", "last_seq = 'x'", "epoch = -1"])
def test_a_stream_whose_line_was_changed_has_no_state_and_the_others_are_as_they_were(tmp_path, change):
    states = damaged(tmp_path, f"UPDATE streams SET {change} WHERE stream = 1")

    changed, other = states.by_number(1, [1, 2])

    assert (changed.id, changed.state) == (stream(1, 1).id, b"")
    assert min(changed.last_seq, changed.epoch) >= 0
    assert other == stream(1, 2)
    assert states.by_id(1, [changed.id]) == [changed]
    states.close()


@pytest.mark.parametrize("content", [b"not a database, but long enough to be looked at " * 20, "stranger", "versions"])
def test_another_file_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "states.db"
    if content == "stranger":
        with sqlite3.connect(path) as sql:
            sql.execute("CREATE TABLE theirs (a)")
        sql.close()
    elif content == "versions":
        Versions(path).close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()

    with pytest.raises(DatabaseRefused, match=r"states\.db: .*use another data directory"):
        States(path)

    assert path.read_bytes() == before
