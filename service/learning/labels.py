"""Validate labels and labelled windows; count those of one call that wait to be acknowledged."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.network import Network
from service.common.errors import Reason, Refusal, shown
from service.common.limits import MAX_MAGNITUDE, window_steps
from service.streams.sequence import NEVER_MISSING

Array = NDArray[np.float32]
NEVER_LEARNS = "this model never learns (learn = false): send it to one that does"
SUM_TOLERANCE = 1e-3  # of the sum of probabilities: a client may have rounded them


Problem = Callable[[Array], tuple[int, str] | None]


class Shape(NamedTuple):
    """What the labels and windows of a model must conform to."""

    task: str
    learn: bool
    missing: str
    channels: int  # values of a tick: its channels, and what is sent beside them
    outputs: int  # O
    state: int  # S
    steps: int  # the most ticks of a window
    label_horizon: int  # ticks
    problem: Problem  # finds a fault in a state, as `Network.problem`

    @classmethod
    def of(cls, network: Network) -> Shape:
        """Return the shape of a model's labels and windows."""
        spec = network.spec
        channels, steps = network.row, window_steps(network)
        sizes = channels, spec.outputs, network.state_size, steps
        return cls(spec.task, spec.learn, spec.missing, *sizes, spec.label_horizon, network.problem)


def check_label(shape: Shape, seq: int, y: Array, last_seq: int) -> Refusal | None:
    """Return why a label for tick `seq` of a stream with last tick `last_seq` is refused (R13), or None."""
    if shape.task == "forecast":
        remedy = "task forecast reads its labels off the stream: send ticks, or whole windows to Training.Learn"
        return Refusal(seq, Reason.UNSUPPORTED, "label", f"tick {seq}", remedy)
    if not shape.learn:
        return Refusal(seq, Reason.UNSUPPORTED, "label", f"tick {seq}", NEVER_LEARNS)
    if not 1 <= seq <= last_seq:
        known = f"label ticks 1 to {last_seq}" if last_seq else "send ticks first"
        remedy = f"the last tick of this stream is {last_seq}: {known}"
        return Refusal(seq, Reason.UNKNOWN_TICK, "label.seq", str(seq), remedy)
    if seq <= last_seq - shape.label_horizon:
        first = last_seq - shape.label_horizon + 1
        remedy = f"too old: the stream is at tick {last_seq}, label_horizon is {shape.label_horizon}: label {first} on"
        return Refusal(seq, Reason.UNKNOWN_TICK, "label.seq", str(seq), remedy)
    if len(y) != shape.outputs:
        each = "class" if shape.task == "classify" else "target"
        remedy = f"send {shape.outputs} values, one per {each}"
        return Refusal(seq, Reason.SHAPE, "label.y", f"{len(y)} values", remedy)
    return _bad_values(seq, "label.y", y) or (_bad_sum(seq, "label.y", y[None]) if shape.task == "classify" else None)


class RawWindow(NamedTuple):
    """A window as it was sent, with rows as bytes."""

    seq: int
    steps: int
    x: bytes
    y: bytes
    weight: bytes
    initial_state: bytes


class CheckedWindow(NamedTuple):
    """A valid window; arrays are float32, read-only views of the bytes that were sent."""

    x: Array  # [T, C]
    y: Array  # [T, O]
    weight: Array  # [T, O]
    initial_state: Array | None  # [S]; None: zeros


def check_window(shape: Shape, raw: RawWindow) -> CheckedWindow | Refusal:
    """Return the window's arrays, or why it is refused. `Sources` checks its order."""
    seq = raw.seq
    if not shape.learn:
        return Refusal(seq, Reason.UNSUPPORTED, "window", f"window {seq}", NEVER_LEARNS)
    if not 1 <= raw.steps <= shape.steps:
        remedy = f"send 1 to {shape.steps} ticks in a window of this model"
        return Refusal(seq, Reason.SHAPE, "window.steps", str(raw.steps), remedy)
    for field, what, rows, width, data in (
        ("x", "channels", raw.steps, shape.channels, raw.x),
        ("y", "outputs", raw.steps, shape.outputs, raw.y),
        ("weight", "outputs", raw.steps, shape.outputs, raw.weight),
        ("initial_state", "state values", 1, shape.state, raw.initial_state),
    ):
        if field in ("weight", "initial_state") and not data:
            continue
        if len(data) != 4 * rows * width:
            remedy = f"send {4 * rows * width} bytes: {rows} × {width} {what}, little-endian float32"
            return Refusal(seq, Reason.SHAPE, f"window.{field}", f"{len(data)} bytes", remedy)
    x, y = _rows(raw.x, shape.channels), _rows(raw.y, shape.outputs)
    weight = _rows(raw.weight, shape.outputs) if raw.weight else np.ones_like(y)
    state = _rows(raw.initial_state, shape.state)[0] if raw.initial_state else None
    checked = CheckedWindow(x, y, weight, state)
    return _bad_content(shape, seq, checked) or checked


def _bad_state(shape: Shape, seq: int, state: Array) -> Refusal | None:
    found = shape.problem(state)
    if not found:
        return None
    at, remedy = found
    reason = Reason.INVALID if np.isfinite(state[at]) else Reason.NON_FINITE
    return Refusal(seq, reason, f"window.initial_state[{at}]", f"{state[at]:g}", remedy)


def _bad_content(shape: Shape, seq: int, window: CheckedWindow) -> Refusal | None:
    x, y, weight, state = window
    if shape.missing == "hold":
        x = np.where(np.isnan(x), np.float32(0), x)
    refusal = _bad_values(seq, "window.x", x) or _bad_values(seq, "window.y", y)
    refusal = refusal or _bad_values(seq, "window.weight", weight)
    if refusal is None and state is not None:
        refusal = _bad_state(shape, seq, state)
    if refusal:
        return refusal
    if weight.min() < 0:
        t, o = np.unravel_index(int(weight.argmin()), weight.shape)
        remedy = "send weights of 0 (no label) or above"
        return Refusal(seq, Reason.INVALID, f"window.weight[{t}, {o}]", f"{weight[t, o]:g}", remedy)
    if not weight.any():
        return Refusal(
            seq, Reason.INVALID, "window.weight", "all 0", "give the ticks that have a label a weight above 0"
        )
    if shape.task == "classify":
        return _bad_sum(seq, "window.y", y, np.any(weight > 0, axis=1))
    return None


def _rows(data: bytes, width: int) -> Array:
    return np.frombuffer(data, "<f4").reshape(-1, width)


def _bad_values(seq: int, field: str, values: Array) -> Refusal | None:
    """Return a refusal for the first value that is not finite or exceeds MAX_MAGNITUDE, or None."""
    if float(np.add.reduce(np.abs(values), axis=None, dtype=np.float64)) <= MAX_MAGNITUDE:
        return None  # the usual case
    bad = np.argwhere(~(np.abs(values) <= MAX_MAGNITUDE))
    if not len(bad):
        return None
    where, value = ", ".join(map(str, bad[0])), float(values[tuple(bad[0])])
    if math.isfinite(value):
        return Refusal(
            seq, Reason.TOO_LARGE, f"{field}[{where}]", f"{value:g}", f"send magnitudes up to {MAX_MAGNITUDE:g}"
        )
    remedy = NEVER_MISSING if field == "window.x" and math.isnan(value) else "send finite values only"
    return Refusal(seq, Reason.NON_FINITE, f"{field}[{where}]", shown(value), remedy)


def _bad_sum(seq: int, field: str, y: Array, labelled: Any = None) -> Refusal | None:
    """Return a refusal for the first row that does not hold probabilities, or None.

    labelled: [T], the rows to check; None: y is the one row of a label.
    """
    total = np.add.reduce(y, axis=1, dtype=np.float64)
    wrong = (np.abs(total - 1) > SUM_TOLERANCE) | (y.min(axis=1) < 0)
    rows = np.flatnonzero(wrong if labelled is None else wrong & labelled)
    if not len(rows):
        return None
    row = rows[0]
    where = f"{field}[{row}]" if labelled is not None else field
    value = f"sum {total[row]:g}, smallest {y[row].min():g}"
    remedy = (
        "send the probabilities of the classes, 0 or above with sum 1: usually 1 for the class and 0 for the others"
    )
    return Refusal(seq, Reason.INVALID, where, value, remedy)


class Unacknowledged:
    """Items of one call that wait to be acknowledged, oldest first, and counts of acknowledged ones."""

    def __init__(self) -> None:
        self.labels = self.windows = self.window_seq = 0  # acknowledged: counts, and the highest window number
        self.bytes = 0
        self._waiting: deque[tuple[int, int, int]] = deque()  # goal, window_seq (0: a label), bytes

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, goal: int, size: int, window_seq: int = 0) -> None:
        """Add an item that is acknowledged at the model's offset `goal`. size: bytes."""
        self._waiting.append((goal, window_seq, size))
        self.bytes += size

    def reached(self, offset: int) -> bool:
        """Acknowledge all items up to `offset`; return whether there were any."""
        before = len(self._waiting)
        while self._waiting and self._waiting[0][0] <= offset:
            _, window_seq, size = self._waiting.popleft()
            self.bytes -= size
            if window_seq:
                self.windows += 1
                self.window_seq = max(self.window_seq, window_seq)
            else:
                self.labels += 1
        return len(self._waiting) < before
