"""PopArt: labels of any size, normalised by statistics that are part of the model (van Hasselt et al. 2016).

An answer is mean + scale·p. Mean and scale follow the learned labels. When they change, the readout is rescaled so that
answers stay the same (arXiv:1602.07714, eq. 4 to 6). The statistics are untrained entries of the flat parameter vector,
so that checkpoints, weights files, rollback and the ONNX export carry them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.bounds import clip
from model.cells.contract import Params
from model.parameters import Array

RATE = 0.002  # slowest rate of the running statistics: a memory of 500 labels
# Until this many labels, answers follow the mean; from here on they are preserved, and the rate is RATE. (With answers
# preserved from the first label, as in the paper, the square error at labels 100 to 250 was 0.99 and 1.05 of the
# running mean's on drifting and on correlated labels, against 0.73 and 0.82 as here; on neither, 0.46 against 0.63.
# From label 600 on, both were alike.)
FOLLOWED = 500
WARM = 50  # after this many labels, a deviation counts for at most CAP times the running deviation
CAP = 5.0
# The scale stays above this share of its largest value, a bound that halves every 7,000 labels. Labels that do not
# change for long then neither blow up the readout nor make it insensitive to their next change.
FLOOR, FLOOR_DECAY = 1e-3, 1e-4
LARGEST = 1e4  # the readout's weights are not rescaled beyond this; answers then move towards the mean


def shapes(outputs: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the untrained parameters: label count, mean, running deviation and its lower bound."""
    return dict.fromkeys(("count", "mean", "scale", "floor"), (outputs,))


def init_params(target: Params) -> None:
    """Write the values before the first label: answers are p itself."""
    for name, view in target.items():
        view[...] = 1 if name == "scale" else 0


def follow(target: Params, W: Array, y: Array, counts: NDArray[np.bool_]) -> Array:
    """Update the statistics with a group's labels, and rescale the readout so that its answers stay the same.

    target: [O] each, modified; W: [O, n + 1], the last column the bias, modified. y: [N, O] labels in order; counts:
    [N, O], which of them exist. Until FOLLOWED labels, answers follow the mean, because a new model knows little else;
    the initial weights stay as they are until labels deviate (scale above 0). Returns the factor [O] of the weights.
    """
    seen, mean, scale = (target[name].astype(np.float64) for name in ("count", "mean", "scale"))
    scale = np.where(seen > 0, scale, 0.0)
    number = seen + np.cumsum(counts, axis=0)
    # Without a mean, deviations are from the first label: equal labels then deviate by exactly 0.
    origin = np.where(seen > 0, mean, np.take_along_axis(y, counts.argmax(axis=0)[None], axis=0)[0])
    e = np.where(counts, y - origin, 0.0)
    bound = np.where((number > WARM) & (scale > 0), CAP * scale, np.inf)
    keep, share = _shares(number, counts)
    e = clip(e, -bound, bound)
    moved = (share * e).sum(axis=0)
    variance = keep * scale**2 + (share * e**2).sum(axis=0) - moved**2
    n = number[-1]
    count, new_mean = np.minimum(n, 2.0**24), origin + moved
    new_scale = np.sqrt(np.maximum(variance, 0.0))
    floor = np.maximum(target["floor"] * (1 - FLOOR_DECAY) ** (n - seen), FLOOR * new_scale)
    new_scale = np.maximum(new_scale, floor)
    for name, value in (("count", count), ("mean", new_mean), ("scale", new_scale), ("floor", floor)):
        target[name][...] = np.where(n > seen, value, target[name])
    return _rescale(W, mean - target["mean"], scale, target["scale"].astype(np.float64), seen >= FOLLOWED)


def _shares(number: Array, counts: Array) -> tuple[Array, Array]:
    """Return the weight of the old mean [O] and of each label [N, O] in the new mean, at rate max(1/n, RATE)."""
    rate = np.where(counts, np.maximum(1 / np.maximum(number, 1), RATE), 0.0)
    kept = np.cumprod(1 - rate[::-1], axis=0)[::-1]  # weight at the end of the mean before each label
    return kept[0], rate * np.concatenate([kept[1:], np.ones((1, rate.shape[1]))])


def _rescale(W: Array, shift: Array, scale: Array, new_scale: Array, preserve: NDArray[np.bool_]) -> Array:
    """Rescale W in place so that scale·(W z) + old mean = new_scale·(W' z) + new mean, shift = old mean − new mean.

    Without `preserve` only the product scale·(W z) stays the same, and weights without a scale so far are left as they
    are. Where the new scale is 0, answers are the mean. Returns the factor of the weights, [O].
    """
    known = (new_scale > 0) & ((scale > 0) | preserve)
    unit = np.where(known, new_scale, 1.0)
    growth: Array = np.where(known, scale / unit, 1.0)
    growth = np.minimum(growth, np.maximum(1.0, LARGEST / np.maximum(np.abs(W).max(axis=1), 1e-30)))
    W *= growth[:, None].astype(W.dtype)
    W[:, -1] += np.where(known & preserve, shift / unit, 0.0).astype(W.dtype)
    return growth
