"""What the learner keeps per stream of a forecaster (DESIGN R7): statistics, start state, last inputs, last origins."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from model.arena import Arena
from model.cell import Array
from model.network import Network


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

    def put(self, stream: int, state: Array, last_time: float) -> None:
        """The stream goes on from a state row [S]: its statistics, then the hidden state before its next tick."""
        slots, block = self.take([stream])
        n = block.statistics.shape[1]
        block.statistics[0], block.start[0], block.last_time[0] = state[:n], state[n:], last_time
        self.store(slots, block)
