"""A recurrent node of an ONNX graph as a layer, if it is one of ours; otherwise the reason why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from model.foreign.layers import GATES, ORDERS, Layer, ordered
from model.foreign.refused import ForeignError, node_name
from model.parameters import Array

CELLS = {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn"}
ACTIVATIONS = {"LSTM": [["Sigmoid", "Tanh", "Tanh"]], "GRU": [["Sigmoid", "Tanh"]], "RNN": [["Tanh"], ["Relu"]]}
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
# Attributes that a node may have, each with the values that we compute; None: checked elsewhere.
ATTRIBUTES: dict[str, tuple[Any, ...] | None] = {
    "direction": ("forward",),
    "layout": (0,),
    "input_forget": (0,),
    "linear_before_reset": (0, 1),
    "hidden_size": None,
    "activations": None,
    "output_sequence": None,  # of old operator sets
}
REMEDIES = {
    "direction": "only forward can be computed tick by tick",
    "layout": "export with layout = 0, time first; onnxruntime has no other either",
    "input_forget": "cells here have separate gates: train with input_forget = 0",
    "clip": "cells here do not clip their gates: train without",
    "activation_alpha": "cells here use the default activations",
    "activation_beta": "cells here use the default activations",
}


def layer_of(node: Any, attributes: Mapping[str, Any], inputs: Sequence[Any]) -> Layer:
    """Return the layer of an LSTM, GRU or RNN node. inputs: X, W, R, B …; constants are arrays, None where absent.

    Raises ForeignError, which names the node and the attribute, input or tensor that has no equivalent here.
    """
    kind, where = node.op_type, f"node {node_name(node)} ({node.op_type})"
    activation = _check_attributes(kind, where, attributes)
    given = dict(zip(INPUTS, inputs, strict=False))
    for name, remedy in (
        ("P", "cells here have no peepholes: train without"),
        ("sequence_lens", "export without lengths: a stream has no padding"),
    ):
        if given.get(name) is not None:
            raise ForeignError(where, "peepholes (P)" if name == "P" else name, remedy)
    G = len(GATES[CELLS[kind]])
    W, R = _weights(node, where, "W", given), _weights(node, where, "R", given)
    H = R.shape[2] if R.ndim == 3 else 0
    _check_shape(node, where, "R", R, (1, G * H, H))
    _check_shape(node, where, "W", W, (1, G * H, W.shape[-1]))
    if attributes.get("hidden_size", H) != H:
        raise ForeignError(where, f"hidden_size {attributes['hidden_size']}", f"its weights have {H} units")
    B = np.zeros((1, 2 * G * H), np.float32) if given.get("B") is None else _weights(node, where, "B", given)
    _check_shape(node, where, "B", B, (1, 2 * G * H))
    cell = CELLS[kind]
    W, R, bW, bR = (ordered(cell, ORDERS["onnx"][cell], part) for part in (W[0], R[0], *np.split(B[0], 2)))
    before = kind == "GRU" and not attributes.get("linear_before_reset", 0)
    return Layer(cell, W, R, bW, bR, activation, "before" if before else "after")


def _check_attributes(kind: str, where: str, attributes: Mapping[str, Any]) -> str:
    """Refuse attributes that change the computation. Returns the activation of an RNN."""
    for name, value in attributes.items():
        allowed = ATTRIBUTES.get(name, ())
        if allowed is None or value in allowed:
            continue
        raise ForeignError(where, f"{name} = {value!r}", REMEDIES.get(name, "an attribute without an equivalent here"))
    used = [str(name) for name in attributes.get("activations", ACTIVATIONS[kind][0])]
    if used not in ACTIVATIONS[kind]:
        expected = " or ".join(", ".join(names) for names in ACTIVATIONS[kind])
        raise ForeignError(where, f"activations {', '.join(used)}", f"cells here use {expected}")
    return "relu" if used == ["Relu"] else "tanh"


def _weights(node: Any, where: str, name: str, given: Mapping[str, Any]) -> Array:
    value, at = given.get(name), INPUTS.index(name)
    tensor = node.input[at] if at < len(node.input) else ""
    if not isinstance(value, np.ndarray):
        raise ForeignError(where, f"{name} is {tensor or 'absent'}", "weights must be constants of the graph")
    if value.dtype != np.float32:
        raise ForeignError(f"tensor {tensor}", str(value.dtype), "convert the model to float32")
    if not np.isfinite(value).all():
        raise ForeignError(f"tensor {tensor}", "NaN or infinite", "every weight must be a finite number")
    return value


def _check_shape(node: Any, where: str, name: str, value: Array, expected: tuple[int, ...]) -> None:
    if value.shape != expected or 0 in expected:
        shapes = [" × ".join(map(str, shape)) for shape in (value.shape, expected)]
        tensor = node.input[INPUTS.index(name)]
        raise ForeignError(f"{where}: {name}, tensor {tensor}", shapes[0], f"expected {shapes[1]}")
