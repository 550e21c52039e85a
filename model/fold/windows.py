"""Labelled windows sent as a whole, learned by backpropagation over their full length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from model import cells
from model.fold.contexts import out_of_range
from model.fold.histories import NON_FINITE, RANGE
from model.network import Network
from model.parameters import Array
from model.update.rounds import GROUP_ROWS, padded_rows

# Rows × ticks × (inputs + hidden units) of one update, about 70 bytes each. A longer window is learned alone.
MAX_UNROLLED = 1 << 20

SHAPE, NO_LABEL = "shape", "no label"  # reasons to reject a window, in addition to those of a label


class Window(Protocol):
    """T labelled ticks and the state before them."""

    @property
    def x(self) -> Array:
        """[T, row] the ticks' rows (see `Network`); NaN where missing, with missing = hold."""
        ...

    @property
    def y(self) -> Array:
        """[T, O] labels."""
        ...

    @property
    def weight(self) -> Array:
        """[T, O], at least 0; 0 where there is no label."""
        ...

    @property
    def initial_state(self) -> Array | None:
        """[S]; None: zeros."""
        ...


class Unrolled(NamedTuple):
    """A group of windows as one batch; shorter ones are padded at the end with weight 0."""

    start: Array  # [B, hidden_size]
    X: Array  # [T, B, E]
    y: Array  # [T, B, O] labels as given
    weight: Array  # [T, B, O]
    last: Array  # [T, B, K] values of the forecast channels, missing ones replaced; K = 0 for other tasks
    scale: Array  # [T, B, H, K]
    trace: Array | None = None  # [B, trace_size] of the start states; None: they are constants


def padded_ticks(ticks: int) -> int:
    """Return the next power of two, so that there are 13 lengths up to 4,096."""
    return 1 << (ticks - 1).bit_length()


def known(network: Network, window: Window) -> NDArray[np.bool_]:
    """Return which labels of a window exist, bool [T, O]. With missing = hold, a NaN label does not exist."""
    labelled: NDArray[np.bool_] = window.weight > 0
    return labelled & ~np.isnan(window.y) if network.scaler.hold else labelled


def problem(network: Network, window: Window) -> str:
    """Return why a window cannot be learned, or "". A broken window would break the update of its whole group."""
    spec, S = network.spec, network.state_size
    T = len(window.x)
    state = np.zeros(S) if window.initial_state is None else window.initial_state
    if T < 1 or window.x.shape != (T, network.row) or state.shape != (S,):
        return SHAPE
    if window.y.shape != (T, spec.outputs) or window.weight.shape != (T, spec.outputs):
        return SHAPE
    labels = known(network, window)
    x = np.nan_to_num(window.x, nan=0, posinf=np.inf, neginf=-np.inf) if network.scaler.hold else window.x
    if not all(np.isfinite(values).all() for values in (x, window.y[labels], window.weight, state)):
        return NON_FINITE
    if network.problem(state) or not network.covariates.sound(window.x[:, len(spec.channels) :]).all():
        return RANGE
    if out_of_range(spec, np.where(labels, window.y, np.nan)).any():
        return RANGE
    return "" if labels.any() else NO_LABEL


def unrolled(network: Network, ticks: int) -> int:
    """Return the size of a window of one row in an update, as `MAX_UNROLLED` counts it."""
    return ticks * network.features + sum(cells.unrolled(cell, ticks) for cell in network.cells)


def groups(network: Network, windows: Sequence[Window]) -> Iterator[list[int]]:
    """Yield indices of windows to learn together: at most GROUP_ROWS, in order, and at most MAX_UNROLLED in size."""
    group: list[int] = []
    longest = 0
    for i, window in enumerate(windows):
        length = max(longest, padded_ticks(len(window.x)))
        full = len(group) == GROUP_ROWS
        if group and (full or padded_rows(len(group) + 1) * unrolled(network, length) > MAX_UNROLLED):
            yield group
            group, length = [], padded_ticks(len(window.x))
        group.append(i)
        longest = length
    if group:
        yield group


def unroll(network: Network, windows: Sequence[Window]) -> Unrolled:
    """Return windows as one batch; the scaler runs over each from the statistics of its initial state.

    A window has no event times, so its calendar inputs are 0, the middle of their range. Its label weights are divided
    by the number of its labelled ticks, so that a long window moves the parameters as much as a short one.
    """
    spec, n = network.spec, network.statistics_size
    T, B = padded_ticks(max(len(w.x) for w in windows)), len(windows)
    x = np.zeros((T, B, network.row), np.float32)
    y, weight = (np.zeros((T, B, spec.outputs), np.float32) for _ in range(2))
    state = np.zeros((B, network.state_size), np.float32)
    for i, w in enumerate(windows):
        x[: len(w.x), i], y[: len(w.x), i] = w.x, w.y
        labels = known(network, w)
        weight[: len(w.x), i] = np.where(labels, w.weight, 0) / np.float32(labels.any(axis=1).sum())
        if w.initial_state is not None:
            state[i] = w.initial_state
    statistics, u = state[:, :n].copy(), np.zeros((T, B, network.ahead.size), np.float32)
    C = len(spec.channels)
    u[:, :, network.ahead.size - network.ahead.sent :] = x[:, :, C:]
    observed = [
        network.observe(statistics, np.ascontiguousarray(row[:, :C]), now) for row, now in zip(x, u, strict=True)
    ]
    X, scale, last = (np.stack(part) for part in zip(*observed, strict=True))
    return Unrolled(state[:, n:], X, y, weight, last, scale)
