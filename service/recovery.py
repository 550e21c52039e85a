"""Start-up as replay: the last snapshot, then the journal after it, through the versions that answered then.

The same calls that serve live move the sessions here: `Sessions.step`, `advance` and `apply`. Streams that no record
after the snapshot names stay on disk.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from model.rounds import rounds
from model.spec import ModelSpec
from service.engine import StepSession
from service.export import Canary
from service.records import Chunk, ModelCreate, ModelDelete, Ticks, decode_chunk, encode_record, entries
from service.serving import WAVE_ROWS, Serving
from service.sessions import Sessions, rows_in_memory
from service.storage.journal import Journal, JournalDamaged
from service.storage.states import States
from service.table import ABSENT

SCAN_BYTES = 1 << 20
MODEL_END = encode_record(ModelDelete())


def recover(serving: Serving, states: States) -> int:
    """Bring `serving` to where the journal ends; returns the entries replayed. Raises JournalDamaged, StatesCorrupt,
    VersionMissing, VersionCorrupt, BadVersion: each names what and the remedy."""
    snapshot = states.load()
    if serving.journal.durable_position < snapshot.journal_end:
        raise JournalDamaged(
            f"the journal ends at position {serving.journal.durable_position}, before the snapshot in states.db, "
            f"{snapshot.journal_end}: it is older. Restore both from the same moment"
        )
    deleted = _deleted(serving.journal, snapshot.position)
    for row in snapshot.models:
        if row.model in deleted:
            continue
        model = Sessions(row.model, row.tenant, row.name, ModelSpec.from_mapping(json.loads(row.spec)))
        blocks = [block for block in snapshot.answers if block.model == row.model]
        model.restore_model(row, snapshot.streams.get(row.model, 0), blocks)
        serving.add_model(model)
    ends = {row.model: row.offset for row in snapshot.models}
    replayed = 0
    for _, chunk in serving.journal.replay(snapshot.position):
        if chunk.model not in deleted:
            replayed += _apply(serving, states, chunk, ends)
    serving.last_model = max(serving.last_model, serving.versions.last_model())
    for number, model in serving.models.items():
        serving.journal.start_offset(number, ends[number])
        _runner(serving, model)
        metrics = serving.metrics.of(model.name)
        metrics.version.set(model.champion)
        metrics.streams.set(model.known)
        metrics.resident.set(len(model.table))
        rows = model.table.rows()
        model.table.durable_seq[rows] = model.table.last_seq[rows]
    return replayed


def _deleted(journal: Journal, position: int) -> set[int]:
    """Models that end in the journal after `position`: their versions may be gone, so nothing of them is replayed."""
    deleted = set()
    while frames := journal.read(position, SCAN_BYTES):
        position = frames[-1][0]
        for _, payload in frames:
            if payload.endswith(MODEL_END):  # few others do: to decode them all would cost as much as the replay
                chunk = decode_chunk(payload)
                if isinstance(chunk.records[-1], ModelDelete):
                    deleted.add(chunk.model)
    return deleted


def _apply(serving: Serving, states: States, chunk: Chunk, ends: dict[int, int]) -> int:
    """Apply what of a chunk the snapshot does not hold yet; returns how many entries."""
    model = serving.models.get(chunk.model)
    offset, contained = chunk.offset, ends.get(chunk.model, 0)
    if offset > contained:
        raise JournalDamaged(f"model {chunk.model}: the journal goes on at entry {offset}, expected {contained}")
    for record in chunk.records:
        n = entries(record)
        skip = min(n, max(0, contained - offset))
        if skip < n:
            if isinstance(record, ModelCreate):
                spec = ModelSpec.from_mapping(json.loads(record.spec))
                model = Sessions(chunk.model, record.tenant, record.name, spec)
                serving.add_model(model)
            elif model is None:
                raise JournalDamaged(f"model {chunk.model}: a record before the one that creates it")
            elif isinstance(record, Ticks):
                _bring(states, model, record.stream[skip:])
                _ticks(serving, model, record, offset, skip)
            else:
                _bring(states, model, getattr(record, "stream", ()))
                model.apply(record, offset + n)
        offset += n
    ends[chunk.model] = max(contained, chunk.end)
    return ends[chunk.model] - contained


def _bring(states: States, model: Sessions, streams: Any) -> None:
    """Bring into memory those of the streams (numbers, or one) that are stored and not there."""
    numbers = np.unique(np.asarray(streams, np.uint32))
    absent = numbers[model.table.rows_of(numbers) == ABSENT]
    for stored in states.by_number(model.number, absent.tolist()):
        model.restore(stored)


def _ticks(serving: Serving, model: Sessions, ticks: Ticks, offset: int, skip: int) -> None:
    runner = _runner(serving, model)
    for wave in rounds(ticks.stream[skip:], WAVE_ROWS):
        index = wave + skip
        rows = rows_in_memory(model, ticks.stream[index])
        x, time = np.ascontiguousarray(ticks.x[index]), ticks.time[index]
        y, states = model.step(runner, rows, time, x)
        model.advance(rows, ticks.seq[index], time, x, y, states, offset + 1 + index)


def _runner(serving: Serving, model: Sessions) -> StepSession:
    """The champion's session, loaded from its stored file when the replay first needs it."""
    runner = serving.engine.get(model.number, model.champion)
    if runner is None:
        blobs = serving.versions.blobs(model.number, model.champion)
        runner, _ = serving.engine.prepare(blobs.onnx, Canary.unpack(blobs.canary))
        serving.engine.retire(model.number, set())
        serving.engine.install(model.number, model.champion, runner)
    return runner
