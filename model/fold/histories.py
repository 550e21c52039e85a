"""What the learner keeps per stream whose labels come from outside, late (DESIGN R13).

A label for tick s may come while the stream is less than `label_horizon` L ticks ahead of s. So the last L + 2T inputs
are kept, and the hidden state before every T-th tick, made with the weights of its time (R7): from one of those states
at least T, and at most 2T − 1, ticks lead to s, or all that there are. Memory: about 4·(L + 2T)·(E + hidden_size/T + 1)
bytes per stream (E inputs); 40 KB for L = 512, T = 16, three channels and an LSTM of 64.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model import calendar
from model.fold.arena import Arena
from model.network import Network
from model.parameters import Array

LATE, UNKNOWN, CONFLICT, NON_FINITE, RANGE = "late", "unknown", "conflict", "non-finite", "range"


def shapes(network: Network) -> tuple[tuple[int, ...], ...]:
    """Of a context's parts: statistics, hidden state, inputs, start states, digests of the labels that came."""
    T, L = network.spec.window, network.spec.label_horizon
    kept = L + 2 * T
    states = -(-kept // T)
    return (network.scaler.size,), (network.hidden_size,), (kept, network.features), (states, network.hidden_size), (L,)


@dataclass(frozen=True, order=True, slots=True)
class Rejected:
    """A label, or a window, that was not learned: its place in the call, and why."""

    index: int
    reason: str


class Arrivals(NamedTuple):
    """What became of labels that came together. accepted: places of those that are first for their tick, in order."""

    accepted: NDArray[np.intp]
    slots: NDArray[np.intp]  # of each accepted label
    ticks: NDArray[np.intp]  # place of its tick in the stream's history
    rejected: list[Rejected]
    duplicates: int  # the same value again


class Histories(Arena):
    """Histories of streams, changed in place: a group of ticks touches a few numbers of many.

    A history's ticks are numbered from 0; it begins anew after a reset, a put or an eviction, where ticks are missing,
    and, for labels, after a gap in event time larger than `max_gap`.
    """

    fresh_marks = (0, math.nan, 0)  # ticks, last event time, bits of the last seq as uint64

    def __init__(self, network: Network, limit: int) -> None:
        super().__init__(shapes(network), limit)
        self.network = network
        self._name_parts()

    def waiting(self, slot: int) -> int:
        """0: nobody knows which ticks will have a label."""
        return 0

    def _grow(self) -> None:
        super()._grow()
        self._name_parts()

    def _name_parts(self) -> None:
        named = (
            self._rows[:, part].reshape(len(self._rows), *shape)
            for part, shape in zip(self.parts, self.shapes, strict=True)
        )
        self.statistics, self.hidden, self.inputs, self.starts, digests = named
        self.digests = digests.view(np.uint32)
        self.ticks, self.last_time, seq = self._marks.T
        self.last_seq = seq.view(np.uint64)

    def put(self, stream: int, state: Array) -> None:
        """The stream goes on from a state row [S]: its statistics, then the hidden state before its next tick."""
        (slot,) = self.slots([stream])
        n = self.statistics.shape[1]
        self.statistics[slot], self.hidden[slot] = state[:n], state[n:]

    def append(
        self, slots: NDArray[np.intp], seq: NDArray[np.uint64], time: NDArray[np.float64], x: Array
    ) -> tuple[Array, Array]:
        """One more tick of each stream, all different. Returns inputs [B, E] and the hidden states before them [B, n]:
        the caller makes the states after them, and writes those to `hidden`."""
        spec = self.network.spec
        T = spec.window
        broken = seq != self.last_seq[slots] + np.uint64(1)
        if spec.max_gap > 0:
            broken |= time - self.last_time[slots] > spec.max_gap  # NaN compares false
        self.ticks[slots[broken]] = 0
        self.digests[slots[broken]] = 0
        tick = self.ticks[slots].astype(np.intp)
        statistics = self.statistics[slots]
        features, _, _ = self.network.observe(statistics, x, calendar.inputs(time, spec.interval))
        self.statistics[slots] = statistics
        self.inputs[slots, tick % self.inputs.shape[1]] = features
        self.digests[slots, tick % spec.label_horizon] = 0
        hidden = self.hidden[slots]
        at = tick % T == 0
        self.starts[slots[at], tick[at] // T % self.starts.shape[1]] = hidden[at]
        self.ticks[slots] = tick + 1
        self.last_seq[slots] = seq
        timed = ~np.isnan(time)
        self.last_time[slots[timed]] = time[timed]
        return features, hidden

    def arrive(self, streams: NDArray[np.uint32], seq: NDArray[np.uint64], y: Array) -> Arrivals:
        """Take note of labels y [n, O]: of the ticks they are for, the first value wins.

        Rejected are labels of ticks that were not seen yet (unknown), that are not kept any more (late), or that had
        another value before (conflict), and values that are not finite. Values are told apart by their crc32: a
        conflict passes as the same value once in 2³² times.
        """
        slots, tick, reasons = self._find(streams, seq)
        for i in np.flatnonzero(~np.isfinite(y).all(axis=1)):
            reasons[i] = NON_FINITE
        found = np.flatnonzero([not reason for reason in reasons])
        ring = tick[found] % self.network.spec.label_horizon
        digest = np.fromiter((zlib.crc32(row.tobytes()) or 1 for row in y[found] + np.float32(0)), np.uint32)
        key = slots[found] * self.network.spec.label_horizon + ring
        _, first, same = np.unique(key, return_index=True, return_inverse=True)
        before = self.digests[slots[found], ring]
        new = np.zeros(len(found), bool)
        new[first[before[first] == 0]] = True
        winner = np.where(before > 0, before, digest[first[same]])
        for i in found[winner != digest]:
            reasons[i] = CONFLICT
        self.digests[slots[found[new]], ring[new]] = digest[new]
        self.slots(streams[found])  # a stream that is labelled is in use
        rejected = [Rejected(i, reason) for i, reason in enumerate(reasons) if reason]
        accepted = found[new]
        duplicates = len(streams) - len(rejected) - len(accepted)
        return Arrivals(accepted, slots[accepted], tick[accepted], rejected, duplicates)

    def _find(
        self, streams: NDArray[np.uint32], seq: NDArray[np.uint64]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], list[str]]:
        """Slot and place of each label's tick, which mean nothing where there is a reason for not having it."""
        slots = np.fromiter((self._slots.get(int(s), -1) for s in streams), np.intp, len(streams))
        known = slots >= 0
        last = np.where(known, self.last_seq[slots] if len(self._rows) else 0, np.uint64(0))
        ticks = np.where(known, self.ticks[slots] if len(self._rows) else 0, 0).astype(np.intp)
        back = np.where(seq <= last, last - seq, np.uint64(0))
        kept = back < np.minimum(ticks, self.network.spec.label_horizon).astype(np.uint64)
        reasons = np.where(known & (seq > last) & (ticks > 0), UNKNOWN, np.where(kept, "", LATE)).tolist()
        return slots, ticks - 1 - back.astype(np.intp), reasons

    def windows(self, slots: NDArray[np.intp], ticks: NDArray[np.intp]) -> tuple[Array, Array, NDArray[np.intp]]:
        """What leads to each tick: start states [n, hidden_size], inputs [2T, n, E], zero after the tick, and the
        tick's position [n] among them. New arrays."""
        T = self.network.spec.window
        start = np.maximum(0, ticks // T - 1)
        position = ticks - start * T
        steps = np.arange(2 * T)[:, None]
        X = self.inputs[slots, (start * T + steps) % self.inputs.shape[1]]
        X[steps > position] = 0
        return self.starts[slots, start % self.starts.shape[1]], X, position
