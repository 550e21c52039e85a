"""Order, repetition and shape of a stream's ticks: what to do with the next one. Decisions, no state of their own."""

from __future__ import annotations

import math
import zlib
from collections import deque
from struct import Struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.errors import Reason, Refusal, shown

MAX_MAGNITUDE = 1e15  # squares of it still fit float32
# Answers kept per stream for repeats: the largest `max_undurable`, and above the SDK's largest `in_flight`, so that no
# client has to repeat an older tick. With the most outputs that a spec may have, they are 8 MiB.
KEPT_ANSWERS = 256
_DOUBLE = Struct("<d")


class Answer(NamedTuple):
    """What a tick was answered, and a digest of what it said."""

    seq: int
    payload: int
    y: bytes  # O little-endian float32
    version: int
    judged_through: int


def payload_digest(x: NDArray[np.float32], time: float) -> int:
    """Tells two payloads of one seq apart: CRC-32 over values and time (against mistakes, not attackers)."""
    return zlib.crc32(_DOUBLE.pack(time), zlib.crc32(x.data))


def check_values(
    seq: int, x: NDArray[np.float32], channels: int, time: float, needs_time: bool, last_time: float
) -> Refusal | None:
    """Why a tick's content cannot be taken, or None. Order is `place`'s affair."""
    if len(x) != channels:
        return Refusal(seq, Reason.SHAPE, "x", f"{len(x)} values", f"send {channels} values, one per channel")
    # One reduction answers for all values in the usual case: the sum of magnitudes is finite and small.
    if not float(np.add.reduce(np.abs(x), dtype=np.float64)) <= MAX_MAGNITUDE:
        refusal = _first_bad_value(seq, x)
        if refusal:
            return refusal
    if needs_time and math.isnan(time):
        remedy = "the model has an interval: send the event time of every tick"
        return Refusal(seq, Reason.TIME, "time", "none, or nan", remedy)
    if math.isinf(time) or abs(time) > 1e12:
        return Refusal(seq, Reason.TIME, "time", shown(time), "send seconds since 1970-01-01 UTC")
    if time <= last_time:
        remedy = f"event time must increase; the tick before has {last_time:.3f}"
        return Refusal(seq, Reason.TIME, "time", f"{time:.3f}", remedy)
    return None


def _first_bad_value(seq: int, x: NDArray[np.float32]) -> Refusal | None:
    for i, value in enumerate(x.tolist()):
        if not math.isfinite(value):
            return Refusal(seq, Reason.NON_FINITE, f"x[{i}]", shown(value), "send finite values only")
        if abs(value) > MAX_MAGNITUDE:
            return Refusal(seq, Reason.TOO_LARGE, f"x[{i}]", f"{value:g}", f"send magnitudes up to {MAX_MAGNITUDE:g}")
    return None


def place(seq: int, last_seq: int, payload: int, answers: deque[Answer]) -> Refusal | Answer | None:
    """Where a tick stands: None, it is the next; an Answer, it was taken and answered thus; a Refusal otherwise."""
    if seq == last_seq + 1:
        return None
    if seq > last_seq:
        return Refusal(seq, Reason.GAP, "seq", str(seq), f"the next tick of this stream is {last_seq + 1}")
    if seq < 1:
        return Refusal(
            seq, Reason.GAP, "seq", str(seq), f"seq begins at 1; the next tick of this stream is {last_seq + 1}"
        )
    kept = answers[seq - answers[0].seq] if answers and seq >= answers[0].seq else None
    if kept is None:
        remedy = f"answered before and no longer kept: the stream has advanced to {last_seq}; send {last_seq + 1}"
        return Refusal(seq, Reason.ANSWER_LOST, "seq", str(seq), remedy)
    if kept.payload != payload:
        remedy = f"tick {seq} was taken with other values; send {last_seq + 1} next, or {seq} with the same values"
        return Refusal(seq, Reason.CONFLICT, "x", f"payload {payload:08x}, had {kept.payload:08x}", remedy)
    return kept


ANSWER_HEAD = np.dtype([("seq", "<u8"), ("payload", "<u8"), ("version", "<u8"), ("judged", "<u8")])


def pack_answers(answers: deque[Answer]) -> bytes:
    """The ring as bytes, for a snapshot."""
    heads: Any = np.array([(a.seq, a.payload, a.version, a.judged_through) for a in answers], ANSWER_HEAD)
    return bytes(heads.tobytes() + b"".join(a.y for a in answers))


def unpack_answers(data: bytes, outputs: int) -> deque[Answer]:
    """The inverse of `pack_answers`. Raises ValueError on a length that does not fit."""
    width = 4 * outputs
    n, rest = divmod(len(data), ANSWER_HEAD.itemsize + width)
    if rest:
        raise ValueError(f"answers hold {len(data)} bytes, not a multiple of {ANSWER_HEAD.itemsize + width}")
    heads = np.frombuffer(data, ANSWER_HEAD, n)
    body = data[n * ANSWER_HEAD.itemsize :]
    return deque(
        (
            Answer(
                int(h["seq"]), int(h["payload"]), body[i * width : (i + 1) * width], int(h["version"]), int(h["judged"])
            )
            for i, h in enumerate(heads)
        ),
        maxlen=KEPT_ANSWERS,
    )
