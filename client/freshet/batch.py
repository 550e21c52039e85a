"""The arguments of one step of a Mux: checked before anything is sent, and merged with the answers afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from freshet import offsets
from freshet.arguments import identifier, invalid, listed
from freshet.bounds import Bounds
from freshet.errors import FreshetError, InvalidArgument
from freshet.frames import event_times, matrix, named_columns, plain
from freshet.known import of_ticks
from freshet.offsets import F64, LARGEST, checked, of_channels, of_outputs
from freshet.packed import Packed, Wave
from freshet.precision import Watch
from freshet.results import ModelSpec
from freshet.ticks import seconds

MESSAGE_BYTES = 1 << 19  # of packed ticks: half of a server's default limit


class Batch:
    """n ticks of streams of one model. ids: of the rows that may be sent. refused: the errors of the other rows, by
    row.

    x: (n, channels) float64, as given. time: (n,) float64 seconds, or None. offset: (channels,), or of x's shape,
    subtracted before x becomes float32; None: nothing. u: (n, horizon × known) or None. static: (n,) by name.
    """

    def __init__(
        self,
        spec: ModelSpec,
        ids: Sequence[Any],
        x: F64,
        time: Any,
        offset: F64 | None,
        u: F64 | None = None,
        static: Mapping[str, F64] | None = None,
    ) -> None:
        self._spec, self.x, self.time, self.u = spec, x, time, u
        self._static = static or {}
        self._offset = None if offset is None else np.broadcast_to(offset, x.shape)
        self.refused: dict[int, FreshetError] = {}
        self._all = [self._identifier(row, id) for row, id in enumerate(ids)]

    @classmethod
    def of(
        cls,
        spec: ModelSpec,
        streams: Any,
        x: Any,
        time: Any,
        offset: Any,
        usual: F64 | None,
        known: Any = None,
        static: Any = None,
    ) -> Self:
        """Check the arguments of `Mux.step`. usual: the Mux's offset, (channels,), used if the step gives none.

        Raises InvalidArgument for wrong shapes, but not for single ids.
        """
        ids = listed(np.asarray(streams).tolist() if hasattr(streams, "__array__") else streams, "streams")
        rows, times = _rows(spec, len(ids), x), _times(spec, len(ids), time)
        by = usual if offset is None else _offsets(spec, len(ids), offset)
        return cls(spec, ids, rows, times, by, _known(spec, len(ids), known), _static(len(ids), static))

    def _identifier(self, row: int, id: object) -> str:
        """Return the id of a row as the wire has it, or "" if the row is refused."""
        try:
            return identifier(id, f"streams[{row}]")
        except InvalidArgument as error:
            self.refused[row] = error
            return ""

    @property
    def ids(self) -> list[str]:
        """The streams of the rows that are not refused, in order."""
        return [self._all[row] for row in self.rows]

    @property
    def rows(self) -> list[int]:
        """The rows that are not refused."""
        if not self.refused:
            return list(range(len(self._all)))
        return [row for row in range(len(self._all)) if row not in self.refused]

    def id(self, row: int) -> str:
        """Return the stream of a row that may be sent."""
        return self._all[row]

    @property
    def statics(self) -> dict[str, dict[str, float]]:
        """The static inputs of each stream that may be sent, by name; those of its first row."""
        if not self._static:
            return {}
        return {
            self._all[row]: {name: float(column[row]) for name, column in self._static.items()}
            for row in reversed(self.rows)
        }

    def watch(self, watch: Watch, handles: Mapping[str, int]) -> None:
        """Refuse the rows whose changes float32 would lose; `watch`, by handle, records the others."""
        rows = np.array(self.rows, np.intp)
        handle = np.array([handles[id] for id in self.ids], np.intp)
        turn = _occurrence(handle)
        for n in range(int(turn.max()) + 1 if len(turn) else 0):
            mine = rows[turn == n]
            by = 0.0 if self._offset is None else self._offset[mine]
            refused = watch.see(handle[turn == n], self.x[mine], by)
            self.refused |= {int(mine[at]): error for at, error in refused.items()}

    def refuse(self, refused: Mapping[str, FreshetError]) -> None:
        """Refuse the rows of these streams."""
        if refused:
            self.refused |= {row: refused[self._all[row]] for row in self.rows if self._all[row] in refused}

    def waves(self, handles: Mapping[str, int], next_seq: npt.NDArray[np.uint64]) -> list[Wave]:
        """Return the rows that are not refused as messages. next_seq: by handle."""
        rows = np.array(self.rows, np.intp)
        handle = np.array([handles[id] for id in self.ids], np.uint32)
        seq = next_seq[handle] + _occurrence(handle)
        with np.errstate(over="ignore"):  # infinity is refused by the server
            x = (self.x if self._offset is None else self.x - self._offset).astype(np.float32)
        u = None if self.u is None else self.u.astype(np.float32)
        width = self.x.shape[1] + (0 if u is None else u.shape[1])
        size = max(1, MESSAGE_BYTES // (20 + 4 * width))
        parts = [slice(at, at + size) for at in range(0, len(rows), size)]
        return [
            Wave(handle[part], seq[part], x[rows[part]],
                 None if self.time is None else self.time[rows[part]], self._outputs,
                 None if u is None else u[rows[part]], len(self._spec.intervals))
            for part in parts
        ]  # fmt: skip

    def packed(self, waves: Sequence[Wave]) -> Packed:
        """Return the answers of all rows, once every wave is done."""
        n, spec = len(self._all), self._spec
        y = np.full((n, self._outputs), np.nan, np.float32)
        ends = [np.full((n, len(spec.intervals) * self._outputs), np.nan, np.float32) for _ in range(2)]
        seq, version, judged = (np.zeros(n, np.uint64) for _ in range(3))
        rows, lost, at = np.array(self.rows, np.intp), [], 0
        refused = dict(self.refused)
        for wave in waves:
            mine = rows[at : at + len(wave.seq)]
            at += len(mine)
            y[mine], seq[mine], version[mine], judged[mine] = wave.y, wave.seq, wave.version, wave.judged
            ends[0][mine], ends[1][mine] = wave.lower, wave.upper
            refused |= {int(mine[i]): error for i, error in wave.refused.items()}
            lost += [int(mine[i]) for i in wave.lost]
        horizon = 1 if spec.classes else spec.horizon or 1
        shape, added = (n, horizon, self._outputs // horizon), of_outputs(self._offset, spec)
        by = None if added is None else added[:, None]
        bounds = None
        if spec.intervals:
            levels = (n, len(spec.intervals), *shape[1:])
            lower, upper = (offsets.added(end.reshape(levels).swapaxes(0, 1), by) for end in ends)
            bounds = Bounds(spec.intervals, lower, upper)
        return Packed(offsets.added(y.reshape(shape), by), seq, version, judged, refused, lost, bounds)

    @property
    def _outputs(self) -> int:
        spec = self._spec
        return len(spec.classes) or (spec.horizon or 1) * (len(spec.targets) or len(spec.channels))


def _rows(spec: ModelSpec, n: int, x: Any, field: str = "x") -> F64:
    channels, columns = len(spec.channels), named_columns(x)
    values = plain(x) if columns is None else matrix(columns, spec.channels, field)
    rows = np.asarray(values, np.float64)
    if channels == 1 and rows.ndim == 1:
        rows = rows[:, None]
    if rows.shape != (n, channels):
        remedy = f"give [{n}, {channels}]: a row per stream, a value per channel"
        raise InvalidArgument(f"{field} has shape {rows.shape}; {remedy}", field, str(rows.shape), remedy)
    return rows


def _offsets(spec: ModelSpec, n: int, offset: Any) -> F64 | None:
    """Return (n, channels) the offsets of the rows of a step, from the shapes of x or one number for all."""
    if np.ndim(offset) == 0 and not hasattr(offset, "keys"):
        return of_channels(checked(offset), spec.channels)
    rows = _rows(spec, n, offset, "offset")
    if not (np.abs(rows) <= LARGEST).all():  # also for NaN
        raise invalid("offset", float(rows[~(np.abs(rows) <= LARGEST)][0]), "give finite numbers up to 1e15")
    return rows


def _known(spec: ModelSpec, n: int, known: Any) -> F64 | None:
    """Return (n, horizon × known); None if none were given and the model lets them be missing."""
    if known is None and (not spec.known or spec.missing == "hold"):
        return None
    if known is None or not spec.known:
        remedy = f"send {', '.join(spec.known)} with every tick" if spec.known else "omit it: the model has none"
        raise InvalidArgument(f"known: {remedy}", "known", repr(known)[:80], remedy)
    return of_ticks(known, spec.known, spec.horizon or 1, n)


def _static(n: int, static: Any) -> dict[str, F64]:
    """Return (n,) values by name, from one for all streams or n each."""
    if static is None:
        return {}
    if not isinstance(static, Mapping):
        raise invalid("static", static, "give a mapping from names to a number, or to one per stream")
    try:
        return {name: np.broadcast_to(np.asarray(values, np.float64), (n,)) for name, values in static.items()}
    except (TypeError, ValueError):
        raise invalid("static", static, f"give one number per name, or {n}, one per stream") from None


def _times(spec: ModelSpec, n: int, time: Any) -> npt.NDArray[np.float64] | None:
    if time is None:
        if spec.interval > 0:
            raise InvalidArgument("time is missing: this model has an interval", "time", "None", "give event times")
        return None
    several = isinstance(time, Iterable) and not isinstance(time, str)
    times = np.array([seconds(t) for t in event_times(time)] if several else [seconds(time)] * n)
    if len(times) != n:
        raise InvalidArgument(f"{len(times)} times for {n} streams", "time", str(len(times)), f"give {n}, or one")
    return times


def _occurrence(handle: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Return (n,) how often the handle occurs before each row."""
    order = np.argsort(handle, kind="stable")
    ranked = handle[order]
    first = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]])) if len(handle) else np.zeros(0, np.intp)
    out = np.empty(len(handle), np.uint64)
    out[order] = np.arange(len(handle)) - np.repeat(first, np.diff(np.append(first, len(handle))))
    return out
