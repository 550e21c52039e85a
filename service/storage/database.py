"""One SQLite file, opened the way everything durable here is: WAL, synchronous=FULL, its format checked."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.storage.segments import sync_directory
from service.storage.space import NoSpace, is_full

APPLICATION_ID = 0x46526573  # "FRes", so that `file` and we tell our databases from others


class DatabaseRefused(RuntimeError):
    """The file is not the database it should be, or SQLite finds it corrupt. Names file and remedy."""


class DatabaseCorrupt(DatabaseRefused):
    """SQLite finds the file corrupt."""


class Database:
    """One connection, shared between threads under one lock; each use is one transaction."""

    def __init__(self, path: str | os.PathLike[str], format_version: int, schema: str) -> None:
        """Open the database, made with `schema` if there is none; syncs the directory then.

        `format_version` (user_version, > 0) also tells our kinds of databases apart. Raises DatabaseRefused, of which
        DatabaseCorrupt is one.
        """
        self.path = Path(path)
        self._lock = threading.RLock()
        is_new = not self.path.exists()
        self._connection = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
        try:
            self._prepare(format_version, schema)
            if is_new:
                sync_directory(self.path.parent)
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise self.corrupt(str(error)) from error
        except BaseException:
            self._connection.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The connection, in a transaction that is durable when the block ends, and undone if it raises.

        Raises DatabaseCorrupt if SQLite finds the file corrupt; NoSpace for a full disk, sqlite3.OperationalError for
        one that fails.
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

    def close(self) -> None:
        """Close the connection, which folds the WAL into the file."""
        with self._lock:
            self._connection.close()

    def refused(self, what: str) -> DatabaseRefused:
        """The error for a file that is not this database, to be raised by the caller."""
        return DatabaseRefused(self._told(what))

    def corrupt(self, what: str) -> DatabaseCorrupt:
        """The error for a fault in this file, to be raised by the caller."""
        return DatabaseCorrupt(self._told(what))

    def _told(self, what: str) -> str:
        return f"{self.path}: {what}. Restore it from a copy, or use another data directory"

    def _prepare(self, format_version: int, schema: str) -> None:
        # Read before anything is changed: a stranger's database must not become WAL.
        found = self._pragma("application_id"), self._pragma("user_version")
        tables = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if found == (0, 0) and not tables:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.executescript(
                f"BEGIN IMMEDIATE; {schema}; PRAGMA application_id = {APPLICATION_ID};"
                f"PRAGMA user_version = {format_version}; COMMIT"
            )
        elif found[0] != APPLICATION_ID:
            raise self.refused(f"not a freshet database (application_id {found[0]:#x})")
        elif found[1] != format_version:
            raise self.refused(f"database format {found[1]}, this version of freshet reads format {format_version}")
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA foreign_keys = ON")

    def _pragma(self, name: str) -> int:
        value: int = self._connection.execute(f"PRAGMA {name}").fetchone()[0]
        return value
