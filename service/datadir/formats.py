"""Check that this version reads all databases of a data directory, before anything is changed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from service.storage import states, versions
from service.storage.database import is_new, naming, read_only, refuse_other_format
from service.trainer import checkpoint
from service.trainer.placing import checkpoint_files

FORMATS = {
    "states.db": states.FORMAT_VERSION,
    "trainer.db": checkpoint.FORMAT_VERSION,
    "versions.db": versions.FORMAT_VERSION,
}


def check_formats(data: Path) -> None:
    """Raise DatabaseRefused, naming file, formats and remedy, for a database that another version of freshet wrote.

    A missing database is no error. One that cannot be read is left to its owner, which knows the remedy.
    """
    others = {path.name: FORMATS["trainer.db"] for path in checkpoint_files(data).values()}
    for name, expected in (FORMATS | others).items():
        path = data / name
        if path.exists():
            try:
                with naming(path), closing(read_only(path)) as connection:
                    if not is_new(connection):
                        refuse_other_format(path, connection, expected)
            except sqlite3.Error:
                continue
