"""A stopped data directory, or a shard's, whose models are to be copied: read, never changed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from service.common.names import ModelKey
from service.datadir.backup import STATES, VERSIONS, copy_database, databases
from service.datadir.formats import check_formats
from service.journal.examine import Examined, examine
from service.journal.log import lock
from service.journal.records import (
    SHARD,
    Gathered,
    ModelCreate,
    ModelDelete,
    Slice,
    chunk_head,
    decode_chunk,
    encode_record,
)
from service.storage.states import Snapshot, States
from service.storage.versions import Versions
from service.streams.specs import unpack_slices
from service.trainer.checkpoint import Checkpoints
from service.trainer.placing import checkpoint_files

OWED = "erase-owed.json"
MODEL_END = encode_record(ModelDelete())
Records = Iterator[bytes]  # encoded chunks


class MovingRefused(RuntimeError):
    """The data cannot be moved or copied as asked. The text names what is in the way and the remedy."""


@dataclass(frozen=True)
class Source:
    """The content of a data directory. models: those that exist, by number."""

    folder: Path
    journal: Examined
    snapshot: Snapshot
    states: States
    versions: Versions
    checkpoints: tuple[Checkpoints, ...]
    models: Mapping[int, ModelKey]
    specs: Mapping[int, str]  # of the same models, as `unpack_specs` reads them
    needed: int  # position from which all databases continue

    @property
    def start(self) -> int:
        """Position of the oldest record."""
        return self.journal.segments[0].start if self.journal.segments else 0

    def chunks(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield the records of existing models: the position after a chunk, the model, the chunk's bytes."""
        for frame in self.journal.frames():
            model = chunk_head(frame.payload)[0]
            if model in self.models:
                yield frame.end, model, frame.payload

    def learned(self, model: int) -> Checkpoints | None:
        """Return the file that has learned most of a model; None if none has learned it."""
        held = [checkpoints for checkpoints in self.checkpoints if model in checkpoints.held().models]
        return max(held, key=lambda one: int(json.loads(one.rows(model)["models"][0][1])["offset"]), default=None)


@contextmanager
def reading(data: Path, work: Path) -> Iterator[Source]:
    """Read a data directory while no server runs on it. work: an empty folder, for copies of its databases.

    Raises MovingRefused, also for a model in slices; JournalLocked while a server runs, JournalDamaged,
    DatabaseRefused, StatesCorrupt, NoSpace, OSError.
    """
    for name in (STATES, VERSIONS, "journal"):
        if not (data / name).exists():
            raise MovingRefused(f"{data}: holds no {name}; give the directory that freshet serve --data was given")
    check_formats(data)
    _check_nothing_owed(data)
    with ExitStack() as stack:
        stack.callback(os.close, lock(data / "journal"))
        journal = examine(data / "journal")
        if journal.damage:
            raise journal.damage
        with databases(data) as found:
            for name, connection in found.connections.items():
                copy_database(data / name, connection, work / name)
        trainers = list(checkpoint_files(work).values())
        positions = [*found.positions.values(), *([] if trainers else [0])]  # a first trainer needs all that is kept
        start = journal.segments[0].start if journal.segments else 0
        states = stack.enter_context(closing(States(work / STATES)))
        snapshot = states.load()
        if snapshot.journal_end > journal.end:
            raise MovingRefused(
                f"{data}: the journal ends at position {journal.end}, before its snapshot, {snapshot.journal_end}: "
                "restore both from the same moment"
            )
        models, specs = _existing(journal, snapshot)
        for model in _in_slices(journal, snapshot) & models.keys():
            raise MovingRefused(
                f"{data}: model {models[model].name} is served in slices, over several shards, which cannot be moved "
                "or copied one by one: stop all nodes, and copy the whole store by the means of its engine"
            )
        yield Source(
            data, journal, snapshot, states,
            stack.enter_context(closing(Versions(work / VERSIONS))),
            tuple(stack.enter_context(closing(Checkpoints(path))) for path in trainers),
            models, specs, max(start, min(positions)),
        )  # fmt: skip


def _check_nothing_owed(data: Path) -> None:
    path = data / OWED
    if path.exists() and json.loads(path.read_text()):
        raise MovingRefused(f"{path}: data is still to be erased: start the server until it has done so, then stop it")


def _existing(journal: Examined, snapshot: Snapshot) -> tuple[dict[int, ModelKey], dict[int, str]]:
    """Return the models of the snapshot and of the journal that are not deleted, and their specs."""
    found = {row.model: (ModelKey(row.tenant, row.name), row.spec) for row in snapshot.models}
    for frame in journal.frames():
        model, offset = chunk_head(frame.payload)
        if model == SHARD or not (offset == 0 or frame.payload.endswith(MODEL_END)):
            continue
        records = decode_chunk(frame.payload).records
        if isinstance(records[0], ModelCreate):
            found.setdefault(model, (ModelKey(records[0].tenant, records[0].name), records[0].spec))
        if isinstance(records[-1], ModelDelete):
            found.pop(model, None)
    ordered = sorted(found.items())
    return {model: key for model, (key, _) in ordered}, {model: spec for model, (_, spec) in ordered}


def _in_slices(journal: Examined, snapshot: Snapshot) -> set[int]:
    """Return the models that are served in slices, or are slices: what the snapshot says, and later records."""
    found = {row.model for row in snapshot.models if unpack_slices(row.spec)}
    known = {row.model for row in snapshot.models}
    for frame in journal.frames():
        model = chunk_head(frame.payload)[0]
        if model in known or model == SHARD:
            continue
        if any(isinstance(record, Slice | Gathered) for record in decode_chunk(frame.payload).records):
            found.add(model)
    return found
