"""What an optimizer is: its state as explicit data, and one step on the flat parameter vector or on parts of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from model.network import Network
from model.parameters import Array

SETTLE_EVERY = 64  # updates between two `settle`
# Room above the smallest normal number: more than a moment shrinks in SETTLE_EVERY updates without a gradient.
ROOM = 2.0**16


@dataclass(slots=True)
class OptimizerState:
    """State of an optimizer: the step count, the moments as rows of one array, and scratch that no step reads."""

    step: int
    moments: Array  # [moments, n], same dtype as the parameters; [0, n] for an optimizer without moments
    scratch: Array  # [n]


class Optimizer(Protocol):
    """Contract: `update` modifies params and state in place and reads nothing else."""

    def init(self, n: int, dtype: type[np.floating[Any]] = np.float32) -> OptimizerState:
        """Return the state before the first step, for n parameters."""
        ...

    def update(self, params: Array, grad: Array, state: OptimizerState, rate: float) -> None:
        """Take one step at learning rate `rate`. params: (n,), modified; grad: (n,), overwritten with the step."""
        ...


class Part(NamedTuple):
    """A slice of the flat vector that learns, and the factor of its learning rate."""

    where: slice
    factor: float = 1.0


def parts_of(network: Network) -> list[Part]:
    """Return the parts of the flat vector that learn, with the factors of the spec's `layer_rates`."""
    factors = network.spec.rate_factors
    if not factors:
        return [Part(where) for where in network.learned]
    found: list[Part] = []
    for name, where in network.layers.items():
        if name in network.spec.freeze:
            continue
        factor = factors.get(name, 1.0)
        if found and found[-1].where.stop == where.start and found[-1].factor == factor:
            found[-1] = Part(slice(found[-1].where.start, where.stop), factor)
        else:
            found.append(Part(where, factor))
    return found


def update_parts(
    optimizer: Optimizer, parts: Iterable[Part], params: Array, grad: Array, state: OptimizerState, rate: float
) -> None:
    """Take one step of `Optimizer.update` on these parts of the vectors; nothing outside them is read or written.

    Each part's rate is `rate` times its factor, which scales weight decay too.
    """
    for where, factor in parts:
        seen = OptimizerState(state.step, state.moments[:, where], state.scratch[where])
        optimizer.update(params[where], grad[where], seen, rate * factor)
    state.step += 1
    if state.step % SETTLE_EVERY == 0:
        settle(state.moments)


def settle(moments: Array) -> None:
    """Set moments that are about to become subnormal to 0, in place.

    A moment whose gradient stays 0 shrinks by a factor per update, and rounding would stop it at a subnormal number,
    with which some processors compute many times slower. It is then too small to move a weight: next to `eps` even the
    root of a second moment is less than half a unit of the last place.
    """
    moments[np.abs(moments) < ROOM * np.finfo(moments.dtype).tiny] = 0


def zeros(moments: int, n: int, dtype: type[np.floating[Any]]) -> OptimizerState:
    """Return the state before the first step with `moments` moments of zeros."""
    return OptimizerState(0, np.zeros((moments, n), dtype), np.empty(n, dtype))
