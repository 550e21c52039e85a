"""Labelled windows as users give them, converted to messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from freshet.errors import InvalidArgument, LabelRefused, Reason, WindowRefused
from freshet.frames import matrix, named_columns, plain
from freshet.known import sent_names
from freshet.labels import Answers, label_values
from freshet.offsets import F64, of_channels, of_outputs
from freshet.precision import MOST_LOST, check_ahead
from freshet.results import ModelSpec
from freshet.ticks import LARGEST
from freshet.v1 import training_pb2

F32 = npt.NDArray[np.float32]

LEAST_LOST = 3  # lost changes that are too many in a short window


class WindowLayout(NamedTuple):
    """The shape of a model's windows."""

    channels: tuple[str, ...]  # the columns of x: channels, then known and static inputs, see `sent_names`
    outputs: int
    missing: str
    answers: Answers
    offset: F64 | None = None  # (columns,) subtracted before values become float32
    added: F64 | None = None  # (targets,) the same for labels

    @classmethod
    def of(cls, spec: ModelSpec, offset: Any = None) -> WindowLayout:
        """Return the layout of a spec. offset: in the form of `offsets.checked`. Raises InvalidArgument if it does not
        match."""
        answers, by = Answers.of(spec), of_channels(offset, spec.channels)
        outputs = (spec.horizon or 1) * len(answers.names)
        sent = sent_names(spec.known, spec.static, spec.horizon or 1)
        less = None if by is None else np.concatenate([by, np.zeros(len(sent))])
        return cls((*spec.channels, *sent), outputs, spec.missing, answers, less, of_outputs(by, spec))


def window_message(layout: WindowLayout, x: Any, y: Any, weight: Any, initial_state: Any) -> training_pb2.Window:
    """Return a window's message without its number; see `Learning.window`.

    Raises WindowRefused for a window that the server would refuse, InvalidArgument if float32 would lose its changes.
    """
    given = _numbers("x", x, layout.channels)
    if len(layout.channels) == 1 and given.ndim == 1:
        given = given[:, None]
    C = len(layout.channels)
    if given.ndim != 2 or given.shape[1] != C or not len(given):
        _refuse("x", f"shape {given.shape}", f"send (T, {C}): {', '.join(layout.channels)}"[:200])
    rows = _float32(given, layout.offset)
    _check_values("x", rows, nan_allowed=layout.missing == "hold")
    by = 0.0 if layout.offset is None else layout.offset
    check_ahead(given, layout.channels, by, _too_many(given), "window.x")
    labels, default = _labels(layout, y, len(rows))
    _check_values("y", labels)
    weights = default if weight is None else _weights(weight, labels.shape)
    state = b""
    if initial_state is not None:
        row = _float32(_numbers("initial_state", initial_state))
        if row.ndim != 1:
            _refuse("initial_state", f"shape {row.shape}", "send one row")
        _check_values("initial_state", row)
        state = _packed(row)
    return training_pb2.Window(
        steps=len(rows),
        x=_packed(rows),
        y=_packed(labels),
        weight=b"" if weights is None else _packed(weights),
        initial_state=state,
    )


def _too_many(rows: F64) -> int:
    """Return how many lost changes of a channel are too many in a window of these ticks."""
    return max(LEAST_LOST, min(MOST_LOST, len(rows) // 2))


def _labels(layout: WindowLayout, y: Any, T: int) -> tuple[F32, F32 | None]:
    """Return labels (T, O) and their default weights: None for all 1; for a single label, 1 at the last tick."""
    O = layout.outputs  # noqa: E741  # as in every shape
    dims = () if isinstance(y, str) else np.shape(y)
    added = None if layout.added is None else np.tile(layout.added, O // len(layout.added))
    if len(dims) == 2 or (len(dims) == 1 and O == 1):
        names = layout.answers.names if len(layout.answers.names) == O else None
        rows = _numbers("y", y, names).reshape(len(y), -1)
        if rows.shape != (T, O):
            _refuse("y", f"shape {np.shape(y)}", f"send (T, outputs) = ({T}, {O}), or one label of the last tick")
        if layout.answers.task == "regress":
            check_ahead(rows, layout.answers.names, 0.0, _too_many(rows), "window.y")
        return _float32(rows, added), None
    if layout.answers.task == "forecast":
        found = _numbers("y", y).reshape(-1)
        if found.shape != (O,):
            _refuse("y", f"shape {np.shape(y)}", f"send ({T}, {O}), or the {O} values that follow the last tick")
        row = _float32(found, added)
    else:
        try:
            row = np.array(label_values(layout.answers, y, 0), np.float32)
        except LabelRefused as error:
            field = error.field.replace("label.", "window.")
            raise WindowRefused(field, error.value, error.remedy, error.reason) from None
    labels, weight = np.zeros((T, O), np.float32), np.zeros((T, O), np.float32)
    labels[-1], weight[-1] = row, 1
    return labels, weight


def _weights(weight: Any, shape: tuple[int, ...]) -> F32:
    rows = _float32(_numbers("weight", weight))
    if rows.shape == shape[:1]:
        rows = np.repeat(rows[:, None], shape[1], axis=1)
    if rows.shape != shape:
        _refuse("weight", f"shape {rows.shape}", f"send {shape[:1]} or {shape}")
    _check_values("weight", rows)
    if rows.min() < 0 or not rows.any():
        _refuse("weight", f"smallest {rows.min():g}", "give weights of at least 0, one of them above 0", Reason.INVALID)
    return rows


def _float32(values: F64, offset: F64 | None = None) -> F32:
    with np.errstate(over="ignore"):
        return (values if offset is None else values - offset).astype(np.float32)


def _numbers(field: str, values: Any, names: Sequence[str] | None = None) -> F64:
    """Return the values as an array; the columns of a frame in the order of the names."""
    try:
        columns = None if names is None else named_columns(values)
        found = plain(values) if columns is None else matrix(columns, names or (), field)
        return found.astype(np.float64)
    except InvalidArgument as error:
        _refuse(field, error.value, error.remedy)
    except (TypeError, ValueError):
        _refuse(field, repr(values)[:80], "every value must be a number")


def _check_values(field: str, rows: F32, nan_allowed: bool = False) -> None:
    sound = np.abs(rows) <= LARGEST
    if nan_allowed:
        sound |= np.isnan(rows)
    if sound.all():
        return
    where = tuple(int(i) for i in np.argwhere(~sound)[0])
    finite = np.isfinite(rows[where])
    reason = Reason.TOO_LARGE if finite else Reason.NON_FINITE
    place = f"{field}[{', '.join(map(str, where))}]"
    _refuse(place, f"{rows[where]:g}", "send finite numbers up to 1e15", reason)


def _refuse(field: str, value: str, remedy: str, reason: Reason = Reason.SHAPE) -> NoReturn:
    raise WindowRefused(f"window.{field}", value, remedy, reason)


def _packed(rows: F32) -> bytes:
    return rows.astype("<f4").tobytes()
