"""Ticks of one stream beside the forecasts that were made of them: which columns a subject needs, and its blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.fold.errors import kept_steps
from model.spec import ModelSpec
from service.common.errors import Invalid
from service.streams.answers import AnswerLog, Kept
from service.viewing.seen import MAX_TICKS

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

MAX_STEP = MAX_TICKS  # steps ahead that can be shown
KEPT_TICKS = MAX_TICKS + MAX_STEP  # of one stream: a block, and the ticks that its forecasts come from
MAX_AHEAD = 64  # steps of the newest forecast that are shown
SHOWN_NAMES = 8  # of an error's remedy


@dataclass(frozen=True, slots=True)
class Lens:
    """The columns of x and y that one target at one step ahead needs.

    An answer is O forecasts, step by step, then the lower and the upper bounds, level by level (`model.answers`).
    Where the task is not a forecast, there is no truth, and what is shown is the answer itself: steps = (0,).
    """

    target: str
    step: int  # 0: the answer to the tick itself
    steps: tuple[int, ...]  # that are scored, the shown one included
    levels: tuple[float, ...]  # of intervals, ascending; the last is drawn
    x: Places  # the channel; empty: no truth
    y: Places  # forecasts by `steps`, then lower and upper bounds at `step`, by level; or all classes
    ahead: Places  # of the newest answer: forecasts by step, then bounds of the drawn level
    max_gap: float  # seconds; a longer gap voids the forecasts before it; 0: none does

    @classmethod
    def of(cls, spec: ModelSpec, target: str, step: int) -> Lens:
        """Return the lens of a target, "": the first. Raises Invalid for a target or a step that the model lacks."""
        names = spec.targets or spec.classes
        if target and target not in names:
            shown = ", ".join(names[:SHOWN_NAMES]) + (" …" if len(names) > SHOWN_NAMES else "")
            raise Invalid("target", target, f"this model has {shown}")
        k = names.index(target) if target else 0
        longest = min(spec.horizon, MAX_STEP) if spec.task == "forecast" else 1
        if not 1 <= step <= longest:
            raise Invalid("step", step, f"give 1 to {longest}")
        none = np.zeros(0, np.intp)
        if spec.task != "forecast":
            columns = np.arange(spec.outputs) if spec.classes and not target else np.array([k])
            return cls(target or names[k], 0, (0,), (), none, columns, none, 0.0)
        K, levels = len(spec.targets), len(spec.intervals)
        steps = tuple(sorted({step, *(s for s in kept_steps(spec.horizon) if s <= MAX_STEP)}))

        def column(step: int, part: int = 0) -> int:
            return part * spec.outputs + (step - 1) * K + k

        bounds = [column(step, part) for part in range(1, 2 * levels + 1)]
        ahead = range(1, min(spec.horizon, MAX_AHEAD) + 1)
        parts = (0, levels, 2 * levels) if levels else (0,)  # 1..levels are lower bounds; then come the upper ones
        return cls(
            target or names[k], step, steps, tuple(spec.intervals), np.array([spec.target_index[k]]),
            np.array([*(column(s) for s in steps), *bounds]),
            np.array([column(s, part) for part in parts for s in ahead]), spec.max_gap,
        )  # fmt: skip

    @property
    def shown(self) -> int:
        """The column among `y` of the shown step."""
        return self.steps.index(self.step)

    def bound(self, level: int, upper: bool) -> int:
        """Return the column among `y` of a bound of the level at this index, −1: the last."""
        return len(self.steps) + level % len(self.levels) + (len(self.levels) if upper else 0)


class Track:
    """The last ticks of one stream without a gap, at most KEPT_TICKS, in the columns of a lens."""

    def __init__(self, lens: Lens) -> None:
        self.lens = lens
        n, width = 0, len(lens.y)
        self._columns: dict[str, NDArray[Any]] = {
            "seq": np.zeros(n, np.uint64), "time": np.zeros(n), "x": np.zeros((n, len(lens.x)), np.float32),
            "y": np.zeros((n, width), np.float32), "version": np.zeros(n, np.uint32), "judged": np.zeros(n, np.uint64),
        }  # fmt: skip

    def __len__(self) -> int:
        return len(self.seq)

    @property
    def nbytes(self) -> int:
        """Bytes of the columns."""
        return sum(column.nbytes for column in self._columns.values())

    @property
    def seq(self) -> NDArray[np.uint64]:
        """Their seqs, ascending by one."""
        return self._columns["seq"]

    @property
    def last_seq(self) -> int:
        """The newest seq; 0: none."""
        return int(self.seq[-1]) if len(self) else 0

    def copied(self, log: AnswerLog, newest: int) -> Kept:
        """Copy what is new in the log, or all, where it does not follow. On the loop. newest: the stream's position."""
        return log.last(newest, KEPT_TICKS, 0, self.lens.x, self.lens.y) if not len(self) else self._since(log, newest)

    def _since(self, log: AnswerLog, newest: int) -> Kept:
        new = log.last(newest, KEPT_TICKS, self.last_seq, self.lens.x, self.lens.y)
        if len(new.seq):
            follows = int(new.seq[0]) == self.last_seq + 1
        else:
            found = log.last(newest, 1, 0, self.lens.x, self.lens.y)
            follows = len(found.seq) == 1 and int(found.seq[0]) == self.last_seq
        return new if follows else log.last(newest, KEPT_TICKS, 0, self.lens.x, self.lens.y)

    def extend(self, new: Kept) -> tuple[int, bool]:
        """Add copied ticks; return how many are new, and whether they replace all before them."""
        restart = bool(len(new.seq)) and int(new.seq[0]) != self.last_seq + 1
        restart = restart or not len(self)
        for name, column in self._columns.items():
            added = getattr(new, name)
            joined = added if restart else np.concatenate([column, added])
            self._columns[name] = joined[-KEPT_TICKS:].copy()
        return len(new.seq), restart

    # ---- as floats, which need not be finite

    @property
    def time(self) -> Floats:
        """Event times, seconds; NaN: none."""
        time: Floats = self._columns["time"]
        return time

    @property
    def truth(self) -> Floats:
        """The target's value at each tick; NaN where it is missing, or the task has no truth."""
        x = self._columns["x"]
        values: Floats = x[:, 0].astype(np.float64) if x.shape[1] else np.full(len(x), np.nan)
        return values

    def origins(self, step: int) -> Places:
        """Return for each tick the index of the tick `step` before it; −1 where that is not kept, or a gap between
        voids the forecast."""
        at = np.arange(len(self))
        before = at - step
        if self.lens.max_gap > 0 and len(self):
            run = np.concatenate([[0], np.cumsum(np.diff(self.time) > self.lens.max_gap)])  # NaN compares false
            before[(before >= 0) & (run[np.maximum(before, 0)] != run)] = -1
        return np.maximum(before, -1)

    def answers(self, column: int, step: int) -> Floats:
        """Return the outputs in a column that were made `step` ticks before each tick; NaN where there are none."""
        return self._from(self._columns["y"][:, column], step)

    def classes(self) -> Floats:
        """Return the likeliest class of each answer."""
        likeliest: Floats = self._columns["y"].argmax(axis=1).astype(np.float64)
        return likeliest

    def origin(self, name: str, step: int) -> Floats:
        """Return the value of another column at each tick's origin; NaN where it has none."""
        return self._from(self._columns[name], step)

    def _from(self, values: NDArray[Any], step: int) -> Floats:
        before = self.origins(step)
        out = np.full(len(self), np.nan)
        out[before >= 0] = values[before[before >= 0]]
        return out

    def staleness(self, step: int) -> Floats:
        """Return how many of the stream's labels were not judged yet when each tick's forecast was made."""
        return self._from(self.seq.astype(np.float64) - self._columns["judged"], step)


def block(track: Track, newest: Kept, stream: str, last: int, restart: bool, ghost: Any = None) -> dict[str, Any]:
    """Return BLOCK of the last `last` ticks. newest: the last answer, in the columns of `lens.ahead`.

    ghost: has `forecasts` and `ahead` of the same stream (`Ghost`); None: there is none.
    """
    lens, step = track.lens, track.lens.step
    part = slice(max(0, len(track) - last), None)
    y = track.classes() if len(lens.y) > 1 and not step else track.answers(lens.shown, step)
    none = np.full(len(track), np.nan)
    low, high = (track.answers(lens.bound(-1, upper), step) if lens.levels else none for upper in (False, True))
    ghosts = none if ghost is None or not step else ghost.forecasts(track.seq - np.uint64(step), lens.y[lens.shown])
    out: dict[str, Any] = {
        "stream": stream, "target": lens.target, "step": step, "restart": restart, "seq": track.seq[part],
        "level": lens.levels[-1] if lens.levels else None,
    }  # fmt: skip
    columns = {
        "time": track.time, "truth": track.truth, "y": y, "low": low, "high": high,
        "ghost": np.where(track.origins(step) < 0, np.nan, ghosts), "version": track.origin("version", step),
        "staleness": track.staleness(step),
    }  # fmt: skip
    out |= {name: column[part] for name, column in columns.items()}
    versions = columns["version"][part].tolist()
    out["version"] = [int(v) if np.isfinite(v) else None for v in versions]  # whole, however large
    return out | {"next": ahead(track, newest, ghost)}


def ahead(track: Track, newest: Kept, ghost: Any = None) -> dict[str, Any] | None:
    """Return the newest tick's forecast of the steps ahead; None without one."""
    lens = track.lens
    parts = 3 if lens.levels else 1
    n = len(lens.ahead) // parts
    if not n or not len(newest.seq):
        return None
    y = newest.y[-1].astype(np.float64).reshape(parts, n)
    none = np.full(n, np.nan)
    seq = newest.seq[-1:]
    return {
        "seq": int(seq[0]), "time": float(newest.time[-1]), "steps": list(range(1, n + 1)), "y": y[0],
        "low": y[1] if parts > 1 else none, "high": y[2] if parts > 1 else none, "version": int(newest.version[-1]),
        "ghost": none if ghost is None else ghost.rows(seq, lens.ahead[:n])[0],
    }  # fmt: skip
