"""Journals cut at every byte or with a flipped bit in any record: an opened journal must be a prefix of the original.

`run` compares with its own list of the written records; it does not rely on the journal's report of a loss.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from service.journal.log import SegmentLog
from service.journal.records import Chunk, Ticks, encode_chunk
from service.journal.segments import FRAME, HEADER, JournalDamaged
from tests import memory
from tests.torture.report import Part

NEAR = 16  # bytes on either side of a record boundary


class Written:
    """A journal of one segment, and the records written to it."""

    def __init__(self, directory: Path, size: int, ticks: int) -> None:
        """Write at least `size` bytes in frames of `ticks` ticks; commits have one, two and three frames in turn."""
        rng = np.random.default_rng(size)
        log = SegmentLog(directory, 1 << 40)
        self.payloads: list[bytes] = []
        self.ends: list[int] = []  # file offset of the end of each frame
        self.last_commit = 0  # index of the first frame of the last commit
        while log.end < size:
            self.last_commit = len(self.payloads)
            commit = [_payload(rng, len(self.payloads) + i, ticks) for i in range(1 + len(self.payloads) % 3)]
            log.write(commit)
            self.payloads += commit
        log.close()
        at = HEADER.size
        for payload in self.payloads:
            at += FRAME.size + len(payload)
            self.ends.append(at)
        [path] = directory.glob("*.journal")
        self.name, self.data = path.name, path.read_bytes()
        assert len(self.data) == at

    def whole_frames(self, size: int) -> int:
        """Return the number of frames that end within the first `size` bytes."""
        return bisect_right(self.ends, size)


def _payload(rng: np.random.Generator, n: int, ticks: int) -> bytes:
    seq = np.arange(n * ticks, (n + 1) * ticks, dtype=np.uint64)
    x = rng.standard_normal((ticks, 2)).astype(np.float32)
    return encode_chunk(Chunk(1, n * ticks, 1, (Ticks(np.full(ticks, 7, np.uint32), seq, seq / 8, x),)))


class Tally:
    """Counts of rounds and of their findings."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.rounds = self.hits = self.wrong = self.silent = 0

    def cut(self, written: Written, size: int) -> None:
        """Keep the first `size` bytes: exactly the whole frames must be found, and the remainder counted."""
        whole = written.whole_frames(size)
        rest = size - (written.ends[whole - 1] if whole else HEADER.size)
        self._judge(written, written.data[:size], whole, torn=rest, may_refuse=size < HEADER.size)

    def flip(self, written: Written, at: int) -> None:
        """Flip one bit at byte `at`: the journal must be refused, or, in the last commit, cut off there and counted."""
        data = bytearray(written.data)
        data[at] ^= 1 << at % 8
        whole = written.whole_frames(at)
        rest = len(data) - (written.ends[whole - 1] if whole else HEADER.size)
        must_refuse = whole < written.last_commit or at < HEADER.size
        self._judge(written, bytes(data), whole, torn=rest, may_refuse=must_refuse, must_refuse=must_refuse)

    def _judge(
        self, written: Written, data: bytes, whole: int, *, torn: int, may_refuse: bool, must_refuse: bool = False
    ) -> None:
        """Open the damaged file `data`. Its first `whole` frames are intact, its last `torn` bytes are not."""
        self.rounds += 1
        (self._directory / written.name).write_bytes(data)
        try:
            log = SegmentLog(self._directory, 1 << 40)
        except JournalDamaged:
            self.hits += 1
            self.wrong += not may_refuse  # a server must start after a torn end
            return
        try:
            found = [payload for _, payload in log.read(0, 1 << 40)]
            self.hits += log.truncated_bytes > 0
            self.wrong += found != written.payloads[: len(found)]
            self.silent += must_refuse or len(found) != whole or log.truncated_bytes != torn
        finally:
            log.close()


def run(quick: bool) -> dict[str, int]:
    """Cut and flip. Returns rounds, hits (detected damage: all but cuts at a boundary), wrong, silent_skips.

    Full: cut 64 KiB at every byte and 1 MiB at each record boundary ± 16; flip one bit in every record. Quick: cut at
    every 61st byte, the other two on 64 KiB.
    """
    folder = Path(tempfile.mkdtemp(prefix="damage-", dir=memory.folder()))
    try:
        # Opening takes as long as there are frames: those of 1 MiB are about as large as what is read at once allows.
        small = Written(folder / "small", 64 << 10, ticks=32 if quick else 64)
        large = small if quick else Written(folder / "large", 1 << 20, ticks=320)
        tally = Tally(folder / "damaged")
        (folder / "damaged").mkdir()
        for size in range(0, len(small.data) + 1, 61 if quick else 1):
            tally.cut(small, size)
        for size in _near_boundaries(large, step=5 if quick else 1):
            tally.cut(large, size)
        for written in {small, large}:
            for at in _one_in_each(written):
                tally.flip(written, at)
    finally:
        shutil.rmtree(folder)
    return {"rounds": tally.rounds, "hits": tally.hits, "wrong": tally.wrong, "silent_skips": tally.silent}


def part(folder: Path, quick: bool) -> Part:
    """Run as a part of `dev.py torture`. A cut or flip without effect is no hit."""
    found = run(quick)
    silent, wrong = found["silent_skips"], found["wrong"]
    summary = f"{found['rounds']} damaged journals, {wrong} wrong records accepted, {silent} silent skips"
    return Part(found["rounds"], found["hits"], wrong=[summary] if wrong or silent else [], summary=summary)


def _near_boundaries(written: Written, step: int) -> Iterator[int]:
    for end in [HEADER.size, *written.ends]:
        yield from (size for size in range(end - NEAR, end + NEAR + 1, step) if 0 <= size <= len(written.data))


def _one_in_each(written: Written) -> Iterator[int]:
    """Yield bytes to flip: in the header, and in the length, the chain and the payload of each record."""
    rng = random.Random(len(written.data))
    yield rng.randrange(HEADER.size)
    for begin, end in zip([HEADER.size, *written.ends], written.ends, strict=False):
        yield from (begin + rng.randrange(4), begin + 4 + rng.randrange(4), rng.randrange(begin + FRAME.size, end))
