"""Errors of the learner's forecasts beside those of persistence, by step ahead: of a model, and of each stream.

Every forecast is made before its label is learned (prequential). Only labels that are learned count: not those left out
under overload, above a stream's share, or while learning is paused. In scaled units, targets are clipped as for
learning (`TARGET_CLIP`); in raw units, they are not. Several targets are averaged.

All of it is bounded: a row of QUANTITIES for each step of the model, and for at most five steps of at most MAX_STREAMS
streams, of which the least recently used is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.fold.arena import Arena
from model.fold.contexts import Block
from model.fold.windows import Unrolled
from model.network import Network
from model.parameters import Array
from model.update.rounds import GROUP_ROWS

MEMORY = 500  # labels that a recent mean covers
MAX_STREAMS = 100_000
BUDGET_BYTES = 32 << 20  # of all streams of a model
LEAST_LABELS = 16  # of a stream, to be ranked before streams with fewer
NO_STREAM = -1
FLUSHED_LABELS = 2048  # waiting labels that are taken in at once
LARGEST = 1e30  # a larger error counts as this, so that float32 holds it

MEANS = 8  # squared, absolute; then persistence's; both scaled, then both in raw units
QUANTITIES = 1 + 2 * MEANS  # labels, recent means, total means
SQUARED, PERSISTENCE_SQUARED = 1, 3  # columns: recent scaled means

Places = NDArray[np.intp]
# (positions, rows, outputs of labels) → the size of a unit of p, and the label less the value that p = 0 stands for
RawOf = Callable[[Places, Places, Places], tuple[Array, Array]]


class Learned(NamedTuple):
    """Learned labels and the forecasts of them, before the update."""

    p: Array  # [T, B, O] outputs of the readout
    Y: Array  # [T, B, O] targets for p
    weight: Array  # [T, B, O]; 0 where there is no label


def kept_steps(horizon: int) -> tuple[int, ...]:
    """Return the steps ahead that are kept per stream: the first, the last and the quarters between."""
    return tuple(sorted({max(1, round(horizon * part / 4)) for part in range(5)}))


def origin_units(block: Block, x: Array, first: int) -> RawOf:
    """Return the function that finds units and changes of the labels of a forecaster's block and the ticks x [B, K].

    The units are the scales frozen at the labels' origins. first: the position in the window that index 0 stands for.
    """
    origins, targets = block.x.shape[1:]
    before = origins - block.fill.astype(np.intp) + first
    values = np.concatenate([block.x, x[:, None]], axis=1)

    def raw(position: Places, row: Places, output: Places) -> tuple[Array, Array]:
        step, target = output // targets, output % targets
        origin = before[row] + position
        change = values[row, origin + 1 + step, target] - block.x[row, origin, target]
        return block.scale[row, origin, step, target], change

    return raw


def window_units(network: Network, target: Mapping[str, Array], labels: Unrolled, first: int) -> RawOf:
    """As `origin_units`, of labels from outside. target: the task's parameters."""
    targets = labels.last.shape[2]

    def raw(position: Places, row: Places, output: Places) -> tuple[Array, Array]:
        at = position + first, row
        y = labels.y[*at, output]
        if targets:  # a forecaster
            return labels.scale[*at, output // targets, output % targets], y - labels.last[*at, output % targets]
        (units,) = network.task.units(target, np.zeros((1, 0), np.float32))
        return units[output], y - target["mean"][output] if "mean" in target else y

    return raw


class StreamErrors(Arena):
    """Errors of single streams: a row of QUANTITIES for each of `kept_steps`, by stream number."""

    fresh_marks = ()

    def __init__(self, steps: int) -> None:
        super().__init__(
            ((steps, QUANTITIES),), max(GROUP_ROWS, min(MAX_STREAMS, BUDGET_BYTES // (4 * QUANTITIES * steps)))
        )
        self.steps = steps

    def waiting(self, slot: int) -> int:
        """Return 0: an error waits for nothing."""
        return 0

    @property
    def table(self) -> Array:
        """The rows of all slots, [slots · steps, QUANTITIES], a view."""
        return self._rows.reshape(-1, QUANTITIES)

    def all_changed(self) -> None:
        """Let the next `changes` return all streams."""
        self._changed = set(self._slots)

    def page(self, after: int, limit: int) -> list[int]:
        """Return the numbers of at most `limit` streams above `after`, ascending."""
        numbers = np.fromiter(self._slots, np.int64)
        found: list[int] = np.sort(numbers[numbers > after])[:limit].tolist()
        return found

    def worst(self, most: int) -> list[int]:
        """Return the numbers of at most `most` streams, those with the largest of `ratios` first.

        Streams with fewer than LEAST_LABELS labels come after all others; those without a ratio are left out.
        """
        numbers, slots = (np.fromiter(part, np.intp) for part in (self._slots, self._slots.values()))
        rows = self._rows.reshape(-1, self.steps, QUANTITIES)
        ratio = ratios(rows)[slots]
        rank = np.where(rows[slots, 0, 0] >= LEAST_LABELS, ratio, -1 / (1 + ratio))
        ranked = np.flatnonzero(~np.isnan(rank))
        if len(ranked) > most:
            ranked = ranked[np.argpartition(-rank[ranked], most)[:most]]
        found: list[int] = numbers[ranked[np.argsort(-rank[ranked], kind="stable")]].tolist()
        return found

    def of(self, streams: Iterable[int]) -> Array:
        """Return the errors of streams, [n, steps, QUANTITIES], a copy. Raises KeyError for an unknown one."""
        slots = [self._slots[stream] for stream in streams]
        return self._rows[slots].reshape(-1, self.steps, QUANTITIES)


class Errors:
    """Errors of one model's forecasts: `model` [H, QUANTITIES] float64, and `streams`, those of single streams.

    Added labels are taken into both by `flush`: per update that would cost a tenth of a small model's learning. Call it
    before reading either.
    """

    def __init__(self, network: Network) -> None:
        horizon = network.spec.horizon
        self._task, self._outputs = network.task, max(1, network.spec.outputs // horizon)
        self.steps = kept_steps(horizon)
        self.model = np.zeros((horizon, QUANTITIES))
        self.streams = StreamErrors(len(self.steps))
        self._kept = np.full(horizon, -1)
        self._kept[np.array(self.steps) - 1] = np.arange(len(self.steps))
        self._waiting: list[tuple[Array, ...]] = []  # [4, N] errors, (N,) outputs, (N,) streams or NO_STREAM
        self._labels = 0  # waiting

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.model.nbytes + self.streams.nbytes

    def add(self, learned: Learned, raw_of: RawOf, streams: NDArray[np.uint32] | None) -> None:
        """Add the errors of an update's forecasts, unless they are not finite.

        streams: (n,) the stream of each of the first n rows; None: the rows are of no stream.
        """
        at = np.nonzero(learned.weight)
        found = np.stack(self._task.residuals(learned.p, learned.Y, at))
        of = np.full(len(at[1]), NO_STREAM) if streams is None else streams.astype(np.int64)[at[1]]
        unit, change = raw_of(*at)
        raw = found * unit - (change - learned.Y[at] * unit)  # less what the clip of the target left out
        self._waiting.append((np.concatenate([found, raw]), at[2], of))
        self._labels += len(of)
        if self._labels >= FLUSHED_LABELS:
            self.flush()

    def flush(self) -> None:
        """Take the labels added since the last call into the means."""
        if not self._waiting:
            return
        found, output, stream = (np.concatenate(part, axis=-1) for part in zip(*self._waiting, strict=True))
        self._waiting, self._labels = [], 0
        finite = np.isfinite(found[0])
        values, step = errors_of(found[:, finite]), output[finite] // self._outputs
        follow(self.model, step, values)
        kept, stream = self._kept[step], stream[finite]
        here = (kept >= 0) & (stream != NO_STREAM)
        known, place = np.unique(stream[here], return_inverse=True)
        for start in range(0, len(known), GROUP_ROWS):  # of more at once, one could evict another
            slots = self.streams.slots(known[start : start + GROUP_ROWS])
            mine = np.flatnonzero((place >= start) & (place < start + GROUP_ROWS))
            cells = slots[place[mine] - start] * len(self.steps) + kept[here][mine]
            follow(self.streams.table, cells, values[:, here][:, mine])

    def remove(self, stream: int) -> None:
        """Forget a deleted stream."""
        self.flush()
        self.streams.remove(stream)

    def recent(self) -> dict[int, tuple[float, float, float, float]]:
        """Return the model's recent scaled means at `kept_steps` with labels: squared, absolute, then persistence's."""
        self.flush()
        found = {}
        for step in self.steps:
            labels, own, own_absolute, naive, naive_absolute = self.model[step - 1, :5].tolist()
            if labels:
                found[step] = own, own_absolute, naive, naive_absolute
        return found


def errors_of(found: Array) -> NDArray[np.float64]:
    """Return the MEANS of single labels, [MEANS, N]. found: [4, N], errors of the forecasts and of persistence, scaled
    and raw."""
    sizes = np.abs(found.astype(np.float64))
    values: NDArray[np.float64] = np.minimum(np.stack([sizes**2, sizes], axis=1).reshape(MEANS, -1), LARGEST)
    return values


def follow(table: NDArray[np.floating[Any]], cells: Places, values: NDArray[np.float64]) -> None:
    """Update rows of a table [n, QUANTITIES] with the errors of labels, in order.

    cells: (N,) the row of each label; values: [MEANS, N]. The n-th label of a row changes its recent means at the rate
    1/n, at least 1/MEMORY. Many labels at once have the same effect as one by one, but for rounding.
    """
    if not len(cells):
        return
    order = np.argsort(cells, kind="stable")
    cells, values = cells[order], values[:, order]
    starts = np.flatnonzero(np.concatenate([[True], cells[1:] != cells[:-1]]))
    n = np.diff(starts, append=len(cells))
    rows = cells[starts]
    before = table[rows].astype(np.float64)
    count = before[:, 0].copy()
    number = np.arange(1.0, len(cells) + 1) - np.repeat(starts - count, n)
    faded = log_growth(number.astype(np.float64)) - np.repeat(log_growth(count + n), n)
    share = np.maximum(1 / number, 1 / MEMORY) * np.exp(faded)
    recent, total = before[:, 1 : 1 + MEANS], before[:, 1 + MEANS :]
    recent *= np.exp(log_growth(count) - log_growth(count + n))[:, None]
    recent += np.add.reduceat(values * share, starts, axis=1).T
    total += (np.add.reduceat(values, starts, axis=1).T - n[:, None] * total) / (count + n)[:, None]
    before[:, 0] += n
    table[rows] = before


def log_growth(n: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log g(n), where the recent mean of m labels keeps the weight g(m) / g(n) in that of the first n."""
    with np.errstate(divide="ignore"):
        growth: NDArray[np.float64] = np.log(np.minimum(n, MEMORY)) - np.maximum(n - MEMORY, 0) * np.log1p(-1 / MEMORY)
    return growth


def ratios(rows: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the recent scaled squared error of streams divided by persistence's, over all kept steps, [n].

    rows: [n, steps, QUANTITIES]. NaN where persistence makes no error.
    """
    own, naive = (rows[:, :, column].sum(axis=1, dtype=np.float64) for column in (SQUARED, PERSISTENCE_SQUARED))
    ratio: NDArray[np.float64] = np.divide(own, naive, out=np.full(len(own), np.nan), where=naive > 0)
    return ratio
