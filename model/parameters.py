"""All parameters of a network in one flat vector; every weight is a named view of it."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, NamedTuple

from numpy.typing import NDArray

Array = NDArray[Any]  # float32 in service, float64 in gradient checks


class Layout:
    """Names and shapes of a network's parameters, in order. Gradients and optimizer moments share the layout."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.shapes = dict(shapes)
        self._slices: dict[str, slice] = {}
        start = 0
        for name, shape in shapes.items():
            stop = start + math.prod(shape)
            self._slices[name] = slice(start, stop)
            start = stop
        self.size = start

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in self.shapes.items())
        return f"Layout({shapes}: {self.size} parameters)"

    def views(self, flat: Array) -> dict[str, Array]:
        """Return the named parameters as views of `flat` [size]: writing to a view writes to the vector.

        Raises ValueError for another shape.
        """
        if flat.shape != (self.size,):
            raise ValueError(f"parameters have shape {flat.shape}, expected ({self.size},)")
        return {name: flat[self._slices[name]].reshape(shape) for name, shape in self.shapes.items()}

    def layers(self) -> dict[str, slice]:
        """Return the slice of the flat vector of each layer; a parameter's layer is its name up to the dot."""
        owned: dict[str, slice] = {}
        for name, part in self._slices.items():
            layer = name.split(".")[0]
            start = owned[layer].start if layer in owned else part.start
            owned[layer] = slice(start, part.stop)
        return owned

    def parts(self, layers: Collection[str]) -> list[slice]:
        """Return the slices of the flat vector that these layers cover, in order, neighbours joined."""
        joined: list[slice] = []
        for name, part in self.layers().items():
            if name not in layers:
                continue
            if joined and joined[-1].stop == part.start:
                joined[-1] = slice(joined[-1].start, part.stop)
            else:
                joined.append(part)
        return joined


class Weights(NamedTuple):
    """A flat vector of parameters (or a gradient, or a moment) and its named views, which share its memory."""

    flat: Array  # [layout.size]
    cells: list[dict[str, Array]]  # one per layer
    head: dict[str, Array]
    experts: dict[str, Array]  # of the mixture, empty without one: learned by least squares, their gradient is zero
    embed: dict[str, Array]  # tables of the categories, [count, d] by name
    target: dict[str, Array]  # the task's statistics: never trained, their gradient is zero
    interval: dict[str, Array]  # half-widths of prediction intervals, likewise; empty without intervals

    def __repr__(self) -> str:
        others = f"{len(self.experts)} of experts, {len(self.target)} target"
        return f"Weights({self.flat.size} {self.flat.dtype}: {len(self.cells)} cells, head, {others})"
