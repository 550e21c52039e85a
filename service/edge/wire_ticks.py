"""Protobuf ↔ plain values of several ticks of one stream in one message, and of what became of them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from freshet.v1 import streams_pb2
from model.network import Network
from service.common.errors import Reason, Refusal
from service.edge import wire
from service.serving.waves import Answered
from service.streams.covariates import rows_of

Array = NDArray[np.float32]
LAST_SEQ = (1 << 64) - 1


class Run(NamedTuple):
    """n ticks of one stream: seqs first, first + 1 …; time (n,) seconds, NaN: none; x [n, row]."""

    first: int
    time: NDArray[np.float64]
    x: Array


def run(message: streams_pb2.Ticks, network: Network, static: Array, most: int) -> Run | Refusal:
    """Return the ticks of a message, or why it is refused as a whole.

    static: [S], the stream's static inputs; most: ticks that a message may have.
    """
    n, first, own = message.count, message.first_seq, network.covariates
    channels = len(network.spec.channels)
    if not 1 <= n <= most:
        return _refused(first, "count", str(n), f"send 1 to {most} ticks in a message: Welcome.max_ticks")
    if first + n - 1 > LAST_SEQ:
        return _refused(first, "first_seq", str(first), f"{n} ticks from there on have seqs above {LAST_SEQ}")
    for field, data, width, may_be_empty in (
        ("x", message.x, 4 * channels, False),
        ("time", message.time, 8, True),
        ("u", message.u, 4 * own.ahead, own.hold or not own.ahead),
    ):
        if len(data) != n * width and (data or not may_be_empty):
            remedy = f"{n} ticks need {n * width} bytes, {width} per tick, little-endian"
            return _refused(first, field, f"{len(data)} bytes", remedy)
    time = np.frombuffer(message.time, "<f8") if message.time else np.full(n, math.nan)
    x = np.frombuffer(message.x, "<f4").reshape(n, channels)
    return Run(first, time, rows(network, x, np.frombuffer(message.u, "<f4").reshape(n, -1), static))


def rows(network: Network, x: Array, u: Array, static: Array) -> Array:
    """Return the rows [n, row] of ticks of one stream. x: [n, C]; u: [n, ahead], or [n, 0]: missing; static: [S]."""
    if not network.covariates.sent:
        return x
    n = len(x)
    if not u.shape[1]:
        u = np.full((n, network.covariates.ahead), math.nan, np.float32)
    return rows_of(network, x, u, np.broadcast_to(static, (n, len(static))))


def _refused(first: int, field: str, value: str, remedy: str) -> Refusal:
    return Refusal(first, Reason.SHAPE, f"ticks.{field}", value, remedy)


def outcomes(first: int, answered: Answered, outputs: int, durable_seq: int = 0) -> bytes:
    """Return what became of ticks first, first + 1 … of a model with O outputs, as an OpenResponse, serialised.

    durable_seq: see the proto; 0: none. As for `wire.forecast`, a message object would cost several times as much.
    """
    y, upper = answered.y, wire.first_upper(answered.y.shape[1], outputs)
    body = wire.uint(b"\x08", first) + wire.uint(b"\x10", len(y) + len(answered.refused))
    body += wire.packed(b"\x1a", y[:, :outputs].tobytes())
    if y.shape[1] > outputs:
        body += wire.packed(b"\x22", y[:, outputs:upper].tobytes()) + wire.packed(b"\x2a", y[:, upper:].tobytes())
    body += wire.packed(b"\x32", answered.version.tobytes()) + wire.packed(b"\x3a", answered.judged.tobytes())
    for refusal in answered.refused:
        body += wire.packed(b"\x42", wire.refusal_message(refusal).SerializeToString())
    body += wire.uint(b"\x48", durable_seq)
    return b"\x3a" + wire.varint(len(body)) + body
