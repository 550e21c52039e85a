"""Answers of each task as ONNX: the twins of `Task.answer`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from model.answers.tasks import Classify, Forecast, Regress
from model.graph.builder import Graph
from model.network import Network
from model.parameters import Array, Weights


def _forecast(g: Graph, network: Network, weights: Weights, features: str, x: str, scale: str) -> None:
    H, targets = network.spec.horizon, network.spec.target_index
    C = len(network.spec.channels)
    p = _gemm(g, features, weights.head["W"])
    if targets != list(range(C)):
        columns = [h * C + i for h in range(H) for i in targets]
        scale = g.op("Gather", scale, g.constant(columns, np.int64), axis=1)
        x = g.op("Gather", x, g.constant(targets, np.int64), axis=1)
    g.op("Add", g.concat(*[x] * H), g.op("Mul", scale, p), outputs=["y"])


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
