"""Answers of each task as ONNX: the twins of `Task.answer`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from model.answers.tasks import Classify, Forecast, Regress
from model.graph.builder import Graph
from model.network import Network
from model.parameters import Array, Weights


def _forecast(g: Graph, network: Network, weights: Weights, features: str, x: str, scale: str) -> None:
    p = _gemm(g, features, weights.head["W"])
    forecast(g, network, p, *targets(g, network, x, scale))


def targets(g: Graph, network: Network, x: str, scale: str) -> tuple[str, str]:
    """Return the values [B, K] and scales [B, H·K] of the targets among those of all channels."""
    H, index, C = network.spec.horizon, network.spec.target_index, len(network.spec.channels)
    if index == list(range(C)):
        return x, scale
    columns = [h * C + i for h in range(H) for i in index]
    scale = g.op("Gather", scale, g.constant(columns, np.int64), axis=1)
    return g.op("Gather", x, g.constant(index, np.int64), axis=1), scale


def forecast(g: Graph, network: Network, p: str, x: str, scale: str) -> None:
    """Add the answer: present value + scale·p. x [B, K] and scale [B, H·K]: of the targets."""
    g.op("Add", g.concat(*[x] * network.spec.horizon), g.op("Mul", scale, p), outputs=["y"])


def _regress(g: Graph, network: Network, weights: Weights, features: str, x: str, scale: str) -> None:
    """The weights include the scale. The mean is added last: it may be large, and inside, it would lose digits."""
    W = weights.target["scale"].astype(np.float64)[:, None] * weights.head["W"]
    g.op("Add", _gemm(g, features, W), g.constant(weights.target["mean"]), outputs=["y"])


def _classify(g: Graph, network: Network, weights: Weights, features: str, x: str, scale: str) -> None:
    g.op("Softmax", _gemm(g, features, weights.head["W"]), axis=1, outputs=["y"])


def _gemm(g: Graph, features: str, W: Array) -> str:
    product: str = g.op("Gemm", features, g.constant(W[:, :-1].T), g.constant(W[:, -1]))
    return product


# (graph, network, weights, readout's input [B, …], values with missing ones replaced [B, C], scales [B, H·C]) → "y"
TASK_TWINS: dict[type, Callable[[Graph, Network, Weights, str, str, str], None]] = {
    Forecast: _forecast,
    Regress: _regress,
    Classify: _classify,
}
