"""Make a data directory from a backup: everything is checked before the directory gets its name."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from service.datadir.archive import Head, OnBytes, unpack
from service.datadir.formats import FORMATS, check_formats
from service.datadir.repair import RepairRefused, Report, check
from service.datadir.staging import staging
from service.journal.log import LOCK_NAME
from service.journal.records import RecordError
from service.storage.database import DatabaseCorrupt, quick_check, read_only
from service.storage.disk import NoSpace, sync_directory

NEEDED = ("states.db", "versions.db")  # the first trainer creates trainer.db


class RestoreRefused(RuntimeError):
    """The directory is in use, or the parts of the backup do not fit together. The text names them and the remedy."""


class Restored(NamedTuple):
    """The content of the new directory."""

    head: Head
    journal: Report
    models: int


def restore(archive: Path, data: Path, total: Callable[[int], OnBytes]) -> Restored:
    """Make the data directory `data`, which must be empty or missing; durable and whole on return, else unchanged.

    total: given the bytes to write, returns a callback for those written since its last call. Raises RestoreRefused,
    ArchiveRefused; JournalFormat and DatabaseRefused for files of another version of freshet; NoSpace, OSError.
    """
    data = data.resolve()
    if data.exists() and any(data.iterdir()):
        raise RestoreRefused(f"{data}: is not empty; give a new directory, or move its content away")
    size = archive.stat().st_size
    with staging(data) as folder:
        if size > (free := shutil.disk_usage(folder).free):
            raise NoSpace(f"{data}: {archive} has {size} bytes, the disk has room for {free}")
        (folder / "journal").mkdir(0o700)
        head = unpack(archive, folder, total(size))
        report, models = _checked(archive, folder, head)
        for leftover in ((folder / "journal" / LOCK_NAME), *folder.glob("*.db-*")):  # of the checks
            leftover.unlink()
        for directory in (folder / "journal", folder):
            sync_directory(directory)
        folder.rename(data)
        sync_directory(data.parent)
    return Restored(head, report, models)


def _checked(archive: Path, folder: Path, head: Head) -> tuple[Report, int]:
    """Check that everything fits together; return the journal's report and the number of models."""
    missing = [name for name in NEEDED if not (folder / name).exists()]
    if missing:
        raise _refused(archive, f"holds no {missing[0]}")
    check_formats(folder)
    try:
        for name in FORMATS:
            if (folder / name).exists():
                with closing(read_only(folder / name)) as sql:
                    quick_check(folder / name, sql)
        with closing(read_only(folder / "states.db")) as sql:
            models = int(sql.execute("SELECT count(*) FROM models").fetchone()[0])
            position = int((sql.execute("SELECT position FROM snapshot").fetchone() or (0,))[0])
        report = check(folder)
    except RecordError as error:
        raise _refused(archive, f"its journal holds a frame that is not a record: {error}") from error
    except (sqlite3.Error, DatabaseCorrupt, RepairRefused, TypeError, ValueError) as error:
        raise _refused(archive, f"a database in it is damaged: {error}") from error
    if report.problem:
        raise _refused(archive, report.problem)
    if report.start > position or report.end != head.position:
        where = f"positions {report.start} to {report.end}"
        raise _refused(archive, f"its journal holds {where}, and should hold {position} to {head.position}")
    return report, models


def _refused(archive: Path, what: str) -> RestoreRefused:
    return RestoreRefused(f"{archive}: {what}. Nothing was restored; use another backup")
