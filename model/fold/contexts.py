"""The learner's context of one stream of a forecaster (DESIGN R7): statistics, start state, last inputs and origins."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.answers.columns import LAGS, Regressors
from model.answers.tasks import TARGET_CLIP
from model.bounds import clip, constant
from model.fold import given
from model.fold.arena import Arena
from model.fold.experts import LABEL_CLIP, context_shapes
from model.network import Network
from model.parameters import Array
from model.spec import ModelSpec


def shapes(network: Network) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of a context's parts: statistics, start state, last inputs, last origins' values and scales;
    with rule rtrl, last, the trace of the start state."""
    spec, targets = network.spec, len(network.spec.targets)
    origins = spec.horizon + spec.learn_every - 1
    inputs = (spec.window, network.features)
    statistics, hidden = (network.statistics_size,), (network.hidden_size,)
    common = statistics, hidden, inputs, (origins, targets), (origins, spec.horizon, targets)
    trace = ((network.trace_size,),) if network.trace_size else ()
    return *common, *given.shapes(network), *context_shapes(network.mixture, origins), *trace


class Block:
    """Copies of B contexts, as named views. `Contexts.store` writes changes back.

    statistics [B, n]; start [B, hidden_size]; ring [B, T, E], oldest input first; x [B, R, targets] and
    scale [B, R, H, targets] of the last R origins, oldest first; fill [B], inputs in the ring; known [B], origins whose
    labels may still come; last_time [B], seconds (NaN: none). trace [B, trace_size] of the start states, or None
    without rule rtrl. shown: see `given.shapes`. With a mixture, see
    `experts.context_shapes`: every, delta, place, and with a horizon above 1 gains, one array for each readout, and
    given.
    """

    every: Array
    delta: Array
    place: Array
    given: Array

    def __init__(self, contexts: Contexts, rows: Array, marks: NDArray[np.float64]) -> None:
        self.rows, self.marks = rows, marks
        self.statistics, self.start, self.ring, self.x, self.scale, *mixed = (
            rows[:, part].reshape(len(rows), *shape)
            for part, shape in zip(contexts.parts, contexts.shapes, strict=True)
        )
        self.trace: Array | None = mixed.pop() if contexts.traced else None
        self.shown, mixed = mixed[: contexts.shown], mixed[contexts.shown :]
        self.gains: list[Array] = []
        if mixed:
            self.every, self.delta, self.place, *delayed = mixed
        if mixed and delayed:
            *self.gains, self.given = delayed
        self.fill, self.known, self.last_time = marks.T


class Contexts(Arena):
    """Contexts of a forecaster's streams, loaded and stored as blocks of a group's rows."""

    fresh_marks = (0, 0, math.nan)

    def __init__(self, network: Network, limit: int) -> None:
        self.shown = len(given.shapes(network))  # parts
        self.traced = network.trace_size > 0
        super().__init__(shapes(network), limit)

    def waiting(self, slot: int) -> int:
        """Return the number of origins whose labels may still come."""
        return int(self._marks[slot, 1])

    def load(self, streams: Iterable[int]) -> tuple[NDArray[np.intp], Block]:
        """Return slots and a copied block of the streams' contexts; new streams get empty ones."""
        slots = self.slots(streams)
        return slots, Block(self, self._rows[slots], self._marks[slots])

    def store(self, slots: NDArray[np.intp], block: Block) -> None:
        """Write a block back to the slots that `load` returned."""
        self._rows[slots] = block.rows
        self._marks[slots] = block.marks

    def put(self, stream: int, state: Array) -> None:
        """Set the stream's statistics and start state from a state row [S], which holds them in this order."""
        slots, block = self.load([stream])
        n = block.statistics.shape[1]
        block.statistics[0], block.start[0] = state[:n], state[n:]
        self.store(slots, block)


class NewestLabels(NamedTuple):
    """The label of each step that the newest tick carries."""

    y: Array  # [B, H, targets], scaled, limited to LABEL_CLIP
    weight: Array  # [B, H, targets]; 0 where there is no label
    position: NDArray[np.intp]  # [B, H] of its origin in the window
    sound: NDArray[np.bool_]  # [B]; false where a value outside `label_range` is among the recent changes


class DueLabels(NamedTuple):
    """Labels that a group's ticks carry. A label vector is the values of one tick, for all heads that learn from it."""

    Y: Array  # [T, B, O] targets
    weight: Array  # [T, B, O]; 0 where there is no label
    by_row: NDArray[np.intp]  # [B] label vectors of each row
    thinned: int  # label vectors left out by thinning
    newest: NewestLabels

    def leave_out(self, rows: NDArray[np.intp]) -> None:
        """Take the labels of these rows out."""
        self.weight[:, rows], self.by_row[rows], self.newest.weight[rows] = 0, 0, 0


def out_of_range(spec: ModelSpec, values: Array) -> NDArray[np.bool_]:
    """Return which rows of values [.., targets or O] hold a value outside `label_range`, [..]; NaN is not outside."""
    if not spec.label_range:
        return np.zeros(values.shape[:-1], np.bool_)
    pairs = np.array(spec.label_range).reshape(-1, 2)
    low, high = np.tile(pairs, (values.shape[-1] // len(pairs), 1)).T  # outputs are step 1's targets first
    beyond: NDArray[np.bool_] = ((values < low) | (values > high)).any(axis=-1)
    return beyond


def void_gaps(block: Block, time: NDArray[np.float64], max_gap: float) -> int:
    """Void the origins before a gap of more than max_gap seconds (0: no limit) and return their number.

    time: (B,) event times of the next ticks, seconds, NaN where none; block.known is modified.
    """
    if max_gap <= 0:
        return 0
    gap = (time - block.last_time) > max_gap  # NaN compares false
    voided = int(block.known[gap].sum())
    block.known[gap] = 0
    return voided


def due_labels(network: Network, block: Block, seq: NDArray[np.uint64], x: Array, learn_every: int) -> DueLabels:
    """Return the labels that become due with ticks seq [B], x [B, C], which are not in the block yet.

    Head h of the tick at τ−h has its label at tick τ, in the scale frozen at τ−h. A block of k1 ticks ends where
    k1 divides seq. Its labels are then learned together if learn_every divides the block's number; otherwise they are
    thinned together.
    """
    spec = network.spec
    T, H, B = spec.window, spec.horizon, len(seq)
    index = spec.target_index
    R = block.x.shape[1]  # origins
    Y = np.zeros((T, B, H, len(index)), np.float32)
    weight = np.zeros_like(Y)
    ends = seq % spec.learn_every == 0
    due = ends & (seq // spec.learn_every % learn_every == 0)
    thinned, by_row = 0, np.zeros(B, np.intp)
    rows, steps = np.arange(B)[:, None], np.arange(H)[None]
    for back in range(spec.learn_every):
        truth = x[:, index] if back == 0 else block.x[:, R - back]
        origin = R - back - 1 - np.arange(H)
        scale = block.scale[:, origin, np.arange(H)]
        position = block.fill.astype(np.intp)[:, None] - back - 1 - steps
        valid = ends[:, None] & (back + 1 + steps <= block.known[:, None]) & (position >= 0)
        position = np.maximum(position, 0)
        usable = valid[:, :, None] & (scale > 0)
        if network.scaler.hold:
            usable &= _observed(network, block, x, back)[:, None]
        if spec.label_range:  # a value outside is neither a truth nor an origin
            sound = ~out_of_range(spec, truth)[:, None] & ~out_of_range(spec, block.x[:, origin])
            usable &= sound[:, :, None]
        carries = usable.any(axis=(1, 2))
        by_row += carries & due
        thinned += int((carries & ~due).sum())
        usable &= due[:, None, None]
        y = (truth[:, None] - block.x[:, origin]) / np.where(scale > 0, scale, constant(1))
        y = np.where(usable, y, constant(0))
        Y[position, rows, steps] += clip(y, -TARGET_CLIP, TARGET_CLIP)
        weight[position, rows, steps] += usable
        if back == 0:
            y = clip(y, -LABEL_CLIP, LABEL_CLIP)
            newest = NewestLabels(y, usable.astype(np.float32), position, _changes_in_range(network, block))
    return DueLabels(Y.reshape(T, B, -1), weight.reshape(T, B, -1), by_row, thinned, newest)


def _changes_in_range(network: Network, block: Block) -> NDArray[np.bool_]:
    """Return for which rows [B] no recent value of a mixture's targets is outside `label_range`."""
    if network.mixture is None or not network.spec.label_range:
        return np.ones(len(block.rows), np.bool_)
    K = network.mixture.targets
    recent = block.statistics[:, network.mixed][:, : LAGS * K].reshape(-1, LAGS, K)
    written = np.where(recent == 0, np.float32(np.nan), recent)
    sound: NDArray[np.bool_] = np.asarray(~out_of_range(network.spec, written).any(axis=1))
    return sound


def _observed(network: Network, block: Block, x: Array, back: int) -> Array:
    """Return which targets of the tick `back` ticks before x were observed, bool [B, targets].

    A replaced value may serve as an origin, but not as a truth.
    """
    if back == 0:
        return ~np.isnan(x[:, network.targets])
    return network.observed(block.ring[np.arange(len(x)), block.fill.astype(np.intp) - back])


class Starts(NamedTuple):
    """The states after each start state's first input, and with rule rtrl their traces."""

    state: Array  # [B, hidden_size]
    trace: Array | None  # [B, trace_size]


def push(network: Network, block: Block, after: Starts | None, time: NDArray[np.float64], x: Array) -> None:
    """Append a tick to the rings of a block.

    after: become the start states of full windows; None if no window is full. time: (B,) event times, seconds, NaN
    where none; x: [B, row] the ticks' rows.
    """
    B, T = len(x), network.spec.window
    if after is not None:
        full = block.fill >= T
        block.start[full] = after.state[full]
        if block.trace is not None and after.trace is not None:
            block.trace[full] = after.trace[full]
        block.ring[full, :-1] = block.ring[full, 1:]
    x, u = network.inputs(time, x)
    features, scale, value = network.observe(block.statistics, x, u)
    if network.mixture is not None:
        _push_regressors(block, network.extend(block.statistics, value, u, scale), network.ahead.slot(u))
    block.fill[...] = np.minimum(block.fill + 1, T)
    block.ring[np.arange(B), block.fill.astype(np.intp) - 1] = features
    _append(block.x, value)
    _append(block.scale, scale)
    block.known[...] = np.minimum(block.known + 1, block.x.shape[1])
    timed = ~np.isnan(time)
    block.last_time[timed] = time[timed]


def _push_regressors(block: Block, made: Regressors, place: Array) -> None:
    """Append an origin's regressors; its gains and given forecasts follow with the next update."""
    _append(block.every, made.every)
    _append(block.delta, made.delta)
    _append(block.place, place)
    for gains in block.gains:
        _append(gains, 0)
    if block.gains:
        _append(block.given, np.nan)


def _append(kept: Array, new: Array | float) -> None:
    """Append a value for the newest origin to kept [B, R, ..], in place; the oldest is dropped."""
    kept[:, :-1] = kept[:, 1:].copy()
    kept[:, -1] = new
