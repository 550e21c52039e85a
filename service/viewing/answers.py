"""Answers to single questions: a block, a point, errors, streams, versions. Nothing of them is kept."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from model.fold.errors import PERSISTENCE_SQUARED, QUANTITIES, SQUARED, kept_steps
from service.common.errors import Invalid, NotFound
from service.common.slices import slice_of
from service.observe.events import REMEMBERED
from service.streams.served import ServedModel
from service.viewing.channels import latest
from service.viewing.facts import learned_in, shown_version
from service.viewing.seen import MAX_TICKS, Seen
from service.viewing.ticks import KEPT_TICKS, Lens, Track, block

Json = dict[str, Any]

ERRORS_S = 5.0  # for the trainer's answer
MAX_WORST = 100  # streams of one answer
MAX_POINT_VALUES = 1 << 14  # forecast values of one point; beyond, the last steps are left out
MAX_PAGE = 1000  # streams of one page
MAX_SCANNED = 10_000  # streams that one page looks through for those that match
NONE = np.zeros(0, np.intp)


async def check_stream(seen: Seen, source: ServedModel, stream: str) -> int:
    """Bring a stream into memory and return its row, which holds until the caller awaits. Raises NotFound."""
    await seen.residency.bring(source, [stream])
    seen.catalog.check_there(source)
    row = source.table.by_id.get(stream)
    if row is None:
        raise NotFound("stream", stream, _where_else(source, stream))
    return row


def _where_else(source: ServedModel, stream: str) -> str:
    """Return the remedy for a stream that a model does not have."""
    part = source.slices.part
    if part and (other := slice_of(stream, part.count)) != part.index:
        this = f"these streams are in slice {part.index + 1}"
        return f"it is in slice {other + 1} of {part.count}, {this}: ask for them apart"
    return "no such stream in this model; list its streams"


async def some_stream(seen: Seen, source: ServedModel) -> tuple[str, ...]:
    """Return the stream that ticked last, of a model whose streams are all on disk the first by id; () without any."""
    if not latest(source):
        rows, _ = await seen.residency.page(source, "", 1)
        await seen.residency.bring(source, [row.id for row, _ in rows])
        seen.catalog.check_there(source)
    return tuple(filter(None, [latest(source)]))


def ghost_version(source: ServedModel, ghost: str) -> int:
    """Return the version of a subject's ghost, 0: none. Raises Invalid for another word."""
    if ghost == "none":
        return 0
    if ghost == "open":
        return source.champion
    if not (ghost.isascii() and ghost.isdigit() and 0 < len(ghost) < 10 and int(ghost)):
        raise Invalid("ghost", ghost, "give open, none, or the number of a version")
    return int(ghost)


async def block_of(seen: Seen, model: ServedModel, stream: str, target: str, step: int, last: int) -> Json:
    """Return BLOCK of a stream. Raises NotFound, Invalid."""
    source = seen.catalog.source_of(model)
    lens = Lens.of(source.spec, target, step)
    if not 1 <= last <= MAX_TICKS:
        raise Invalid("last", last, f"give 1 to {MAX_TICKS} ticks")
    row = await check_stream(seen, source, stream)
    position = int(source.table.newest[row])
    kept = source.log.last(position, min(KEPT_TICKS, last + lens.step), 0, lens.x, lens.y)
    newest = source.log.last(position, 1, 0, NONE, lens.ahead)
    track = Track(lens)
    track.extend(kept)
    return block(track, newest, stream, last, restart=True)


async def point_of(seen: Seen, model: ServedModel, stream: str, seq: int) -> Json:
    """Return one tick with all its forecasts. Raises NotFound for a stream or a tick that is not kept."""
    source = seen.catalog.source_of(model)
    row = await check_stream(seen, source, stream)
    spec, position = source.spec, int(source.table.newest[row])
    answer = source.log.find(position, seq)
    after = source.log.last(position, KEPT_TICKS, max(0, seq - 1), np.array(spec.target_index, np.intp), NONE)
    if answer is None or not len(after.seq) or int(after.seq[0]) != seq:
        raise NotFound(
            "seq", seq, "the answer to this tick is not kept any more, or not made yet: see the stream's ticks"
        )
    y = np.frombuffer(answer.y, np.float32)[: spec.outputs]
    forecast = spec.task == "forecast"
    H = spec.horizon if forecast else 1
    y = y.reshape(H, -1)[: max(1, MAX_POINT_VALUES // (len(y) // H))]
    truth = np.full((len(y), len(spec.target_index)), np.nan)
    known = after.x[1 : 1 + len(y)]
    truth[: len(known)] = known
    label_offset = int(after.offset[H]) if forecast and len(after.seq) > H else None
    versions = await asyncio.to_thread(seen.versions.list, model.number) if label_offset is not None else []
    events = seen.events.recent(model.key, REMEMBERED)
    learned = learned_in(versions, events, label_offset) if label_offset is not None and source is model else None
    return {
        "stream": stream, "seq": seq, "time": answer.time, "targets": list(spec.targets or spec.classes), "y": y,
        "truth": truth if forecast else [], "version": answer.version, "judged": answer.judged_through,
        "staleness": seq - answer.judged_through, "offset": int(after.offset[0]), "learned_in": learned,
    }  # fmt: skip


async def versions_of(seen: Seen, model: ServedModel) -> list[Json]:
    """Return the kept versions, newest first."""
    found = await asyncio.to_thread(seen.versions.list, model.number)
    return [shown_version(version, model) for version in found]


async def errors_of(seen: Seen, model: ServedModel, worst: int) -> Json:
    """Return the trainer's recent scaled errors, by step, and of the worst streams at the first kept step."""
    if not 1 <= worst <= MAX_WORST:
        raise Invalid("worst", worst, f"give 1 to {MAX_WORST} streams")
    source = seen.catalog.source_of(model)
    found = await seen.trainers.errors(model.number, worst, 0, worst, ERRORS_S)
    kept = kept_steps(model.spec.horizon)
    rows = np.frombuffer(found.rows, np.float32).reshape(-1, len(kept), QUANTITIES)
    names = await seen.residency.names(source, np.array(found.streams, np.uint32))
    steps = np.frombuffer(found.model).reshape(-1, QUANTITIES)
    shown = [
        {
            "step": step, "labels": int(row[0]), "squared": row[1], "absolute": row[2], "persistence_squared": row[3],
            "persistence_absolute": row[4],
        }
        for step, row in enumerate(steps, 1)
        if row[0]
    ]  # fmt: skip
    streams = [
        {
            "id": names[number], "squared": row[0, SQUARED], "persistence_squared": row[0, PERSISTENCE_SQUARED],
            "labels": int(row[0, 0]),
            "steps": {
                str(step): {"squared": each[SQUARED], "persistence_squared": each[PERSISTENCE_SQUARED]}
                for step, each in zip(kept, row, strict=True)
            },
        }
        for number, row in zip(found.streams, rows, strict=True)
        if number in names
    ]  # fmt: skip
    return {"steps": shown, "streams": streams}


async def streams_of(seen: Seen, model: ServedModel, after: str, limit: int, match: str) -> Json:
    """Return a page of streams in the order of their ids. A page may be shorter than the limit, even empty, and have a
    next one: few of the streams looked through may match."""
    if not 1 <= limit <= MAX_PAGE:
        raise Invalid("limit", limit, f"give 1 to {MAX_PAGE} streams")
    source = seen.catalog.source_of(model)
    found: list[Json] = []
    scanned, wanted = 0, match.casefold()
    while True:
        size = min(MAX_PAGE, MAX_SCANNED - scanned) if match else limit
        rows, more = await seen.residency.page(source, after, size)
        scanned += size
        for row, _ in rows:
            if wanted in row.id.casefold():
                if len(found) == limit:
                    return {"streams": found, "next": found[-1]["id"]}
                here = row.id in source.table.by_id
                found.append({"id": row.id, "seq": row.last_seq, "time": row.last_time, "in_memory": here})
        after = more
        if not more or scanned >= MAX_SCANNED or len(found) >= limit:
            return {"streams": found, "next": more}
