"""Order, repetition and values of a stream's ticks: pure decisions on the next one."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from struct import Struct

import numpy as np
from numpy.typing import NDArray

from service.common.dates import as_date
from service.common.errors import Reason, Refusal, shown
from service.common.limits import MAX_MAGNITUDE, MAX_TIME_S
from service.streams.answers import Answer

RESET_FREES = (
    "If that time was wrong, reset the stream: its state and labels still awaited are lost, what was learned stays"
)
NEVER_MISSING = 'send a finite number, or create the model with missing = "hold"'
FEW = 16  # values: up to this many, Python's own sum is faster
_DOUBLE = Struct("<d")


def payload_digest(x: NDArray[np.float32], time: float) -> int:
    """Return a short name for a tick's content in messages: CRC-32 over values and time."""
    return zlib.crc32(_DOUBLE.pack(time), zlib.crc32(x.data))


def check_values(
    seq: int,
    x: NDArray[np.float32],
    channels: int,
    time: float,
    needs_time: bool,
    last_time: float,
    holds: bool = False,
    latest: float = math.inf,
    known: int = 0,
) -> Refusal | None:
    """Return why a tick's content is refused, or None. `place` checks its order.

    x: the values, the last `known` of them sent beside the channels; needs_time: the model has an interval; last_time:
    of the tick before, NaN: none. holds: NaN is a missing value. latest: the last event time that is accepted, see
    `latest_time`.
    """
    if len(x) != channels:
        return Refusal(seq, Reason.SHAPE, "x", f"{len(x)} values", f"send {channels} values, one per channel")
    # One reduction answers for all values in the usual case: the sum of magnitudes is finite and small.
    total = sum(map(abs, x.tolist())) if channels <= FEW else float(np.add.reduce(np.abs(x), dtype=np.float64))
    if not total <= MAX_MAGNITUDE:
        refusal = _first_bad_value(seq, x, holds, channels - known)
        if refusal:
            return refusal
    if needs_time and math.isnan(time):
        remedy = "the model has an interval: send the event time of every tick"
        return Refusal(seq, Reason.TIME, "time", "none, or nan", remedy)
    if math.isinf(time) or abs(time) > MAX_TIME_S:
        return Refusal(seq, Reason.TIME, "time", shown(time), f"send seconds since 1970-01-01 UTC{in_seconds(time)}")
    if time > latest:
        return Refusal(seq, Reason.TIME, "time", dated(time), too_far_ahead(time, latest))
    if time <= last_time:
        remedy = f"event time must increase; the tick before has {dated(last_time)}. {RESET_FREES}"
        return Refusal(seq, Reason.TIME, "time", dated(time), remedy)
    return None


def dated(time: float) -> str:
    """Return a time as a date and as the number that was sent."""
    return f"{as_date(time)} ({time:.3f})"


def latest_time(now: float, max_ahead_s: float) -> float:
    """Return the last event time that is accepted at wall time `now`, seconds since 1970.

    A later one comes from a wrong clock; if it were accepted, every correct tick after it would be refused.
    """
    return now + max_ahead_s


def too_far_ahead(time: float, latest: float) -> str:
    """Return the remedy for an event time after `latest`."""
    clock = f"this server takes event times up to {as_date(latest)}, its clock plus max_ahead_s"
    return f"{clock}: correct the time, or the clock that made it{in_seconds(time)}"


def in_seconds(time: float) -> str:
    """Return a further remedy for a time that would be one of this century in a smaller unit."""
    for unit, factor in (("milliseconds", 1e3), ("microseconds", 1e6), ("nanoseconds", 1e9)):
        if 9e8 <= time / factor < 4.2e9:
            return f"; as {unit} it is {as_date(time / factor)}: divide by {factor:.0e}"
    return ""


def sound_ticks(
    seq: NDArray[np.uint64],
    last_seq: NDArray[np.uint64],
    time: NDArray[np.float64],
    last_time: NDArray[np.float64],
    x: NDArray[np.float32],
    needs_time: bool,
    durable_seq: NDArray[np.uint64],
    max_undurable: int,
    holds: bool = False,
    latest: float = math.inf,
) -> NDArray[np.bool_]:
    """Return which ticks `place` and `check_values` would accept, and whose streams have room, (n,).

    It may miss some: those two decide on the others. Arrays are (n,), x [n, C].
    """
    sound: NDArray[np.bool_] = seq == last_seq + np.uint64(1)
    here = ~np.isnan(x) if holds else True
    sound &= np.add.reduce(np.abs(x), axis=1, dtype=np.float64, where=here) <= MAX_MAGNITUDE
    if needs_time:
        sound &= ~np.isnan(time)
    sound &= ~(np.abs(time) > MAX_TIME_S) & ~(time <= last_time) & ~(time > latest)
    sound &= seq <= durable_seq + np.uint64(max_undurable)
    return sound


def _first_bad_value(seq: int, x: NDArray[np.float32], holds: bool, channels: int) -> Refusal | None:
    for i, value in enumerate(x.tolist()):
        field = f"x[{i}]" if i < channels else f"u[{i - channels}]"
        if math.isnan(value):
            if holds:
                continue
            return Refusal(seq, Reason.NON_FINITE, field, shown(value), NEVER_MISSING)
        if not math.isfinite(value):
            return Refusal(seq, Reason.NON_FINITE, field, shown(value), "send finite values only")
        if abs(value) > MAX_MAGNITUDE:
            return Refusal(seq, Reason.TOO_LARGE, field, f"{value:g}", f"send magnitudes up to {MAX_MAGNITUDE:g}")
    return None


def place(
    seq: int, last_seq: int, x: NDArray[np.float32], time: float, find: Callable[[int], Answer | None]
) -> Refusal | Answer | None:
    """Check a tick's order: None, it is the next; an Answer, it is a repetition with this answer; otherwise a Refusal.

    find: returns the kept answer to a tick of the stream, if there is one.
    """
    if seq == last_seq + 1:
        return None
    if seq > last_seq:
        return Refusal(seq, Reason.GAP, "seq", str(seq), f"the next tick of this stream is {last_seq + 1}")
    if seq < 1:
        return Refusal(
            seq, Reason.GAP, "seq", str(seq), f"seq begins at 1; the next tick of this stream is {last_seq + 1}"
        )
    kept = find(seq)
    if kept is None:
        remedy = f"answered before and no longer kept: the stream has advanced to {last_seq}; send {last_seq + 1}"
        return Refusal(seq, Reason.ANSWER_LOST, "seq", str(seq), remedy)
    if (kept.x, _DOUBLE.pack(kept.time)) != (x.tobytes(), _DOUBLE.pack(time)):
        remedy = f"tick {seq} was taken with other values; send {last_seq + 1} next, or {seq} with the same values"
        had = payload_digest(np.frombuffer(kept.x, np.float32), kept.time)
        return Refusal(seq, Reason.CONFLICT, "x", f"payload {payload_digest(x, time):08x}, had {had:08x}", remedy)
    return kept
