"""A stopped data directory, or a shard's, whose models are to be copied: read, never changed."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
    Record,
    Slice,
    chunk_head,
    decode_chunk,
    encode_record,
)
from service.storage.directory import OWED_FILE
from service.storage.states import Snapshot, States
from service.storage.versions import Versions
from service.streams.specs import unpack_slices
from service.trainer.checkpoint import Checkpoints
from service.trainer.placing import checkpoint_files

MODEL_END = encode_record(ModelDelete())
EVERYTHING = 2**63 - 1
Places = tuple[NDArray[np.uint64], NDArray[np.uint32]]  # of chunks: positions after them, and their sizes


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
    index: Index
    models: Mapping[int, ModelKey]
    specs: Mapping[int, str]  # of the same models, as `unpack_specs` reads them
    needed: int  # position from which all databases continue

    @property
    def start(self) -> int:
        """Position of the oldest record."""
        return self.journal.segments[0].start if self.journal.segments else 0

    def chunks(
        self, models: Collection[int], after: int = 0, through: int = EVERYTHING
    ) -> Iterator[tuple[int, int, bytes]]:
        """Yield the records of models in order: the position after a chunk, the model, the chunk's bytes.

        Only those that end after the position `after`, and at or before `through`.
        """
        places = [self.index.of(model) for model in models]
        if not places:
            return
        ends, sizes = (np.concatenate(columns) for columns in zip(*places, strict=True))
        owners = np.repeat(list(models), [len(place[0]) for place in places])
        order = np.argsort(ends, kind="stable")
        order = order[(ends[order] > after) & (ends[order] <= through)]
        wanted = zip(ends[order].tolist(), sizes[order].tolist(), owners[order].tolist(), strict=True)
        yield from _read(self.journal, wanted)

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
        index = Index(journal, snapshot)
        models, specs = index.models(), index.specs()
        for model in index.in_slices & models.keys():
            raise MovingRefused(
                f"{data}: model {models[model].name} is served in slices, over several shards, which cannot be moved "
                "or copied one by one: stop all nodes, and copy the whole store by the means of its engine"
            )
        yield Source(
            data, journal, snapshot, states,
            stack.enter_context(closing(Versions(work / VERSIONS))),
            tuple(stack.enter_context(closing(Checkpoints(path))) for path in trainers),
            index, models, specs, max(start, min(positions)),
        )  # fmt: skip


def _check_nothing_owed(data: Path) -> None:
    path = data / OWED_FILE
    if path.exists() and json.loads(path.read_text()):
        raise MovingRefused(f"{path}: data is still to be erased: start the server until it has done so, then stop it")


class Index:
    """Where the chunks of each model are in a journal, and which models there are: one pass over all frames.

    in_slices: models that are served in slices, or are slices.
    """

    def __init__(self, journal: Examined, snapshot: Snapshot) -> None:
        """Read the journal, which is known to be intact."""
        self._found = {row.model: (ModelKey(row.tenant, row.name), row.spec) for row in snapshot.models}
        self._known = frozenset(self._found)
        self.in_slices = {row.model for row in snapshot.models if unpack_slices(row.spec)}
        self._places: dict[int, tuple[array[int], array[int]]] = {}
        for frame in journal.frames():
            model, offset = chunk_head(frame.payload)
            if model == SHARD:
                continue
            ends, sizes = self._places.setdefault(model, (array("Q"), array("I")))
            ends.append(frame.end)
            sizes.append(len(frame.payload))
            if offset == 0 or model not in self._known or frame.payload.endswith(MODEL_END):
                self._note(model, decode_chunk(frame.payload).records)

    def models(self) -> dict[int, ModelKey]:
        """Return the models of the snapshot and of the journal that are not deleted."""
        return {model: key for model, (key, _) in sorted(self._found.items())}

    def specs(self) -> dict[int, str]:
        """Return their specs, as they were stored last or created."""
        return {model: spec for model, (_, spec) in self._found.items()}

    def of(self, model: int) -> Places:
        """Return the places of a model's chunks."""
        ends, sizes = self._places.get(model, (array("Q"), array("I")))
        return np.frombuffer(ends, np.uint64), np.frombuffer(sizes, np.uint32)

    def _note(self, model: int, records: Sequence[Record]) -> None:
        """Note what records say of a model's existence and slices."""
        if isinstance(first := records[0], ModelCreate):
            self._found.setdefault(model, (ModelKey(first.tenant, first.name), first.spec))
        if model not in self._known and any(isinstance(record, Slice | Gathered) for record in records):
            self.in_slices.add(model)
        if isinstance(records[-1], ModelDelete):
            self._found.pop(model, None)


def _read(journal: Examined, wanted: Iterable[tuple[int, int, int]]) -> Iterator[tuple[int, int, bytes]]:
    """Yield the payloads that end at these positions, in ascending order: each (end, size, model) becomes (end, model,
    payload)."""
    with ExitStack() as stack:
        following = list(reversed(journal.segments))
        segment, file = None, None
        for end, size, model in wanted:
            while segment is None or (following and end > following[-1].start):
                segment = following.pop()
                stack.close()
                file = stack.enter_context(segment.open())
            assert file is not None
            file.seek(segment.file_offset(end - size))
            yield end, model, file.read(size)
