"""Learn a stopped server's journal again and compare the weights, which are a function of the records.

`HostedModel` folds them as in the trainer. Nothing in the data directory is changed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from model.fold.learner import Update
from service.common.gate import GateSettings
from service.engine.export import pack_weights, read_weights
from service.journal.examine import Examined, examine
from service.journal.log import lock
from service.journal.records import SHARD, Chunk, ModelCreate, ModelDelete, Skip, Swap, chunk_head, decode_chunk
from service.journal.segments import JournalDamaged
from service.journal.skips import Skips
from service.storage.versions import VersionCorrupt, VersionMissing, Versions
from service.trainer.checkpoint import Checkpoints
from service.trainer.hosting import HostedModel, WeightsGone
from service.trainer.placing import checkpoint_files

CHECKPOINT = "checkpoint"


class Watch(Protocol):
    """Something that looks at the fold, such as a picture; it must not change what it is given."""

    def before(self, hosted: HostedModel, chunk: Chunk) -> None:
        """Take a chunk that the model will learn."""
        ...

    def after(self, hosted: HostedModel, updates: Sequence[Update]) -> None:
        """Take the updates that it made of the chunk."""
        ...


@dataclass
class Refolded:
    """One model, learned again from entry `first` to `offset`. digest: sha256 of its weights file."""

    number: int
    first: int
    offset: int = 0
    digest: str = ""
    met: list[str] = field(default_factory=list)  # versions and checkpoints on the way with equal weights
    missed: list[str] = field(default_factory=list)  # and with different weights


def refold(
    data: Path,
    checkpoint: Path | None,
    on_progress: Callable[[int, int], None] = lambda *_: None,
    watch: Watch | None = None,
) -> list[Refolded]:
    """Learn the journal in a data directory again, from a checkpoint (a trainer.db), or from its start (None).

    on_progress: called with the position reached, and the journal's end. The weights of each model are compared with
    the versions published meanwhile, and with the directory's own checkpoint. Raises JournalLocked while a server runs;
    JournalDamaged, also if the start of the journal is dropped; WeightsGone for a missing version that a record returns
    to; and as `Checkpoints`.
    """
    fd = lock(data / "journal")
    try:
        journal = examine(data / "journal")
        if journal.damage:
            raise journal.damage
        with closing(Versions(data / "versions.db")) as versions:
            return _Fold(data, journal, versions, checkpoint, watch).run(on_progress)
    finally:
        os.close(fd)


class _Fold:
    def __init__(
        self, data: Path, journal: Examined, versions: Versions, checkpoint: Path | None, watch: Watch | None
    ) -> None:
        self._journal, self._versions, self._watch = journal, versions, watch
        self._start, self._hosted = _stored(checkpoint) if checkpoint else (0, {})
        self._partial = checkpoint is not None and len(checkpoint_files(data)) > 1
        first = journal.segments[0].start if journal.segments else 0
        if self._start < first:
            raise JournalDamaged(
                f"{data / 'journal'}: it begins at position {first}, after {self._start}: "
                "replay from a newer checkpoint, such as --from trainer.db"
            )
        self._results = {n: Refolded(n, hosted.offset) for n, hosted in self._hosted.items()}
        self._skips: dict[int, Skips] = {}
        self._gone: set[int] = set()
        self._recorded: dict[int, dict[int, list[tuple[str, str]]]] = {}  # by model and offset: (name, digest)
        self._survey(data)

    def run(self, on_progress: Callable[[int, int], None]) -> list[Refolded]:
        """Fold the records to the journal's end."""
        for position, chunk in self._chunks(self._start):
            if chunk.model not in self._gone:
                self._learn(chunk)
            on_progress(position, self._journal.end)
        for number, hosted in self._hosted.items():
            self._results[number].offset, self._results[number].digest = hosted.offset, digest_of(hosted)
        return [self._results[number] for number in sorted(self._hosted)]

    def _survey(self, data: Path) -> None:
        """Collect what must be known before the fold: skips, deletions, and the digests to compare with."""
        for _, chunk in self._chunks(0):
            for record in chunk.records:
                match record:
                    case Skip(first, end):
                        self._skips.setdefault(chunk.model, Skips()).add(first, end)
                    case ModelDelete():
                        self._gone.add(chunk.model)
                    case Swap(version=version, offset=offset):
                        self._expect(chunk.model, offset, version)
        for own in checkpoint_files(data).values():
            for number, hosted in _stored(own)[1].items():
                recorded = self._recorded.setdefault(number, {}).setdefault(hosted.offset, [])
                recorded.append((CHECKPOINT, digest_of(hosted)))

    def _expect(self, model: int, offset: int, version: int) -> None:
        try:
            digest = self._versions.get(model, version).weights_digest
        except VersionMissing:
            return  # pruned
        self._recorded.setdefault(model, {}).setdefault(offset, []).append((f"version {version}", digest))

    def _learn(self, chunk: Chunk) -> None:
        hosted = self._hosted.get(chunk.model)
        if hosted is None:
            first = chunk.records[0]
            if not isinstance(first, ModelCreate) and self._partial:  # learned by another trainer
                self._gone.add(chunk.model)
                return
            if not isinstance(first, ModelCreate):
                raise JournalDamaged(f"model {chunk.model}: its first record is dropped, and no checkpoint contains it")
            hosted = self._hosted[chunk.model] = HostedModel.create(chunk.model, first, GateSettings())
            self._results[chunk.model] = Refolded(chunk.model, 0)
        if chunk.end <= hosted.offset:  # the checkpoint contains it, although it is after its position
            return
        hosted.skips = self._skips.get(chunk.model, Skips())
        if self._watch is not None:
            self._watch.before(hosted, chunk)
        updates = hosted.apply(chunk, self._weights_of)
        if self._watch is not None:
            self._watch.after(hosted, updates)
        result = self._results[chunk.model]
        for what, digest in self._recorded.get(chunk.model, {}).get(hosted.offset, ()):
            (result.met if digest == digest_of(hosted) else result.missed).append(what)

    def _chunks(self, start: int) -> Iterator[tuple[int, Chunk]]:
        """Yield the chunks of models from position `start` on, each with the position after it."""
        for frame in self._journal.frames():
            if frame.end > start and chunk_head(frame.payload)[0] != SHARD:
                yield frame.end, decode_chunk(frame.payload)

    def _weights_of(self, model: int, version: int) -> Any:
        try:
            return read_weights(self._hosted[model].learner.network, self._versions.blobs(model, version).weights)
        except (VersionMissing, VersionCorrupt) as error:
            raise WeightsGone(str(error)) from error


def _stored(path: Path) -> tuple[int, dict[int, HostedModel]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint; give a trainer.db, or a copy of one")
    with closing(Checkpoints(path)) as checkpoints:
        return checkpoints.load(GateSettings())


def digest_of(hosted: HostedModel) -> str:
    """Return the sha256 of the weights file of a version with these weights."""
    return hashlib.sha256(pack_weights(hosted.learner.network, hosted.learner.weights.flat)).hexdigest()
