"""`freshet backup` and `freshet restore`: copy a server, or a cluster, into one file while it runs, and back."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.console.verbs import INTERRUPTED, refused

if TYPE_CHECKING:
    from service.cluster.store.seam import Store

MIB = 1 << 20
NICE = 10  # so that serving has priority, as over the trainer

DataToSave = Annotated[
    Path | None, typer.Option("--data", help="Data directory of the server (`freshet serve --data`).", metavar="DIR")
]
NewData = Annotated[
    Path | None, typer.Option("--data", help="The new directory, which must be empty or not exist.", metavar="DIR")
]
Url = Annotated[
    str | None,
    typer.Option("--store", help="Of a cluster, in place of --data: URL of the nodes' store.", metavar="URL"),
]
NewUrl = Annotated[
    str | None, typer.Option("--store", help="Of a cluster, in place of --data: URL of an empty store.", metavar="URL")
]
Again = Annotated[
    bool, typer.Option("--again", help="First remove from the store what a restore that ended half-way has left.")
]
Out = Annotated[Path, typer.Option("--out", help="The file to write.", metavar="FILE.tar")]
File = Annotated[Path, typer.Argument(help="A file that `freshet backup` wrote.", metavar="FILE.tar")]


def backup(out: Out, data: DataToSave = None, store: Url = None) -> None:
    """Copy the data of a server, or of a cluster, into a file.

    A server may run on the directory, and nodes on the store; they keep serving. The file holds everything that was
    acknowledged when the backup began, and appears only when it is complete. It needs disk space for itself and, while
    it is written, for a second copy of the largest database, or of one shard.
    """

    def cluster() -> str:
        os.nice(NICE)
        from service.cluster.moving.backing_up import backup_cluster

        with _opened(store) as opened, _progress("backup") as total:
            made = backup_cluster(opened, out, time.time(), total)
        return f"{out}: {made.bytes} bytes, {made.shards} of {made.head.shards} shards"

    def work() -> str:
        os.nice(NICE)
        assert data is not None
        from service.datadir.backup import allow_all_descriptors
        from service.datadir.backup import backup as verb

        allow_all_descriptors()
        with _progress("backup") as total:
            made = verb(data, out, time.time(), total)
        return f"{out}: {made.bytes} bytes, {made.segments} segments, journal up to position {made.head.position}"

    _run(work if _is_single(data, store) else cluster)


def restore(file: File, data: NewData = None, store: NewUrl = None, again: Again = False) -> None:
    """Create a data directory from a backup, or fill an empty store.

    Everything in the file is checked before the directory gets its name. What a store has afterwards is read back and
    compared before a node may use it; the sha256 of each part of each model is printed. Restore only files that you
    trust as much as the server's own disk: they hold the models that will run.
    """

    def cluster() -> str:
        from service.cluster.moving.backing_up import restore_cluster
        from service.cluster.moving.digests import lines

        with _opened(store) as opened, _progress("restore") as total:
            made = restore_cluster(file, opened, again, total)
        found = f"{made.models} models in {made.shards} shards; start nodes with: freshet serve --store URL"
        return "\n".join([*lines(made.digests), found])

    def work() -> str:
        assert data is not None
        from service.datadir.restore import restore as verb

        with _progress("restore") as total:
            made = verb(file, data, total)
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(made.head.created))
        journal = f"journal positions {made.journal.start} to {made.journal.end}"
        return f"{data}: {made.models} models, {journal}, as of {at}; start it with: freshet serve --data {data}"

    _run(work if _is_single(data, store) else cluster)


def _is_single(data: Path | None, store: str | None) -> bool:
    """Whether --data is given, and not --store; print the remedy and exit unless it is one of them."""
    if (data is None) == (store is None):
        raise refused(ValueError("give --data DIR for a single server, or --store URL for a cluster"))
    return data is not None


@contextmanager
def _opened(url: str | None) -> Iterator[Store]:
    """Open a store until the block ends."""
    from service.cluster.moving.patient import Patient
    from service.cluster.store.opening import open_store

    assert url is not None
    store = Patient(open_store(url))
    try:
        yield store
    finally:
        store.close()


def _run(work: Callable[[], str]) -> None:
    import sqlite3

    from service.cluster.moving.source import MovingRefused
    from service.cluster.store.seam import Conflict, StoreLost, StoreRefused, StoreUnavailable
    from service.datadir.archive import ArchiveRefused
    from service.datadir.backup import BackupRefused
    from service.datadir.restore import RestoreRefused
    from service.datadir.staging import InUse
    from service.journal.segments import JournalDamaged
    from service.storage.database import DatabaseRefused
    from service.storage.disk import NoSpace

    try:
        print(work())
    except (
        OSError, sqlite3.Error, ArchiveRefused, BackupRefused, Conflict, DatabaseRefused, InUse, JournalDamaged,
        MovingRefused, NoSpace, RestoreRefused, StoreLost, StoreRefused, StoreUnavailable,
    ) as error:  # fmt: skip
        raise refused(error) from None
    except KeyboardInterrupt:
        print("freshet: interrupted; nothing was written", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _progress(label: str) -> Iterator[Callable[[int], Callable[[int], None]]]:
    """Show the progress of bytes written, once the total is known."""
    from contextlib import ExitStack

    from service.console.progress import progress

    with ExitStack() as stack:

        def total(size: int) -> Callable[[int], None]:
            shown = stack.enter_context(progress(label, max(1, size // MIB), "MiB"))
            done = 0

            def advance(written: int) -> None:
                nonlocal done
                before, done = done, done + written
                for _ in range(before // MIB, min(done, size) // MIB):
                    shown.advance()

            return advance

        yield total
