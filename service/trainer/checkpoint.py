"""trainer.db: weights, optimizer, contexts and the journal position that they contain, saved in one transaction.

DESIGN R5.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import itertools
import json
import os
import platform
import sqlite3
import zlib
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from model.fold.drift import Drift
from model.fold.errors import Errors
from model.network import Network
from model.spec import ModelSpec
from service.common.gate import Gate, GateSettings
from service.storage.database import Database, DatabaseCorrupt
from service.storage.disk import sync_directory
from service.trainer.hosting import (
    COUNTED,
    ERRORS,
    ERRORS_FROM,
    HostedModel,
    Standing,
    Totals,
    changed_rows,
    restore_errors,
)
from service.trainer.quarantine import Item

FORMAT_VERSION = 305

_SCHEMA = """
CREATE TABLE checkpoint (id INTEGER PRIMARY KEY CHECK (id = 1), position INTEGER NOT NULL, machine TEXT NOT NULL);
CREATE TABLE models (model INTEGER PRIMARY KEY, head TEXT NOT NULL, checksum INTEGER NOT NULL);
CREATE TABLE blobs (
    model INTEGER NOT NULL, name TEXT NOT NULL, data BLOB NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (model, name));
CREATE TABLE contexts (
    model INTEGER NOT NULL, stream INTEGER NOT NULL, data BLOB NOT NULL, checksum INTEGER NOT NULL,
    PRIMARY KEY (model, stream));
CREATE TABLE quarantine (
    model INTEGER NOT NULL, id INTEGER NOT NULL, "offset" INTEGER NOT NULL, reason TEXT NOT NULL,
    stream INTEGER NOT NULL, seq INTEGER NOT NULL, y BLOB NOT NULL, source TEXT NOT NULL, checksum INTEGER NOT NULL,
    PRIMARY KEY (model, id))
"""
TABLES = ("models", "blobs", "contexts", "quarantine")  # with rows by model
T = TypeVar("T")
PAGE_BYTES = 4 << 20  # of labels' values in one page of a quarantine


class CheckpointInUse(RuntimeError):
    """Another trainer has the file open."""


class CheckpointCorrupt(RuntimeError):
    """A stored value is not the one that was saved. The text names the file, the model and the value."""


def machine_kind() -> str:
    """Describe what bit-equal learning depends on: the processor, the versions of Python and NumPy, the lock file."""
    kind = f"{platform.machine()} python {platform.python_version()} numpy {metadata.version('numpy')}"
    return f"{kind} {_lock_file()}".rstrip()


@functools.cache
def _lock_file() -> str:
    """The sha256 of the requirements.lock beside the package; empty if there is none."""
    path = Path(__file__).parents[2] / "requirements.lock"
    return f"lock {hashlib.sha256(path.read_bytes()).hexdigest()}" if path.is_file() else ""


class Held(NamedTuple):
    """The models in a file, and its journal position: None before the first save."""

    position: int | None
    models: list[int]


class Stored(NamedTuple):
    """Facts of a stored model that are read without loading it."""

    standing: Standing
    heard: int  # its entries up to the last tick, label or window
    returning: bool  # it has asked for a rollback whose record has not come
    totals: Totals

    @classmethod
    def of(cls, head: str, settings: GateSettings) -> Stored:
        """Read them from the head that `HostedModel.pack` returned."""
        facts = json.loads(head)
        gate = Gate(settings, **facts["gate"])
        counts, quarantine = facts["counts"], facts["quarantine"]
        others = {"evicted": facts["evicted"], "quarantine_dropped": quarantine["dropped"]}
        counts = {name: counts[name] for name in COUNTED} | others
        # The ids in quarantine are a blob: the caller counts them.
        totals = Totals(facts["offset"], counts, quarantine["totals"], in_quarantine=0)
        standing = Standing(facts["version"], gate.anchor, gate.contender, facts["offset"])
        returning = gate.worse or Drift(**facts["drift"]).returning
        return cls(standing, facts.get("heard", facts["offset"]), returning, totals)


class Changes(Generic[T]):
    """Rows to remove and then to put, by key, of one save or of several."""

    def __init__(self) -> None:
        self.put: dict[int, T] = {}
        self.removed: set[int] = set()

    def note(self, put: Mapping[int, T], removed: Set[int]) -> None:
        """Add the changes since the last call."""
        for key in removed:
            self.put.pop(key, None)
        self.put.update(put)
        self.removed |= removed


class Checkpoints:
    """The trainer's one file. The trainer is its only writer."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open or create it. Raises CheckpointInUse; DatabaseRefused for a file that is something else."""
        self._lock = _lock(Path(path).with_suffix(".lock"))
        try:
            self._database = Database(path, FORMAT_VERSION, _SCHEMA)
        except BaseException:
            os.close(self._lock)
            raise
        # By model: changes of contexts and of the quarantine that a failed save left to the next.
        self._unwritten: dict[int, tuple[Changes[bytes], Changes[Item]]] = {}
        self._digests: dict[int, dict[str, str]] = {}  # by model in memory and name: sha256 of the stored blob

    def save(
        self, position: int, models: Iterable[HostedModel], gone: Iterable[int] = (), whole: Iterable[int] = ()
    ) -> None:
        """Store these models as they are after the journal's `position`, durable on return; all others stay as stored.

        models: those that changed since they were saved; only their blobs and contexts that differ from the stored
        ones are written. gone: numbers of models to remove. whole: numbers of models that replace stored ones, whose
        contexts are removed. Raises NoSpace: nothing is stored then, and the next `save` of a model also writes what
        this one would have.
        """
        packed = [(hosted.number, *self._pack(hosted)) for hosted in models]
        with self._database.transaction() as sql:
            for number in gone:
                for table in ("models", "blobs", "contexts", "quarantine"):
                    sql.execute(f"DELETE FROM {table} WHERE model = ?", (number,))
            sql.executemany("DELETE FROM contexts WHERE model = ?", [(number,) for number in whole])
            for number, head, blobs in packed:
                self._write(sql, number, head, blobs)
            sql.execute("INSERT OR REPLACE INTO checkpoint VALUES (1, ?, ?)", (position, machine_kind()))
        for number, _, blobs in packed:
            self._digests.setdefault(number, {}).update({name: digest for name, (_, digest) in blobs.items()})
            del self._unwritten[number]
        for number in gone:
            self.forget(number)

    def _pack(self, hosted: HostedModel) -> tuple[str, dict[str, tuple[bytes, str]]]:
        """Return the model's head, and its blobs that are not stored yet, each with its sha256; note the contexts and
        items to write."""
        contexts, items = self._unwritten.setdefault(hosted.number, (Changes(), Changes()))
        contexts.note(*changed_rows(hosted))
        added, removed = hosted.quarantine.changes()
        items.note({item.id: item for item in added}, removed)
        head, blobs = hosted.pack()
        stored = self._digests.get(hosted.number, {})
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in blobs.items()}
        return head, {name: (blobs[name], digest) for name, digest in digests.items() if stored.get(name) != digest}

    def _write(self, sql: sqlite3.Connection, n: int, head: str, blobs: Mapping[str, tuple[bytes, str]]) -> None:
        contexts, items = self._unwritten[n]
        sql.execute("INSERT OR REPLACE INTO models VALUES (?, ?, ?)", (n, head, zlib.crc32(head.encode())))
        sql.executemany(
            "INSERT OR REPLACE INTO blobs VALUES (?, ?, ?, ?)", [(n, name, *found) for name, found in blobs.items()]
        )
        sql.executemany("DELETE FROM contexts WHERE model = ? AND stream = ?", [(n, s) for s in contexts.removed])
        sql.executemany(
            "INSERT OR REPLACE INTO contexts VALUES (?, ?, ?, ?)",
            [(n, s, data, zlib.crc32(data)) for s, data in contexts.put.items()],
        )
        sql.executemany("DELETE FROM quarantine WHERE model = ? AND id = ?", [(n, i) for i in items.removed])
        sql.executemany(
            "INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(n, *item, _checksum(item)) for item in items.put.values()],
        )

    def forget(self, number: int) -> None:
        """Release what is kept in memory for a model that has left it."""
        self._digests.pop(number, None)
        self._unwritten.pop(number, None)

    def replaced(self, number: int) -> None:
        """Drop contexts that a failed save left to write: another model takes this one's number."""
        if number in self._unwritten:
            self._unwritten[number] = Changes(), self._unwritten[number][1]

    def survey(self, settings: GateSettings) -> tuple[int, dict[int, Stored]]:
        """Read every row once; return the position, and the facts of each model by number. (0, {}) before the first
        save. At most one blob is in memory at a time. Raises CheckpointCorrupt."""
        with self._database.transaction() as sql:
            stored = sql.execute("SELECT position FROM checkpoint").fetchone()
            facts = {}
            for number, head, checksum in sql.execute("SELECT model, head, checksum FROM models"):
                self._check(zlib.crc32(head.encode()) == checksum, number, "head")
                facts[number] = Stored.of(head, settings)
            for number, name, data, digest in sql.execute("SELECT model, name, data, digest FROM blobs"):
                self._check(hashlib.sha256(data).hexdigest() == digest, number, name)
                if name == "quarantined" and number in facts:
                    totals = replace(facts[number].totals, in_quarantine=len(data) // 8)
                    facts[number] = facts[number]._replace(totals=totals)
            for number, stream, data, checksum in sql.execute("SELECT model, stream, data, checksum FROM contexts"):
                self._check(zlib.crc32(data) == checksum, number, f"the context of stream {stream}")
        return (stored[0] if stored else 0), facts

    def load(self, settings: GateSettings) -> tuple[int, dict[int, HostedModel]]:
        """Return the position and all models by number; (0, {}) before the first save. Raises CheckpointCorrupt."""
        with self._database.transaction() as sql:
            stored = sql.execute("SELECT position FROM checkpoint").fetchone()
            numbers = [row[0] for row in sql.execute("SELECT model FROM models ORDER BY model")]
        return (stored[0] if stored else 0), {n: self.load_model(n, settings) for n in numbers}

    def load_model(self, number: int, settings: GateSettings) -> HostedModel:
        """Return one model as it was saved last. Raises KeyError if it is not stored, CheckpointCorrupt."""
        with self._database.transaction() as sql:
            found = sql.execute("SELECT head, checksum FROM models WHERE model = ?", (number,)).fetchone()
            if found is None:
                raise KeyError(number)
            head, checksum = found
            self._check(zlib.crc32(head.encode()) == checksum, number, "head")
            blobs: dict[str, bytes] = {}
            digests: dict[str, str] = {}
            for name, data, digest in sql.execute("SELECT name, data, digest FROM blobs WHERE model = ?", (number,)):
                self._check(hashlib.sha256(data).hexdigest() == digest, number, name)
                blobs[name], digests[name] = data, digest
            contexts: dict[int, bytes] = {}
            query = "SELECT stream, data, checksum FROM contexts WHERE model = ?"
            for stream, data, checksum in sql.execute(query, (number,)):
                self._check(zlib.crc32(data) == checksum, number, f"the context of stream {stream}")
                contexts[stream] = data
        self._digests[number] = digests
        return HostedModel.unpack(number, head, blobs, contexts, settings)

    def load_errors(self, number: int) -> Errors:
        """Return the errors of a stored model, without loading its contexts. Raises as `load_model`."""
        with self._database.transaction() as sql:
            found = sql.execute("SELECT head FROM models WHERE model = ?", (number,)).fetchone()
            if found is None:
                raise KeyError(number)
            query = "SELECT name, data FROM blobs WHERE model = ? AND name = ?"
            blobs: dict[str, bytes] = dict(sql.execute(query, (number, ERRORS)).fetchall())
            query = "SELECT stream, data FROM contexts WHERE model = ? AND stream >= ?"
            rows: dict[int, bytes] = dict(sql.execute(query, (number, ERRORS_FROM)).fetchall())
        errors = Errors(Network(ModelSpec.from_stored(json.loads(found[0])["spec"])))
        restore_errors(errors, blobs, rows)
        return errors

    def quarantined(self, model: int, after: int, limit: int, ids: Sequence[int] = ()) -> list[Item]:
        """Return saved items of a model with ids above `after`, in order of id; only those of `ids` if it is not empty.

        At most `limit` of them with PAGE_BYTES of values, but at least one if there is one. Raises CheckpointCorrupt.
        """
        columns = ", ".join(f'"{name}"' for name in Item._fields)
        only = f" AND id IN ({', '.join('?' * len(ids))})" if ids else ""
        query = f"SELECT {columns}, checksum FROM quarantine WHERE model = ? AND id > ?{only} ORDER BY id LIMIT ?"
        items: list[Item] = []
        size = 0
        with self._database.transaction() as sql:
            for *row, checksum in sql.execute(query, (model, after, *ids, limit)):
                self._check(_checksum(row) == checksum, model, f"item {row[0]} of the quarantine")
                item = Item(*row)
                size += len(item.y)
                if items and size > PAGE_BYTES:
                    break
                items.append(item)
        return items

    def quarantined_streams(self, model: int) -> list[int]:
        """Return the numbers of the streams that have saved labels in the quarantine."""
        query = "SELECT DISTINCT stream FROM quarantine WHERE model = ? AND stream >= 0"
        with self._database.transaction() as sql:
            return [int(row[0]) for row in sql.execute(query, (model,))]

    def quarantined_ids(self, model: int, streams: Sequence[int]) -> list[int]:
        """Return the ids of the saved labels of these streams."""
        wanted = set(streams)
        with self._database.transaction() as sql:
            rows = sql.execute("SELECT id, stream FROM quarantine WHERE model = ?", (model,)).fetchall()
        return [int(id) for id, stream in rows if stream in wanted]

    def compact(self) -> None:
        """Rewrite the file, so that nothing deleted is left in it. Raises as `Database.compact`."""
        self._database.compact()

    def made_elsewhere(self) -> str:
        """Return the kind of machine that saved last if it differs from this one; else an empty string."""
        with self._database.transaction() as sql:
            stored = sql.execute("SELECT machine FROM checkpoint").fetchone()
        return str(stored[0]) if stored and stored[0] != machine_kind() else ""

    # ---- moving models between files while no trainer has them open

    def held(self) -> Held:
        """Return the position that learning continues from, and the numbers of the stored models."""
        with self._database.transaction() as sql:
            stored = sql.execute("SELECT position FROM checkpoint").fetchone()
            return Held(stored[0] if stored else None, [row[0] for row in sql.execute("SELECT model FROM models")])

    def set_position(self, position: int, machine: str = "") -> None:
        """Let learning continue at `position`, which must not be after a chunk that the file's models lack.

        machine: the kind that saved last, of a file without a position; empty: this one.
        """
        with self._database.transaction() as sql:
            stored = sql.execute("SELECT machine FROM checkpoint").fetchone()
            machine = stored[0] if stored else machine or machine_kind()
            sql.execute("INSERT OR REPLACE INTO checkpoint VALUES (1, ?, ?)", (position, machine))

    def take_over(self, model: int, source: Checkpoints, number: int = 0) -> None:
        """Copy a model from another file, unless this file has learned more of it. Durable on return.

        number: of the model here; 0: the same.
        """
        number = number or model
        rows = source.rows(model)
        with self._database.transaction() as sql:
            mine = sql.execute("SELECT head FROM models WHERE model = ?", (number,)).fetchone()
            if mine and json.loads(mine[0])["offset"] > json.loads(rows["models"][0][1])["offset"]:
                return
            for name, found in rows.items():
                sql.execute(f"DELETE FROM {name} WHERE model = ?", (number,))
                if found:
                    marks, copied = ", ".join("?" * len(found[0])), [(number, *row[1:]) for row in found]
                    sql.executemany(f"INSERT INTO {name} VALUES ({marks})", copied)

    def rows(self, model: int) -> dict[str, list[tuple[Any, ...]]]:
        """Return all rows of a model by table, as stored, in order; the first column is its number."""
        with self._database.transaction() as sql:
            query = "SELECT * FROM {} WHERE model = ? ORDER BY 1, 2"
            return {name: sql.execute(query.format(name), (model,)).fetchall() for name in TABLES}

    def machine(self) -> str:
        """Return the kind of machine that saved last; empty before the first save."""
        with self._database.transaction() as sql:
            stored = sql.execute("SELECT machine FROM checkpoint").fetchone()
        return str(stored[0]) if stored else ""

    def drop(self, model: int) -> None:
        """Remove a model."""
        with self._database.transaction() as sql:
            for name in TABLES:
                sql.execute(f"DELETE FROM {name} WHERE model = ?", (model,))

    def close(self) -> None:
        """Close the file."""
        self._database.close()
        os.close(self._lock)

    def _check(self, intact: bool, model: int, what: str) -> None:
        if not intact:
            raise CheckpointCorrupt(f"{self._database.path}: model {model}: {what} is not as it was saved")


class Opened(NamedTuple):
    """A sound file, and the results of `Checkpoints.survey`."""

    checkpoints: Checkpoints
    position: int
    models: dict[int, Stored]
    problem: str = ""  # describes the damaged file that was moved aside


def open_or_set_aside(path: Path, settings: GateSettings) -> Opened:
    """Open the file and survey it. A damaged file is moved aside first, and its models are learned again.

    Raises CheckpointInUse; DatabaseRefused for a file that is something else, or of another format.
    """
    checkpoints = None
    try:
        checkpoints = Checkpoints(path)
        return Opened(checkpoints, *checkpoints.survey(settings))
    except (CheckpointCorrupt, DatabaseCorrupt) as error:
        if checkpoints is not None:
            checkpoints.close()
        names = (path.with_name(f"{path.name}.damaged-{n}") for n in itertools.count(1))
        aside = next(name for name in names if not name.exists())
        for suffix in ("-wal", "-shm", ""):  # SQLite's log before its database
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
        sync_directory(path.parent)
        problem = f"{error}. It was moved to {aside.name}; what the journal still holds is learned again"
        return Opened(Checkpoints(path), 0, {}, problem)


def _checksum(row: Sequence[object]) -> int:
    return zlib.crc32(repr(tuple(row)).encode())


def _lock(path: Path) -> int:
    """Lock the file until the descriptor is closed: a trainer may outlive its server for a moment."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise CheckpointInUse(
            f"{path}: another trainer has locked it; this one can start when that one has ended"
        ) from error
    return fd
