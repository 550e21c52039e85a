"""The expected answers of a stream: one version stepped in NumPy from an empty state, without a break."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

import freshet
from model.network import Network
from model.spec import ModelSpec
from service.engine.export import read_weights

Array = NDArray[np.float32]

# Float32 rounding of ONNX against NumPy over hundreds of steps, in units of the scale of each forecast (DESIGN R9).
TOLERANCE = 1e-5


class Unbroken:
    """The oracle of one stream. `exported`: the version that the server serves."""

    def __init__(self, model: freshet.Model, exported: freshet.Export) -> None:
        self.spec = ModelSpec.from_mapping(model.spec.to_mapping())
        self._network = Network(self.spec)
        self._weights = self._network.weights(read_weights(self._network, exported.weights))
        self.reset()

    def reset(self) -> None:
        """Return to the empty state."""
        self._state = np.zeros((1, self._network.state_size), np.float32)

    def step(self, x: object, time: float = math.nan) -> tuple[Array, Array]:
        """Return forecasts [H, targets] and scales for the next tick. A scale of 0 (no difference yet) is 1."""
        (y, _, _), scale = self.answer(x, time)
        return y, scale

    def answer(self, x: object, time: float = math.nan) -> tuple[tuple[Array, Array, Array], Array]:
        """Return forecasts, lower and upper bounds [levels, H, targets], and scales, as `step`."""
        row = np.atleast_1d(np.asarray(x, np.float32))[None]
        u = self._network.ahead.inputs(np.array([time]))
        statistics = self._state[:, : self._network.scaler.size].copy()
        _, scale, _ = self._network.observe(statistics, row, u)
        y, self._state = self._network.step(self._weights, row, u, self._state)
        shape = (self.spec.horizon, len(self.spec.targets))
        levels, n = len(self.spec.intervals), self.spec.outputs
        y, lower, upper = np.split(y[0], [n, n * (1 + levels)])
        made = y.reshape(shape), lower.reshape(levels, *shape), upper.reshape(levels, *shape)
        return made, np.where(scale > 0, scale, np.float32(1)).reshape(shape)

    def agrees(self, y: object, x: object, time: float = math.nan) -> None:
        """Assert that y answers the next tick."""
        expected, scale = self.step(x, time)
        got = np.asarray(y, np.float32).reshape(expected.shape)
        allowed = TOLERANCE * scale + np.spacing(np.abs(expected))  # near 100, float32 has steps of 8e-6
        assert (np.abs(got - expected) <= allowed).all(), f"got {got}, expected {expected}, scales {scale}"
