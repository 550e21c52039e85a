"""Erasing, part by part: nothing of the deleted is left in a file, and what cannot be finished is tried again."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from service.journal.log import SegmentLog
from service.serving.erasure import EVERY_MODEL, _read, _write
from service.storage.database import Database, DatabaseBusy, read_only
from service.storage.directory import OWED_FILE
from service.streams.answers import AnswerLog

SECRET = b"jane doe's own value " * 40


def database(path: Path) -> Database:
    made = Database(path, 199, "CREATE TABLE kept (id INTEGER PRIMARY KEY, data BLOB)")
    with made.transaction() as sql:
        sql.executemany(
            "INSERT INTO kept VALUES (?, ?)", [(n, SECRET if n % 2 else b"other" * 100) for n in range(200)]
        )
    return made


def content(path: Path) -> bytes:
    return b"".join(p.read_bytes() for p in path.parent.glob(f"{path.name}*"))


def test_a_deleted_row_stays_in_the_file_until_it_is_compacted(tmp_path):
    path = tmp_path / "states.db"
    with closing(database(path)) as made:
        with made.transaction() as sql:
            sql.execute("DELETE FROM kept WHERE id % 2")
        assert SECRET[:20] in content(path), "or this test proves nothing"
        made.compact()
        assert SECRET[:20] not in content(path)
        with made.transaction() as sql:
            assert sql.execute("SELECT count(*) FROM kept").fetchone() == (100,)


def test_while_another_process_reads_the_file_it_says_so_and_may_be_repeated(tmp_path):
    path = tmp_path / "states.db"
    with closing(database(path)) as made, closing(read_only(path)) as reader:
        made._connection.execute("PRAGMA busy_timeout = 1")
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM kept").fetchone()
        with made.transaction() as sql:
            sql.execute("DELETE FROM kept WHERE id % 2")
        with pytest.raises(DatabaseBusy, match=r"states\.db: another process reads it"):
            made.compact()
        reader.execute("ROLLBACK")
        made.compact()
        assert SECRET[:20] not in content(path)


def test_a_compacted_file_keeps_its_format(tmp_path):
    path = tmp_path / "states.db"
    with closing(database(path)) as made:
        made.compact()
    with closing(Database(path, 199, "")) as again, again.transaction() as sql:
        assert sql.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with closing(sqlite3.connect(path)) as sql:
        assert sql.execute("PRAGMA user_version").fetchone() == (199,)


def test_the_answers_of_forgotten_streams_are_blank_and_those_of_others_are_found():
    log = AnswerLog(2, 1)
    newest = {1: -1, 2: -1}
    for seq in range(1, 301):
        for stream in newest:
            newest[stream] = log.add(
                stream=stream, version=1, seq=seq, judged=0, offset=2 * seq + stream, previous=newest[stream],
                time=float(seq), x=np.array([1e4 * stream + seq, 3e4 * stream + seq], np.float32),
                y=np.array([1e5 * stream + seq], np.float32),
            )  # fmt: skip
    theirs, others = log.chain(newest[1]), log.chain(newest[2])
    assert log.streams() == [1, 2]

    log.forget([1])

    _, packed = log.pack(0)
    assert not [a for a in theirs if a.x in packed or a.y in packed]
    assert log.chain(newest[2]) == others
    again = AnswerLog(2, 1)
    again.unpack(*log.pack(0))
    assert again.chain(newest[2]) == others


def test_a_new_segment_begins_where_the_last_ends_and_twice_is_once(tmp_path):
    with closing(SegmentLog(tmp_path, 1 << 20)) as log:
        assert log.begin_segment() == 0, "an empty segment is new already"
        end = log.write([b"one"])
        assert log.begin_segment() == log.begin_segment() == end
        log.write([b"two"])
        assert [payload for _, payload in log.read(0, 1 << 20)] == [b"one", b"two"]
        assert log.drop_before(end) == 1
    with closing(SegmentLog(tmp_path, 1 << 20)) as log:
        assert [payload for _, payload in log.read(end, 1 << 20)] == [b"two"]


def test_what_is_owed_is_a_private_file_without_ids_and_a_damaged_one_stands_for_every_model(tmp_path):
    path = tmp_path / OWED_FILE
    assert _read(path) == set()
    _write(path, [3, 7])
    assert json.loads(path.read_text()) == [3, 7]
    assert path.stat().st_mode & 0o777 == 0o600
    assert _read(path) == {3, 7}
    path.write_text("[3, ")
    assert _read(path) == {EVERY_MODEL}
    _write(path, [])
    assert not path.exists()
