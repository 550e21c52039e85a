"""One SQLite file, opened as all our databases are: WAL, synchronous=FULL, format checked."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from service.storage.disk import NO_ROOM, NoSpace, is_full, sync_directory

APPLICATION_ID = 0x46526573  # "FRes": distinguishes our databases from others, also for `file`
KIND = 100  # format versions of one kind of database have the same hundreds


class DatabaseRefused(RuntimeError):
    """The file is not the expected database, or SQLite finds it corrupt. The text names file and remedy."""


class DatabaseCorrupt(DatabaseRefused):
    """SQLite finds the file corrupt."""


class DatabaseBusy(OSError):
    """The file cannot be rewritten while another process reads it."""


class Database:
    """One connection, shared by threads under one lock; each use is one transaction."""

    def __init__(self, path: str | os.PathLike[str], format_version: int, schema: str) -> None:
        """Open the database; create it with `schema`, and sync the directory, if there is none.

        format_version: user_version, > 0; its hundreds are the kind of database. Raises DatabaseRefused (also as its
        subclass DatabaseCorrupt); NoSpace for a full disk.
        """
        self.path = Path(path)
        self._lock = threading.RLock()
        is_made = not self.path.exists()
        self._connection = self._connect()
        try:
            self._prepare(format_version, schema)
            if is_made:
                sync_directory(self.path.parent)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            self._connection.close()
            raise self._fault(error) from error
        except BaseException:
            self._connection.close()
            raise

    def _connect(self) -> sqlite3.Connection:
        """Connect; a new file is readable by its owner only. Raises DatabaseRefused, NoSpace."""
        try:
            with suppress(FileExistsError):
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            return sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise NoSpace(f"{self.path}: {error.strerror}") from error
            raise self._unusable(error.strerror or str(error)) from error
        except sqlite3.Error as error:
            raise self._unusable(str(error)) from error

    def _fault(self, error: sqlite3.DatabaseError | UnicodeDecodeError) -> Exception:
        """Return the error for a failed open: a full disk, a file that cannot be used, or damage."""
        if isinstance(error, sqlite3.Error) and is_full(error):
            return NoSpace(f"{self.path}: {error}. Nothing was changed: make room, and start again")
        if isinstance(error, sqlite3.OperationalError):  # not about its content
            return self._unusable(str(error))
        return self.corrupt(str(error))

    def _unusable(self, what: str) -> DatabaseRefused:
        remedy = "check that it is a file and its directory is writable, or use another data directory"
        return DatabaseRefused(f"{self.path}: {what}. Nothing was changed: {remedy}")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the block in a transaction: durable when the block ends, rolled back if it raises.

        Raises DatabaseCorrupt if SQLite finds the file corrupt, NoSpace for a full disk, sqlite3.OperationalError for
        a failing one.
        """
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.DatabaseError as error:
                if is_full(error):
                    raise NoSpace(f"{self.path}: {error}") from error
                if type(error) is not sqlite3.DatabaseError:  # a subclass: disk full, locked …: not corruption
                    raise
                raise self.corrupt(str(error)) from error

    def compact(self, unread: AbstractContextManager[object] = nullcontext()) -> None:  # noqa: B008  # it has no state
        """Rewrite the file, so that no deleted data is left in it or in its log.

        unread: a context that excludes other readers in this process while the log is truncated, which is short. Time
        and disk space are proportional to the file. Raises DatabaseBusy while another process reads it, NoSpace,
        sqlite3.Error.
        """
        with self._lock:
            try:
                self._connection.execute("VACUUM")
                with unread:
                    busy, *_ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.DatabaseError as error:
                if is_full(error):
                    raise NoSpace(f"{self.path}: {error}") from error
                raise
            if busy:
                raise DatabaseBusy(f"{self.path}: another process reads it, as a backup does: try again after that")

    def close(self) -> None:
        """Close the connection, which merges the WAL into the file."""
        with self._lock:
            self._connection.close()

    def corrupt(self, what: str) -> DatabaseCorrupt:
        """Return the error for a fault in this file."""
        return DatabaseCorrupt(f"{self.path}: {what}. Restore it from a copy, or use another data directory")

    def _prepare(self, format_version: int, schema: str) -> None:
        # Read before any change: a foreign database must not be switched to WAL.
        if is_new(self._connection):
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.executescript(
                f"BEGIN IMMEDIATE; {schema}; PRAGMA application_id = {APPLICATION_ID};"
                f"PRAGMA user_version = {format_version}; COMMIT"
            )
        else:
            refuse_other_format(self.path, self._connection, format_version)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA foreign_keys = ON")


def read_only(path: Path) -> sqlite3.Connection:
    """Connect read-only to a database that another process may be writing. Raises sqlite3.Error."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file's name to SQLite errors of the block."""
    try:
        yield
    except UnicodeDecodeError as error:  # SQLite's message quotes damaged text
        raise sqlite3.DatabaseError(f"{path}: damaged, {error}") from error
    except sqlite3.Error as error:
        raise type(error)(f"{path}: {error}") from error


def is_new(connection: sqlite3.Connection) -> bool:
    """Whether the file is still empty."""
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    return not tables and not _pragma(connection, "application_id") and not _pragma(connection, "user_version")


def refuse_other_format(path: Path, connection: sqlite3.Connection, expected: int) -> None:
    """Raise DatabaseRefused unless a database has the kind and version `expected`."""
    application, found = _pragma(connection, "application_id"), _pragma(connection, "user_version")
    if application != APPLICATION_ID or found // KIND != expected // KIND:
        what = f"not the freshet database that belongs there (application_id {application:#x}, database format {found})"
        raise DatabaseRefused(f"{path}: {what}. Restore it from a copy, or use another data directory")
    if found != expected:
        age, remedy = ("a newer", "or restore a backup that was made before") if found > expected else ("an older", "")
        raise DatabaseRefused(
            f"{path}: written by {age} version of freshet, in database format {found}; this one reads format "
            f"{expected}. Nothing was changed: start the version that wrote it{', ' + remedy if remedy else ''}"
        )


def quick_check(path: Path, connection: sqlite3.Connection) -> None:
    """Raise DatabaseCorrupt, naming `path`, if SQLite finds the file corrupt. Raises sqlite3.Error."""
    problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if problem != "ok":
        raise DatabaseCorrupt(f"{path}: {problem}. Restore it from a copy")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value
