"""First weights, by name. Draws from the given generator alone, in float64.

Input weights are normal with standard deviation 1/√inputs whatever the name: a sum over the inputs then has the size of
one of them. Biases are 0, an LSTM's forget gate 1, so that a new memory keeps what it has (Gers, Schmidhuber & Cummins
2000; Jozefowicz et al. 2015). The name is of the recurrent weights, which a gain multiplies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from model.parameters import Array


def normal(gates: int, hidden: int, rng: np.random.Generator) -> Array:
    """Normal with standard deviation 1/√hidden: the largest eigenvalue of a block has modulus about 1."""
    return np.asarray(rng.standard_normal((gates * hidden, hidden)) / np.sqrt(hidden))


def orthogonal(gates: int, hidden: int, rng: np.random.Generator) -> Array:
    """Each gate's block orthogonal, uniformly drawn: every direction of the state keeps its length (Saxe et al. 2014).

    QR of a normal matrix, columns turned by the signs of R's diagonal, without which the draw would not be uniform.
    Source: arXiv:1312.6120.
    """
    Q, R = np.linalg.qr(rng.standard_normal((gates, hidden, hidden)))
    signs = np.sign(np.diagonal(R, axis1=1, axis2=2))[:, None]
    return np.asarray(Q * signs).reshape(gates * hidden, hidden)


def identity(gates: int, hidden: int, rng: np.random.Generator) -> Array:
    """The identity: with relu, a unit keeps what it has until an input changes it (Le et al., arXiv:1504.00941)."""
    return np.tile(np.eye(hidden), (gates, 1))


INITS: dict[str, Callable[[int, int, np.random.Generator], Array]] = {
    "normal": normal,
    "orthogonal": orthogonal,
    "identity": identity,
}


@dataclass(frozen=True, slots=True)
class Init:
    """How a cell's first weights are drawn: the spec's `init` and `init_gain`."""

    name: str
    gain: float

    def recurrent(self, gates: int, hidden: int, rng: np.random.Generator) -> Array:
        """[gates·hidden, hidden], one block of rows per gate."""
        return np.asarray(self.gain * INITS[self.name](gates, hidden, rng))

    def input(self, gates: int, hidden: int, inputs: int, rng: np.random.Generator) -> Array:
        """[gates·hidden, inputs]."""
        return np.asarray(rng.standard_normal((gates * hidden, inputs)) / np.sqrt(inputs))
