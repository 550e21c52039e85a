"""Check of an .onnx from outside, before anything runs it: self-contained, and the step graph of the same spec.

Nothing here opens a file or runs a graph. A graph that passes has the operators, the shapes and therefore the cost of
our own export. The caller compares its answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from onnx import ModelProto, TensorProto


def check_step(data: bytes, own: bytes) -> None:
    """Refuse a serialized graph that differs from `own`, our export of the same spec, in more than its constants.

    Raises ValueError, which names the first tensor whose data is in another file, or the first difference.
    """
    theirs = parsed(data)
    check_inside(theirs)
    for mine, other in zip_longest(outline(parsed(own)), outline(theirs)):
        if mine != other:
            found, expected = (str(part)[:160] if part else "nothing" for part in (other, mine))
            raise ValueError(f"not the step graph of this spec: it has {found}, expected {expected}")


def check_inside(model: Any) -> None:
    """Refuse a graph with tensors in other files. Raises ValueError, which names the first one."""
    for tensor in _tensors(model.graph):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise ValueError(f"tensor {tensor.name[:80]!r} keeps its data in another file: save it inside the .onnx")


def parsed(data: bytes) -> Any:
    """Return the ModelProto in these bytes. Raises ValueError."""
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:  # each protobuf runtime raises its own types
        raise ValueError(f"not an ONNX file: {error}") from error
    return model


def _tensors(graph: Any) -> Iterator[Any]:
    """Yield every tensor of a graph, including those in attributes and in nested graphs."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def outline(model: Any) -> Iterator[tuple[Any, ...]]:
    """Yield everything that determines what a graph computes, but of its constants only type and shape."""
    graph = model.graph
    yield "operator sets", tuple((o.domain, o.version) for o in model.opset_import)
    yield "functions", len(model.functions) + len(model.training_info) + len(graph.sparse_initializer)
    yield "inputs", tuple(value.SerializeToString(deterministic=True) for value in graph.input)
    yield "outputs", tuple(value.SerializeToString(deterministic=True) for value in graph.output)
    constants = {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in graph.initializer}
    for node in graph.node:
        inputs = tuple(constants.get(name, name) for name in node.input)
        attributes = tuple(sorted(a.SerializeToString(deterministic=True) for a in node.attribute))
        yield f"{node.domain}{node.op_type}", inputs, tuple(node.output), attributes
