"""What float32, in which values travel and models compute, keeps of changes between float64 values. No I/O.

A level of 1e8 leaves steps of 8 between neighbouring float32 numbers: a counter that goes up by 1 would stand still.
An offset that is subtracted in float64 before values are rounded to float32 keeps such changes.
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

MEMORY = 32  # changes of a channel that are remembered: the bits of a uint32
MOST_LOST = 8  # of these; from here on a tick that loses another is refused
TOLERANCE = 0.1  # share of a change that rounding may cost
NOISE = 1e-12  # changes below this share of the values are noise of float64 arithmetic, and do not count
SURE = 2.0**-23 / TOLERANCE  # of the sizes of both values: rounding costs a larger change half of the tolerance at most
SLIGHT = 2.0**-6  # changes below this share of the typical one do not count: a curve that flattens loses nothing
TYPICAL_FADES = 2.0 ** (-1 / 256)  # of the typical change, with each change
TYPICAL_GROWS = 8.0  # at most, with each change: one jump is not typical
SMALLEST = 1e-30  # changes below it may be lost to the smallest float32
SHORT = 1e5  # a suggested offset is a multiple of so many changes, rounded down to a power of ten


def lost_and_counted(before: F64, after: F64, offset: Any = 0.0) -> tuple[Mask, Mask]:
    """Which changes float32 loses, and which count at all, elementwise; NaN is no value and makes no change.

    before, after: float64 values, of any shape. offset: what is subtracted from both before they are rounded.
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
    """The typical size of a channel's changes after one of this size: the largest of the last ones, which fades.

    typical: 0 before any change, and minus the size of the first after it: the smaller of the first two counts.
    """
    begun = np.maximum(typical * TYPICAL_FADES, np.minimum(size, TYPICAL_GROWS * typical))
    return np.where(typical > 0, begun, np.where(typical < 0, np.minimum(-typical, size), -size))


class Line:
    """`Watch` for one stream, a tick at a time, without NumPy's cost for a few numbers. field: its name in errors."""

    def __init__(self, channels: Sequence[str], field: str = "x", least: int = MOST_LOST) -> None:
        """least: how many lost changes of the last MEMORY are too many."""
        self.channels, self._field, self._least = tuple(channels), field, least
        self.forget()

    def forget(self) -> None:
        """The stream begins again: its next values are no changes."""
        self._last = [math.nan] * len(self.channels)
        self._bits = [0] * len(self.channels)
        self._typical = [0.0] * len(self.channels)

    def see(self, x: Sequence[float], offset: Sequence[float] | None = None) -> None:
        """Take in one tick, as given; NaN is missing. Raises InvalidArgument where it is refused: the stream is as it
        was then. offset: of each channel."""
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
    """The last value of each channel of some streams, and which of its last changes were lost to float32.

    Rows are streams. A tick that `see` refuses leaves its stream as it was.
    """

    def __init__(self, channels: Sequence[str], streams: int = 1) -> None:
        self.channels = tuple(channels)
        self._last = np.full((streams, len(self.channels)), np.nan)
        self._bits = np.zeros((streams, len(self.channels)), np.uint32)
        self._typical = np.zeros((streams, len(self.channels)))

    def grow(self, streams: int) -> None:
        """So many streams are in use."""
        if streams > len(self._last):
            more = max(streams, 2 * len(self._last)) - len(self._last)
            self._last = np.pad(self._last, ((0, more), (0, 0)), constant_values=np.nan)
            self._bits = np.pad(self._bits, ((0, more), (0, 0)))
            self._typical = np.pad(self._typical, ((0, more), (0, 0)))

    def forget(self, stream: int = 0) -> None:
        """The stream begins again: its next value is no change."""
        self._last[stream], self._bits[stream], self._typical[stream] = np.nan, 0, 0

    def see(self, streams: npt.NDArray[np.intp] | slice, x: F64, offset: Any = 0.0) -> dict[int, InvalidArgument]:
        """Take in one tick of each of these streams, no stream twice; returns by row why one is refused.

        x: (n, channels) float64, as given; NaN is missing. offset: what is subtracted before rounding, of x's shape or
        one that goes with it.
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
    """Raise InvalidArgument where float32 would lose too many changes of a whole series of one stream.

    rows: (N, channels) float64; least: how many lost changes among MEMORY are too many.
    """
    offsets = np.broadcast_to(np.asarray(offset, np.float64), (len(channels),))
    for c, name in enumerate(channels):
        at = first_lost(rows[:, c], float(offsets[c]), least)
        if at is not None:
            before, after = at
            value, by = (float(rows[before, c]), float(rows[after, c])), float(offsets[c])
            raise refusal(name, f"{field}[{after}, {c}]", *value, by)


def first_lost(values: F64, offset: float = 0.0, least: int = MOST_LOST) -> tuple[int, int] | None:
    """The rows between which one too many changes of a series is lost; None if that never happens."""
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
    """A short number near a value, near enough for float32 to keep changes of this size beside it."""
    if not change:
        return value
    unit = 10.0 ** math.floor(math.log10(abs(change) * SHORT))
    rounded = round(value / unit) * unit
    return float(f"{rounded:.15g}")


def refusal(channel: str, field: str, before: float, after: float, offset: float = 0.0) -> InvalidArgument:
    """Why values are refused of whose changes float32 would lose another, with the remedy. field: begins with "x", or
    has it as its last part, for values; all else are labels, which have no offset."""
    before, after = float(before), float(after)  # plain ones, as they are shown
    better = f"{short_offset(after, after - before):.15g}"
    kept = float(np.float32(after - offset)) - float(np.float32(before - offset))
    value = f"{before!r} to {after!r}"
    remedy = f"subtract {better} from the labels, and add it to the answers"
    if field.partition("[")[0].rpartition(".")[2] == "x":
        remedy = (
            f"give offset={{{channel!r}: {better}}} where it is opened, the same for as long as the stream lives, or "
            "send differences"
        )
    remedy += " (what is float32 already is taken as it is)"
    return InvalidArgument(
        f"{field} ({channel}) = {value}: values travel as float32, which makes {kept:g} of this change of "
        f"{after - before:g}, as it did of others before it; {remedy}",
        field,
        value,
        remedy,
    )
