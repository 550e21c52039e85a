"""Builder of an ONNX graph: nodes and constants, named in the order of their creation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

EDITION = 2  # of graphs that are made now; stored graphs of every edition load, and can be made again (`step.EDITIONS`)


class Graph:
    """Collects nodes and constants; every method returns the name of a value."""

    def __init__(self, edition: int = EDITION) -> None:
        self.edition = edition
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self._made: dict[Any, Any] = {}  # outputs, by everything that determines them

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Add an initializer that holds `value` and return its name; of one whole number or scalar: see `fixed`."""
        array = np.asarray(value, dtype)
        if array.size == 1 and (self.edition == 1 or array.ndim == 0 or array.dtype == np.int64):
            return self.fixed(array)
        return self._add(f"k{len(self.constants)}", array)

    def fixed(self, value: Any) -> str:
        """Add an initializer that holds a float32 number, or a few, and return its name, which holds the value: it is
        the same in all versions of a model, unlike a weight. Equal ones are shared."""
        array = np.asarray(value)
        shown = array.reshape(-1)[0] if array.size == 1 else array.tolist()
        return self._add(f"{array.dtype.name}_{array.shape}_{shown!r}".replace("np.", ""), array)

    def _add(self, name: str, array: Any) -> str:
        self.constants.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def op(self, kind: str, *inputs: Any, outputs: Sequence[str] | int = 1, **attributes: Any) -> Any:
        """Append a node and return the name of its output, or a list of names if it has several. An equal node is not
        appended again.

        inputs: names of values [B, n], or numbers, which become constants. outputs: the names, or how many to make up.
        """
        # [1, 1]: with a constant of lower rank, onnxruntime takes 15 times as long for [B, 1]. A Clip needs scalars.
        shape = () if kind == "Clip" else (1, 1)
        names = [i if isinstance(i, str) else self.fixed(np.full(shape, i, np.float32)) for i in inputs]
        key = (kind, *names, str(outputs), repr(sorted(attributes.items())))
        if self.edition > 1 and key in self._made:
            return self._made[key]
        outs = list(outputs) if not isinstance(outputs, int) else [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, names, outs, **attributes))
        self._made[key] = made = outs[0] if len(outs) == 1 else outs
        return made

    def integers(self, *values: int) -> str:
        """Add a constant of whole numbers [n], such as axes and shapes, and return its name."""
        return self.constant(values, np.int64)

    def split(self, value: str, sizes: Sequence[int]) -> list[str]:
        """Split the last axis into parts of these sizes, each at least 1, and return their names."""
        if len(sizes) == 1:
            return [value]
        out: list[str] = self.op("Split", value, self.constant(sizes, np.int64), outputs=len(sizes), axis=1)
        return out

    def leading(self, value: str, columns: int, others: int) -> str:
        """Return the first columns of a value that has `others` behind them: a split would copy those too."""
        if self.edition == 1:
            return self.split(value, [columns, others])[0]
        return str(self.op("Slice", value, self.integers(0), self.integers(columns), self.integers(1)))

    def concat(self, *values: str) -> str:
        """Concatenate along the last axis and return the name of the result."""
        return values[0] if len(values) == 1 else str(self.op("Concat", *values, axis=1))
