"""A recorded series as a network reads it: features, labels and their mask for every tick, computed once.

The scaler is causal and independent of the weights, so that one pass over the series gives exactly the features that
the network would have had online. Weights trained on these rows can continue to learn online.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.network import Network
from model.parameters import Array, Weights
from model.update.rounds import GROUP_ROWS


class Recorded(NamedTuple):
    """N ticks of one stream, time-major."""

    X: Array  # [N, E] feature rows
    Y: Array  # [N, O] labels of each tick's answer: as given, or targets after `scale_labels`
    weight: Array  # [N, O] 1 for a label, 0 where there is none
    last: Array  # [N, K] present values of the K forecast channels, missing ones replaced
    scale: Array  # [N, H, K] unit of each forecast; 0 where it is not known yet
    voided: int  # labels that a gap longer than max_gap separates from their origin


class Span(NamedTuple):
    """Position of one series in a `Recorded` of several: begin..cut are training ticks, held..end are held out.

    For a single series, held equals cut. Every cut comes before every held.
    """

    begin: int
    cut: int
    held: int
    end: int


def side_by_side(series: Sequence[Recorded], cuts: Sequence[int]) -> tuple[Recorded, tuple[Span, ...]]:
    """Join several series into one: the ticks of each up to its cut, series by series, then the rest of each.

    Returns the joined series and the position of each in it.
    """
    lengths = [len(one.X) for one in series]
    ends = np.cumsum([0, *cuts])
    held = ends[-1] + np.cumsum([0, *(length - cut for length, cut in zip(lengths, cuts, strict=True))])
    spans = tuple(Span(*map(int, span)) for span in zip(ends[:-1], ends[1:], held[:-1], held[1:], strict=True))
    if len(series) == 1:
        return series[0], spans

    def joined(field: str) -> Array:
        parts: list[Array] = [getattr(one, field) for one in series]
        first = [part[:cut] for part, cut in zip(parts, cuts, strict=True)]
        rest = [part[cut:] for part, cut in zip(parts, cuts, strict=True)]
        return np.concatenate([*first, *rest])

    X, Y, weight, last, scale = (joined(field) for field in ("X", "Y", "weight", "last", "scale"))
    return Recorded(X, Y, weight, last, scale, sum(one.voided for one in series)), spans


def prepare(network: Network, x: Array, time: NDArray[np.float64], labels: Array | None = None) -> Recorded:
    """Run the scaler over a whole series and join every label to its tick.

    x: [N, row] the ticks' rows (see `Network`); time: [N] seconds, NaN where none. Task forecast: the label of head h
    at tick t is the value at t + h (DESIGN R8), unless a gap lies between them or, with missing = hold, that value is
    missing. Other tasks: labels [N, O], NaN where there is none.
    """
    spec, N = network.spec, len(x)
    x = np.asarray(x, np.float32)
    x, u = network.inputs(time, x)
    K = len(network.targets)
    statistics = np.zeros((1, network.statistics_size), np.float32)
    X, last = np.empty((N, network.features), np.float32), np.empty((N, K), np.float32)
    scale = np.empty((N, spec.horizon, K), np.float32)
    for t in range(N):
        X[t], scale[t], last[t] = network.observe(statistics, x[t : t + 1], u[t : t + 1])
    voided = 0
    if labels is None:
        labels, voided = future(x[:, network.targets], time, spec.max_gap, spec.horizon)
    known = ~np.isnan(labels)
    Y = np.where(known, labels, 0).astype(np.float32)
    return Recorded(X, Y, known.astype(np.float32), last, scale, voided)


def future(values: Array, time: NDArray[np.float64], max_gap: float, horizon: int) -> tuple[Array, int]:
    """Return the values of the next H ticks, [N, H·K], NaN after a gap or the end; and the number of labels voided.

    values: [N, K] of the forecast channels; time: [N] seconds, NaN where none; max_gap: seconds, 0 for no limit.
    """
    N, K = values.shape
    run = _runs(time, max_gap)
    labels, voided = np.full((N, horizon, K), np.nan, np.float32), 0
    for h in range(1, min(horizon, N - 1) + 1):
        joined = run[h:] == run[:-h]
        voided += int((~joined).sum())
        labels[:-h, h - 1] = np.where(joined[:, None], values[h:], np.float32(np.nan))
    return labels.reshape(N, -1), voided


def _runs(time: NDArray[np.float64], max_gap: float) -> NDArray[np.intp]:
    """Return the number of gaps before each tick, [N]: equal for two ticks without a gap between them."""
    run = np.zeros(len(time), np.intp)
    if max_gap > 0:
        run[1:] = np.cumsum(np.diff(time) > max_gap)  # NaN compares false
    return run


def scale_labels(network: Network, weights: Weights, recorded: Recorded, end: int) -> Recorded:
    """Return the series with its labels as targets for the readout, in units of the labels of the first `end` ticks.

    The task's statistics in `weights` are updated with those labels, in order and group by group as online.
    """
    for t in range(0, end, GROUP_ROWS):
        group = slice(t, min(t + GROUP_ROWS, end))
        known = recorded.weight[group] > 0
        rows = known.any(axis=1)
        network.task.follow(weights, recorded.Y[group][rows], known[rows])
    parts = (recorded.Y, recorded.weight, recorded.last, recorded.scale)
    Y, weight = network.task.targets(weights.target, *(part[:, None] for part in parts))
    return recorded._replace(Y=Y[:, 0], weight=weight[:, 0])


def known_by(recorded: Recorded, horizon: int, end: int, spans: Sequence[Span] | None = None) -> Array:
    """Return the mask of the first `end` ticks without labels from after the cut of their series, [end, O], new.

    spans: None for one series with its cut at `end`.
    """
    weight = recorded.weight[:end].reshape(end, horizon, -1).copy()
    for begin, cut, _, _ in spans or [Span(0, end, end, end)]:
        for h in range(1, min(horizon, cut - begin) + 1):
            weight[cut - h : cut, h - 1] = 0
    return weight.reshape(end, -1)
