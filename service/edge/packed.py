"""State of a Mux call: the handles that it has bound, and the answers to one of its messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freshet.v1 import streams_pb2
from service.common.errors import Reason, Refusal
from service.edge import wire
from service.edge.wire import Columns
from service.serving.stepping import Stepped
from service.streams.session import Session
from service.streams.table import span

Array = NDArray[np.float32]
UNBOUND = 0  # no stream has this number
ANSWER_NUMBERS = 1 << 16  # forecast values in one answer, 256 KiB, unless one step makes more


class Handles:
    """The streams that a call has bound: columns indexed by handle, which grow with the largest handle in use."""

    def __init__(self, static: int) -> None:
        """static: number of a stream's static inputs."""
        self.static = np.zeros((0, static), np.float32)
        self.number = np.zeros(0, np.uint32)
        self.epoch = np.zeros(0, np.uint64)
        self.reported = np.zeros(0, np.uint64)  # last durable seq sent to the client
        self.waiting = np.zeros(0, np.bool_)  # ticks are answered and not yet durable

    def bind(self, handle: int, session: Session, static: Array) -> None:
        """Bind the handle to a stream that the call has just opened. static: [S] its static inputs."""
        if handle >= len(self.number):
            size = max(64, 2 * len(self.number), handle + 1)
            for name in ("number", "epoch", "reported", "waiting", "static"):
                old = getattr(self, name)
                longer = np.zeros((size, *old.shape[1:]), old.dtype)
                longer[: len(old)] = old
                setattr(self, name, longer)
        self.number[handle], self.epoch[handle] = session.number, session.epoch
        durable = session.durable_seq
        self.reported[handle], self.waiting[handle] = durable, durable < session.last_seq  # answered in a call before
        self.static[handle] = static

    def numbers(self, handles: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Return the stream numbers of handles, (n,), UNBOUND where a handle is not bound."""
        known = handles < len(self.number)
        if known.all():
            return self.number[handles]
        numbers: NDArray[np.uint32] = np.zeros(len(handles), np.uint32)
        numbers[known] = self.number[handles[known]]
        return numbers

    def static_of(self, handles: NDArray[np.uint32], numbers: NDArray[np.uint32]) -> Array:
        """Return the static inputs of handles, (n, S); 0 where a handle is not bound. numbers: from `numbers`."""
        static: Array = np.zeros((len(handles), self.static.shape[1]), np.float32)
        if not static.size:
            return static
        bound = numbers != UNBOUND
        static[bound] = self.static[handles[bound]]
        return static


class Answers:
    """Forecasts for ticks of one message, to be sent together: by one version, at most about ANSWER_NUMBERS values."""

    def __init__(self, columns: Columns, outputs: int, first: Stepped | None = None) -> None:
        """outputs: O of the model. first: the forecasts to begin with."""
        self._columns, self._outputs = columns, outputs
        self.version = self._numbers = 0
        self._parts: list[tuple[Any, Any, Any]] = []
        if first:
            self.add(first)

    def add(self, stepped: Stepped) -> bool:
        """Add forecasts. Returns False, and adds nothing, if they need an answer of their own."""
        if not len(stepped.at):
            return True
        self._numbers += stepped.y.size
        if self._parts and (stepped.version != self.version or self._numbers > ANSWER_NUMBERS):
            return False
        self.version = stepped.version
        self._parts.append((stepped.at, stepped.y, stepped.judged))
        return True

    def message(self) -> streams_pb2.Forecasts | None:
        """Return the forecasts as a message; None without any."""
        if not self._parts:
            return None
        index, y, judged = self._parts[0]
        if len(self._parts) > 1:
            index, y, judged = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        columns, at = self._columns, span(index)
        return wire.forecasts(columns.handle[at], columns.seq[at], y, judged, self.version, self._outputs)


@dataclass(slots=True)
class Message:
    """Packed ticks that are being answered: their columns, rows x [n, row], stream numbers (n,), and outcomes not sent
    yet."""

    columns: Columns
    x: Array
    numbers: NDArray[np.uint32]
    answers: Answers
    refused: list[streams_pb2.HandleRefused]


def unbound(handle: int, seq: int) -> Refusal:
    """Return the refusal of a tick whose handle is not bound."""
    remedy = "bind it to a stream first, once per call: MuxRequest.bind"
    return Refusal(seq, Reason.INVALID, "ticks.handle", str(handle), remedy)


def handle_refused(handle: int, refusal: Refusal) -> streams_pb2.HandleRefused:
    """Return the refusal of a handle's tick, or of its bind, as a message."""
    return streams_pb2.HandleRefused(handle=handle, refused=wire.refusal_message(refusal))
