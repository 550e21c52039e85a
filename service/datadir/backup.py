"""Copy a data directory as of one moment, whether a server is writing it or not, without taking its lock.

No server can start from a journal that ends before the snapshot or a checkpoint, or that names missing versions (R1).
So the parts are opened in the order in which they depend on each other:

1. every segment is opened: retention may delete it meanwhile, but its content stays readable
2. states.db and each trainer's file: a read transaction of SQLite sees one state, and blocks no writer
3. the ends of the segments, and of those added since: they hold everything that these databases contain
4. versions.db: a version is stored before the journal names it

If a snapshot or checkpoint was saved or a model deleted meanwhile, versions that only the former snapshot needs may be
gone, so all parts are opened again. That takes milliseconds; then the parts are copied at leisure.
"""

from __future__ import annotations

import os
import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

from service.datadir.archive import Head, OnBytes, Writer
from service.datadir.formats import check_formats
from service.datadir.staging import staging
from service.journal.examine import examine_files, segment_files
from service.journal.segments import HEADER, Segment, parse_header
from service.storage.database import naming, quick_check, read_only
from service.storage.disk import NoSpace, is_full, sync_directory
from service.trainer.placing import checkpoint_files

STATES = "states.db"
POSITION, TRAINER_POSITION = "SELECT position FROM snapshot", "SELECT position FROM checkpoint"
VERSIONS = "versions.db"
T = TypeVar("T")

TRIES = 100  # to open all parts without a change meanwhile


class BackupRefused(RuntimeError):
    """There is nothing to back up, or the target cannot be written. The text names the path and the remedy."""


class Backup(NamedTuple):
    """A written backup."""

    head: Head
    bytes: int  # of the file
    segments: int


@dataclass(frozen=True, slots=True)
class OpenSegment(Segment):
    """A segment that can be read to a fixed end, even if its file is deleted."""

    fd: int
    bytes: int  # of the file, up to the fixed end

    def open(self) -> BinaryIO:
        """Open the file, for one reader at a time."""
        return os.fdopen(os.dup(self.fd), "rb")

    def size(self) -> int:
        """Bytes after the header, up to the fixed end."""
        return self.bytes - HEADER.size


class Databases(NamedTuple):
    """The databases of a data directory as of one moment, readable until their ExitStack is closed."""

    connections: dict[str, sqlite3.Connection]  # in a transaction, by name
    positions: dict[str, int]  # of the journal, from which the database's owner continues; of those that have one


class Moment(NamedTuple):
    """A data directory as of one moment, readable until its ExitStack is closed."""

    databases: dict[str, sqlite3.Connection]  # in a transaction, by name
    segments: list[OpenSegment]  # in order
    end: int  # position after the last intact frame

    def bytes(self) -> int:
        """Return the approximate number of bytes to copy."""
        pages = [_number(sql, "page_count") * _number(sql, "page_size") for sql in self.databases.values()]
        return sum(pages) + sum(segment.bytes for segment in self.segments)


def backup(data: Path, out: Path, created: float, total: Callable[[int], OnBytes]) -> Backup:
    """Write a backup of `data` to the new file `out`; durable and complete on return, else it does not exist.

    created: seconds since 1970, stored in the file. total: given the bytes to copy, returns a callback for those copied
    since its last call. Raises BackupRefused; JournalDamaged, DatabaseRefused if a server would not start from the
    directory; NoSpace, OSError.
    """
    out = out.resolve()
    if out.exists():
        raise BackupRefused(f"{out}: exists; give another name, or remove it first")
    for name in ("states.db", VERSIONS):
        if not (data / name).is_file():
            raise BackupRefused(f"{data}: holds no {name}; give the directory that freshet serve --data was given")
    check_formats(data)
    with staging(out) as folder, moment(data) as found:
        on_bytes = total(found.bytes())
        whole = folder / out.name
        head = Head(int(created), found.end)
        with open(whole, "xb", opener=_private) as file:
            writer = Writer(file, head)
            for name, connection in found.databases.items():
                copy_database(data / name, connection, folder / name)
                with (folder / name).open("rb") as copy:
                    writer.add(name, (folder / name).stat().st_size, copy, on_bytes)
                (folder / name).unlink()
            for segment in found.segments:
                with segment.open() as source:
                    source.seek(0)
                    writer.add(f"journal/{segment.path.name}", segment.bytes, source, on_bytes)
            writer.close()
            os.fsync(file.fileno())
        size = whole.stat().st_size
        whole.rename(out)
        sync_directory(out.parent)
    return Backup(head, size, len(found.segments))


def allow_all_descriptors() -> None:
    """Raise the limit of open files to the system's maximum: each segment needs one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextmanager
def moment(data: Path) -> Iterator[Moment]:
    """Open all of a data directory as of one moment. Raises JournalDamaged, OSError, sqlite3.Error; BackupRefused if it
    changed at every try."""
    with _tried(data, _open_all) as found:
        yield found


@contextmanager
def databases(data: Path) -> Iterator[Databases]:
    """Open the databases of a data directory as of one moment; all of it is in the journal that follows. Raises as
    `moment`."""
    with _tried(data, _open_databases) as found:
        yield found


@contextmanager
def _tried(data: Path, opened: Callable[[Path, ExitStack], T | None]) -> Iterator[T]:
    """Yield what `opened` opens on the stack that it is given; tried again while it returns None."""
    for _ in range(TRIES):
        with ExitStack() as stack:
            found = opened(data, stack)
            if found is not None:
                yield found
                return
    raise BackupRefused(f"{data}: snapshots are too frequent; raise snapshot_s, or stop the server")


def _open_all(data: Path, stack: ExitStack) -> Moment | None:
    """Open all parts on `stack`; return None if something was saved or deleted meanwhile."""
    files: dict[Path, int] = {}
    sizes: dict[Path, int] = {}

    def ends() -> None:
        _open_segments(data / "journal", files, stack)
        sizes.update((path, os.fstat(fd).st_size) for path, fd in files.items())

    _open_segments(data / "journal", files, stack)
    found = _open_databases(data, stack, ends)
    if found is None:
        return None
    segments, end = _intact(files, sizes)
    return Moment(found.connections, segments, end)


def _open_databases(data: Path, stack: ExitStack, between: Callable[[], None] = lambda: None) -> Databases | None:
    """Open the databases on `stack`; return None if something was saved or deleted meanwhile. between: is called before
    versions.db is opened."""
    connections = {name: _hold(data / name, stack) for name in _names(data)}
    before = {name: _position(data / name, connection) for name, connection in connections.items()}
    models = _models(data / VERSIONS, stack.enter_context(closing(read_only(data / VERSIONS))))
    between()
    connections[VERSIONS] = _hold(data / VERSIONS, stack)
    if not models <= _models(data / VERSIONS, connections[VERSIONS]) or before != _positions(data):
        return None
    return Databases(connections, before)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _open_segments(directory: Path, files: dict[Path, int], stack: ExitStack) -> None:
    """Open the segments that are not open yet."""
    for path in segment_files(directory):
        if path not in files:
            try:
                files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:  # retention has deleted it: nothing needs it
                continue
            stack.callback(os.close, files[path])


def _intact(files: dict[Path, int], sizes: dict[Path, int]) -> tuple[list[OpenSegment], int]:
    """Return the segments, the last one up to its last intact frame, and the position there. Raises JournalDamaged."""

    def read(path: Path) -> OpenSegment:
        segment = parse_header(path, os.pread(files[path], HEADER.size, 0))
        return OpenSegment(path, segment.start, segment.chain, files[path], sizes[path])

    found = examine_files(sorted(files), read)
    if found.damage:
        raise found.damage
    if not found.segments:
        raise BackupRefused("the journal has no segment; start the server once, or give its data directory")
    segments = [read(segment.path) for segment in found.segments]
    segments[-1] = replace(segments[-1], bytes=segments[-1].file_offset(found.end))
    return segments, found.end


def _hold(path: Path, stack: ExitStack) -> sqlite3.Connection:
    """Connect, in a transaction that keeps seeing the present content."""
    with naming(path):
        connection = stack.enter_context(closing(read_only(path)))
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return connection


def _positions(data: Path) -> dict[str, int]:
    """Return the present journal positions of states.db and of each trainer's file."""
    found = {}
    for name in _names(data):
        with ExitStack() as stack:
            found[name] = _position(data / name, _hold(data / name, stack))
    return found


def _names(data: Path) -> list[str]:
    """Return the names of the existing databases that have a position."""
    return [STATES] * (data / STATES).exists() + [path.name for path in checkpoint_files(data).values()]


def _position(path: Path, connection: sqlite3.Connection) -> int:
    with naming(path):
        row = connection.execute(POSITION if path.name == STATES else TRAINER_POSITION).fetchone()
    return int(row[0]) if row else 0


def _models(path: Path, connection: sqlite3.Connection) -> set[int]:
    with naming(path):
        return {row[0] for row in connection.execute("SELECT DISTINCT model FROM versions")}


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def copy_database(source: Path, connection: sqlite3.Connection, target: Path) -> None:
    """Copy what the connection sees to a new file. Raises DatabaseCorrupt, NoSpace, sqlite3.Error."""
    with naming(source):
        quick_check(source, connection)
    with naming(target), closing(sqlite3.connect(target, isolation_level=None)) as copy:
        copy.execute("PRAGMA synchronous = OFF")  # it is temporary
        try:
            connection.backup(copy)
        except sqlite3.Error as error:
            if is_full(error):
                raise NoSpace(f"{target}: {error}") from error
            raise
