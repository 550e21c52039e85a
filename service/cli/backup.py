"""`freshet backup` and `freshet restore`: a data directory into one file while a server runs on it, and back."""

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
NICE = 10  # serving goes first, as it does before the trainer

DataToSave = Annotated[
    Path, typer.Option("--data", help="The directory that `freshet serve --data` is given.", metavar="DIR")
]
NewData = Annotated[
    Path, typer.Option("--data", help="The new directory, which must be empty or not there.", metavar="DIR")
]
Out = Annotated[Path, typer.Option("--out", help="The new file.", metavar="FILE.tar")]
File = Annotated[Path, typer.Argument(help="What `freshet backup` wrote.", metavar="FILE.tar")]


def backup(data: DataToSave, out: Out) -> None:
    """Copy a data directory into a file, also while a server runs on it, which goes on serving.

    All that the server had acknowledged when this began is in it. The file is there once it is whole. It needs room for
    itself, and for the time being for the largest database once more.
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
    """Make a data directory from a backup, and check everything in it before it takes its name.

    Restore only what you trust as you trust the server's own disk: the file holds the models that will be run.
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
        print("freshet: interrupted; nothing is left of it", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _progress(label: str) -> Iterator[Callable[[int], Callable[[int], None]]]:
    """Shows bytes as they are written, once their number is known."""
    from contextlib import ExitStack

    from service.console.progress import progress

    with ExitStack() as stack:

        def total(size: int) -> Callable[[int], None]:
            shown = stack.enter_context(progress(label, max(1, size // MIB), "MiB"))
            done = 0

            def told(written: int) -> None:
                nonlocal done
                before, done = done, done + written
                for _ in range(before // MIB, min(done, size) // MIB):
                    shown.advance()

            return told

        yield total
