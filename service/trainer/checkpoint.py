"""trainer.db: weights, optimizer, contexts and the journal position they contain, in one transaction (DESIGN R5)."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import itertools
import os
import platform
import zlib
from collections.abc import Iterable, Mapping, Sequence, Set
from importlib import metadata
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from service.gate import GateSettings
from service.storage.database import Database, DatabaseCorrupt
from service.storage.segments import sync_directory
from service.trainer.hosting import HostedModel
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
T = TypeVar("T")
PAGE_BYTES = 4 << 20  # of labels' values in one page of a quarantine


class CheckpointInUse(RuntimeError):
    """Another trainer has the file open."""


class CheckpointCorrupt(RuntimeError):
    """A stored blob is not the one that was saved. Names the file, the model and the remedy."""


def machine_kind() -> str:
    """What bit-equal learning depends on: processor kind, versions of the arithmetic, the lock file if there is one."""
    kind = f"{platform.machine()} python {platform.python_version()} numpy {metadata.version('numpy')}"
    return f"{kind} {_lock_file()}".rstrip()


@functools.cache
def _lock_file() -> str:
    """The sha256 of the requirements.lock beside the package; empty where it was installed without."""
    path = Path(__file__).parents[2] / "requirements.lock"
    return f"lock {hashlib.sha256(path.read_bytes()).hexdigest()}" if path.is_file() else ""


class Changes(Generic[T]):
    """Rows to put and to remove, by key, of one save or of several: the removed go first."""

    def __init__(self) -> None:
        self.put: dict[int, T] = {}
        self.removed: set[int] = set()

    def note(self, put: Mapping[int, T], removed: Set[int]) -> None:
        """What has changed since the last call."""
        for key in removed:
            self.put.pop(key, None)
        self.put.update(put)
        self.removed |= removed


class Checkpoints:
    """The trainer's one file; the trainer is its only writer."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open or make it. Raises CheckpointInUse; DatabaseRefused for a file that is something else."""
        self._lock = _lock(Path(path).with_suffix(".lock"))
        try:
            self._database = Database(path, FORMAT_VERSION, _SCHEMA)
        except BaseException:
            os.close(self._lock)
            raise
        self._unwritten: dict[int, tuple[Changes[bytes], Changes[Item]]] = {}  # by model: of contexts, of quarantine

    def save(self, position: int, models: Iterable[HostedModel]) -> None:
        """Store the models as they are after the journal's `position`, durable on return. Contexts: the changed.

        models: all of them; what is stored of others goes. Raises NoSpace: nothing is stored, and the next `save` takes
        along what this one would have.
        """
        models = list(models)
        self._unwritten = {m.number: self._unwritten.get(m.number) or (Changes(), Changes()) for m in models}
        for hosted in models:
            contexts, items = self._unwritten[hosted.number]
            contexts.note(*hosted.learner.contexts.changes())
            added, gone = hosted.quarantine.changes()
            items.note({item.id: item for item in added}, gone)
        with self._database.transaction() as sql:
            stored = {row[0] for row in sql.execute("SELECT model FROM models")}
            for number in stored - {hosted.number for hosted in models}:
                for table in ("models", "blobs", "contexts", "quarantine"):
                    sql.execute(f"DELETE FROM {table} WHERE model = ?", (number,))
            for hosted in models:
                head, blobs = hosted.pack()
                n = hosted.number
                contexts, items = self._unwritten[n]
                sql.execute("INSERT OR REPLACE INTO models VALUES (?, ?, ?)", (n, head, zlib.crc32(head.encode())))
                sql.executemany(
                    "INSERT OR REPLACE INTO blobs VALUES (?, ?, ?, ?)",
                    [(n, name, data, hashlib.sha256(data).hexdigest()) for name, data in blobs.items()],
                )
                sql.executemany(
                    "DELETE FROM contexts WHERE model = ? AND stream = ?", [(n, s) for s in contexts.removed]
                )
                sql.executemany(
                    "INSERT OR REPLACE INTO contexts VALUES (?, ?, ?, ?)",
                    [(n, s, data, zlib.crc32(data)) for s, data in contexts.put.items()],
                )
                sql.executemany("DELETE FROM quarantine WHERE model = ? AND id = ?", [(n, i) for i in items.removed])
                sql.executemany(
                    "INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    [(n, *item, _checksum(item)) for item in items.put.values()],
                )
            sql.execute("INSERT OR REPLACE INTO checkpoint VALUES (1, ?, ?)", (position, machine_kind()))
        self._unwritten.clear()

    def load(self, settings: GateSettings) -> tuple[int, dict[int, HostedModel]]:
        """The position and the models by number; (0, {}) before the first save. Raises CheckpointCorrupt."""
        with self._database.transaction() as sql:
            stored = sql.execute("SELECT position FROM checkpoint").fetchone()
            heads: dict[int, str] = {}
            for number, head, checksum in sql.execute("SELECT model, head, checksum FROM models"):
                self._check(zlib.crc32(head.encode()) == checksum, number, "head")
                heads[number] = head
            blobs: dict[int, dict[str, bytes]] = {n: {} for n in heads}
            for number, name, data, digest in sql.execute("SELECT model, name, data, digest FROM blobs"):
                self._check(hashlib.sha256(data).hexdigest() == digest, number, name)
                blobs[number][name] = data
            contexts: dict[int, dict[int, bytes]] = {n: {} for n in heads}
            for number, stream, data, checksum in sql.execute("SELECT model, stream, data, checksum FROM contexts"):
                self._check(zlib.crc32(data) == checksum, number, f"the context of stream {stream}")
                contexts[number][stream] = data
        models = {n: HostedModel.unpack(n, head, blobs[n], contexts[n], settings) for n, head in heads.items()}
        return (stored[0] if stored else 0), models

    def quarantined(self, model: int, after: int, limit: int, ids: Sequence[int] = ()) -> list[Item]:
        """Saved items of a model with ids above `after`, in their order, only those of `ids` if there are any.

        At most `limit`, and PAGE_BYTES of values, but at least one if there is one. Raises CheckpointCorrupt.
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
        """Numbers of the streams that have saved labels in the quarantine."""
        query = "SELECT DISTINCT stream FROM quarantine WHERE model = ? AND stream >= 0"
        with self._database.transaction() as sql:
            return [int(row[0]) for row in sql.execute(query, (model,))]

    def quarantined_ids(self, model: int, streams: Sequence[int]) -> list[int]:
        """Ids of the saved labels of these streams."""
        wanted = set(streams)
        with self._database.transaction() as sql:
            rows = sql.execute("SELECT id, stream FROM quarantine WHERE model = ?", (model,)).fetchall()
        return [int(id) for id, stream in rows if stream in wanted]

    def compact(self) -> None:
        """Leave nothing in the file of what was deleted. Raises as `Database.compact`."""
        self._database.compact()

    def made_elsewhere(self) -> str:
        """The kind of machine that saved last, if it is another than this one; else empty."""
        with self._database.transaction() as sql:
            stored = sql.execute("SELECT machine FROM checkpoint").fetchone()
        return str(stored[0]) if stored and stored[0] != machine_kind() else ""

    def close(self) -> None:
        """Close the file."""
        self._database.close()
        os.close(self._lock)

    def _check(self, intact: bool, model: int, what: str) -> None:
        if not intact:
            raise CheckpointCorrupt(f"{self._database.path}: model {model}: {what} is not as it was saved")


class Opened(NamedTuple):
    """A sound file, and what `Checkpoints.load` gave."""

    checkpoints: Checkpoints
    position: int
    models: dict[int, HostedModel]
    problem: str = ""  # what was done without


def open_or_set_aside(path: Path, settings: GateSettings) -> Opened:
    """The file and what it holds; a damaged one is moved aside first: what it held is learned again.

    Raises CheckpointInUse; DatabaseRefused for a file that is something else, or of another format.
    """
    checkpoints = None
    try:
        checkpoints = Checkpoints(path)
        return Opened(checkpoints, *checkpoints.load(settings))
    except (CheckpointCorrupt, DatabaseCorrupt) as error:
        if checkpoints is not None:
            checkpoints.close()
        names = (path.with_name(f"{path.name}.damaged-{n}") for n in itertools.count(1))
        aside = next(name for name in names if not name.exists())
        for suffix in ("-wal", "-shm", ""):  # SQLite's log before what it belongs to
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
        sync_directory(path.parent)
        problem = f"{error}. It is {aside.name} now, and what the journal still holds is learned again"
        return Opened(Checkpoints(path), 0, {}, problem)


def _checksum(row: Sequence[object]) -> int:
    return zlib.crc32(repr(tuple(row)).encode())


def _lock(path: Path) -> int:
    """Take the file for this process, until the descriptor is closed: a trainer may outlive its server for a moment."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise CheckpointInUse(f"{path}: another trainer has it; this one can start once that one has ended") from error
    return fd
