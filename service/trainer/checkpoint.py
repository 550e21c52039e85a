"""trainer.db: weights, optimizer, contexts and the journal position that they contain, in one transaction (DESIGN R5)."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable
from importlib import metadata

from service.gate import GateSettings
from service.storage.database import Database
from service.trainer.hosting import HostedModel

FORMAT_VERSION = 301

_SCHEMA = """
CREATE TABLE checkpoint (id INTEGER PRIMARY KEY CHECK (id = 1), position INTEGER NOT NULL, machine TEXT NOT NULL);
CREATE TABLE models (model INTEGER PRIMARY KEY, head TEXT NOT NULL);
CREATE TABLE blobs (
    model INTEGER NOT NULL, name TEXT NOT NULL, data BLOB NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (model, name));
CREATE TABLE contexts (
    model INTEGER NOT NULL, stream INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (model, stream))
"""


class CheckpointCorrupt(RuntimeError):
    """A stored blob is not the one that was saved. Names the file, the model and the remedy."""


def machine_kind() -> str:
    """What bit-equal learning depends on: processor kind and the versions of the arithmetic."""
    return f"{platform.machine()} python {platform.python_version()} numpy {metadata.version('numpy')}"


class Checkpoints:
    """The trainer's one file; the trainer is its only writer."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open or make it. Raises DatabaseRefused for a file that is something else."""
        self._database = Database(path, FORMAT_VERSION, _SCHEMA)

    def save(self, position: int, models: Iterable[HostedModel]) -> None:
        """Store the models as they are after the journal's `position`, durable on return. Contexts: changed ones only."""
        with self._database.transaction() as sql:
            for hosted in models:
                head, blobs = hosted.pack()
                changed, removed = hosted.learner.contexts.changes()
                n = hosted.number
                sql.execute("INSERT OR REPLACE INTO models VALUES (?, ?)", (n, head))
                sql.executemany(
                    "INSERT OR REPLACE INTO blobs VALUES (?, ?, ?, ?)",
                    [(n, name, data, hashlib.sha256(data).hexdigest()) for name, data in blobs.items()],
                )
                sql.executemany("DELETE FROM contexts WHERE model = ? AND stream = ?", [(n, s) for s in removed])
                sql.executemany("INSERT OR REPLACE INTO contexts VALUES (?, ?, ?)", [(n, s, d) for s, d in changed.items()])
            sql.execute("INSERT OR REPLACE INTO checkpoint VALUES (1, ?, ?)", (position, machine_kind()))

    def load(self, settings: GateSettings) -> tuple[int, dict[int, HostedModel]]:
        """The position and the models by number; (0, {}) before the first save. Raises CheckpointCorrupt."""
        with self._database.transaction() as sql:
            stored = sql.execute("SELECT position FROM checkpoint").fetchone()
            heads = sql.execute("SELECT model, head FROM models").fetchall()
            blobs: dict[int, dict[str, bytes]] = {}
            for number, name, data, digest in sql.execute("SELECT model, name, data, digest FROM blobs"):
                if hashlib.sha256(data).hexdigest() != digest:
                    raise CheckpointCorrupt(
                        f"{self._database.path}: model {number}: {name} is not as it was saved. Move the file away: "
                        "the trainer then learns again from the journal"
                    )
                blobs.setdefault(number, {})[name] = data
            contexts: dict[int, dict[int, bytes]] = {}
            for number, stream, data in sql.execute("SELECT model, stream, data FROM contexts"):
                contexts.setdefault(number, {})[stream] = data
        models = {n: HostedModel.unpack(n, head, blobs[n], contexts.get(n, {}), settings) for n, head in heads}
        return (stored[0] if stored else 0), models

    def close(self) -> None:
        """Close the file."""
        self._database.close()
