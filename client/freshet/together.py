"""Several ticks of one stream in one message, and its answer as the outcomes of single ticks. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from freshet.resume import ProtocolError
from freshet.ticks import Checked
from freshet.v1 import streams_pb2 as pb
from freshet.v1 import types_pb2

Array: TypeAlias = npt.NDArray[np.float32]


class Answered(NamedTuple):
    """The answer to one tick of a message, with the names of the fields of a Forecast. y, lower, upper: flat values."""

    seq: int
    y: Array
    version: int
    judged_through: int
    lower: Array
    upper: Array
    durable_seq: int


def message(first_seq: int, ticks: Sequence[Checked]) -> pb.Ticks:
    """Return ticks first_seq, first_seq + 1 … as one message."""
    time = [np.nan if tick.time is None else tick.time for tick in ticks]
    known = max(len(tick.u) for tick in ticks)  # a tick without any has them missing
    u = [tick.u or [np.nan] * known for tick in ticks]
    return pb.Ticks(
        first_seq=first_seq,
        count=len(ticks),
        x=np.array([tick.x for tick in ticks], "<f4").tobytes(),
        time=b"" if np.isnan(time).all() else np.array(time, "<f8").tobytes(),
        u=np.array(u, "<f4").tobytes(),
    )


def outcomes(answer: pb.Outcomes) -> Iterator[Answered | types_pb2.Refused]:
    """Return the outcome of each tick of a message, in order. Raises ProtocolError for columns that do not fit."""
    refused = {refusal.seq: refusal for refusal in answer.refused}
    n = answer.count - len(answer.refused)
    try:
        y, lower, upper = (_rows(data, "<f4", n) for data in (answer.y, answer.lower, answer.upper))
        version, judged = (_rows(data, "<u8", n, 1)[:, 0].tolist() for data in (answer.version, answer.judged_through))
    except ValueError:
        raise ProtocolError(
            f"outcomes of {answer.count} ticks from {answer.first_seq}, {len(refused)} of them refused: the columns "
            f"have {len(answer.y)}, {len(answer.version)} and {len(answer.judged_through)} bytes"
        ) from None
    made = 0
    for seq in range(answer.first_seq, answer.first_seq + answer.count):
        if (refusal := refused.get(seq)) is not None:
            yield refusal
        elif made < n:
            yield Answered(seq, y[made], version[made], judged[made], lower[made], upper[made], answer.durable_seq)
            made += 1
        else:
            raise ProtocolError(f"the outcomes from {answer.first_seq} lack that of tick {seq}")


def _rows(data: bytes, kind: str, n: int, width: int = -1) -> npt.NDArray[Any]:
    """Return n rows of `width` values; -1: of as many as there are. Raises ValueError if they do not fit."""
    values = np.frombuffer(data, kind)
    return values.reshape(n, 1 if not len(data) and not n else width)
