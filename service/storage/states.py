"""Snapshots of serving, from which recovery starts: it replays only the journal after `position` (R1).

A snapshot is one consistent moment: `save` writes the changes since the last one in one transaction, with the journal
position, and with the position where the journal ended once it held everything in the rows.
"""

from __future__ import annotations

import math
import operator
import os
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from service.storage.database import Database

FORMAT_VERSION = 105
SQLITE_INTEGER_MAX = 2**63 - 1
MOST_VARIABLES = 500  # in one statement

_SCHEMA = """
CREATE TABLE snapshot (
    id INTEGER PRIMARY KEY CHECK (id = 1), position INTEGER NOT NULL, journal_end INTEGER NOT NULL);
CREATE TABLE models (
    model INTEGER PRIMARY KEY, tenant TEXT NOT NULL, name TEXT NOT NULL, spec TEXT NOT NULL, "offset" INTEGER NOT NULL,
    champion INTEGER NOT NULL, anchor INTEGER NOT NULL, paused INTEGER NOT NULL, judged_offset INTEGER NOT NULL,
    last_stream INTEGER NOT NULL, sources TEXT NOT NULL, skips TEXT NOT NULL, checksum INTEGER NOT NULL);
CREATE TABLE streams (
    model INTEGER NOT NULL REFERENCES models ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED, stream INTEGER NOT NULL,
    id TEXT NOT NULL, epoch INTEGER NOT NULL, last_seq INTEGER NOT NULL, last_time REAL, origin INTEGER NOT NULL,
    judged INTEGER NOT NULL, last_offset INTEGER NOT NULL, answers_end INTEGER NOT NULL, state BLOB NOT NULL,
    checksum INTEGER NOT NULL, PRIMARY KEY (model, stream)) WITHOUT ROWID;
CREATE UNIQUE INDEX stream_ids ON streams (model, id);
CREATE TABLE answers (
    model INTEGER NOT NULL REFERENCES models ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED, first INTEGER NOT NULL,
    "end" INTEGER NOT NULL, data BLOB NOT NULL, checksum INTEGER NOT NULL, PRIMARY KEY (model, first))
"""


class StatesCorrupt(RuntimeError):
    """A stored row is not the one that was saved. The text names file, row and remedy."""


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model at the snapshot's position. offset: its journal entries so far. champion, anchor: version numbers."""

    model: int
    tenant: str
    name: str
    spec: str
    offset: int
    champion: int
    anchor: int
    paused: bool
    judged_offset: int
    last_stream: int  # the highest stream number ever used
    sources: str = "{}"  # the last window of each source, as JSON
    skips: str = "[]"  # ranges of entries that are not learned, as JSON


@dataclass(frozen=True, slots=True)
class StreamRow:
    """One stream at the snapshot's position. Integers are at most 2**63 - 1; a NaN is read back as the standard NaN."""

    model: int
    stream: int
    id: str
    epoch: int
    last_seq: int
    last_time: float  # seconds since 1970-01-01 UTC; NaN: none
    origin: int  # Welcome.StateOrigin
    judged: int  # labels up to this seq have a verdict
    last_offset: int  # the model's journal offset just after the last tick
    answers_end: int  # position in the model's log just after the stream's newest answer; 0: none
    state: bytes  # float32 row, little-endian; empty: the stored row is damaged


@dataclass(frozen=True, slots=True)
class AnswerBlock:
    """Answers of a model at positions first .. end - 1 of its log, as the log packs them."""

    model: int
    first: int
    end: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The last snapshot without its streams, which are read when they are needed."""

    position: int  # of the journal; 0 with no models: nothing was saved yet
    models: tuple[ModelRow, ...]
    answers: tuple[AnswerBlock, ...]  # in the order of their positions
    streams: dict[int, int]  # number of streams, by model
    journal_end: int = 0  # of the journal when it held everything in the rows


class States:
    """The snapshot file. Any thread may call; calls are serialized, but reading streams does not wait for a `save`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open or create it. Raises DatabaseRefused for a file that is something else."""
        self._database = Database(path, FORMAT_VERSION, _SCHEMA)
        # A connection of its own: SQLite's WAL lets it read while the other one writes.
        self._reader = sqlite3.connect(
            f"{self._database.path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False
        )
        self._reading = threading.Lock()

    def save(
        self,
        position: int,
        models: Iterable[ModelRow],
        streams: Iterable[StreamRow],
        deleted: Iterable[tuple[int, int]] = (),
        journal_end: int = 0,
        answers: Iterable[AnswerBlock] = (),
        answers_start: Mapping[int, int] | None = None,
        gone: Iterable[int] = (),
        rewritten: Iterable[int] = (),
    ) -> None:
        """Write a snapshot at `position` in one transaction, durable on return.

        models, streams: those that changed. gone: numbers of models to remove, with their streams. deleted: (model,
        stream) of streams to remove; new streams may have their ids. journal_end: end of the journal that holds all of
        it; 0: `position`. answers: those since the last snapshot. answers_start: by model, the oldest position of its
        kept answers. rewritten: models whose stored answers are replaced by `answers`.
        Raises ValueError for an older position or an integer above 2**63 - 1; sqlite3.Error: nothing has changed then.
        """
        model_rows = [_to_sql(row) for row in models]
        with self._database.transaction() as sql:
            stored = sql.execute("SELECT position FROM snapshot").fetchone()
            if stored and position < stored[0]:
                raise ValueError(f"position {position} is older than the snapshot's, {stored[0]}")
            sql.executemany("DELETE FROM models WHERE model = ?", [(model,) for model in gone])
            sql.executemany(_upsert("models", ModelRow, "model"), model_rows)
            sql.executemany("DELETE FROM streams WHERE model = ? AND stream = ?", deleted)
            # One by one: the rows of 100,000 streams would take several times the memory of the streams themselves.
            sql.executemany(_upsert("streams", StreamRow, "model, stream"), map(_to_sql, streams))
            sql.executemany("DELETE FROM answers WHERE model = ?", [(model,) for model in rewritten])
            blocks = [_to_sql(block) for block in answers if block.end > block.first]
            sql.executemany("INSERT INTO answers VALUES (?, ?, ?, ?, ?)", blocks)
            for model, start in (answers_start or {}).items():
                sql.execute('DELETE FROM answers WHERE model = ? AND "end" <= ?', (model, start))
            sql.execute("INSERT OR REPLACE INTO snapshot VALUES (1, ?, ?)", (position, max(position, journal_end)))

    def load(self) -> Snapshot:
        """Return the last snapshot. Raises StatesCorrupt for a row that fails its checksum."""
        with self._database.transaction() as sql:
            stored = sql.execute("SELECT position, journal_end FROM snapshot").fetchone()
            rows = sql.execute(_select("models", ModelRow)).fetchall()
            blocks = sql.execute(f"{_select('answers', AnswerBlock)} ORDER BY model, first").fetchall()
            counts = dict(sql.execute("SELECT model, count(*) FROM streams GROUP BY model").fetchall())
        models = tuple(_model(*self._checked("model", row)) for row in rows)
        answers = tuple(AnswerBlock(*self._checked("answers", row)) for row in blocks)
        position, end = stored or (0, 0)
        return Snapshot(position, models, answers, counts, end)

    def by_id(self, model: int, ids: Sequence[str]) -> list[StreamRow]:
        """Return the stored streams among these; one whose row is damaged has an empty state."""
        return self._where(model, "id", ids)

    def by_number(self, model: int, numbers: Sequence[int]) -> list[StreamRow]:
        """Return the stored streams among these; one whose row is damaged has an empty state."""
        return self._where(model, "stream", numbers)

    def page(self, model: int, after: str, limit: int) -> list[StreamRow]:
        """Return at most `limit` streams in the order of their ids' bytes, after the id `after`, as `by_id`."""
        return self._read("id > ? ORDER BY id LIMIT ?", (model, after, limit))

    def _where(self, model: int, column: str, values: Sequence[object]) -> list[StreamRow]:
        rows: list[StreamRow] = []
        for at in range(0, len(values), MOST_VARIABLES):
            part = values[at : at + MOST_VARIABLES]
            rows += self._read(f"{column} IN ({', '.join('?' * len(part))})", (model, *part))
        return rows

    def _read(self, condition: str, values: tuple[object, ...]) -> list[StreamRow]:
        with self._reading:
            rows = self._reader.execute(
                f"{_select('streams', StreamRow)} WHERE model = ? AND {condition}", values
            ).fetchall()
        return [_stream(*row[:-1]) if _checksum(row[:-1]) == row[-1] else _damaged(*row[:-1]) for row in rows]

    def set_position(self, position: int) -> None:
        """Let recovery start at `position` of a journal that holds nothing before it; the rows stay as saved.

        Entries after each model's `offset` in the former journal are given up.
        """
        with self._database.transaction() as sql:
            sql.execute("UPDATE snapshot SET position = ?, journal_end = ?", (position, position))

    def compact(self) -> None:
        """Rewrite the file, so that nothing deleted is left in it. Raises as `Database.compact`."""
        self._database.compact(self._reading)

    def close(self) -> None:
        """Close the file."""
        self._reader.close()
        self._database.close()

    def _checked(self, what: str, row: tuple[Any, ...]) -> tuple[Any, ...]:
        if _checksum(row[:-1]) != row[-1]:
            raise StatesCorrupt(
                f"{self._database.path}: {what} {row[:3]} is not as it was saved. Restore the file from a copy, or "
                "remove it to rebuild it from the journal"
            )
        return row[:-1]


def _model(*values: Any) -> ModelRow:
    row = ModelRow(*values)
    return replace(row, paused=bool(row.paused))  # SQLite stores 0 or 1


def _stream(
    model: int, stream: int, id: str, epoch: int, last_seq: int, last_time: float | None, *rest: Any
) -> StreamRow:
    return StreamRow(model, stream, id, epoch, last_seq, math.nan if last_time is None else last_time, *rest)


def _damaged(
    model: int, stream: int, id: str, epoch: object, last_seq: object, _time: object, origin: object, *_: object
) -> StreamRow:
    """Return a stream whose row is damaged: without state, and with its numbers if they are numbers."""
    numbers = (value if isinstance(value, int) and value >= 0 else 0 for value in (epoch, last_seq, origin))
    epoch, last_seq, origin = numbers
    return StreamRow(model, stream, id, epoch, last_seq, math.nan, origin, last_seq, 0, 0, b"")


def _to_sql(row: ModelRow | StreamRow | AnswerBlock) -> tuple[Any, ...]:
    values = []
    for field in fields(row):
        try:
            values.append(_SQL_VALUE[str(field.type)](getattr(row, field.name)))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{type(row).__name__}.{field.name}: {error}") from error
    return (*values, _checksum(tuple(values)))


def _integer(value: int) -> int:
    if not 0 <= value <= SQLITE_INTEGER_MAX:
        raise ValueError(f"{value} is not in 0..{SQLITE_INTEGER_MAX}")
    return operator.index(value)


def _real(value: float) -> float | None:
    return None if math.isnan(value) else float(value)  # SQLite has no NaN


# By annotation. Values are converted, also from NumPy scalars: SQLite must return what the checksum covers.
_SQL_VALUE: dict[str, Callable[[Any], object]] = {
    "int": _integer,
    "bool": int,
    "float": _real,
    "str": str,
    "bytes": bytes,
}


def _checksum(values: tuple[Any, ...]) -> int:
    """CRC-32 of a row's stored values: SQLite has no page checksums."""
    crc = 0
    for value in values:
        data = value if isinstance(value, bytes) else repr(value).encode()
        crc = zlib.crc32(data, zlib.crc32(b"%d:" % len(data), crc))
    return crc


def _columns(row: type[ModelRow] | type[StreamRow] | type[AnswerBlock]) -> str:
    return ", ".join(f'"{field.name}"' for field in fields(row)) + ", checksum"


def _select(table: str, row: type[ModelRow] | type[StreamRow] | type[AnswerBlock]) -> str:
    return f"SELECT {_columns(row)} FROM {table}"


def _upsert(table: str, row: type[ModelRow] | type[StreamRow], key: str) -> str:
    """Return an upsert. INSERT OR REPLACE would delete a model first, and its streams by cascade."""
    columns = _columns(row)
    updates = ", ".join(f"{column} = excluded.{column}" for column in columns.split(", "))
    marks = ", ".join("?" for _ in columns.split(", "))
    return f"INSERT INTO {table} ({columns}) VALUES ({marks}) ON CONFLICT ({key}) DO UPDATE SET {updates}"
