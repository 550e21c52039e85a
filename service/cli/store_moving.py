"""`freshet store import` and `freshet store export`: from a single server's data directory to a store, and back."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.console.verbs import INTERRUPTED, refused

if TYPE_CHECKING:
    from service.cluster.moving.importing import Moved

NICE = 10  # so that servers on this machine have priority
SHARDS = 16  # as the setting's default; a test compares

Data = Annotated[
    Path, typer.Argument(help="Data directory of a server that is stopped (`freshet serve --data`).", metavar="DATA")
]
NewData = Annotated[
    Path, typer.Argument(help="The new data directory, which must be empty or not exist.", metavar="DATA")
]
Url = Annotated[str, typer.Argument(help="URL of the store, as in the setting `store`.", metavar="URL")]
Shards = Annotated[int, typer.Option(min=1, max=256, help="Shards of the new cluster; fixed for its life.")]
Shard = Annotated[int | None, typer.Option(min=0, help="Only this shard, its journal as it is.", metavar="N")]
Again = Annotated[bool, typer.Option("--again", help="First remove what an import that ended half-way has left.")]


def import_data(data: Data, url: Url, shards: Shards = SHARDS, again: Again = False) -> None:
    """Bring a stopped server's data directory into an empty store.

    Each model goes to its shard, with its records, versions, streams and learned progress; the directory stays as it
    is. What the store has afterwards is read back and compared before a node may use it. The sha256 of each part of
    each model is printed; `freshet store export` prints the same list. Needs room on the directory's disk for copies of
    it.
    """

    def work() -> Moved:
        from service.cluster.moving.importing import import_directory
        from service.cluster.moving.patient import Patient
        from service.cluster.store.opening import open_store

        store = Patient(open_store(url))
        try:
            return import_directory(data, store, shards, again)
        finally:
            store.close()

    moved = _run(work)
    start = "start nodes with: freshet serve --store URL"
    print(f"{moved.models} models are in {moved.shards} of {shards} shards; {start}", file=sys.stderr)


def export_data(url: Url, data: NewData, shard: Shard = None) -> None:
    """Make a single server's data directory from a store whose nodes are stopped.

    The models of all shards come into one directory, or only those of one shard. The store stays as it is. The result
    is read back and compared; the sha256 of each part of each model is printed.
    """

    def work() -> Moved:
        from service.cluster.moving.exporting import export_directory
        from service.cluster.moving.patient import Patient
        from service.cluster.store.opening import open_store

        store = Patient(open_store(url))
        try:
            return export_directory(store, data, shard)
        finally:
            store.close()

    moved = _run(work)
    print(f"{data}: {moved.models} models; start it with: freshet serve --data {data}", file=sys.stderr)


def _run(work: Callable[[], Moved]) -> Moved:
    """Do the work at low priority and print the digests; errors become one line and an exit code."""
    os.nice(NICE)
    import sqlite3

    from service.cluster.moving.digests import lines
    from service.cluster.moving.source import MovingRefused
    from service.cluster.store.seam import Conflict, StoreLost, StoreRefused, StoreUnavailable
    from service.datadir.backup import BackupRefused
    from service.datadir.staging import InUse
    from service.journal.log import JournalLocked
    from service.journal.segments import JournalDamaged
    from service.storage.database import DatabaseRefused
    from service.storage.disk import NoSpace
    from service.storage.states import StatesCorrupt

    try:
        moved = work()
    except (
        OSError, sqlite3.Error, BackupRefused, Conflict, DatabaseRefused, InUse, JournalDamaged, JournalLocked,
        MovingRefused, NoSpace, StatesCorrupt, StoreLost, StoreRefused, StoreUnavailable,
    ) as error:  # fmt: skip
        raise refused(error) from None
    except KeyboardInterrupt:
        print("freshet: interrupted", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    print("\n".join(lines(moved.digests)))
    return moved
