"""Initial weights of cells, by name. All draws are float64 and come from the given generator.

The name selects the recurrent weights, which the gain multiplies. Input weights are always normal with standard
deviation 1/√inputs, so that a sum over the inputs has the size of one input. Biases are 0; an LSTM's forget gate has
bias 1, so that a new memory cell keeps its content (Gers, Schmidhuber & Cummins 2000; Jozefowicz et al. 2015).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from model.parameters import Array


def normal(gates: int, hidden: int, rng: np.random.Generator) -> Array:
    """Return normal weights with standard deviation 1/√hidden: a block's largest eigenvalue has modulus about 1."""
    return np.asarray(rng.standard_normal((gates * hidden, hidden)) / np.sqrt(hidden))


def orthogonal(gates: int, hidden: int, rng: np.random.Generator) -> Array:
    """Return a uniformly drawn orthogonal block per gate: every direction of the state keeps its length.

    QR of a normal matrix; columns take the signs of R's diagonal, without which the draw would not be uniform.
    Source: Saxe et al. 2014, arXiv:1312.6120.
    """
    Q, R = np.linalg.qr(rng.standard_normal((gates, hidden, hidden)))
    signs = np.sign(np.diagonal(R, axis1=1, axis2=2))[:, None]
    return np.asarray(Q * signs).reshape(gates * hidden, hidden)


def identity(gates: int, hidden: int, rng: np.random.Generator) -> Array:
    """Return the identity: with relu, a unit keeps its value until an input changes it (Le et al. arXiv:1504.00941)."""
    return np.tile(np.eye(hidden), (gates, 1))


INITS: dict[str, Callable[[int, int, np.random.Generator], Array]] = {
    "normal": normal,
    "orthogonal": orthogonal,
    "identity": identity,
}


@dataclass(frozen=True, slots=True)
class Init:
    """How a cell's initial weights are drawn: the spec's `init` and `init_gain`."""

    name: str
    gain: float

    def recurrent(self, gates: int, hidden: int, rng: np.random.Generator) -> Array:
        """Draw recurrent weights [gates·hidden, hidden], one block of rows per gate."""
        return np.asarray(self.gain * INITS[self.name](gates, hidden, rng))

    def input(self, gates: int, hidden: int, inputs: int, rng: np.random.Generator) -> Array:
        """Draw input weights [gates·hidden, inputs]."""
        return np.asarray(rng.standard_normal((gates * hidden, inputs)) / np.sqrt(inputs))
