"""Recovery at start: load the last snapshot, then replay the journal after it with the versions that answered then.

It moves streams with the calls of the live path: `ServedModel.step`, `advance` and `apply`. Streams without a record
after the snapshot stay on disk.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from model.spec import ModelSpec
from model.update.rounds import rounds
from service.engine.session import StepSession
from service.journal.records import (
    SHARD,
    Chunk,
    ModelCreate,
    ModelDelete,
    Reset,
    StateDelete,
    StatePut,
    Ticks,
    decode_chunk,
    encode_record,
    entries,
)
from service.journal.slices import Slices
from service.journal.writer import Journal, JournalDamaged
from service.observe.progress import LearnerMetrics
from service.observe.serving_metrics import ServingMetrics
from service.serving.catalog import Catalog
from service.serving.loading import UNREADABLE, Champions, Loader
from service.storage.states import AnswerBlock, Snapshot, States
from service.storage.versions import Versions
from service.streams.residency import restore
from service.streams.served import ServedModel, rows_in_memory
from service.streams.specs import unpack_slices, unpack_specs
from service.streams.table import ABSENT

SCAN_BYTES = 1 << 20
MODEL_END = encode_record(ModelDelete())


def recover(
    catalog: Catalog,
    champions: Champions,
    loader: Loader,
    journal: Journal,
    versions: Versions,
    states: States,
    serving: ServingMetrics,
    learner: LearnerMetrics,
) -> int:
    """Fill the catalog with all models as of the journal's end. Returns the number of entries replayed.

    If a version cannot be read, the streams that it answered lose their states and an older version serves. Raises
    JournalDamaged, StatesCorrupt; VersionMissing, VersionCorrupt, BadVersion if no version of a model can be read. Each
    error names the fault and the remedy.
    """
    snapshot = states.load()
    if journal.durable_position < snapshot.journal_end:
        raise JournalDamaged(
            f"the journal ends at position {journal.durable_position}, before the snapshot in states.db, "
            f"{snapshot.journal_end}: it is older; restore both from the same moment"
        )
    deleted = _deleted(journal, snapshot.position)
    _restore(catalog, snapshot, deleted)
    replay = Replay(catalog, champions, loader, states, {row.model: row.offset for row in snapshot.models})
    replayed = sum(replay.apply(chunk) for _, chunk in journal.chunks(snapshot.position) if chunk.model not in deleted)
    catalog.last_number = max(catalog.last_number, versions.last_model())
    for number, model in catalog.models.items():
        journal.start_offset(number, replay.ends[number])
        replay.finish(model)
        catalog.link(model)
        catalog.report_versions(model)
        serving.of(model.key).published.set(versions.get(number, model.champion).created)
        learner.of(model.key).resuming = True
        catalog.report_streams(model)
        rows = model.table.rows()
        model.table.durable_seq[rows] = model.table.last_seq[rows]
    return replayed


def _restore(catalog: Catalog, snapshot: Snapshot, deleted: set[int]) -> None:
    """Add the snapshot's models to the catalog, except `deleted` ones. Streams stay on disk."""
    answers: dict[int, list[AnswerBlock]] = {}
    for block in snapshot.answers:
        answers.setdefault(block.model, []).append(block)
    for row in snapshot.models:
        if row.model in deleted:
            catalog.gone.add(row.model)
            continue
        spec, created_as = unpack_specs(row.spec)
        model = ServedModel(row.model, row.tenant, row.name, spec)
        model.created_as, model.slices = created_as, Slices(unpack_slices(row.spec))
        model.restore_model(row, snapshot.streams.get(row.model, 0), answers.pop(row.model, []))
        catalog.add(model)


def _deleted(journal: Journal, position: int) -> set[int]:
    """Return the models deleted in the journal after `position`. Their versions may be gone: they are not replayed."""
    deleted = set()
    while frames := journal.read(position, SCAN_BYTES):
        position = frames[-1][0]
        for _, payload in frames:
            if payload.endswith(MODEL_END):  # few other chunks do; decoding all would cost as much as replaying
                chunk = decode_chunk(payload)
                if isinstance(chunk.records[-1], ModelDelete):
                    deleted.add(chunk.model)
    return deleted


class Replay:
    """Applies the journal entries that the snapshot does not contain. ends: entries applied so far, by model."""

    def __init__(
        self, catalog: Catalog, champions: Champions, loader: Loader, states: States, ends: dict[int, int]
    ) -> None:
        self._catalog, self._champions, self._loader = catalog, champions, loader
        self._states, self.ends = states, ends
        self._lost: dict[int, set[int]] = {}  # by model: streams with ticks that cannot be recomputed
        self._unreadable: dict[tuple[int, int], Exception] = {}  # by model and version

    def apply(self, chunk: Chunk) -> int:
        """Apply one chunk. Returns the number of its entries that were new; records of the shard are not counted."""
        if chunk.model == SHARD:
            return 0
        model = self._catalog.models.get(chunk.model)
        offset, contained = chunk.offset, self.ends.get(chunk.model, 0)
        if offset > contained:
            raise JournalDamaged(f"model {chunk.model}: the journal continues at entry {offset}, expected {contained}")
        for record in chunk.records:
            n = entries(record)
            skip = min(n, max(0, contained - offset))
            if skip < n:
                if isinstance(record, ModelCreate):
                    spec = ModelSpec.from_stored(json.loads(record.spec))
                    model = ServedModel(chunk.model, record.tenant, record.name, spec)
                    self._catalog.add(model)
                elif model is None:
                    raise JournalDamaged(f"model {chunk.model}: a record precedes the one that creates the model")
                elif isinstance(record, Ticks) and model.follows:
                    model.follow(int(record.stream[skip:].max()))
                elif isinstance(record, Ticks):
                    self._bring(model, record.stream[skip:])
                    self._ticks(model, record, offset, skip)
                else:
                    self._bring(model, getattr(record, "stream", ()))
                    model.apply(record, offset + n)
                    if isinstance(record, Reset | StatePut | StateDelete):
                        self._lost.get(model.number, set()).discard(record.stream)
            offset += n
        self.ends[chunk.model] = max(contained, chunk.end)
        return self.ends[chunk.model] - contained

    def finish(self, model: ServedModel) -> None:
        """Check the champion's files at the journal's end, or fall back to an older version; mark lost states.

        The session of a model without replayed ticks is loaded later, for its first tick.
        """
        champion, loader = model.champion, self._loader
        loaded = self._champions.loaded(model) is not None
        if not loaded and not loader.is_intact(model, champion) and self._session(model) is None:
            why = self._unreadable[model.number, champion]
            self._champions.fall_back(model, *loader.readable_before(model, champion, why), why)
        rows = model.table.rows_of(np.array(sorted(self._lost.get(model.number, ())), np.uint32))
        model.lose_states(rows[rows != ABSENT])

    def _bring(self, model: ServedModel, streams: Any) -> None:
        """Bring stored streams that are not in memory into it. streams: numbers, or one number."""
        numbers = np.unique(np.asarray(streams, np.uint32))
        absent = numbers[model.table.rows_of(numbers) == ABSENT]
        for stored in self._states.by_number(model.number, absent.tolist()):
            restore(model, stored)
            if not stored.state:
                self._lost.setdefault(model.number, set()).add(stored.stream)

    def _ticks(self, model: ServedModel, ticks: Ticks, offset: int, skip: int) -> None:
        session = self._session(model)
        for wave in rounds(ticks.stream[skip:], model.step_rows):
            index = wave + skip
            rows = rows_in_memory(model, ticks.stream[index])
            seq, time, ends = ticks.seq[index], ticks.time[index], offset + 1 + index
            if session is None:
                model.pass_over(rows, seq, time, ends)
                self._lost.setdefault(model.number, set()).update(ticks.stream[index].tolist())
                continue
            x = np.ascontiguousarray(ticks.x[index])
            y, states = model.step(session, rows, time, x)
            model.advance(rows, seq, time, x, y, states, ends)

    def _session(self, model: ServedModel) -> StepSession | None:
        """Return the champion's session, loaded when the replay first needs it; None if it cannot be loaded."""
        key = model.number, model.champion
        session = self._champions.loaded(model)
        if session is None and key not in self._unreadable:
            try:
                session = self._loader.load(model, model.champion)
            except UNREADABLE as error:
                self._unreadable[key] = error
                return None
            self._champions.install(model, session)
        return session
