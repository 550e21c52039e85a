"""Labels of any size, normalised by statistics that belong to the model: PopArt (van Hasselt et al. 2016).

An answer is mean + scale·p. Mean and scale follow the labels that are learned; the readout is rescaled when they move,
so that answers stay what they were (arXiv:1602.07714, eq. 4 to 6). They are part of the flat parameter vector, never
trained, so that checkpoints, weights files, rollback and the ONNX export carry them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.cells.contract import Params
from model.parameters import Array

RATE = 0.002  # slowest rate of the running statistics: a memory of 500 labels
# Labels after which the rate is RATE; up to here, answers follow the mean. (Preserved from the first label on, as in
# the paper, they had 0.99 and 1.05 times the running mean's square error at labels 100 to 250 where labels drift or
# hang together, against 0.73 and 0.82; 0.46 against 0.63 where they do neither; all alike from label 600 on.)
FOLLOWED = 500
WARM = 50  # from here on, a deviation counts for at most CAP times the running one: one absurd label moves little
CAP = 5.0
# The scale stays above this share of the largest it was, and that bound halves in 7,000 labels: labels that stand
# still for long neither blow up the readout nor make it deaf to their next move.
FLOOR, FLOOR_DECAY = 1e-3, 1e-4
LARGEST = 1e4  # weights of the readout are not rescaled beyond it: answers then go to the mean


def shapes(outputs: int) -> dict[str, tuple[int, ...]]:
    """Of the never-trained parameters: count of labels, their mean, their running deviation and its lower bound."""
    return dict.fromkeys(("count", "mean", "scale", "floor"), (outputs,))


def init_params(target: Params) -> None:
    """No label yet: answers are p itself."""
    for name, view in target.items():
        view[...] = 1 if name == "scale" else 0


def follow(target: Params, W: Array, y: Array, counts: NDArray[np.bool_]) -> None:
    """Take a group's labels into the statistics, and rescale the readout so that its answers stay.

    target: [O] each, and W [O, n + 1], its last column the bias: modified. y: [N, O] labels in order; counts: [N, O],
    which of them are there. Until FOLLOWED labels were seen, answers follow the mean, as a model that knows little
    should, and the first weights stay as they are until labels show a deviation (scale 0 so far).
    """
    seen, mean, scale = (target[name].astype(np.float64) for name in ("count", "mean", "scale"))
    scale = np.where(seen > 0, scale, 0.0)
    number = seen + np.cumsum(counts, axis=0)
    # Deviations from the first label where there is no mean: equal labels then deviate by exactly 0.
    origin = np.where(seen > 0, mean, np.take_along_axis(y, counts.argmax(axis=0)[None], axis=0)[0])
    e = np.where(counts, y - origin, 0.0)
    bound = np.where((number > WARM) & (scale > 0), CAP * scale, np.inf)
    keep, share = _shares(number, counts)
    e = np.clip(e, -bound, bound)
    moved = (share * e).sum(axis=0)
    variance = keep * scale**2 + (share * e**2).sum(axis=0) - moved**2
    n = number[-1]
    count, new_mean = np.minimum(n, 2.0**24), origin + moved
    new_scale = np.sqrt(np.maximum(variance, 0.0))
    floor = np.maximum(target["floor"] * (1 - FLOOR_DECAY) ** (n - seen), FLOOR * new_scale)
    new_scale = np.maximum(new_scale, floor)
    for name, value in (("count", count), ("mean", new_mean), ("scale", new_scale), ("floor", floor)):
        target[name][...] = np.where(n > seen, value, target[name])
    _rescale(W, mean - target["mean"], scale, target["scale"].astype(np.float64), seen >= FOLLOWED)


def _shares(number: Array, counts: Array) -> tuple[Array, Array]:
    """How much of the old mean is kept [O], and each label's share of the new one [N, O]: rate max(1/n, RATE) each."""
    rate = np.where(counts, np.maximum(1 / np.maximum(number, 1), RATE), 0.0)
    kept = np.cumprod(1 - rate[::-1], axis=0)[::-1]  # of what is known before each label, to the end
    return kept[0], rate * np.concatenate([kept[1:], np.ones((1, rate.shape[1]))])


def _rescale(W: Array, shift: Array, scale: Array, new_scale: Array, preserve: NDArray[np.bool_]) -> None:
    """scale·(W z) + old mean = new_scale·(W' z) + new mean, with shift = old mean − new mean; without `preserve` only
    the scaled part stays, and weights that had no scale yet. Where the new scale is 0, answers are the mean."""
    known = (new_scale > 0) & ((scale > 0) | preserve)
    unit = np.where(known, new_scale, 1.0)
    growth = np.where(known, scale / unit, 1.0)
    growth = np.minimum(growth, np.maximum(1.0, LARGEST / np.maximum(np.abs(W).max(axis=1), 1e-30)))
    W *= growth[:, None].astype(W.dtype)
    W[:, -1] += np.where(known & preserve, shift / unit, 0.0).astype(W.dtype)
