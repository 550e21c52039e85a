"""A recorded series as a network sees it: features, scaled labels and their mask for every tick, made once.

The scaler is causal and knows no weights, so one pass over the whole series gives exactly what the network would have
seen online; what is learned from these rows can go on learning on a stream.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model import calendar
from model.cell import Array
from model.network import Network
from model.tasks import TARGET_CLIP


class Recorded(NamedTuple):
    """N ticks of one stream, time-major. `weight` says which outputs have a label; it is 0 or 1."""

    X: Array  # [N, E] feature rows
    Y: Array  # [N, O] scaled labels of the forecasts made at each tick
    weight: Array  # [N, O]
    scale: Array  # [N, O] unit of each forecast: raw change per scaled unit; 0 where no difference was seen yet
    voided: int  # labels that lie behind a gap longer than max_gap


def prepare(network: Network, x: Array, time: NDArray[np.float64]) -> Recorded:
    """Run the scaler over a whole series and join every label. x: [N, C] raw; time: [N] seconds, NaN where none.

    Head h of tick t has its label at t + h, in the scale frozen at t (DESIGN R8), unless a gap lies between them. With
    missing = hold, x may be NaN: such a tick is an origin, at the value that stands in, but no label.
    """
    spec, N = network.spec, len(x)
    x = np.asarray(x, np.float32)
    u = calendar.inputs(time, spec.interval)
    statistics = np.zeros((1, network.scaler.size), np.float32)
    X = np.empty((N, network.features), np.float32)
    scale = np.empty((N, spec.horizon, len(spec.targets)), np.float32)
    origin = np.empty((N, len(spec.targets)), np.float32)
    for t in range(N):
        X[t], scale[t], origin[t] = network.observe(statistics, x[t : t + 1], u[t : t + 1])
    Y, known = np.zeros_like(scale), np.zeros(scale.shape, bool)
    run = _runs(time, spec.max_gap)
    voided = 0
    truth, unit = x[:, spec.target_index], np.where(scale > 0, scale, np.float32(1))
    for h in range(1, min(spec.horizon, N - 1) + 1):
        joined = run[h:] == run[:-h]
        voided += int((~joined).sum())
        change = (truth[h:] - origin[:-h]) / unit[:-h, h - 1]
        known[:-h, h - 1] = joined[:, None] & (scale[:-h, h - 1] > 0) & ~np.isnan(truth[h:])
        Y[:-h, h - 1] = np.where(known[:-h, h - 1], np.clip(change, -TARGET_CLIP, TARGET_CLIP), np.float32(0))
    flat = (N, spec.outputs)
    return Recorded(X, Y.reshape(flat), known.reshape(flat).astype(np.float32), scale.reshape(flat), voided)


def _runs(time: NDArray[np.float64], max_gap: float) -> NDArray[np.intp]:
    """[N] the number of gaps before each tick: equal for two ticks that no gap separates."""
    run = np.zeros(len(time), np.intp)
    if max_gap > 0:
        run[1:] = np.cumsum(np.diff(time) > max_gap)  # NaN compares false
    return run


def known_by(recorded: Recorded, horizon: int, end: int) -> Array:
    """The mask of the first `end` ticks with only those labels that had arrived by then: [end, O], new."""
    weight = recorded.weight[:end].reshape(end, horizon, -1).copy()
    for h in range(1, min(horizon, end) + 1):
        weight[end - h :, h - 1] = 0
    return weight.reshape(end, -1)
