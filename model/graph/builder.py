"""Building an ONNX graph: nodes and constants, named as they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import helper, numpy_helper


class Graph:
    """Collects nodes and constants; every method returns the name of a value."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """A named initializer holding `value`; equal scalars share one."""
        array = np.asarray(value, dtype)
        name = f"k{len(self.constants)}"
        if array.size == 1:
            name = f"{array.dtype.name}_{array.shape}_{array.reshape(-1)[0]!r}".replace("np.", "")
        self.constants.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def op(self, kind: str, *inputs: Any, outputs: Sequence[str] | int = 1, **attributes: Any) -> Any:
        """Append a node. Inputs: value names, or numbers that become constants. One output: its name, else a list."""
        names = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        outs = list(outputs) if not isinstance(outputs, int) else [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, names, outs, **attributes))
        return outs[0] if len(outs) == 1 else outs

    def split(self, value: str, sizes: Sequence[int]) -> list[str]:
        """Cut the last axis into parts; [] sizes of 0 are not allowed."""
        if len(sizes) == 1:
            return [value]
        out: list[str] = self.op("Split", value, self.constant(sizes, np.int64), outputs=len(sizes), axis=1)
        return out

    def concat(self, *values: str) -> str:
        """Join along the last axis."""
        return values[0] if len(values) == 1 else str(self.op("Concat", *values, axis=1))
