"""A copy of a data directory, whether a server is writing it or not: all of it as of one moment, without its lock.

What keeps the parts together (R1): a journal that ends before a snapshot or a checkpoint could not be started from, nor
one that names versions which are not there. So they are looked at in the order in which they may depend on each other:

1. every segment is opened: retention may delete it meanwhile, but not take away what is open
2. states.db and each trainer's file: a read transaction of SQLite keeps what it sees, and holds up no writer
3. the ends of the segments, and those that came since: they hold all that the two databases contain
4. versions.db: a version is stored before the journal names it

Then nothing may have been saved, and no model deleted, since the first look; or versions that only the former snapshot
needs may be gone, and all is looked at again. That takes milliseconds; the copying after it may take its time.
"""

from __future__ import annotations

import os
import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

from service.datadir.archive import Head, Told, Writer
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
TRIES = 100  # of looking at all of it at one moment


class BackupRefused(RuntimeError):
    """There is nothing to back up, or no room for it where it should go. Names the path and the remedy."""


class Backup(NamedTuple):
    """What was written."""

    head: Head
    bytes: int  # of the file
    segments: int


@dataclass(frozen=True, slots=True)
class OpenSegment(Segment):
    """A segment that can be read to a fixed end, whatever becomes of its name."""

    fd: int
    bytes: int  # of the file, as far as it is read

    def open(self) -> BinaryIO:
        """The file, to be read by one reader at a time."""
        return os.fdopen(os.dup(self.fd), "rb")

    def size(self) -> int:
        """Bytes after the header, as far as it is read."""
        return self.bytes - HEADER.size


class Moment(NamedTuple):
    """A data directory as it was; it stays readable until it is let go."""

    databases: dict[str, sqlite3.Connection]  # in a transaction, by name
    segments: list[OpenSegment]  # in order
    end: int  # position after the last frame that holds

    def bytes(self) -> int:
        """How much there is to copy, as far as it can be told."""
        pages = [_number(sql, "page_count") * _number(sql, "page_size") for sql in self.databases.values()]
        return sum(pages) + sum(segment.bytes for segment in self.segments)


def backup(data: Path, out: Path, created: float, total: Callable[[int], Told]) -> Backup:
    """Write a backup of `data` to the new file `out`; durable and whole on return, or not there.

    created: seconds since 1970, for the file to say. total: given the bytes to copy, returns what is told of them.
    Raises BackupRefused; JournalDamaged, DatabaseRefused for what a server would not start from; NoSpace, OSError.
    """
    out = out.resolve()
    if out.exists():
        raise BackupRefused(f"{out}: exists; give another name, or remove it first")
    for name in ("states.db", VERSIONS):
        if not (data / name).is_file():
            raise BackupRefused(f"{data}: holds no {name}; give the directory that freshet serve --data was given")
    check_formats(data)
    with staging(out) as folder, moment(data) as found:
        told = total(found.bytes())
        whole = folder / out.name
        head = Head(int(created), found.end)
        with open(whole, "xb", opener=_private) as file:
            writer = Writer(file, head)
            for name, connection in found.databases.items():
                _copy_database(data / name, connection, folder / name)
                with (folder / name).open("rb") as copy:
                    writer.add(name, (folder / name).stat().st_size, copy, told)
                (folder / name).unlink()
            for segment in found.segments:
                with segment.open() as source:
                    source.seek(0)
                    writer.add(f"journal/{segment.path.name}", segment.bytes, source, told)
            writer.close()
            os.fsync(file.fileno())
        size = whole.stat().st_size
        whole.rename(out)
        sync_directory(out.parent)
    return Backup(head, size, len(found.segments))


def allow_all_descriptors() -> None:
    """Let this process open as many files as the system allows it: one for each segment."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextmanager
def moment(data: Path) -> Iterator[Moment]:
    """All of a data directory at one moment. Raises JournalDamaged, OSError, sqlite3.Error; BackupRefused where it
    never held still."""
    for _ in range(TRIES):
        with ExitStack() as stack:
            found = _look(data, stack)
            if found is not None:
                yield found
                return
    raise BackupRefused(f"{data}: snapshots follow each other too fast; set snapshot_s higher, or stop the server")


def _look(data: Path, stack: ExitStack) -> Moment | None:
    """One look at everything, kept open on `stack`; None if something was saved or deleted meanwhile."""
    files: dict[Path, int] = {}
    _open_segments(data / "journal", files, stack)
    databases = {name: _hold(data / name, stack) for name in _names(data)}
    before = {name: _position(data / name, connection) for name, connection in databases.items()}
    models = _models(data / VERSIONS, stack.enter_context(closing(read_only(data / VERSIONS))))
    _open_segments(data / "journal", files, stack)
    sizes = {path: os.fstat(fd).st_size for path, fd in files.items()}
    databases[VERSIONS] = _hold(data / VERSIONS, stack)
    if not models <= _models(data / VERSIONS, databases[VERSIONS]) or before != _positions(data):
        return None
    segments, end = _judge(files, sizes)
    return Moment(databases, segments, end)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _open_segments(directory: Path, files: dict[Path, int], stack: ExitStack) -> None:
    """Add the descriptors of those that are not there yet."""
    for path in segment_files(directory):
        if path not in files:
            try:
                files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:  # retention has deleted it since: nothing needs it
                continue
            stack.callback(os.close, files[path])


def _judge(files: dict[Path, int], sizes: dict[Path, int]) -> tuple[list[OpenSegment], int]:
    """The segments, the last one up to its last whole frame, and the position there. Raises JournalDamaged."""

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
    """A connection that goes on seeing what is in the database now."""
    with naming(path):
        connection = stack.enter_context(closing(read_only(path)))
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return connection


def _positions(data: Path) -> dict[str, int]:
    """The journal positions that states.db and each trainer's file contain now."""
    found = {}
    for name in _names(data):
        with ExitStack() as stack:
            found[name] = _position(data / name, _hold(data / name, stack))
    return found


def _names(data: Path) -> list[str]:
    """Of the databases with a position, those that are there."""
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


def _copy_database(source: Path, connection: sqlite3.Connection, target: Path) -> None:
    """What the connection sees as a file of its own. Raises DatabaseCorrupt, NoSpace, sqlite3.Error."""
    with naming(source):
        quick_check(source, connection)
    with naming(target), closing(sqlite3.connect(target, isolation_level=None)) as copy:
        copy.execute("PRAGMA synchronous = OFF")  # it is read once, and not kept
        try:
            connection.backup(copy)
        except sqlite3.Error as error:
            if is_full(error):
                raise NoSpace(f"{target}: {error}") from error
            raise
