"""Graphs as exporters write them, with random weights, for the tests of the import."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
INPUTS, HIDDEN, OUTPUTS, STEPS, ROWS = 3, 4, 2, 6, 5


class GraphOf:
    """Builds a graph of stacked layers and a readout: x [B, T, INPUTS], open batch and time."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "time", INPUTS])]

    def constant(self, name: str, value: Any) -> str:
        self.constants[name] = np.asarray(value)
        return name

    def weight(self, name: str, *shape: int) -> str:
        return self.constant(name, self.rng.normal(0, 0.4, shape).astype(np.float32))

    def op(self, kind: str, inputs: list[str], outputs: str | list[str], **attributes: Any) -> str:
        outputs = [outputs] if isinstance(outputs, str) else outputs
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=f"/{outputs[0]}", **attributes))
        return outputs[0]

    def layer(self, kind: str, x: str, n: int, inputs: int, **attributes: Any) -> str:
        """Add a layer that reads [T, B, inputs]; return its output [T, B, HIDDEN]."""
        rows = GATES[kind] * HIDDEN
        weights = [self.weight(f"W{n}", 1, rows, inputs), self.weight(f"R{n}", 1, rows, HIDDEN)]
        weights.append(self.weight(f"B{n}", 1, 2 * rows))
        if kind == "GRU":
            attributes.setdefault("linear_before_reset", 1)
        self.op(kind, [x, *weights], [f"y{n}", f"h{n}"], hidden_size=HIDDEN, **attributes)
        return self.op("Squeeze", [f"y{n}", self.constant(f"axis{n}", np.array([1], np.int64))], f"s{n}")

    def bytes(self, output: str, shape: list[Any]) -> bytes:
        graph = helper.make_graph(
            self.nodes, "graph", self.inputs, [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        data: bytes = model.SerializeToString()
        return data


def stacked(*kinds: str, last: bool = True, head: bool = True, seed: int = 0, **attributes: Any) -> bytes:
    """Return a graph x → kinds → last step or sequence → readout."""
    g = GraphOf(seed)
    x = g.op("Transpose", ["x"], "x_by_time", perm=[1, 0, 2])
    for n, kind in enumerate(kinds):
        x = g.layer(kind, x, n, INPUTS if n == 0 else HIDDEN, **attributes)
    width, shape = (OUTPUTS if head else HIDDEN), ["batch", "time"]
    x = g.op("Transpose", [x], "by_row", perm=[1, 0, 2])
    if last:
        x, shape = g.op("Gather", [x, g.constant("end", np.array(-1, np.int64))], "at_end", axis=1), ["batch"]
    if head:
        x = g.op("MatMul", [x, g.weight("A", HIDDEN, OUTPUTS)], "product")
        x = g.op("Add", [x, g.weight("b", OUTPUTS)], "answer")
    return g.bytes(x, [*shape, width])


def changed(data: bytes, change: Callable[[Any], None]) -> bytes:
    """Return the graph after `change(model)`."""
    model = onnx.load_model_from_string(data)
    change(model)
    made: bytes = model.SerializeToString()
    return made


def node(model: Any, kind: str) -> Any:
    """Return the first node of a kind."""
    return next(n for n in model.graph.node if n.op_type == kind)


def tensor(model: Any, name: str) -> Any:
    """Return a constant of a model by name."""
    return next(t for t in model.graph.initializer if t.name == name)


def x_of(rows: int = ROWS, steps: int = STEPS, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (rows, steps, INPUTS)).astype(np.float32)
