"""Packed ticks of many streams: what was sent and is not on disk yet, and what came of it. No calls; see mux.py."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from freshet import shown
from freshet.errors import FreshetError, Reason, TickRefused
from freshet.v1 import streams_pb2 as pb

Array = npt.NDArray[np.float32]
UInts = npt.NDArray[np.uint64]
Handles = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Packed:
    """The answers to n ticks, in their order; arrays are owned by the caller.

    y: [n, horizon, targets] float32 in the units of the channels (for other tasks than forecast [n, 1, outputs]),
    float64 where an offset was added; NaN where there is no forecast. seq, version, judged_through: (n,), as in
    Forecast; version is 0 where there is none, seq where the tick was never sent.
    refused: by index, why a tick was not taken, or a stream could not be bound (InvalidArgument); the stream goes on as
    if it had not been sent.
    lost: indices of ticks that were taken, but whose answers the server no longer had, after a long reconnect.
    """

    y: npt.NDArray[np.floating[Any]]
    seq: UInts
    version: UInts
    judged_through: UInts
    refused: dict[int, FreshetError] = field(default_factory=dict)
    lost: list[int] = field(default_factory=list)

    def __repr__(self) -> str:
        answered = len(self.seq) - len(self.refused) - len(self.lost)
        facts = f"{shown.count(len(self.seq), 'tick')}, {answered} answered, {len(self.refused)} refused"
        return f"Packed({facts}, {len(self.lost)} lost, y={shown.numbers(self.y)})"


class Wave:
    """Ticks of one message: columns, and what is known of each tick."""

    def __init__(
        self, handle: Handles, seq: UInts, x: Array, time: npt.NDArray[np.float64] | None, outputs: int
    ) -> None:
        n = len(handle)
        self.handle, self.seq, self.x, self.time = handle, seq, x, time
        self.answered, self.dropped = np.zeros(n, np.bool_), np.zeros(n, np.bool_)  # dropped: never sent again
        self.counted = False  # in the numbers of its streams
        self.y = np.full((n, outputs), np.nan, np.float32)
        self.version, self.judged = np.zeros(n, np.uint64), np.zeros(n, np.uint64)
        self.refused: dict[int, FreshetError] = {}
        self.lost: list[int] = []
        self._where = {key: i for i, key in enumerate(zip(handle.tolist(), seq.tolist(), strict=True))}

    @property
    def done(self) -> bool:
        """Whether every tick has come to something."""
        return bool(self.answered.all())

    def message(self, part: npt.NDArray[np.intp] | slice = slice(None)) -> pb.Columns:
        """Ticks of the wave as columns."""
        return pb.Columns(
            handle=self.handle[part].astype("<u4").tobytes(),
            seq=self.seq[part].astype("<u8").tobytes(),
            x=self.x[part].astype("<f4").tobytes(),
            time=b"" if self.time is None else self.time[part].astype("<f8").tobytes(),
        )

    @property
    def accepted(self) -> npt.NDArray[np.bool_]:
        """Which ticks have become part of their streams, as far as is known."""
        accepted = self.answered & ~self.dropped
        accepted[list(self.refused)] = False
        return accepted

    def receive(self, message: pb.Forecasts) -> int:
        """Take in the forecasts that are this wave's and new, and return how many; others are passed over."""
        handle, seq = np.frombuffer(message.handle, "<u4"), np.frombuffer(message.seq, "<u8")
        y = np.frombuffer(message.y, "<f4").reshape(len(handle), -1)
        judged = np.frombuffer(message.judged_through, "<u8")
        found = [self._where.get(key, -1) for key in zip(handle.tolist(), seq.tolist(), strict=True)]
        mine = np.array(found, np.intp)
        here = mine >= 0
        here[here] = ~self.answered[mine[here]]
        at = mine[here]
        self.y[at], self.judged[at], self.version[at], self.answered[at] = y[here], judged[here], message.version, True
        return len(at)

    def refuse(self, message: pb.HandleRefused) -> bool:
        """A tick was refused; whether it is of this wave, and had no answer."""
        i = self._where.get((message.handle, message.refused.seq), -1)
        if i < 0 or self.answered[i]:
            return False
        r = message.refused
        self.answered[i] = True
        reason = Reason(r.reason)
        if reason is Reason.ANSWER_LOST:
            self.lost.append(i)
        else:
            self.refused[i] = TickRefused(r.seq, r.field, r.value, r.remedy, reason)
        return True

    def drop(self, handle: int, error: FreshetError) -> None:
        """This handle's ticks are not sent again; those without an answer are refused."""
        mine = self.handle == handle
        self.dropped |= mine
        for i in np.flatnonzero(mine & ~self.answered).tolist():
            self.answered[i] = True
            self.refused[i] = error


class Unconfirmed:
    """Waves that were sent and are not wholly on disk, oldest first, to be sent again after a reconnect."""

    def __init__(self) -> None:
        self.waves: deque[Wave] = deque()
        self.durable = np.zeros(0, np.uint64)  # by handle

    def grow(self, handles: int) -> None:
        """So many handles are in use."""
        if handles > len(self.durable):
            longer = np.zeros(max(handles, 2 * len(self.durable)), np.uint64)
            longer[: len(self.durable)] = self.durable
            self.durable = longer

    @property
    def answered(self) -> bool:
        """Whether every tick has come to something."""
        return all(wave.done for wave in reversed(self.waves))

    def drop(self, handle: int, durable: int, error: FreshetError) -> None:
        """The ticks of a handle are lost to its stream, which is on disk up to `durable`."""
        for wave in self.waves:
            wave.drop(handle, error)
        self.durable[handle] = durable

    def confirm(self, handle: Handles, seq: UInts) -> None:
        """These handles' ticks are on disk up to these seqs."""
        self.durable[handle] = np.maximum(self.durable[handle], seq)
        self.forget_confirmed()

    def forget_confirmed(self) -> None:
        """Keep no waves that are counted and need not be sent again."""
        while self.waves and self.waves[0].counted and not self._missing(self.waves[0]).any():
            self.waves.popleft()

    def _missing(self, wave: Wave) -> npt.NDArray[np.bool_]:
        missing = wave.seq > self.durable[wave.handle]
        missing[list(wave.refused)] = False
        return np.asarray(missing & ~wave.dropped)

    def to_resend(self, next_seq: UInts) -> list[pb.Columns]:
        """What must be sent again to a server that goes on at next_seq, by handle: what it lost, or did not answer."""
        messages = []
        for wave in self.waves:
            part = np.flatnonzero(~wave.answered | (self._missing(wave) & (wave.seq >= next_seq[wave.handle])))
            if len(part):
                messages.append(wave.message(part))
        return messages
