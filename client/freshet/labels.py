"""The labels of one stream between the user and the server's disk, without I/O; and the forms in which users give them.

A label is sent once its tick is answered and, after a reconnect, accepted again by the server. It is kept until the
server reports it on disk, and sent again after a reconnect. Repeating a label is harmless: the first label of a tick
wins.
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

SUM_TOLERANCE = 1e-3  # of the sum of probabilities


class Answers(NamedTuple):
    """What a model answers and what its labels contain."""

    task: str
    names: tuple[str, ...]  # of the targets, or of the classes

    @classmethod
    def of(cls, spec: ModelSpec) -> Answers:
        """Return the answers of a spec."""
        return cls(spec.task or "forecast", tuple(spec.classes or spec.targets or spec.channels))


def label_values(answers: Answers, y: Any, seq: int, stream: str = "") -> list[float]:
    """Return a label's values for the wire. Raises LabelRefused.

    y: for task regress a number, or one per target in order; for task classify the name or index of the class, or the
    probability of each class.
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
    """Return 1 for the class, given by name or index, and 0 for the others."""
    if isinstance(y, str):
        index = names.index(y) if y in names else -1
    else:
        index = int(y) if isinstance(y, int | np.integer) and not isinstance(y, bool) else -1
    if not 0 <= index < len(names):
        remedy = f"the classes are {', '.join(names)}, or 0 to {len(names) - 1}"[:200]
        raise refused("label.y", repr(y), remedy, Reason.INVALID)
    return [float(i == index) for i in range(len(names))]


def label_refused(refused: types_pb2.Refused, stream: str = "") -> LabelRefused:
    """Return the exception for the server's refusal of a label."""
    return LabelRefused(refused.seq, refused.field, refused.value, refused.remedy, Reason(refused.reason), stream)


@dataclass(slots=True, eq=False)
class Label:
    """One label that is not yet on disk. `done` gets a result once it is; LabelRefused, or the error that ended the
    stream."""

    seq: int
    y: list[float]
    done: asyncio.Future[None]

    def __post_init__(self) -> None:
        self.done.add_done_callback(lambda done: done.cancelled() or done.exception())  # mark it as retrieved

    def set_outcome(self, error: Exception | None = None) -> None:
        """Set the outcome, once."""
        if not self.done.done():
            if error is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(error)


class LabelBox:
    """The labels of one stream that are not yet on disk, in the order in which they were given."""

    def __init__(self) -> None:
        self._unsent: deque[Label] = deque()
        self._sent: dict[int, Label] = {}  # on this call and not refused, by number on the call
        self._sent_count = self._durable = 0  # on this call
        self._held = False  # the server is overloaded
        self.finished = 0  # labels with an outcome

    def __len__(self) -> int:
        return len(self._unsent) + len(self._sent)

    @property
    def waiting(self) -> bool:
        """Whether a label is still to be sent."""
        return bool(self._unsent)

    def append(self, label: Label) -> None:
        """Add a label."""
        self._unsent.append(label)

    def next_to_send(self, before: int) -> Label | None:
        """Return the next label to send, and count it as sent. None if there is none, or its tick is not below
        `before`."""
        if self._held or not self._unsent or self._unsent[0].seq >= before:
            return None
        label = self._unsent.popleft()
        self._sent_count += 1
        self._sent[self._sent_count] = label
        return label

    def durable(self, count: int) -> None:
        """Record that this many of the call's labels are on disk, refused ones not counted."""
        self._held = self._held and count == self._durable
        while self._durable < count and self._sent:
            self._sent.pop(next(iter(self._sent))).set_outcome()
            self._durable += 1
            self.finished += 1

    def refused(self, item: int, error: LabelRefused) -> bool:
        """Record a refusal. Returns True if the label is sent again, after the next Durable or `release`."""
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
        """Send to an overloaded server again without waiting for Durable."""
        self._held = False

    def all_durable(self) -> None:
        """Record that all labels of the call are on disk: the call has ended cleanly."""
        self.durable(self._durable + len(self._sent))

    def disconnected(self) -> None:
        """End the call; labels not known to be on disk are sent again on the next."""
        self._unsent.extendleft(reversed(self._sent.values()))
        self._sent.clear()
        self._sent_count = self._durable = 0
        self._held = False

    def fail(self, error: Exception) -> None:
        """Give every label this error."""
        for label in (*self._sent.values(), *self._unsent):
            label.set_outcome(error)
        self._sent.clear()
        self._unsent.clear()
