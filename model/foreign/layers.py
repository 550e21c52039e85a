"""Recurrent layers and linear maps of other frameworks, in one form.

A layer's gates are in our order, `GATES`: rows of W and R are blocks of H rows, one block per gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.foreign.refused import ForeignError
from model.parameters import Array

GATES = {"lstm": "oifg", "gru": "rzn", "rnn": "h"}  # g: the candidate of lstm; n: of gru
# Order of the gates' blocks in the weights of a framework.
ORDERS = {
    "pytorch": {"lstm": "ifgo", "gru": "rzn", "rnn": "h"},
    "keras": {"lstm": "ifgo", "gru": "zrn", "rnn": "h"},
    "onnx": {"lstm": "iofg", "gru": "zrn", "rnn": "h"},
}


@dataclass(frozen=True)
class Linear:
    """y = A·x + b. A: [O, I]; b: [O]; both float32."""

    A: Array
    b: Array

    @classmethod
    def identity(cls, size: int) -> Linear:
        """Return the map y = x of `size` values."""
        return cls(np.eye(size, dtype=np.float32), np.zeros(size, np.float32))

    def then(self, A: Array, b: Array) -> Linear:
        """Return the map A·(this map) + b, computed in float64."""
        wide = A.astype(np.float64)
        return Linear((wide @ self.A).astype(np.float32), (wide @ self.b + b).astype(np.float32))


@dataclass(frozen=True)
class Layer:
    """One recurrent layer. W: [G·H, I]; R: [G·H, H]; bW, bR: [G·H], the biases of input and recurrent product."""

    cell: str
    W: Array
    R: Array
    bW: Array
    bR: Array
    activation: str = "tanh"  # of cell rnn
    reset: str = "after"  # of cell gru: the reset gate multiplies after or before the recurrent product

    @property
    def hidden(self) -> int:
        """H."""
        return int(self.R.shape[1])

    @property
    def inputs(self) -> int:
        """I."""
        return int(self.W.shape[1])

    def after(self, linear: Linear) -> Layer:
        """Return the layer that reads x where this one reads linear(x)."""
        through = linear.then(self.W, self.bW)
        return Layer(self.cell, through.A, self.R, through.b, self.bR, self.activation, self.reset)


@dataclass(frozen=True)
class Stack:
    """Recurrent layers, the first one first, and the readout of the last one's hidden state; None: the state itself."""

    layers: tuple[Layer, ...]
    head: Linear | None

    @property
    def outputs(self) -> int:
        """Values of one answer."""
        return self.layers[-1].hidden if self.head is None else int(self.head.A.shape[0])


def ordered(cell: str, order: str, blocks: Array) -> Array:
    """Return blocks of rows [G·H, …] in the order of GATES. order: letters of the gates as they are now."""
    parts = np.split(blocks, len(order))
    return np.concatenate([parts[order.index(gate)] for gate in GATES[cell]])


def check_alike(layers: Sequence[Layer]) -> None:
    """Refuse layers that no spec describes: a spec has one size, one activation of rnn, one reset of gru.

    Raises ForeignError.
    """
    kinds: dict[str, tuple[int, Any]] = {}
    for number, layer in enumerate(layers):
        for what, cells in (("hidden", GATES), ("activation", ("rnn",)), ("reset", ("gru",))):
            value = getattr(layer, what)
            other, expected = kinds.setdefault(what, (number, value)) if layer.cell in cells else (number, value)
            if value != expected:
                remedy = f"layer {other} has {expected}: all layers must have the same"
                raise ForeignError(f"layer {number}: {what}", value, remedy)
        if number and layer.inputs != layers[0].hidden:
            remedy = f"it must read the {layers[0].hidden} units below it"
            raise ForeignError(f"layer {number}: inputs", layer.inputs, remedy)
