"""A mutant for each safety check: with the check taken out, a named scenario must turn red; with it, it is green.

Mutants exist here alone. The one without fsync needs a power cut: see power.py.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import struct
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from service.common.gate import Gate, GateSettings
from service.journal import segments
from service.journal.log import SegmentLog, Staged
from service.journal.records import Paused, Ticks, Window, encode_chunk
from service.journal.skips import Skips
from service.journal.sources import Sources
from service.journal.writer import Journal, JournalDamaged
from service.serving.admission import Admission
from service.serving.ticks import Fenced, Tick
from service.storage import versions
from service.streams.served import ServedModel
from service.streams.table import StreamTable
from service.trainer.hosting import HostedModel
from tests.oracles import replay
from tests.service import histories
from tests.service.one_process import world
from tests.torture.report import Part


class Mutant(NamedTuple):
    """A safety check taken out, and the scenario that it spoils. The scenario raises AssertionError when it is red."""

    name: str
    owner: Any
    attribute: str
    instead: Any
    scenario: Callable[[Path], Awaitable[None]]


class _EqualText(str):
    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


class _EqualNumber(int):
    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


class _Unchecked:
    """Stands in for the frame header: whatever the chain is, it is as it should be."""

    size = segments.FRAME.size

    def unpack(self, header: bytes) -> tuple[int, int]:
        word, chain = struct.unpack("<II", header)
        return word, _EqualNumber(chain)


# ---- the scenarios


async def acknowledged_is_written(folder: Path) -> None:
    journal = Journal.open(folder / "journal")
    writer = asyncio.create_task(journal.run())
    for seq in range(1, 4):
        journal.append_tick(1, 7, seq, 0.0, np.ones(1, np.float32))
        await journal.flush()
    kept = replay.survivors(folder, folder / "copy")
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)
    journal.close()
    seqs = [seq for chunk in kept for r in chunk.records if isinstance(r, Ticks) for seq in r.seq.tolist()]
    assert seqs == [1, 2, 3], "acknowledged and not written"


async def acknowledged_is_synced(folder: Path) -> None:
    journal, synced, sync = Journal.open(folder / "journal"), list[int](), os.fdatasync

    def counting(fd: int) -> None:
        sync(fd)
        synced.append(fd)

    with mock.patch.object(os, "fdatasync", counting):
        writer = asyncio.create_task(journal.run())
        journal.append_tick(1, 7, 1, 0.0, np.ones(1, np.float32))
        await journal.flush()
        acknowledged_at = len(synced)
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
    journal.close()
    assert acknowledged_at == 1, "acknowledged and not synced"


async def not_seen_before_it_is_synced(folder: Path) -> None:
    log, seen = SegmentLog(folder / "journal", 1 << 20), []
    sync = os.fdatasync

    def looking(fd: int) -> None:
        seen.append(log.read(0, 1 << 20))
        sync(fd)

    with mock.patch.object(os, "fdatasync", looking):
        log.write([b"x" * 100])
    log.close()
    assert seen == [[]], "the trainer's reader saw what was not synced"


async def damage_is_refused(folder: Path) -> None:
    log = SegmentLog(folder / "journal", 1 << 20)
    for chunk in histories.chunks([Paused()], [Paused()], [Paused()]):
        log.write([encode_chunk(chunk)])
    log.close()
    [path] = (folder / "journal").glob("*.journal")
    data = bytearray(path.read_bytes())
    data[segments.HEADER.size + segments.FRAME.size + 1] ^= 1
    path.write_bytes(data)
    try:
        SegmentLog(folder / "journal", 1 << 20).close()
    except JournalDamaged:
        return
    raise AssertionError("a flipped bit in the middle was skipped")


async def a_repeated_tick_is_journaled_once(folder: Path) -> None:
    async with world(folder / "data") as live:
        model = await live.model()
        session = live.open(model, "pump")
        first = await live.tick(model, session, 1.0)
        again = await live.tick(model, session, 1.0, seq=1)
        await live.server.journal.flush()
        chunks = [chunk for _, chunk in live.server.journal.chunks(0)]
        seqs = [seq for chunk in chunks for r in chunk.records if isinstance(r, Ticks) for seq in r.seq.tolist()]
        assert (again.y, seqs) == (first.y, [1]), "a tick that was sent again was taken again"


async def a_repeated_window_is_learned_once(folder: Path) -> None:
    hosted = HostedModel.create(histories.MODEL, histories.create(), histories.GATE)
    rng = np.random.default_rng(0)
    steps, outputs, channels = 8, histories.SPEC.outputs, len(histories.SPEC.channels)
    x, y = (rng.normal(size=(steps, n)).astype(np.float32) for n in (channels, outputs))
    window = Window("laboratory", 1, x, y, np.ones_like(y), None)
    first, again = histories.chunks([histories.create(), histories.swap(1), window], [window])
    hosted.apply(first, histories.weights_of)
    weights = hosted.learner.weights.flat.copy()
    hosted.apply(again, histories.weights_of)
    assert hosted.learner.counts.updates == 1, "the window was learned twice"
    assert (hosted.learner.weights.flat == weights).all()


async def a_stream_that_was_taken_over_is_fenced(folder: Path) -> None:
    async with world(folder / "data") as live:
        model = await live.model()
        former = live.open(model, "pump")
        epoch = former.epoch
        live.open(model, "pump")
        tick = Tick(model, former, epoch, 1, np.nan, np.ones(1, np.float32), 0.0)
        [outcome] = await asyncio.gather(live.serving.ticks.submit(tick), return_exceptions=True)
        assert isinstance(outcome, Fenced), f"the former owner was answered {outcome}"


async def what_is_skipped_is_not_learned(folder: Path) -> None:
    hosted = HostedModel.create(histories.MODEL, histories.create(), histories.GATE)
    hosted.skips = Skips([(0, 1 << 32)])
    for chunk in histories.history():
        hosted.apply(chunk, histories.weights_of)
    assert not hosted.learner.counts.updates, "a record that is skipped was learned"


async def a_worse_candidate_is_noticed(folder: Path) -> None:
    gate = Gate(GateSettings())
    for _ in range(100):
        gate.scored(0.9, 0.1, 1)
    assert gate.worse, "a candidate that is far worse may serve"


async def damaged_versions_are_not_handed_out(folder: Path) -> None:
    async with world(folder / "data") as live:
        model = await live.model()
        with sqlite3.connect(folder / "data" / "versions.db") as sql:
            [(onnx,)] = sql.execute("SELECT onnx FROM versions").fetchall()
            sql.execute("UPDATE versions SET onnx = ?", (onnx[:-1] + bytes([onnx[-1] ^ 1]),))
        sql.close()
        try:
            live.server.versions.blobs(model.number, 1)
        except versions.VersionCorrupt:
            return
        raise AssertionError("damaged bytes were returned")


async def idle_streams_leave_memory(folder: Path) -> None:
    async with world(folder / "data", idle_s=0.0) as live:
        model = await live.model()
        for n in range(5):
            session, _ = live.serving.opening.open(model, f"pump-{n}", pinned=False)
            await live.tick(model, session, 1.0)
        await live.learn()
        await live.snapshot()
        await live.snapshot()
        assert not len(model.table), f"{len(model.table)} idle streams stay in memory"


def fed_early(self: SegmentLog, payloads: Sequence[bytes]) -> int:
    sync, size = os.fdatasync, sum(len(p) + segments.FRAME.size for p in payloads)

    def early(fd: int) -> None:
        self.end += size
        sync(fd)
        self.end -= size

    with mock.patch.object(os, "fdatasync", early):
        return _WRITE(self, payloads)


_WRITE = SegmentLog.write
MUTANTS = (
    Mutant("ack before write", SegmentLog, "stage", lambda self, payloads: Staged(self.end, self.chain),
           acknowledged_is_written),
    Mutant("ack before sync", Journal, "_write", lambda self, batch, staged: 0, acknowledged_is_synced),
    Mutant("trainer fed before fsync", SegmentLog, "write", fed_early, not_seen_before_it_is_synced),
    Mutant("no CRC chain", segments, "FRAME", _Unchecked(), damage_is_refused),
    Mutant("no dedupe of ticks", Admission, "decide", lambda *_: None, a_repeated_tick_is_journaled_once),
    Mutant("no dedupe of windows", Sources, "accept", lambda *_: True, a_repeated_window_is_learned_once),
    Mutant("no epoch check", ServedModel, "owns", lambda *_: True, a_stream_that_was_taken_over_is_fenced),
    Mutant("no skip", Skips, "__contains__", lambda *_: False, what_is_skipped_is_not_learned),
    Mutant("no gate", Gate, "worse", False, a_worse_candidate_is_noticed),
    Mutant("no digest check", versions, "_digest", _EqualText, damaged_versions_are_not_handed_out),
    Mutant("no idle eviction", StreamTable, "evict", lambda *_: 0, idle_streams_leave_memory),
)  # fmt: skip


async def tried(part: Part, mutant: Mutant, folder: Path) -> None:
    """The scenario with the check, which must be green, and without it, which must be red."""
    for name in ("sound", "mutant"):
        (folder / name).mkdir(parents=True)
    await mutant.scenario(folder / "sound")
    part.rounds += 1
    part.hits += 1
    part.hits_of[mutant.name] += 1
    with mock.patch.object(mutant.owner, mutant.attribute, mutant.instead):
        try:
            await mutant.scenario(folder / "mutant")
        except AssertionError:
            part.mutants_caught.append(mutant.name)
        else:
            part.mutants_survived.append(mutant.name)


async def every_mutant(folder: Path, mutants: Sequence[Mutant] = MUTANTS) -> Part:
    """All of them, one after the other."""
    part = Part()
    for number, mutant in enumerate(mutants):
        await tried(part, mutant, folder / str(number))
    part.summary = f"{len(part.mutants_caught)} of {len(mutants)} mutants caught"
    return part


def run(folder: Path, quick: bool) -> Part:
    """The same list, quick or not."""
    return asyncio.run(every_mutant(folder))
