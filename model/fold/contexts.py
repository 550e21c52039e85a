"""What the learner keeps per stream of a forecaster (DESIGN R7): statistics, start state, last inputs, last origins."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model import calendar
from model.answers.tasks import TARGET_CLIP
from model.fold.arena import Arena
from model.network import Network
from model.parameters import Array
from model.spec import ModelSpec


def shapes(network: Network) -> tuple[tuple[int, ...], ...]:
    """Of a context's parts: scaler statistics, start state, last inputs, values of the last origins, their scales."""
    spec, targets = network.spec, len(network.spec.targets)
    origins = spec.horizon + spec.learn_every - 1
    inputs = (spec.window, network.features)
    return (network.scaler.size,), (network.hidden_size,), inputs, (origins, targets), (origins, spec.horizon, targets)


class Block:
    """B contexts taken out of the arena, as named views. Changes reach the arena by `Contexts.store`.

    statistics [B, n], start [B, hidden_size], ring [B, T, E] oldest input first, x [B, R, targets] and
    scale [B, R, H, targets] of the last R origins, oldest first; fill [B] inputs in the ring, known [B] origins that
    labels may still join, last_time [B] seconds (NaN: none).
    """

    def __init__(self, contexts: Contexts, rows: Array, marks: NDArray[np.float64]) -> None:
        self.rows, self.marks = rows, marks
        named = (
            rows[:, part].reshape(len(rows), *shape)
            for part, shape in zip(contexts.parts, contexts.shapes, strict=True)
        )
        self.statistics, self.start, self.ring, self.x, self.scale = named
        self.fill, self.known, self.last_time = marks.T


class Contexts(Arena):
    """Contexts of a forecaster's streams, taken and stored as blocks of a group's rows."""

    fresh_marks = (0, 0, math.nan)

    def __init__(self, network: Network, limit: int) -> None:
        super().__init__(shapes(network), limit)

    def waiting(self, slot: int) -> int:
        """Origins that labels may still join."""
        return int(self._marks[slot, 1])

    def take(self, streams: Iterable[int]) -> tuple[NDArray[np.intp], Block]:
        """Slots and a copied block of the streams' contexts; unknown streams begin with an empty one."""
        slots = self.slots(streams)
        return slots, Block(self, self._rows[slots], self._marks[slots])

    def store(self, slots: NDArray[np.intp], block: Block) -> None:
        """Write a block back to where `take` found it."""
        self._rows[slots] = block.rows
        self._marks[slots] = block.marks

    def put(self, stream: int, state: Array) -> None:
        """The stream goes on from a state row [S]: its statistics, then the hidden state before its next tick."""
        slots, block = self.take([stream])
        n = block.statistics.shape[1]
        block.statistics[0], block.start[0] = state[:n], state[n:]
        self.store(slots, block)


class Due(NamedTuple):
    """Labels that a group's ticks carry. A label vector is one tick's values, whichever heads learn from it."""

    Y: Array  # [T, B, O] targets
    weight: Array  # [T, B, O]
    by_row: NDArray[np.intp]  # [B] label vectors of each row
    thinned: int  # label vectors left out


def out_of_range(spec: ModelSpec, values: Array) -> NDArray[np.bool_]:
    """Which rows of values [.., targets or O] hold one beyond `label_range`: [..]. What is missing is not beyond it."""
    if not spec.label_range:
        return np.zeros(values.shape[:-1], np.bool_)
    pairs = np.array(spec.label_range).reshape(-1, 2)
    low, high = np.tile(pairs, (values.shape[-1] // len(pairs), 1)).T  # of outputs: step 1's targets first
    beyond: NDArray[np.bool_] = ((values < low) | (values > high)).any(axis=-1)
    return beyond


def void_gaps(block: Block, time: NDArray[np.float64], max_gap: float) -> int:
    """After more than max_gap seconds (0: no limit) no label joins an earlier origin. Returns how many waited."""
    if max_gap <= 0:
        return 0
    gap = (time - block.last_time) > max_gap  # NaN compares false
    voided = int(block.known[gap].sum())
    block.known[gap] = 0
    return voided


def due_labels(network: Network, block: Block, seq: NDArray[np.uint64], x: Array, learn_every: int) -> Due:
    """The labels that are due with ticks seq, x [B, C], which are not in the block yet.

    Head h of the tick at τ−h has its label at tick τ, in the scale frozen at τ−h. A block of k1 ticks ends where
    k1 divides seq; its labels are then learned together, or thinned together: learned where learn_every divides
    the block's number.
    """
    spec = network.spec
    T, H, B = spec.window, spec.horizon, len(seq)
    index = spec.target_index
    R = block.x.shape[1]
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
        if spec.label_range:  # a value beyond it is no truth, nor what a change is measured from
            sound = ~out_of_range(spec, truth)[:, None] & ~out_of_range(spec, block.x[:, origin])
            usable &= sound[:, :, None]
        carries = usable.any(axis=(1, 2))
        by_row += carries & due
        thinned += int((carries & ~due).sum())
        usable &= due[:, None, None]
        y = (truth[:, None] - block.x[:, origin]) / np.where(scale > 0, scale, np.float32(1))
        Y[position, rows, steps] += np.where(usable, np.clip(y, -TARGET_CLIP, TARGET_CLIP), np.float32(0))
        weight[position, rows, steps] += usable
    return Due(Y.reshape(T, B, -1), weight.reshape(T, B, -1), by_row, thinned)


def _observed(network: Network, block: Block, x: Array, back: int) -> Array:
    """Which targets of the tick `back` before x were observed, bool [B, targets]: the others have a value that stands
    in, which is an origin but no truth."""
    if back == 0:
        return ~np.isnan(x[:, network.targets])
    return network.observed(block.ring[np.arange(len(x)), block.fill.astype(np.intp) - back])


def push(network: Network, block: Block, after: Array | None, time: NDArray[np.float64], x: Array) -> None:
    """Append a tick to the rings. after [B, hidden_size]: the state after each start state's first input, to which the
    start of a full window moves on; None where no window is full."""
    B, T = len(x), network.spec.window
    if after is not None:
        full = block.fill >= T
        block.start[full] = after[full]
        block.ring[full, :-1] = block.ring[full, 1:]
    u = calendar.inputs(time, network.spec.interval)
    features, scale, value = network.observe(block.statistics, x, u)
    block.fill[...] = np.minimum(block.fill + 1, T)
    block.ring[np.arange(B), block.fill.astype(np.intp) - 1] = features
    block.x[:, :-1] = block.x[:, 1:].copy()
    block.x[:, -1] = value
    block.scale[:, :-1] = block.scale[:, 1:].copy()
    block.scale[:, -1] = scale
    block.known[...] = np.minimum(block.known + 1, block.x.shape[1])
    timed = ~np.isnan(time)
    block.last_time[timed] = time[timed]
