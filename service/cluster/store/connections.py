"""Connections to PostgreSQL: a few that threads take in turn, each statement bounded in time, faults named."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg import errors
from psycopg.abc import RV, PQGen

from service.cluster.store.schema import DEFAULT_SCHEMA, checked_schema
from service.cluster.store.seam import StoreRefused, StoreUnavailable

CONNECTIONS = 8  # at once, of one node
REQUEST_S, CONNECT_S = 10.0, 3  # longest time of one statement, and of connecting
POLL_S = 0.1  # between two looks for Ctrl-C during a wait
# The server ends a statement before we stop to wait for it; the lock of a statement that it runs for another is short.
SETTINGS = "SET statement_timeout = '8s'; SET lock_timeout = '5s'; SET idle_in_transaction_session_timeout = '15s'"
DURABLE = {"synchronous_commit": ("on", "remote_write", "remote_apply"), "fsync": ("on",)}
WAITING = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') <> ALL(%s)"
TAKEN = errors.UniqueViolation
WRONG = (errors.ProgrammingError, errors.DataError, errors.NotSupportedError)  # the same statement fails again
AT_LOGIN = ("password", "authentication", "does not exist", "no pg_hba.conf entry", "permission denied")


class BoundedConnection(psycopg.Connection[Any]):
    """A connection on which every wait ends after REQUEST_S, with an OperationalError, and that notes warnings."""

    warning = ""

    def wait(self, gen: PQGen[RV], interval: float = POLL_S, timeout: float | None = None) -> RV:
        """Wait for a reply, as psycopg does, but not longer than REQUEST_S."""
        return super().wait(gen, interval, REQUEST_S if timeout is None else timeout)


class Connections:
    """Up to CONNECTIONS connections to one database. Raises StoreRefused for a URL that cannot work.

    url: for messages, without the password. schema: where the tables are, `?schema=` of the URL.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.url = _without_password(parts)
        self.schema = checked_schema(self.url, query.pop("schema", DEFAULT_SCHEMA))
        self._target = urlunsplit(parts._replace(query=urlencode(query)))
        self._lock, self._turns = threading.Lock(), threading.BoundedSemaphore(CONNECTIONS)
        self._idle: list[BoundedConnection] = []
        self._closed = False

    @contextlib.contextmanager
    def taken(self) -> Iterator[BoundedConnection]:
        """Lend a connection for one statement or transaction, in autocommit. Raises StoreUnavailable, StoreRefused.

        A connection on which something failed is closed, and with it those that are idle: the server has restarted, or
        the way to it is cut.
        """
        if not self._turns.acquire(timeout=REQUEST_S):
            raise StoreUnavailable(f"{self.url}: all {CONNECTIONS} connections are waiting for the database")
        try:
            with self._faults():
                connection = self._pop() or self._connect()
                try:
                    yield connection
                    if connection.warning:  # the commit is on this server's disk, and may not be on its standby's
                        raise StoreUnavailable(f"{self.url}: {connection.warning}")
                except (TAKEN, *WRONG):  # the connection is as good as before
                    self._push(connection)
                    raise
                except BaseException:
                    connection.close()
                    self._drop_idle()
                    raise
                self._push(connection)
        finally:
            self._turns.release()

    def close(self) -> None:
        """Close the idle connections now and the others when they come back."""
        with self._lock:
            self._closed = True
        self._drop_idle()

    def _pop(self) -> BoundedConnection | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _push(self, connection: BoundedConnection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _drop_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _connect(self) -> BoundedConnection:
        """Open a connection and check that its commits wait for the disk. Raises psycopg.Error, StoreRefused."""
        try:
            connection = BoundedConnection.connect(
                self._target, autocommit=True, connect_timeout=CONNECT_S, application_name="freshet"
            )
        except psycopg.OperationalError as error:
            if any(word in str(error) for word in AT_LOGIN):
                raise StoreRefused(
                    f"{self.url}: {_line(error)}; correct the URL, or the server's access rules"
                ) from error
            raise
        connection.prepare_threshold = None  # a pooler between us may give the next statement to another session
        connection.execute(SETTINGS)
        connection.execute(WAITING, (list(DURABLE["synchronous_commit"]),))
        connection.add_notice_handler(lambda notice: _note(connection, notice))
        for name, allowed in DURABLE.items():
            row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
            if row is None or row[0] not in allowed:
                connection.close()
                remedy = f"set {name} = on in postgresql.conf"
                raise StoreRefused(f"{self.url}: {name} is {row and row[0]}: what it confirms could be lost; {remedy}")
        return connection

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Turn an error of psycopg into one of the store. TAKEN passes."""
        try:
            yield
        except TAKEN:
            raise
        except (errors.UndefinedTable, errors.InvalidSchemaName) as error:
            raise StoreRefused(f"{self.url}: {_line(error)}; run: freshet store init URL") from error
        except errors.InsufficientPrivilege as error:
            remedy = f"give the role of the URL the schema {self.schema}, or let it create one in the database"
            raise StoreRefused(f"{self.url}: {_line(error)}; {remedy}") from error
        except WRONG as error:
            raise StoreRefused(f"{self.url}: {_line(error)}") from error
        except psycopg.Error as error:
            raise StoreUnavailable(f"{self.url}: {_line(error)}") from error


def _note(connection: BoundedConnection, notice: errors.Diagnostic) -> None:
    if notice.severity_nonlocalized == "WARNING":
        connection.warning = f"{notice.message_primary}"


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0][:300]


def _without_password(parts: SplitResult) -> str:
    user, at, host = parts.netloc.rpartition("@")
    query = [(key, value) for key, value in parse_qsl(parts.query) if "password" not in key]
    return urlunsplit(parts._replace(netloc=user.partition(":")[0] + at + host, query=urlencode(query)))
