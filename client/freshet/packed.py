"""Packed ticks of many streams: those not yet on disk, and their answers. No calls; see mux.py."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from freshet import shown
from freshet.bounds import Bounds, bounds_at
from freshet.errors import FreshetError, Reason, TickRefused
from freshet.v1 import streams_pb2 as pb

Array = npt.NDArray[np.float32]
UInts = npt.NDArray[np.uint64]
Handles = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Packed:
    """The answers to n ticks, in the order of the ticks. The caller owns the arrays.

    y: [n, horizon, targets] float32 in the units of the channels (for tasks other than forecast [n, 1, outputs]);
        float64 if an offset was added; NaN for a tick without a forecast.
    seq, version, judged_through: (n,), as in Forecast. version is 0 without a forecast; seq is 0 if the tick was never
        sent.
    refused: by index, why a tick was refused, or why its stream could not be bound (InvalidArgument). The stream
        continues as if the tick had not been sent.
    lost: indices of accepted ticks whose answers the server no longer had, after a long reconnect.
    bounds: prediction intervals by level, NaN where y is; None if the model has none. `lower`, `upper` and `between`
        return those of one level.
    """

    y: npt.NDArray[np.floating[Any]]
    seq: UInts
    version: UInts
    judged_through: UInts
    refused: dict[int, FreshetError] = field(default_factory=dict)
    lost: list[int] = field(default_factory=list)
    bounds: Bounds | None = None

    def between(self, level: float) -> tuple[npt.NDArray[np.floating[Any]], npt.NDArray[np.floating[Any]]]:
        """Return lower and upper bounds, of y's shape, between which a share of `level` of the labels lies.

        Raises InvalidArgument for a level that is not among the model's intervals.
        """
        return bounds_at(self.bounds, level)

    def lower(self, level: float) -> npt.NDArray[np.floating[Any]]:
        """Return the lower bounds of `between`."""
        return self.between(level)[0]

    def upper(self, level: float) -> npt.NDArray[np.floating[Any]]:
        """Return the upper bounds of `between`."""
        return self.between(level)[1]

    def __repr__(self) -> str:
        answered = len(self.seq) - len(self.refused) - len(self.lost)
        facts = f"{shown.count(len(self.seq), 'tick')}, {answered} answered, {len(self.refused)} refused"
        return f"Packed({facts}, {len(self.lost)} lost, y={shown.numbers(self.y)})"


class Wave:
    """The ticks of one message as columns, and their answers."""

    def __init__(
        self,
        handle: Handles,
        seq: UInts,
        x: Array,
        time: npt.NDArray[np.float64] | None,
        outputs: int,
        u: Array | None = None,
        levels: int = 0,
    ) -> None:
        """outputs: values of a forecast. levels: number of prediction intervals."""
        n = len(handle)
        self.handle, self.seq, self.x, self.time, self.u = handle, seq, x, time, u
        self.answered, self.dropped = np.zeros(n, np.bool_), np.zeros(n, np.bool_)  # dropped: not sent again
        self.counted = False  # its streams have advanced past it
        self.y = np.full((n, outputs), np.nan, np.float32)
        self.lower, self.upper = (np.full((n, levels * outputs), np.nan, np.float32) for _ in range(2))
        self.version, self.judged = np.zeros(n, np.uint64), np.zeros(n, np.uint64)
        self.refused: dict[int, FreshetError] = {}
        self.lost: list[int] = []
        self._where = {key: i for i, key in enumerate(zip(handle.tolist(), seq.tolist(), strict=True))}

    @property
    def done(self) -> bool:
        """Whether every tick has an answer or a refusal."""
        return bool(self.answered.all())

    def message(self, part: npt.NDArray[np.intp] | slice = slice(None)) -> pb.Columns:
        """Return ticks of the wave as columns."""
        return pb.Columns(
            handle=self.handle[part].astype("<u4").tobytes(),
            seq=self.seq[part].astype("<u8").tobytes(),
            x=self.x[part].astype("<f4").tobytes(),
            time=b"" if self.time is None else self.time[part].astype("<f8").tobytes(),
            u=b"" if self.u is None else self.u[part].astype("<f4").tobytes(),
        )

    @property
    def accepted(self) -> npt.NDArray[np.bool_]:
        """(n,) which ticks are known to be part of their streams."""
        accepted = self.answered & ~self.dropped
        accepted[list(self.refused)] = False
        return accepted

    def receive(self, message: pb.Forecasts) -> int:
        """Store the new forecasts of this wave's ticks and return their number. Other forecasts are ignored."""
        handle, seq = np.frombuffer(message.handle, "<u4"), np.frombuffer(message.seq, "<u8")
        y = np.frombuffer(message.y, "<f4").reshape(len(handle), -1)
        judged = np.frombuffer(message.judged_through, "<u8")
        found = [self._where.get(key, -1) for key in zip(handle.tolist(), seq.tolist(), strict=True)]
        mine = np.array(found, np.intp)
        here = mine >= 0
        here[here] = ~self.answered[mine[here]]
        at = mine[here]
        self.y[at], self.judged[at], self.version[at], self.answered[at] = y[here], judged[here], message.version, True
        if self.lower.size:
            for bound, values in ((self.lower, message.lower), (self.upper, message.upper)):
                bound[at] = np.frombuffer(values, "<f4").reshape(len(handle), -1)[here]
        return len(at)

    def refuse(self, message: pb.HandleRefused) -> bool:
        """Store a refusal. Returns whether the tick is in this wave and had no answer."""
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
        """Do not send this handle's ticks again; refuse those without an answer."""
        mine = self.handle == handle
        self.dropped |= mine
        for i in np.flatnonzero(mine & ~self.answered).tolist():
            self.answered[i] = True
            self.refused[i] = error


class Ticks(NamedTuple):
    """Ticks of a wave. part: their places in it; None: all."""

    wave: Wave
    part: npt.NDArray[np.intp] | None = None

    def message(self) -> pb.Columns:
        """Return them as columns."""
        return self.wave.message(slice(None) if self.part is None else self.part)

    def without(self, handles: set[int]) -> Ticks | None:
        """Return those of other handles; None if there are none."""
        part = np.arange(len(self.wave.seq)) if self.part is None else self.part
        part = part[~np.isin(self.wave.handle[part], list(handles))]
        return Ticks(self.wave, part) if len(part) else None


class Unconfirmed:
    """Sent waves that are not wholly on disk, oldest first. They are sent again after a reconnect."""

    def __init__(self) -> None:
        self.waves: deque[Wave] = deque()
        self.durable = np.zeros(0, np.uint64)  # by handle

    def grow(self, handles: int) -> None:
        """Make room for this many handles."""
        if handles > len(self.durable):
            longer = np.zeros(max(handles, 2 * len(self.durable)), np.uint64)
            longer[: len(self.durable)] = self.durable
            self.durable = longer

    @property
    def answered(self) -> bool:
        """Whether every tick has an answer or a refusal."""
        return all(wave.done for wave in reversed(self.waves))

    def drop(self, handle: int, durable: int, error: FreshetError) -> None:
        """Drop the ticks of a handle whose stream is on disk only up to `durable`."""
        for wave in self.waves:
            wave.drop(handle, error)
        self.durable[handle] = durable

    def confirm(self, handle: Handles, seq: UInts) -> None:
        """Record that these handles' ticks are on disk up to these seqs."""
        self.durable[handle] = np.maximum(self.durable[handle], seq)
        self.forget_confirmed()

    def forget_confirmed(self) -> None:
        """Forget waves that are counted and on disk."""
        while self.waves and self.waves[0].counted and not self._missing(self.waves[0]).any():
            self.waves.popleft()

    def _missing(self, wave: Wave) -> npt.NDArray[np.bool_]:
        missing = wave.seq > self.durable[wave.handle]
        missing[list(wave.refused)] = False
        return np.asarray(missing & ~wave.dropped)

    def owes(self, mine: npt.NDArray[np.bool_]) -> bool:
        """Whether some tick of these handles has neither answer nor refusal. mine: by handle."""
        return any(bool(mine[wave.handle[~wave.answered]].any()) for wave in self.waves if not wave.done)

    def to_resend(self, next_seq: UInts, mine: npt.NDArray[np.bool_]) -> list[Ticks]:
        """Return the ticks of these handles to send again to a server that continues at next_seq: lost or unanswered
        ones, oldest first. Both by handle."""
        found = []
        for wave in self.waves:
            wanted = ~wave.answered | (self._missing(wave) & (wave.seq >= next_seq[wave.handle]))
            part = np.flatnonzero(wanted & mine[wave.handle])
            if len(part):
                found.append(Ticks(wave, part))
        return found
