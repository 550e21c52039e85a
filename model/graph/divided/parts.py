"""The parts of a divided step, and what all versions of a model have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from onnx import ModelProto, TensorProto, helper, numpy_helper, shape_inference

from model.graph.divided.reading import Piece, Reading
from model.graph.importing import parsed

INPUTS = ("x", "u", "state")
PLANS = 64  # models whose division is remembered
HEAD = "def numbers(x, u, state, given, next_state, r):"


@dataclass(frozen=True, slots=True)
class Divided:
    """A step of one row: first the arithmetic, then the graph.

    source: of a function `numbers`, with the arguments of HEAD, all views of float32 values; it writes the last three,
    `r` of one value for its roundings. It raises ZeroDivisionError for the reciprocal of 0, ValueError for the root of
    a negative number.
    given: how many numbers it makes for the graph. inputs: of the graph, by name: what they read; outputs: of the
    graph, by name: where the value belongs in the next state. The answers are outputs too.
    """

    source: str
    given: int
    graph: bytes
    inputs: dict[str, Piece]
    outputs: dict[str, Piece]


def divided(onnx: bytes) -> Divided | None:
    """Return the parts of a step graph; None where the arithmetic is little, or the graph has another form.

    Raises ValueError for bytes that are no ONNX file.
    """
    model = parsed(onnx)
    plan = _plan(_without_weights(model))
    if plan is None:
        return None
    graph = ModelProto.FromString(plan.graph)
    used = {name for node in graph.graph.node for name in node.input}
    graph.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in used)
    return replace(plan, graph=graph.SerializeToString())


def _without_weights(model: Any) -> bytes:
    """Return a model without the data of its weights: versions of a model are then equal."""
    bare = ModelProto()
    bare.CopyFrom(model)
    fixed = _fixed(model)
    for tensor in bare.graph.initializer:
        if tensor.name not in fixed:
            tensor.ClearField("raw_data")
    data: bytes = bare.SerializeToString(deterministic=True)
    return data


def _fixed(model: Any) -> set[str]:
    """Return the names of the constants that are no weights, see `Graph.fixed`."""
    return {
        t.name for t in model.graph.initializer if t.name.startswith("float32_") or t.data_type == TensorProto.INT64
    }


@lru_cache(maxsize=PLANS)
def _plan(bare: bytes) -> Divided | None:
    """Return the parts of a model without weights; they are equal for all of its versions."""
    model = parsed(bare)
    graph = model.graph
    if {value.name for value in graph.input} != set(INPUTS) or not graph.node:
        return None
    widths = {v.name: _width(v) for v in shape_inference.infer_shapes(model).graph.value_info}
    fixed = _fixed(model)
    known = Reading(
        {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name in fixed},
        {value.name: Piece(value.name, 0, _width(value)) for value in graph.input},
    )
    *nodes, last = graph.node
    for node in nodes:
        known.read(node)
    if not known.pays or last.op_type != "Concat" or list(last.output) != ["next_state"]:
        return None
    return _parts(model, known, list(last.input), widths)


def _width(value: Any) -> int:
    dims = value.type.tensor_type.shape.dim
    return int(dims[1].dim_value) if len(dims) == 2 else 0


def _parts(model: Any, known: Reading, after: list[str], widths: dict[str, int]) -> Divided | None:
    """Return the parts, once all nodes but the last are read, which joins `after`, the parts of the next state. None
    where one of these is copied from an input or is there twice."""
    made = {name for node in known.rest for name in node.output}
    outputs: dict[str, Piece] = {}
    stores, start = [], 0
    for name in after:
        columns = known.columns(name)
        if columns is not None:
            stores += [f"next_state[{start + i}] = {column}" for i, column in enumerate(columns)]
            start += len(columns)
            continue
        if name not in made or name in outputs or not widths.get(name):
            return None
        outputs[name] = Piece("next_state", start, widths[name])
        start += widths[name]
    answers = [value.name for value in model.graph.output if value.name != "next_state"]
    if not made.issuperset(answers) or known.flags.intersection(name for node in known.rest for name in node.input):
        return None
    inputs, given = known.inputs(made, {tensor.name for tensor in model.graph.initializer})
    source = "\n    ".join([HEAD, *known.loads, *known.lines, *stores, *given])
    return Divided(source, len(given), _rest(model, known.rest, inputs, [*answers, *outputs]), inputs, outputs)


def _rest(model: Any, nodes: list[Any], inputs: dict[str, Piece], outputs: list[str]) -> bytes:
    """Return the smaller graph, without constants."""

    def value(name: str, width: int | None) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, None if width is None else [1, width])

    read = [value(name, piece.width) for name, piece in inputs.items()]
    graph = helper.make_graph(nodes, "freshet_rest", read, [value(name, None) for name in outputs])
    made = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    data: bytes = made.SerializeToString()
    return data
