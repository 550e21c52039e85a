"""Labels of one stream between the user and the server's disk, without any I/O; and what users may give as a label.

A label is sent once its tick is answered and, after a reconnect, taken again by the server; it is kept until the server
says that it is on disk, and sent again after a reconnect: of a tick's labels the first one wins, so that is harmless.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from freshet.errors import LabelRefused, Reason
from freshet.results import ModelSpec
from freshet.ticks import LARGEST
from freshet.v1 import types_pb2

SUM_TOLERANCE = 1e-3  # of probabilities


class Answers(NamedTuple):
    """What a model answers, and what its labels hold."""

    task: str
    names: tuple[str, ...]  # of the targets, or of the classes

    @classmethod
    def of(cls, spec: ModelSpec) -> Answers:
        """A model's."""
        return cls(spec.task or "forecast", tuple(spec.classes or spec.targets or spec.channels))


def label_values(answers: Answers, y: Any, seq: int, stream: str = "") -> list[float]:
    """A label ready for the wire. Raises LabelRefused.

    y: for task regress a number or one per target, in order; for task classify the name or the index of the class, or
    the probability of each.
    """

    def refused(field: str, value: object, remedy: str, reason: Reason) -> LabelRefused:
        return LabelRefused(seq, field, str(value)[:80], remedy, reason, stream)

    n = len(answers.names)
    if answers.task == "forecast":
        remedy = "a model that forecasts reads its labels off the stream: send its ticks"
        raise refused("label", f"tick {seq}", remedy, Reason.UNSUPPORTED)
    if answers.task == "classify" and (isinstance(y, str) or (np.ndim(y) == 0 and not isinstance(y, float))):
        return one_hot(answers.names, y, refused)
    try:
        row = np.atleast_1d(np.asarray(y, np.float64))
    except (TypeError, ValueError):
        raise refused("label.y", repr(y), "every value must be a number", Reason.NON_FINITE) from None
    if row.shape != (n,):
        got = f"{row.shape[0]} values" if row.ndim == 1 else f"array of shape {row.shape}"
        raise refused("label.y", got, f"send {n} values: {', '.join(answers.names)}"[:200], Reason.SHAPE)
    if not np.abs(row).max() <= LARGEST:  # also false for NaN
        at = int(np.argmax(~(np.abs(row) <= LARGEST)))
        reason = Reason.TOO_LARGE if math.isfinite(row[at]) else Reason.NON_FINITE
        raise refused(f"label.y[{at}]", f"{row[at]:g}", "send finite numbers up to 1e15", reason)
    if answers.task == "classify" and (abs(row.sum() - 1) > SUM_TOLERANCE or row.min() < 0):
        remedy = "send the class, or probabilities with sum 1"
        raise refused("label.y", f"sum {row.sum():g}, smallest {row.min():g}", remedy, Reason.INVALID)
    values: list[float] = row.tolist()
    return values


def one_hot(names: Sequence[str], y: Any, refused: Any) -> list[float]:
    """1 for the class, a name or an index, and 0 for the others."""
    if isinstance(y, str):
        index = names.index(y) if y in names else -1
    else:
        index = int(y) if isinstance(y, int | np.integer) and not isinstance(y, bool) else -1
    if not 0 <= index < len(names):
        remedy = f"the classes are {', '.join(names)}, or 0 to {len(names) - 1}"[:200]
        raise refused("label.y", repr(y), remedy, Reason.INVALID)
    return [float(i == index) for i in range(len(names))]


def label_refused(refused: types_pb2.Refused, stream: str = "") -> LabelRefused:
    """What the server said of a label."""
    return LabelRefused(refused.seq, refused.field, refused.value, refused.remedy, Reason(refused.reason), stream)


@dataclass(slots=True, eq=False)
class Label:
    """One label on its way. `done` gets a result once it is on disk, LabelRefused or what ended the stream."""

    seq: int
    y: list[float]
    done: asyncio.Future[None]

    def __post_init__(self) -> None:
        self.done.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, if nobody waits any more

    def set_outcome(self, error: Exception | None = None) -> None:
        """Set the outcome, once."""
        if not self.done.done():
            if error is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(error)


class LabelBox:
    """The labels of one stream that are not on disk yet, in the order in which they were given."""

    def __init__(self) -> None:
        self._unsent: deque[Label] = deque()
        self._sent: dict[int, Label] = {}  # on this call and not refused: by which of its labels it was
        self._sent_count = self._durable = 0  # of this call's labels
        self._held = False  # the server is overloaded
        self.finished = 0  # labels that have come to something

    def __len__(self) -> int:
        return len(self._unsent) + len(self._sent)

    @property
    def waiting(self) -> bool:
        """Whether any has yet to be sent."""
        return bool(self._unsent)

    def append(self, label: Label) -> None:
        """Take one more label."""
        self._unsent.append(label)

    def next_to_send(self, before: int) -> Label | None:
        """The next label to send now, counted as sent; None: none, or its tick is not below seq `before` yet."""
        if self._held or not self._unsent or self._unsent[0].seq >= before:
            return None
        label = self._unsent.popleft()
        self._sent_count += 1
        self._sent[self._sent_count] = label
        return label

    def durable(self, count: int) -> None:
        """So many of this call's labels, those refused left out, are on disk."""
        self._held = self._held and count == self._durable
        while self._durable < count and self._sent:
            self._sent.pop(next(iter(self._sent))).set_outcome()
            self._durable += 1
            self.finished += 1

    def refused(self, item: int, error: LabelRefused) -> bool:
        """The call's label number `item` was refused. True: it goes out again, after the next Durable or `release`."""
        label = self._sent.pop(item, None)
        if label is None:
            return False
        if error.reason is Reason.OVERLOADED:
            self._unsent.appendleft(label)
            self._held = True
            return True
        label.set_outcome(error)
        self.finished += 1
        return False

    def release(self) -> None:
        """Try an overloaded server again without waiting for Durable."""
        self._held = False

    def all_durable(self) -> None:
        """The call has ended well: all that was sent on it is on disk."""
        self.durable(self._durable + len(self._sent))

    def disconnected(self) -> None:
        """The call is over; what is not known to be on disk is sent again on the next."""
        self._unsent.extendleft(reversed(self._sent.values()))
        self._sent.clear()
        self._sent_count = self._durable = 0
        self._held = False

    def fail(self, error: Exception) -> None:
        """None of them will be sent any more."""
        for label in (*self._sent.values(), *self._unsent):
            label.set_outcome(error)
        self._sent.clear()
        self._unsent.clear()
