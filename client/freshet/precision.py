"""Which changes between float64 values survive rounding to float32, the format of the wire and the models. No I/O.

At a level of 1e8, neighbouring float32 numbers are 8 apart, so a counter that increases by 1 would stand still. An
offset subtracted in float64 before rounding preserves such changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from freshet.errors import InvalidArgument

F64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

MEMORY = 32  # recent changes of a channel that are recorded: the bits of a uint32
MOST_LOST = 8  # lost changes among them at which a tick is refused
TOLERANCE = 0.1  # part of a change that rounding may cost
NOISE = 1e-12  # changes below this part of the values are float64 noise and do not count
SURE = 2.0**-23 / TOLERANCE  # times both values: rounding costs a larger change at most half the tolerance
SLIGHT = 2.0**-6  # changes below this part of the typical one do not count, so a flattening curve is accepted
TYPICAL_FADES = 2.0 ** (-1 / 256)  # factor of the typical change at each change
TYPICAL_GROWS = 8.0  # largest factor at each change: one jump is not typical
SMALLEST = 1e-30  # smaller changes may fall below the smallest float32
SHORT = 1e5  # a suggested offset is a multiple of this many changes, rounded down to a power of ten


def lost_and_counted(before: F64, after: F64, offset: Any = 0.0) -> tuple[Mask, Mask]:
    """Return which changes float32 loses, and which count at all, elementwise. NaN is no value and makes no change.

    before, after: float64 values of any shape. offset: subtracted from both before they are rounded.
    """
    change = after - before
    with np.errstate(invalid="ignore"):
        counted = np.abs(change) > NOISE * np.maximum(np.abs(before), np.abs(after))
    kept = _rounded(after - offset) - _rounded(before - offset)
    with np.errstate(invalid="ignore"):
        return counted & ~(np.abs(kept - change) <= TOLERANCE * np.abs(change)), counted


def _rounded(values: F64) -> F64:
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32).astype(np.float64)


def next_typical(typical: Any, size: Any) -> Any:
    """Return the typical size of a channel's changes after one of this size: the largest recent one, which fades.

    typical: 0 before any change; minus the size of the first change after it: the smaller of the first two counts.
    """
    begun = np.maximum(typical * TYPICAL_FADES, np.minimum(size, TYPICAL_GROWS * typical))
    return np.where(typical > 0, begun, np.where(typical < 0, np.minimum(-typical, size), -size))


class Line:
    """`Watch` for one stream, one tick at a time, without NumPy's overhead for a few numbers. field: its name in
    errors."""

    def __init__(self, channels: Sequence[str], field: str = "x", least: int = MOST_LOST) -> None:
        """least: how many lost changes of the last MEMORY are too many."""
        self.channels, self._field, self._least = tuple(channels), field, least
        self.forget()

    def forget(self) -> None:
        """Start over: the next values make no change."""
        self._last = [math.nan] * len(self.channels)
        self._bits = [0] * len(self.channels)
        self._typical = [0.0] * len(self.channels)

    def see(self, x: Sequence[float], offset: Sequence[float] | None = None) -> None:
        """Record one tick, as given; NaN is missing. offset: of each channel.

        Raises InvalidArgument for a tick that is refused; the recorded values are then unchanged.
        """
        last, bits, typical = self._last.copy(), self._bits.copy(), self._typical.copy()
        for c, after in enumerate(x):
            before, by = last[c], 0.0 if offset is None else offset[c]
            size = abs(after - before)
            if size > NOISE * max(abs(before), abs(after)):  # also false for NaN
                if size >= SLIGHT * typical[c]:
                    sure = size > SURE * (abs(before - by) + abs(after - by)) and size > SMALLEST
                    lost = not sure and _lost(before, after, by)
                    bits[c] = (bits[c] << 1 | lost) & 0xFFFFFFFF
                    if lost and bits[c].bit_count() >= self._least:
                        raise refusal(self.channels[c], f"{self._field}[{c}]", before, after, by)
                usual = typical[c]
                if usual > 0:
                    typical[c] = max(usual * TYPICAL_FADES, min(size, TYPICAL_GROWS * usual))
                else:
                    typical[c] = min(-usual, size) if usual else -size
            if after == after:
                last[c] = after
        self._last, self._bits, self._typical = last, bits, typical


def _lost(before: float, after: float, offset: float) -> bool:
    kept = float(np.float32(after - offset)) - float(np.float32(before - offset))
    change = after - before
    return not abs(kept - change) <= TOLERANCE * abs(change)


class Watch:
    """The last value of each channel of some streams, and which of its recent changes float32 lost.

    Rows are streams. A tick that `see` refuses leaves its stream unchanged.
    """

    def __init__(self, channels: Sequence[str], streams: int = 1) -> None:
        self.channels = tuple(channels)
        self._last = np.full((streams, len(self.channels)), np.nan)
        self._bits = np.zeros((streams, len(self.channels)), np.uint32)
        self._typical = np.zeros((streams, len(self.channels)))

    def grow(self, streams: int) -> None:
        """Make room for this many streams."""
        if streams > len(self._last):
            more = max(streams, 2 * len(self._last)) - len(self._last)
            self._last = np.pad(self._last, ((0, more), (0, 0)), constant_values=np.nan)
            self._bits = np.pad(self._bits, ((0, more), (0, 0)))
            self._typical = np.pad(self._typical, ((0, more), (0, 0)))

    def forget(self, stream: int = 0) -> None:
        """Start a stream over: its next value makes no change."""
        self._last[stream], self._bits[stream], self._typical[stream] = np.nan, 0, 0

    def see(self, streams: npt.NDArray[np.intp] | slice, x: F64, offset: Any = 0.0) -> dict[int, InvalidArgument]:
        """Record one tick of each of these streams, no stream twice. Returns the refusals by row.

        x: (n, channels) float64, as given; NaN is missing. offset: subtracted before rounding, of x's shape or
        broadcastable.
        """
        last, bits, typical = self._last[streams], self._bits[streams], self._typical[streams]
        lost, changed = lost_and_counted(last, x, offset)
        size = np.abs(x - last)
        counted = changed & (size >= SLIGHT * typical)
        lost &= counted
        typical = np.where(changed, next_typical(typical, size), typical)
        if lost.any() or bits.any():
            bits = np.where(counted, bits << np.uint32(1) | lost, bits)
        refused = lost & (np.bitwise_count(bits) >= MOST_LOST) if lost.any() else lost
        errors: dict[int, InvalidArgument] = {}
        if refused.any():
            for row, c in np.argwhere(refused).tolist():
                by = float(np.broadcast_to(offset, x.shape)[row, c])
                name = self.channels[c]
                errors.setdefault(row, refusal(name, f"x[{c}]", float(last[row, c]), float(x[row, c]), by))
            kept = ~refused.any(axis=1)
            streams = np.arange(len(self._last))[streams][kept]
            last, x, bits, typical = last[kept], x[kept], bits[kept], typical[kept]
        self._last[streams] = np.where(np.isnan(x), last, x)
        self._bits[streams], self._typical[streams] = bits, typical
        return errors


def check_ahead(
    rows: F64, channels: Sequence[str], offset: Any = 0.0, least: int = MOST_LOST, field: str = "x"
) -> None:
    """Raise InvalidArgument if float32 would lose too many changes of a whole series of one stream.

    rows: (N, channels) float64. least: how many lost changes among MEMORY are too many.
    """
    offsets = np.broadcast_to(np.asarray(offset, np.float64), (len(channels),))
    for c, name in enumerate(channels):
        at = first_lost(rows[:, c], float(offsets[c]), least)
        if at is not None:
            before, after = at
            value, by = (float(rows[before, c]), float(rows[after, c])), float(offsets[c])
            raise refusal(name, f"{field}[{after}, {c}]", *value, by)


def first_lost(values: F64, offset: float = 0.0, least: int = MOST_LOST) -> tuple[int, int] | None:
    """Return the rows between which one lost change too many occurs; None if there are not too many."""
    known = np.flatnonzero(np.isfinite(values))
    series = values[known]
    lost, _ = lost_and_counted(series[:-1], series[1:], offset)
    if np.count_nonzero(lost) < least:
        return None
    line = Line(["x"], least=least)
    for at, value in enumerate(series.tolist()):
        try:
            line.see([value], [offset])
        except InvalidArgument:
            return int(known[at - 1]), int(known[at])
    return None


def short_offset(value: float, change: float) -> float:
    """Return a short number near a value, near enough for float32 to preserve changes of this size."""
    if not change:
        return value
    unit = 10.0 ** math.floor(math.log10(abs(change) * SHORT))
    rounded = round(value / unit) * unit
    return float(f"{rounded:.15g}")


def refusal(channel: str, field: str, before: float, after: float, offset: float = 0.0) -> InvalidArgument:
    """Return the refusal of values whose change float32 would lose, with the remedy.

    field: the last part of its name is "x" for values; others are labels, which have no offset.
    """
    before, after = float(before), float(after)  # NumPy scalars would show their type
    better = f"{short_offset(after, after - before):.15g}"
    kept = float(np.float32(after - offset)) - float(np.float32(before - offset))
    value = f"{before!r} to {after!r}"
    remedy = f"subtract {better} from the labels, and add it to the answers"
    if field.partition("[")[0].rpartition(".")[2] == "x":
        remedy = f"give offset={{{channel!r}: {better}}} when opening it, and never change it; or send differences"
    remedy += " (values that are float32 already are accepted)"
    return InvalidArgument(
        f"{field} ({channel}) = {value}: values are sent as float32, which turns this change of "
        f"{after - before:g} into {kept:g}, as it did with earlier changes; {remedy}",
        field,
        value,
        remedy,
    )
