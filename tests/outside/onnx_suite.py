"""The node tests of the onnx package, generated in memory: one model of one node, its inputs and its outputs."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from onnx import ModelProto, helper
from onnx.backend.test.case import node as suite
from onnx.backend.test.loader import load_model_tests

from model.parameters import Array


@dataclass(frozen=True)
class Case:
    """One case. inputs and outputs: by the names of the graph, those that are present, in its order."""

    name: str
    model: ModelProto
    inputs: dict[str, Array]
    outputs: dict[str, Array]

    @property
    def node(self) -> Any:
        """The one node of the graph."""
        (node,) = self.model.graph.node
        return node

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the node by name, as Python values."""
        return {a.name: _value(a) for a in self.node.attribute}


def cases(module: str, *operators: str) -> dict[str, Case]:
    """Return the cases of these operators by name, without the bodies of functions.

    module: the one of onnx.backend.test.case.node that makes them, such as "lstm" for "LSTM". Only it is imported,
    because all modules together take 12 s.
    """
    importlib.import_module(f"{suite.__name__}.{module}")
    return {case.name: _case(case) for case in suite._NodeTestCases if _is_of(case, operators)}


def every_name(*operators: str) -> set[str]:
    """Return the names of all cases of the whole suite for these operators. Takes 12 s."""
    return {case.name for case in load_model_tests(kind="node") if _is_of(case, operators)}


def _is_of(case: Any, operators: tuple[str, ...]) -> bool:
    """Whether a case is one node of these operators."""
    nodes = case.model.graph.node
    return len(nodes) == 1 and nodes[0].op_type in operators and "_expanded" not in case.name


def _case(case: Any) -> Case:
    ((inputs, outputs),) = case.data_sets
    graph = case.model.graph
    names = [[value.name for value in values] for values in (graph.input, graph.output)]
    return Case(
        case.name, case.model, *(dict(zip(n, a, strict=True)) for n, a in zip(names, (inputs, outputs), strict=True))
    )


def _value(attribute: Any) -> Any:
    value = helper.get_attribute_value(attribute)
    return value.decode() if isinstance(value, bytes) else value
