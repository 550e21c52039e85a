"""An ONNX graph as a stack of layers: x → LSTM, GRU or RNN nodes → a linear readout, as exporters write them.

The graph is interpreted, never run: weights and shapes are arrays, what depends on x is a `Flow`. Sizes that the graph
leaves open get numbers of our choice, so that its arithmetic of shapes is arithmetic of constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import helper

from model.foreign import flow as flows
from model.foreign.answers import Arrangement, Output
from model.foreign.constants import Constants, fold
from model.foreign.flow import Flow, Start, States, Unfit, refused
from model.foreign.layers import Layer, Stack, check_alike
from model.foreign.recurrent import CELLS, layer_of
from model.foreign.refused import ForeignError, names, node_name
from model.graph.importing import check_inside, parsed
from model.parameters import Array

MAX_NODES = 10_000
MAX_SIZE = 4096  # of an axis that the graph fixes
MAX_STEPS, MAX_ROWS = 256, 256  # of time and batch, if the graph fixes them
OPEN = {"0": 5, "1": 7}  # sizes of open axes; different, so that a mistake about the axes does not fit
NESTED = {"Loop": "a loop", "Scan": "a loop", "If": "a branch"}
SKIPPED = {"Identity", "Dropout"}
FLOAT = 1


@dataclass(frozen=True)
class Imported:
    """A graph as a stack, and how its inputs and outputs are laid out."""

    stack: Stack
    shape: tuple[int | None, ...]  # of x; None: open
    how: Arrangement


def read_graph(data: bytes) -> Imported:
    """Return the stack of a serialized ONNX graph. Raises ForeignError, which names the node, tensor or value."""
    try:
        model = parsed(data)
        check_inside(model)
    except ValueError as error:
        raise ForeignError("file", "not usable", str(error)) from None
    if not model.graph.node:
        raise ForeignError("file", "no nodes", "not an ONNX graph, or cut off")
    _check_nodes(model)
    return _Walk(model).imported()


def _check_nodes(model: Any) -> None:
    """Refuse what no flow can pass, before any value is computed."""
    nodes = model.graph.node
    if len(nodes) > MAX_NODES:
        raise ForeignError("nodes", len(nodes), f"a graph may have at most {MAX_NODES}")
    if model.functions or model.graph.sparse_initializer or model.training_info:
        raise ForeignError("graph", "functions, sparse tensors or training information", "export without them")
    for node in nodes:
        where = f"node {node_name(node)}"
        if node.domain not in ("", "ai.onnx"):
            raise ForeignError(where, f"{node.domain}.{node.op_type}", "only operators of ONNX itself can be read")
        if node.op_type in NESTED:
            remedy = f"{NESTED[node.op_type]} cannot be read: export LSTM, GRU and RNN nodes, or use a state_dict"
            raise ForeignError(where, node.op_type, remedy)
        if not node.output or any(a.HasField("g") or a.graphs for a in node.attribute):
            raise ForeignError(where, node.op_type, "a node has outputs, and no graph inside")
    if not any(node.op_type in CELLS for node in nodes):
        remedy = "the exporter has unrolled the recurrence: export LSTM, GRU and RNN nodes, or use a state_dict"
        raise ForeignError("graph", f"{len(nodes)} nodes, none of them {names(list(CELLS))}", remedy)


@dataclass
class _Walk:
    """The interpretation of one graph, node by node."""

    model: Any
    values: dict[str, Any] = field(default_factory=dict)  # by name: Array, Flow, Start, States
    layers: list[Layer] = field(default_factory=list)
    starts: dict[str, str] = field(default_factory=dict)
    time_first: bool = True
    x: str = ""
    spent: Constants = field(default_factory=Constants)

    def imported(self) -> Imported:
        graph = self.model.graph
        self._read_constants()
        shape = self._read_inputs()
        for node in graph.node:
            self._step(node)
        check_alike(self.layers)
        outputs, head = self._outputs()
        how = Arrangement(self.x, self.time_first, self.starts, outputs)
        return Imported(Stack(tuple(self.layers), head), shape, how)

    def _read_constants(self) -> None:
        for tensor in self.model.graph.initializer:
            self.values[tensor.name] = self.spent.tensor(tensor)

    def _read_inputs(self) -> tuple[int | None, ...]:
        """Give each input of the graph its meaning: the first of rank 3 is x, others are start states."""
        shape: tuple[int | None, ...] = ()
        for value in self.model.graph.input:
            if value.name in self.values:  # old exporters list constants among the inputs
                continue
            kind = value.type.tensor_type
            dims = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
            if kind.elem_type != FLOAT or len(dims) != 3 or any(n is not None and not 1 <= n <= MAX_SIZE for n in dims):
                remedy = f"inputs are float32 of rank 3, axes of 1 to {MAX_SIZE}: x, and start states"
                raise ForeignError(f"input {value.name}", names(dims), remedy)
            if not self.x:
                self.x, shape = value.name, dims
                if dims[2] is None:
                    raise ForeignError(f"input {value.name}", names(dims), "the graph must fix the number of features")
                if any(n is not None and n > MAX_STEPS for n in dims[:2]):
                    raise ForeignError(f"input {value.name}", names(dims), f"at most {MAX_STEPS} steps and rows")
                sizes = (dims[0] or OPEN["0"], dims[1] or OPEN["1"], dims[2])
                self.values[value.name] = Flow(tuple(zip(flows.INPUT_AXES, sizes, strict=True)))
            else:
                layers = dims[0] or 1
                self.values[value.name] = Start(value.name, (layers, dims[1] or 0, dims[2] or 0))
        if not self.x:
            raise ForeignError("graph", "no input", "it must read x of rank 3")
        return shape

    def _step(self, node: Any) -> None:
        inputs = [self._value(node, name) for name in node.input]
        try:
            attributes = {a.name: _plain(helper.get_attribute_value(a)) for a in node.attribute}
            outputs = self._apply(node, attributes, inputs)
        except Unfit as error:
            raise refused(node, error) from None
        except (TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:  # an attribute's type
            if isinstance(error, ForeignError):
                raise
            raise refused(node, f"its attributes or inputs do not fit ({error})") from None
        for name, value in zip(node.output, outputs, strict=False):
            if name:
                if name in self.values:
                    raise ForeignError(f"value {name}", "computed twice", "the file is damaged")
                self.values[name] = value

    def _value(self, node: Any, name: str) -> Any:
        if not name:
            return None
        if name not in self.values:
            raise ForeignError(f"value {name}", f"read by {node.op_type}", "nothing computes it: the file is damaged")
        return self.values[name]

    def _apply(self, node: Any, attributes: dict[str, Any], inputs: list[Any]) -> list[Any]:
        """Return the outputs of a node."""
        kind = node.op_type
        if kind in CELLS:
            return self._recurrent(node, attributes, inputs)
        if kind == "Constant":
            return [self._constant(node, attributes)]
        if kind == "Shape" and inputs and isinstance(inputs[0], Flow | np.ndarray):
            shape = np.array(inputs[0].shape, np.int64)
            return [shape[attributes.get("start", 0) : attributes.get("end")]]
        if all(x is None or isinstance(x, np.ndarray) for x in inputs):
            if "axes" in attributes and len(inputs) == 1:  # an attribute in old operator sets
                inputs = [*inputs, np.array(attributes["axes"], np.int64)]
            return [fold(kind, node_name(node), attributes, inputs, self.spent)]
        if kind in SKIPPED:
            return inputs[:1]
        return [_flowing(kind, attributes, inputs)]

    def _constant(self, node: Any, attributes: dict[str, Any]) -> Array:
        if list(attributes) == ["value"]:
            return self.spent.tensor(attributes["value"])
        for name, dtype in (("value_int", np.int64), ("value_ints", np.int64), ("value_float", np.float32)):
            if list(attributes) == [name]:
                return np.array(attributes[name], dtype)
        raise ForeignError(f"node {node_name(node)}", f"Constant {names(list(attributes))}", "give it as a tensor")

    def _recurrent(self, node: Any, attributes: dict[str, Any], inputs: list[Any]) -> list[Any]:
        x = inputs[0] if inputs else None
        layer = layer_of(node, attributes, inputs)
        if not isinstance(x, Flow) or len(x.axes) != 3 or x.depth != len(self.layers) or x.last or x.state:
            raise Unfit("it does not read the layer below it, or x")
        if not x.depth:
            self.time_first = x.names[0] == "0"
            renamed = {"0": "T" if self.time_first else "B", "1": "B" if self.time_first else "T"}
            x = replace(x, axes=tuple((renamed.get(name, name), size) for name, size in x.axes))
        if x.names != ("T", "B", "F") or x.shape[-1] != layer.inputs:
            raise Unfit(f"it reads {layer.inputs} features with axes {names(x.names)} of {list(x.shape)}")
        if x.linear is not None:
            layer = layer.after(x.linear)
        for kind, start in zip("hc", inputs[5:7], strict=False):
            self._check_start(kind, start, x.shape[1], layer.hidden)
        self.layers.append(layer)
        T, B, F = x.axes[0], x.axes[1], ("F", layer.hidden)
        depth = len(self.layers)
        last = Flow((("D", 1), B, F), depth, last=True, state="h")
        return [Flow((T, ("D", 1), B, F), depth), last, replace(last, state="c")]

    def _check_start(self, kind: str, start: Any, rows: int, hidden: int) -> None:
        """Refuse a start state that is neither zero nor an input of the graph."""
        depth = len(self.layers)
        if start is None or (isinstance(start, np.ndarray) and start.size and not start.any()):
            return
        if isinstance(start, np.ndarray):
            raise Unfit(f"its initial_{kind} is not zero: a stream starts from zeros")
        known = isinstance(start, Start) and start.shape[0] == 1 and (start.layer or 0) == depth
        if not known or self.starts.setdefault(start.name, kind) != kind:
            raise Unfit(f"its initial_{kind} is neither zeros nor an input of the graph with a state per layer")

    def _outputs(self) -> tuple[dict[str, Output], Any]:
        """Return the meaning of each output of the graph, and the readout."""
        depth, found, head, seen = len(self.layers), {}, None, False
        for value in self.model.graph.output:
            made = self.values.get(value.name)
            where = f"output {value.name}"
            if isinstance(made, States) and made.depths == tuple(range(1, depth + 1)):
                found[value.name] = Output(made.kind, ("L", "B", "F"))
                continue
            if not isinstance(made, Flow) or made.depth != depth or any(":" in name for name in made.names):
                raise ForeignError(where, "not of the last layer", "outputs are answers, or the states of all layers")
            if made.state == "c":
                if depth > 1:
                    raise ForeignError(where, "cells of one layer", "outputs are answers, or the states of all layers")
                found[value.name] = Output("c", tuple("L" if n == "D" else n for n in made.names))
                continue
            if made.linear is not None and seen and made.linear is not head:
                raise ForeignError(where, "a second readout", "a model has one")
            head, seen = (made.linear, True) if made.linear is not None else (head, seen)
            found[value.name] = Output("y" if made.linear is not None else "hidden", made.names)
        if not found:
            raise ForeignError("graph", "no output", "the file is damaged")
        return found, head


def _flowing(kind: str, attributes: dict[str, Any], inputs: list[Any]) -> Any:
    """Return the output of a node that reads a flow, a start state or states. Raises Unfit."""
    first, others = inputs[0], inputs[1:]
    constants = all(x is None or isinstance(x, np.ndarray) for x in others)
    if kind == "Concat":
        return flows.states(inputs, attributes.get("axis", 0))
    if isinstance(first, Start) and kind == "Slice" and constants:
        (begin,), (end,) = others[0].tolist(), others[1].tolist()
        return flows.start_layer(first, begin, end, int(others[2][0]) if len(others) > 2 else 0)
    if kind in ("Add", "Mul", "Sub", "Div") and len(inputs) == 2:
        at = 0 if isinstance(first, Flow) else 1
        if isinstance(inputs[at], Flow) and isinstance(inputs[1 - at], np.ndarray):
            return flows.affine(kind, inputs[at], inputs[1 - at], at == 1)
    if not isinstance(first, Flow) or not constants or kind not in _OPERATORS:
        raise Unfit("an operator that no supported exporter uses here")
    return _OPERATORS[kind](first, attributes, *others)


def _gather(flow: Flow, attributes: dict[str, Any], at: Array) -> Flow:
    axis = attributes.get("axis", 0)
    index = at.reshape(-1).tolist()
    size = flow.shape[axis]
    return flows.last_step(flow, axis, len(index) == 1 and index[0] in (-1, size - 1), at.ndim == 1)


def _slice(flow: Flow, attributes: dict[str, Any], starts: Array, ends: Array, *more: Array | None) -> Flow:
    axes, steps = (*more, None, None)[:2]
    axis = int(axes[0]) if axes is not None else 0
    size = flow.shape[axis]
    single = len(starts) == 1 and (steps is None or steps.tolist() == [1])
    begin = int(starts[0]) % size if starts[0] < 0 else int(starts[0])
    if single and begin == 0 and ends[0] >= size:
        return flow
    return flows.last_step(flow, axis, single and begin == size - 1 and (ends[0] >= size), True)


def _gemm(flow: Flow, attributes: dict[str, Any], B: Array, C: Array | None = None) -> Flow:
    scales = {attributes.get(name, 1.0) for name in ("alpha", "beta")}
    if scales != {1.0} or attributes.get("transA", 0) or len(flow.axes) != 2:
        raise Unfit("alpha and beta must be 1, and transA 0")
    A = B if attributes.get("transB", 0) else B.T
    b = np.zeros(len(A), np.float32) if C is None else np.broadcast_to(C.reshape(-1), len(A)).astype(C.dtype)
    return flows.mapped(flow, A, b)


def _matmul(flow: Flow, attributes: dict[str, Any], B: Array) -> Flow:
    if B.ndim != 2:
        raise Unfit("its weights are not a matrix")
    return flows.mapped(flow, B.T, np.zeros(B.shape[1], np.float32))


def _cast(flow: Flow, attributes: dict[str, Any]) -> Flow:
    if attributes.get("to") != FLOAT:
        raise Unfit("it converts to another type than float32")
    return flow


# What may happen to a flow between the layers: (flow, attributes, constants …) → flow.
_OPERATORS: dict[str, Any] = {
    "Transpose": lambda flow, a: flows.transpose(flow, a.get("perm")),
    "Squeeze": lambda flow, a, axes=None: flows.squeeze(flow, a.get("axes") if axes is None else axes),
    "Reshape": lambda flow, a, shape: flows.reshape(flow, shape, not a.get("allowzero", 0)),
    "Gather": _gather,
    "Slice": _slice,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Cast": _cast,
}


def _plain(value: Any) -> Any:
    """Return an attribute's value with texts as str."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, list) or (isinstance(value, Sequence) and not isinstance(value, str)):
        return [_plain(item) for item in value]
    return value
