"""Versions: immutable, numbered snapshots of a model's weights with the .onnx that serves them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Set
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, NamedTuple

from service.storage.database import Database

FORMAT_VERSION = 203

_SCHEMA = """
CREATE TABLE numbers (model INTEGER PRIMARY KEY, last INTEGER NOT NULL);
CREATE TABLE versions (
    model INTEGER NOT NULL, number INTEGER NOT NULL, parent INTEGER NOT NULL, "offset" INTEGER NOT NULL,
    digest TEXT NOT NULL, weights_digest TEXT NOT NULL, created REAL NOT NULL, loss REAL, anchor_loss REAL,
    parity_error REAL NOT NULL, canary_digest TEXT NOT NULL,
    onnx BLOB NOT NULL, weights BLOB NOT NULL, canary BLOB NOT NULL,
    PRIMARY KEY (model, number), UNIQUE (model, "offset", digest));
CREATE TABLE pins (model INTEGER NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (model, number))
"""
TABLES = ("numbers", "versions", "pins")  # in each, the first column is the model
_FACTS = 'model, number, parent, "offset", digest, weights_digest, created, loss, anchor_loss, parity_error'


class VersionCorrupt(RuntimeError):
    """Stored bytes are not those that were added; they must not serve. The text names model, version and blob."""


class VersionMissing(LookupError):
    """The version does not exist, or was pruned."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Version:
    """The facts of a version besides its bytes."""

    model: int
    number: int  # 1, 2, 3 … per model; 0: not numbered yet
    parent: int  # number of the version that these weights were learned from; 0: none
    offset: int  # journal entries of the model that the weights have learned
    digest: str  # sha256 of the .onnx, hex
    weights_digest: str  # sha256 of the weights, hex
    created: float  # seconds since 1970-01-01 UTC
    loss: float | None  # mean clipped scaled loss, 0..1, on the labels since the parent
    anchor_loss: float | None  # the anchor's, same scale, on those that it was scored on; None: none
    parity_error: float  # ONNX against NumPy, scaled units

    def __repr__(self) -> str:
        loss = "none" if self.loss is None else f"{self.loss:.3g}"
        return (
            f"Version({self.number} of model {self.model}, parent {self.parent}, learned {self.offset} entries, "
            f"loss {loss}, onnx {self.digest[:12]})"
        )


class Blobs(NamedTuple):
    """The bytes of a version."""

    onnx: bytes
    weights: bytes  # safetensors
    canary: bytes  # inputs and the outputs that the trainer recorded for them


class Versions:
    """The version file. Any thread may call; calls are serialized (see `Database`)."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open or create it. Raises DatabaseRefused for a file that is something else."""
        self._database = Database(path, FORMAT_VERSION, _SCHEMA)

    def compact(self) -> None:
        """Rewrite the file, so that nothing deleted is left in it. Raises as `Database.compact`."""
        self._database.compact()

    def add(
        self,
        version: Version,
        onnx: bytes,
        weights: bytes,
        canary: bytes,
        *,
        pinned: bool = False,
        returning: bool = False,
    ) -> int:
        """Store a version, durable on return, and pin it (see `pin`) if asked; return its number.

        Idempotent by (model, offset, digest): a stored version keeps its number and facts. With number 0 it gets the
        model's next number; no number is used twice, not even of a pruned version. returning: the number may be that of
        one that was pruned: its caller knows that it is the same version.
        Raises ValueError if the digests are not those of the bytes, or the number belongs to another version.
        """
        for name, digest, data in (
            ("digest", version.digest, onnx),
            ("weights_digest", version.weights_digest, weights),
        ):
            if digest != _digest(data):
                raise ValueError(f"{name} {digest!r} is not the sha256 of the bytes, {_digest(data)!r}")
        with self._database.transaction() as sql:
            key = version.model, version.offset, version.digest
            found = sql.execute(
                'SELECT number FROM versions WHERE model = ? AND "offset" = ? AND digest = ?', key
            ).fetchone()
            number = int(found[0]) if found else _next_number(sql, version, returning)
            if not found:
                sql.execute(
                    f"INSERT INTO versions ({_FACTS}, canary_digest, onnx, weights, canary) VALUES ({'?, ' * 13}?)",
                    (*_facts(replace(version, number=number)), _digest(canary), onnx, weights, canary),
                )
            if pinned:
                sql.execute("INSERT OR IGNORE INTO pins VALUES (?, ?)", (version.model, number))
            return number

    def get(self, model: int, number: int) -> Version:
        """Return the facts of a version. Raises VersionMissing."""
        with self._database.transaction() as sql:
            row = sql.execute(
                f"SELECT {_FACTS} FROM versions WHERE model = ? AND number = ?", (model, number)
            ).fetchone()
        if row is None:
            raise VersionMissing(f"model {model} has no version {number}: it was never stored, or is pruned")
        return _version(row)

    def blobs(self, model: int, number: int) -> Blobs:
        """Return the bytes of a version, verified by their digests. Raises VersionMissing, VersionCorrupt."""
        intact = self.intact(model, number)
        damaged = [name for name in Blobs._fields if name not in intact]
        if damaged:
            raise VersionCorrupt(
                f"{self._database.path}: model {model} version {number}: {damaged[0]} does not match its sha256. "
                "Roll back to another version"
            )
        return Blobs(**intact)

    def intact(self, model: int, number: int) -> dict[str, bytes]:
        """Return the blobs of a version, by field of Blobs, that match their digests. Raises VersionMissing."""
        version = self.get(model, number)
        with self._database.transaction() as sql:
            row = sql.execute(
                "SELECT onnx, weights, canary, canary_digest FROM versions WHERE model = ? AND number = ?",
                (model, number),
            ).fetchone()
        if row is None:  # pruned in between
            raise VersionMissing(f"model {model} has no version {number}: it is pruned")
        digests = version.digest, version.weights_digest, row[3]
        found = zip(Blobs._fields, row[:3], digests, strict=True)
        return {name: data for name, data, digest in found if _digest(data) == digest}

    def repair(self, model: int, number: int, blobs: Blobs) -> None:
        """Replace damaged bytes of a version by the same bytes, intact. Raises ValueError for other bytes."""
        version = self.get(model, number)
        if (version.digest, version.weights_digest) != (_digest(blobs.onnx), _digest(blobs.weights)):
            raise ValueError(f"these are not the bytes of model {model} version {number}")
        with self._database.transaction() as sql:
            sql.execute(
                "UPDATE versions SET onnx = ?, weights = ?, canary = ?, canary_digest = ? "
                "WHERE model = ? AND number = ?",
                (*blobs, _digest(blobs.canary), model, number),
            )

    def list(self, model: int) -> list[Version]:
        """Return the kept versions, newest first."""
        with self._database.transaction() as sql:
            rows = sql.execute(
                f"SELECT {_FACTS} FROM versions WHERE model = ? ORDER BY number DESC", (model,)
            ).fetchall()
        return [_version(row) for row in rows]

    def pin(self, model: int, number: int) -> None:
        """Keep a version for good, durable on return: learning the journal from its start may return to it.

        Raises VersionMissing.
        """
        self.get(model, number)
        with self._database.transaction() as sql:
            sql.execute("INSERT OR IGNORE INTO pins VALUES (?, ?)", (model, number))

    def pinned(self, model: int) -> set[int]:
        """Return the numbers of the model's pinned versions."""
        with self._database.transaction() as sql:
            return {row[0] for row in sql.execute("SELECT number FROM pins WHERE model = ?", (model,))}

    def prune(self, model: int, keep: Set[int]) -> int:
        """Delete the model's versions that are neither in `keep` nor pinned; return their number.

        Versions newer than all in `keep` stay: they were stored after the caller's choice.
        """
        with self._database.transaction() as sql:
            numbers = {row[0] for row in sql.execute("SELECT number FROM versions WHERE model = ?", (model,))}
            pins = {row[0] for row in sql.execute("SELECT number FROM pins WHERE model = ?", (model,))}
            pruned = [(model, number) for number in numbers - keep - pins if number < max(keep, default=0)]
            sql.executemany("DELETE FROM versions WHERE model = ? AND number = ?", pruned)
        return len(pruned)

    def take_over(self, model: int, source: Versions, number: int) -> None:
        """Copy all versions of a model from another file, as they are, pins included; here the model is `number`.

        Durable on return. Raises ValueError if the number has versions here.
        """
        rows = {}
        with source._database.transaction() as theirs:
            for table in TABLES:
                found = theirs.execute(f"SELECT * FROM {table} WHERE model = ?", (model,)).fetchall()
                rows[table] = [(number, *row[1:]) for row in found]
        with self._database.transaction() as sql:
            if sql.execute("SELECT 1 FROM numbers WHERE model = ?", (number,)).fetchone():
                raise ValueError(f"{self._database.path}: model {number} has versions")
            for table, found in rows.items():
                if found:
                    sql.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(found[0]))})", found)

    def last_number(self, model: int) -> int:
        """Return the highest number that a version of the model ever had; 0 if none."""
        with self._database.transaction() as sql:
            row = sql.execute("SELECT last FROM numbers WHERE model = ?", (model,)).fetchone()
        return int(row[0]) if row else 0

    def last_model(self) -> int:
        """Return the highest number of a model that ever had a version; 0 if none."""
        with self._database.transaction() as sql:
            return int(sql.execute("SELECT coalesce(max(model), 0) FROM numbers").fetchone()[0])

    def drop(self, model: int) -> None:
        """Delete all versions of a deleted model, durable on return."""
        with self._database.transaction() as sql:
            _drop(sql, {model})

    def drop_all_but(self, models: Set[int]) -> None:
        """Delete the versions of all models but these."""
        with self._database.transaction() as sql:
            _drop(sql, {row[0] for row in sql.execute("SELECT model FROM numbers")} - models)

    def remove(self) -> None:
        """Close and remove the file."""
        self.close()
        self._database.path.unlink()

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def new_version(
    model: int, parent: int, offset: int, onnx: bytes, weights: bytes, created: float, numbers: dict[str, float]
) -> Version:
    """Return the facts of a version to store, with number 0."""
    return Version(
        model=model,
        number=0,
        parent=parent,
        offset=offset,
        digest=sha256(onnx).hexdigest(),
        weights_digest=sha256(weights).hexdigest(),
        created=created,
        loss=numbers.get("loss"),
        anchor_loss=numbers.get("anchor_score"),
        parity_error=numbers.get("parity_error", 0.0),
    )


def _drop(sql: sqlite3.Connection, models: Set[int]) -> None:
    """Delete models. The row in `numbers` of the highest model stays: `last_model` reads it."""
    gone = [(model,) for model in models]
    sql.executemany("DELETE FROM versions WHERE model = ?", gone)
    sql.executemany("DELETE FROM pins WHERE model = ?", gone)
    sql.executemany("DELETE FROM numbers WHERE model = ? AND model < (SELECT max(model) FROM numbers)", gone)


def _next_number(sql: sqlite3.Connection, version: Version, returning: bool) -> int:
    """Return the number for a new version, and record it as used."""
    row = sql.execute("SELECT last FROM numbers WHERE model = ?", (version.model,)).fetchone()
    last = row[0] if row else 0
    number = version.number or last + 1
    if number <= last and not returning:
        raise ValueError(
            f"model {version.model}: version number {number} is taken, the last is {last}; give 0 for the next"
        )
    sql.execute("INSERT OR REPLACE INTO numbers VALUES (?, ?)", (version.model, max(last, number)))
    return number


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def _facts(version: Version) -> tuple[Any, ...]:
    return tuple(getattr(version, name.strip('" ')) for name in _FACTS.split(","))


def _version(row: tuple[Any, ...]) -> Version:
    return Version(**dict(zip((name.strip('" ') for name in _FACTS.split(",")), row, strict=True)))
