"""The readout: scaled forecasts p = W·[h; φ; 1], linear in the hidden state and in the tick's own features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.cells.contract import Params
from model.parameters import Array


@dataclass(frozen=True)
class Head:
    """Settings. Parameter W [O, H + E + 1], columns h|φ|1. Zero weights, the default, forecast persistence."""

    hidden: int  # H
    features: int  # E
    outputs: int  # O
    init_std: float

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name and shape of the one parameter."""
        return {"W": (self.outputs, self.hidden + self.features + 1)}

    def init_params(self, params: Params, rng: np.random.Generator) -> None:
        """Write initial values: normal with the spec's `head_init` as standard deviation, exactly zero by default."""
        W = params["W"]
        W[...] = self.init_std * rng.standard_normal(W.shape) if self.init_std else 0.0

    def forward(self, params: Params, H: Array, F: Array) -> Array:
        """Return p [N, O], new, for hidden states H [N, hidden] and features F [N, features]."""
        W, n = params["W"], self.hidden
        p: Array = np.dot(H, W[:, :n].T)
        p += np.dot(F, W[:, n:-1].T)
        p += W[:, -1]
        return p

    def backward(self, params: Params, H: Array, F: Array, dp: Array, dparams: Params) -> Array:
        """Add the gradient to dparams and return dH [N, hidden], new. dp: [N, O], gradient by p."""
        dW, n = dparams["W"], self.hidden
        dW[:, :n] += np.dot(dp.T, H)
        dW[:, n:-1] += np.dot(dp.T, F)
        dW[:, -1] += dp.sum(axis=0)
        dH: Array = np.dot(dp, params["W"][:, :n])
        return dH
