"""The learner's context of one stream whose labels come late, from outside (DESIGN R13).

A label for tick s may come while the stream is fewer than L = `label_horizon` ticks ahead of s. A history therefore
keeps the last L + 2T inputs, and the hidden state before every T-th tick, computed with the weights of that time (R7).
From one of those states it is T to 2T − 1 ticks to s, or all ticks if there are fewer. Memory: about
4·(L + 2T)·(E + hidden_size/T + 1) bytes per stream (E inputs); 40 KB for L = 512, T = 16, three channels and an LSTM
of 64 units. With rule rtrl each of those states has its trace, 4·trace_size bytes more, and so has the newest one.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.fold.arena import Arena
from model.network import Network
from model.parameters import Array

LATE, UNKNOWN, CONFLICT, NON_FINITE, RANGE = "late", "unknown", "conflict", "non-finite", "range"


def shapes(network: Network) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of a context's parts: statistics, hidden state, inputs, start states, digests of labels; and
    the traces of hidden state and start states, of size 0 without rule rtrl."""
    T, L = network.spec.window, network.spec.label_horizon
    kept = L + 2 * T
    states = -(-kept // T)
    own = (network.statistics_size,), (network.hidden_size,), (kept, network.features)
    return *own, (states, network.hidden_size), (L,), (network.trace_size,), (states, network.trace_size)


@dataclass(frozen=True, order=True, slots=True)
class Rejected:
    """A label or window that was not learned: its index in the call, and the reason."""

    index: int
    reason: str


class Arrivals(NamedTuple):
    """The outcome of labels that arrived together."""

    accepted: NDArray[np.intp]  # indices of the labels that are the first of their tick, in order
    slots: NDArray[np.intp]  # of each accepted label's stream
    ticks: NDArray[np.intp]  # number of its tick in the stream's history
    rejected: list[Rejected]
    duplicates: int  # labels that repeat a known value


class Histories(Arena):
    """Histories of streams, modified in place, because a group of ticks touches few numbers of many.

    A history numbers its ticks from 0. It restarts after a reset, a put or an eviction, where ticks are missing, and
    after a gap in event time larger than `max_gap`.
    """

    fresh_marks = (0, math.nan, 0)  # ticks, last event time, bits of the last seq as uint64

    def __init__(self, network: Network, limit: int) -> None:
        super().__init__(shapes(network), limit)
        self.network = network
        self._name_parts()

    def waiting(self, slot: int) -> int:
        """Return 0: it is not known which ticks will have a label."""
        return 0

    def _grow(self) -> None:
        super()._grow()
        self._name_parts()

    def _name_parts(self) -> None:
        named = (
            self._rows[:, part].reshape(len(self._rows), *shape)
            for part, shape in zip(self.parts, self.shapes, strict=True)
        )
        self.statistics, self.hidden, self.inputs, self.starts, digests, self.trace, self.start_traces = named
        self.digests = digests.view(np.uint32)
        self.ticks, self.last_time, seq = self._marks.T
        self.last_seq = seq.view(np.uint64)

    def put(self, stream: int, state: Array) -> None:
        """Set the stream's statistics and hidden state from a state row [S], which holds them in this order."""
        (slot,) = self.slots([stream])
        n = self.statistics.shape[1]
        self.statistics[slot], self.hidden[slot] = state[:n], state[n:]

    def append(
        self, slots: NDArray[np.intp], seq: NDArray[np.uint64], time: NDArray[np.float64], x: Array
    ) -> tuple[Array, Array]:
        """Append one tick to each of B different streams; return inputs [B, E] and the hidden states before them.

        The hidden states are [B, hidden_size]. The caller computes the states after the ticks, and their traces, and
        writes them to `hidden` and `trace`. time: (B,) event times, seconds, NaN where none; x: [B, row] the ticks'
        rows.
        """
        spec = self.network.spec
        T = spec.window
        broken = seq != self.last_seq[slots] + np.uint64(1)
        if spec.max_gap > 0:
            broken |= time - self.last_time[slots] > spec.max_gap  # NaN compares false
        self.ticks[slots[broken]] = 0
        self.digests[slots[broken]] = 0
        tick = self.ticks[slots].astype(np.intp)
        statistics = self.statistics[slots]
        features, _, _ = self.network.observe(statistics, *self.network.inputs(time, x))
        self.statistics[slots] = statistics
        self.inputs[slots, tick % self.inputs.shape[1]] = features
        self.digests[slots, tick % spec.label_horizon] = 0
        hidden = self.hidden[slots]
        at = tick % T == 0
        place = slots[at], tick[at] // T % self.starts.shape[1]
        self.starts[place], self.start_traces[place] = hidden[at], self.trace[slots[at]]
        self.ticks[slots] = tick + 1
        self.last_seq[slots] = seq
        timed = ~np.isnan(time)
        self.last_time[slots[timed]] = time[timed]
        return features, hidden

    def arrive(self, streams: NDArray[np.uint32], seq: NDArray[np.uint64], y: Array) -> Arrivals:
        """Register labels y [n, O] of ticks (streams, seq); if a tick has several, the first value wins.

        Rejects labels of ticks not seen yet (unknown), no longer kept (late) or labelled with another value before
        (conflict), and values that are not finite. Values are compared by crc32, so that a conflict is taken for a
        duplicate once in 2³² times.
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
        self.slots(streams[found])  # a label counts as use of its stream
        rejected = [Rejected(i, reason) for i, reason in enumerate(reasons) if reason]
        accepted = found[new]
        duplicates = len(streams) - len(rejected) - len(accepted)
        return Arrivals(accepted, slots[accepted], tick[accepted], rejected, duplicates)

    def _find(
        self, streams: NDArray[np.uint32], seq: NDArray[np.uint64]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], list[str]]:
        """Return slot and tick number of each label's tick, and the reason for rejecting it, or "".

        Slot and tick number are undefined where there is a reason.
        """
        slots = np.fromiter((self._slots.get(int(s), -1) for s in streams), np.intp, len(streams))
        known = slots >= 0
        last = np.where(known, self.last_seq[slots] if len(self._rows) else 0, np.uint64(0))
        ticks = np.where(known, self.ticks[slots] if len(self._rows) else 0, 0).astype(np.intp)
        back = np.where(seq <= last, last - seq, np.uint64(0))
        kept = back < np.minimum(ticks, self.network.spec.label_horizon).astype(np.uint64)
        reasons = np.where(known & (seq > last) & (ticks > 0), UNKNOWN, np.where(kept, "", LATE)).tolist()
        return slots, ticks - 1 - back.astype(np.intp), reasons

    def windows(
        self, slots: NDArray[np.intp], ticks: NDArray[np.intp]
    ) -> tuple[Array, Array | None, Array, NDArray[np.intp]]:
        """Return the windows that end at ticks [n]: start states [n, hidden_size], their traces [n, trace_size] (None
        without rule rtrl), inputs [2T, n, E], positions [n].

        A position is the tick's index among its inputs, which are zero after it. All are new arrays.
        """
        T = self.network.spec.window
        start = np.maximum(0, ticks // T - 1)
        position = ticks - start * T
        steps = np.arange(2 * T)[:, None]
        X = self.inputs[slots, (start * T + steps) % self.inputs.shape[1]]
        X[steps > position] = 0
        place = slots, start % self.starts.shape[1]
        traces = self.start_traces[place] if self.network.traced is not None else None
        return self.starts[place], traces, X, position
