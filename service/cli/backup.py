"""`freshet backup` and `freshet restore`: copy a data directory into one file while a server runs, and back."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from service.console.verbs import INTERRUPTED, refused

MIB = 1 << 20
NICE = 10  # so that serving has priority, as over the trainer

DataToSave = Annotated[
    Path, typer.Option("--data", help="Data directory of the server (`freshet serve --data`).", metavar="DIR")
]
NewData = Annotated[
    Path, typer.Option("--data", help="The new directory, which must be empty or not exist.", metavar="DIR")
]
Out = Annotated[Path, typer.Option("--out", help="The file to write.", metavar="FILE.tar")]
File = Annotated[Path, typer.Argument(help="A file that `freshet backup` wrote.", metavar="FILE.tar")]


def backup(data: DataToSave, out: Out) -> None:
    """Copy a data directory into a file.

    A server may run on the directory and keeps serving. The file holds everything that the server had acknowledged when
    the backup began, and appears only when it is complete. It needs disk space for itself and, while it is written, for
    a second copy of the largest database.
    """

    def work() -> str:
        os.nice(NICE)
        from service.datadir.backup import allow_all_descriptors
        from service.datadir.backup import backup as verb

        allow_all_descriptors()
        with _progress("backup") as total:
            made = verb(data, out, time.time(), total)
        return f"{out}: {made.bytes} bytes, {made.segments} segments, journal up to position {made.head.position}"

    _run(work)


def restore(file: File, data: NewData) -> None:
    """Create a data directory from a backup.

    Everything in the file is checked before the directory gets its name. Restore only files that you trust as much as
    the server's own disk: they hold the models that will run.
    """

    def work() -> str:
        from service.datadir.restore import restore as verb

        with _progress("restore") as total:
            made = verb(file, data, total)
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(made.head.created))
        journal = f"journal positions {made.journal.start} to {made.journal.end}"
        return f"{data}: {made.models} models, {journal}, as of {at}; start it with: freshet serve --data {data}"

    _run(work)


def _run(work: Callable[[], str]) -> None:
    import sqlite3

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
        OSError, sqlite3.Error, ArchiveRefused, BackupRefused, DatabaseRefused, InUse, JournalDamaged, NoSpace,
        RestoreRefused,
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
