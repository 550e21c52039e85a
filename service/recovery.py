"""Start-up as replay: the last snapshot, then the journal after it, through the versions that answered then.

The same calls that serve live advance the sessions here: `Sessions.step` and `Sessions.advance`.
"""

from __future__ import annotations

import json

import numpy as np

from model.rounds import rounds
from model.spec import ModelSpec
from service.engine import StepSession
from service.export import Canary
from service.records import (
    Chunk,
    ModelCreate,
    Paused,
    Promote,
    Record,
    Reset,
    Resumed,
    Rollback,
    StreamOpened,
    Swap,
    Ticks,
    Window,
    entries,
)
from service.sequence import payload_digest
from service.serving import Serving
from service.sessions import Sessions
from service.sources import Sources
from service.storage.journal import JournalDamaged
from service.storage.states import States


def recover(serving: Serving, states: States) -> int:
    """Bring `serving` to where the journal ends; returns the entries replayed. Raises JournalDamaged, StatesCorrupt,
    VersionMissing, VersionCorrupt, BadVersion: each names what and the remedy."""
    snapshot = states.load()
    if serving.journal.durable_position < snapshot.journal_end:
        raise JournalDamaged(
            f"the journal ends at position {serving.journal.durable_position}, before the snapshot in states.db, "
            f"{snapshot.journal_end}: it is older. Restore both from the same moment"
        )
    for row in snapshot.models:
        model = Sessions(row.model, row.tenant, row.name, ModelSpec.from_mapping(json.loads(row.spec)))
        model.anchor, model.paused = row.anchor, row.paused
        model.sources = Sources(json.loads(row.sources))
        model.serve(row.champion, row.judged_offset)
        serving.add_model(model)
    ends = {row.model: row.offset for row in snapshot.models}
    for stream in snapshot.streams:
        serving.models[stream.model].restore(stream)
    replayed = 0
    for _, chunk in serving.journal.replay(snapshot.position):
        replayed += _apply(serving, chunk, ends)
    for number, model in serving.models.items():
        serving.journal.start_offset(number, ends[number])
        _runner(serving, model)
        serving.metrics.of(model.name).version.set(model.champion)
        serving.metrics.of(model.name).streams.set(len(model.by_id))
        for session in model.by_number.values():
            session.durable_seq = session.last_seq
    return replayed


def _apply(serving: Serving, chunk: Chunk, ends: dict[int, int]) -> int:
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
                _ticks(serving, model, record, offset, skip)
            else:
                _record(model, record, offset)
        offset += n
    ends[chunk.model] = max(contained, chunk.end)
    return ends[chunk.model] - contained


def _record(model: Sessions, record: Record, offset: int) -> None:
    match record:
        case StreamOpened(stream=number, id=id, epoch=epoch):
            model.opened(number, id, epoch)
        case Reset(stream=number):
            model.reset(model.by_number[number])
        case Swap(version=version, offset=learned):
            model.serve(version, learned)
            model.anchor = model.anchor or version
        case Rollback(version=version) | Promote(version=version):
            model.serve(version, offset + 1)
            model.anchor = version
        case Paused():
            model.paused = True
        case Resumed():
            model.paused = False
        case Window(source=source, window_seq=seq):
            model.sources.take(source, seq)
        case _:
            pass  # labels and skips do not touch a stream's state; state records come with their methods


def _ticks(serving: Serving, model: Sessions, ticks: Ticks, offset: int, skip: int) -> None:
    runner = _runner(serving, model)
    streams = ticks.stream[skip:]
    for group in rounds(streams):
        index = group + skip
        sessions = [model.by_number[int(n)] for n in ticks.stream[index]]
        x = np.ascontiguousarray(ticks.x[index])
        y, states = model.step(runner, sessions, ticks.time[index], x)
        for row, (i, session) in enumerate(zip(index, sessions, strict=True)):
            time = float(ticks.time[i])
            payload = payload_digest(ticks.x[i], time)
            model.advance(session, int(ticks.seq[i]), time, payload, y[row], states[row], offset + int(i) + 1)


def _runner(serving: Serving, model: Sessions) -> StepSession:
    """The champion's session, loaded from its stored file when the replay first needs it."""
    runner = serving.engine.get(model.number, model.champion)
    if runner is None:
        blobs = serving.versions.blobs(model.number, model.champion)
        runner, _ = serving.engine.prepare(blobs.onnx, Canary.unpack(blobs.canary))
        serving.engine.retire(model.number, set())
        serving.engine.install(model.number, model.champion, runner)
    return runner
