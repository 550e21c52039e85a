"""Forecasts and half-widths as they were given, kept for each stream until their labels come: for a horizon above 1.

Forecasts that are computed again with the weights of today have smaller errors than those that were given, and
half-widths that follow errors of today were too small h ticks ago. (On random walks with heavy tails, 24 steps ahead,
85 % of the labels were inside when 90 % were asked.) Only every `stride`-th origin is kept, about KEPT at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from model.answers import intervals
from model.answers.losses import points
from model.network import Network
from model.parameters import Array

if TYPE_CHECKING:
    from model.fold.contexts import Block

KEPT = 8


def is_kept(network: Network) -> bool:
    """Whether labels come so late that forecasts must be kept."""
    return bool(network.spec.intervals) and network.spec.horizon > 1


def stride(network: Network) -> int:
    """Return the number of ticks from one kept origin to the next."""
    return -(-network.spec.horizon // KEPT)


def shapes(network: Network) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of a context's parts: by origin the forecasts p, logarithms of half-widths, errors seen."""
    spec = network.spec
    if not is_kept(network):
        return ()
    origins = -(-(spec.horizon + spec.learn_every - 1) // stride(network))
    widths = len(spec.intervals) * (2 if network.loss.columns > 1 else 1)  # below and above, where they are forecast
    return (origins, spec.outputs), (origins, widths, spec.outputs), (origins, spec.outputs)


def newest(block: Block, p: Array, first: int) -> Array:
    """Return the readout's values at each stream's newest origin, [B, M·O], of p [t, B, M·O] from position `first`
    on; NaN where p does not reach it."""
    at = block.fill.astype(np.intp) - 1 - first
    inside = (at >= 0) & (at < len(p))
    made: Array = np.where(inside[:, None], p[np.where(inside, at, 0), np.arange(len(at))], np.float32(np.nan))
    return made


def keep(network: Network, block: Block, seq: NDArray[np.uint64], interval: dict[str, Array], p: Array | None) -> None:
    """Keep what was given at each stream's newest origin, the tick before `seq` [B], if it is one to keep.

    p: [B, M·O] what the readout gave there; None: they are not known, and their errors will not count.
    """
    if not is_kept(network):
        return
    given, log, count = block.shown
    newest = seq.astype(np.int64) - 1
    rows = np.flatnonzero((newest % stride(network) == 0) & (block.fill > 0))
    place = newest[rows] // stride(network) % given.shape[1]
    given[rows, place] = np.nan if p is None else points(p[rows], network.spec.outputs)
    count[rows, place] = interval["count"]
    widths = None if p is None else network.loss.widths(p[rows], network.spec.outputs)
    if network.loss.columns == 1:
        log[rows, place] = interval["log"]
    elif widths is not None:
        log[rows, place] = intervals.log_widths(interval, widths).reshape(len(rows), *log.shape[2:])


def follow(
    network: Network, block: Block, seq: NDArray[np.uint64], interval: dict[str, Array], y: Array, weight: Array
) -> tuple[int, Array]:
    """Update the half-widths with the labels that ticks `seq` [B] carry; returns what `intervals.follow` returns.

    y, weight: [T, B, O] scaled labels at the positions of their origins, and their weights.
    """
    given, log, count = block.shown
    B, origins, _ = given.shape
    n = stride(network)
    newest = seq.astype(np.int64) - 1
    back = newest % n + np.arange(origins)[:, None] * n  # [origins, B] ticks before the newest origin
    position = block.fill.astype(np.intp) - 1 - back
    rows = np.arange(B)
    there = (position >= 0) & (back < block.known)
    at = np.maximum(position, 0), rows
    kept = rows, (newest - back) // n % origins
    known = (weight[at] > 0) & there[..., None]
    p, widths = given[kept], log[kept]
    if network.loss.columns > 1:
        sides = widths.reshape(*widths.shape[:2], 2, -1, widths.shape[-1])
        widths = intervals.beside(sides, p, y[at])
    past = intervals.Past(widths, count[kept])
    return intervals.follow(interval, network.spec.intervals, p, y[at], known, past)


def beside(network: Network, interval: dict[str, Array], p: Array, y: Array) -> intervals.Past | None:
    """Return the half-widths with which labels y [T, B, O] are compared now; None for those without a forecast spread.

    p: [T, B, M·O] what the readout gave.
    """
    widths = network.loss.widths(p, network.spec.outputs)
    if widths is None:
        return None
    log = intervals.beside(intervals.log_widths(interval, widths), points(p, network.spec.outputs), y)
    return intervals.Past(log, np.broadcast_to(interval["count"], y.shape))
