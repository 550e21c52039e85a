"""Answers of each task as ONNX: the twins of `Task.answer`, and of `intervals.bounds`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from model.answers import intervals
from model.answers.spreads import LARGEST, SMALLEST, Gaussian, Located, Pinball, StudentT
from model.answers.tasks import Classify, Forecast, Regress
from model.graph.builder import Graph
from model.network import Network
from model.parameters import Array, Weights

LEAST_UNIT = 1e-30  # far below any that is not 0


def _forecast(g: Graph, network: Network, weights: Weights, features: str, x: str, scale: str) -> str:
    p = _gemm(g, features, weights.head["W"][: network.spec.outputs])
    x, scale = targets(g, network, x, scale)
    forecast(g, network, p, x, scale)
    return scale


def targets(g: Graph, network: Network, x: str, scale: str) -> tuple[str, str]:
    """Return the values [B, K] and scales [B, H·K] of the targets among those of all channels."""
    H, index, C = network.spec.horizon, network.spec.target_index, len(network.spec.channels)
    if index == list(range(C)):
        return x, scale
    columns = [h * C + i for h in range(H) for i in index]
    return chosen(g, network, x), str(g.op("Gather", scale, g.constant(columns, np.int64), axis=1))


def chosen(g: Graph, network: Network, value: str) -> str:
    """Return the targets' columns [B, K] of a value of all channels [B, C]."""
    index = network.spec.target_index
    if index == list(range(len(network.spec.channels))):
        return value
    return str(g.op("Gather", value, g.constant(index, np.int64), axis=1))


def forecast(g: Graph, network: Network, p: str, x: str, scale: str) -> None:
    """Add the answer: present value + scale·p. x [B, K] and scale [B, H·K]: of the targets."""
    g.op("Add", g.concat(*[x] * network.spec.horizon), g.op("Mul", scale, p), outputs=["y"])


def _regress(g: Graph, network: Network, weights: Weights, features: str, x: str, scale: str) -> str:
    """The weights include the scale. The mean is added last: it may be large, and inside, it would lose digits."""
    W = weights.target["scale"].astype(np.float64)[:, None] * weights.head["W"][: network.spec.outputs]
    g.op("Add", _gemm(g, features, W), g.constant(weights.target["mean"]), outputs=["y"])
    return g.constant(weights.target["scale"][None]) if network.spec.intervals else ""


def _classify(g: Graph, network: Network, weights: Weights, features: str, x: str, scale: str) -> str:
    g.op("Softmax", _gemm(g, features, weights.head["W"]), axis=1, outputs=["y"])
    return ""


def bounds(g: Graph, network: Network, weights: Weights, unit: str, features: str) -> None:
    """Add the output "bounds" [B, 2·levels·O]. unit: size of a scaled unit, [B or 1, O], 0 where not known yet;
    features: the readout's input."""
    if network.loss.columns > 1:
        _spread_bounds(g, network, weights, unit, features)
        return
    levels, radius = len(network.spec.intervals), intervals.radius(weights.interval)
    known = _known(g, unit)
    half = g.op("Mul", g.concat(*[known] * levels), g.constant(radius.reshape(1, -1)))
    y = g.concat(*["y"] * levels)
    g.op("Concat", g.op("Sub", y, half), g.op("Add", y, half), axis=1, outputs=["bounds"])


def _known(g: Graph, unit: str) -> str:
    """Return `unit`, NaN where it is 0: as the quotient of two zeros."""
    if g.edition == 1:
        return str(g.op("Where", g.op("Greater", unit, 0.0), unit, float("nan")))
    return str(g.op("Div", unit, g.op("HardSigmoid", unit, alpha=LEAST_UNIT**-1, beta=0.0)))


def _spread_bounds(g: Graph, network: Network, weights: Weights, unit: str, features: str) -> None:
    """Add the output "bounds" of half-widths that the loss forecasts."""
    spec, factors = network.spec, np.exp(weights.interval["log"])
    known = _known(g, unit)
    below, above = SPREAD_TWINS[type(network.loss)](g, network, _gemm(g, features, weights.head["W"][spec.outputs :]))
    made = []
    for kind, side in (("Sub", below), ("Add", above)):
        half = ""
        for width, factor in zip(side, factors, strict=True):
            width = g.op("Mul", width, g.constant(factor[None]))
            half = g.op("Max", half, width) if half else width
            made.append(g.op(kind, "y", g.op("Mul", half, known)))
    g.op("Concat", *made, axis=1, outputs=["bounds"])


def _positive(g: Graph, network: Network, raw: str) -> str:
    """The twin of `spreads.positive`, of all raw values [B, (M − 1)·O]."""
    start = np.repeat(network.loss.starts, network.spec.outputs)
    size = g.op("Softplus", g.op("Clip", g.op("Add", raw, g.constant(start[None])), -LARGEST, LARGEST))
    return str(g.op("Add", size, SMALLEST))


def _located(g: Graph, network: Network, raw: str) -> tuple[list[str], list[str]]:
    assert isinstance(network.loss, Located)
    scale = _positive(g, network, raw)
    side = [str(g.op("Mul", scale, quantile)) for quantile in network.loss.quantiles()]
    return side, side


def _pinball(g: Graph, network: Network, raw: str) -> tuple[list[str], list[str]]:
    L = len(network.spec.intervals)
    sizes = g.split(_positive(g, network, raw), [network.spec.outputs] * (2 * L))
    sides = []
    for side in (sizes[:L], sizes[L:]):
        sums = side[:1]
        for size in side[1:]:
            sums.append(str(g.op("Add", sums[-1], size)))
        sides.append(sums)
    return sides[0], sides[1]


def _gemm(g: Graph, features: str, W: Array) -> str:
    product: str = g.op("Gemm", features, g.constant(W[:, :-1].T), g.constant(W[:, -1]))
    return product


# (graph, network, raw values) → half-widths [B, O] below and above, by level: the twins of `widths`
SPREAD_TWINS: dict[type, Callable[[Graph, Network, str], tuple[list[str], list[str]]]] = {
    Pinball: _pinball,
    Gaussian: _located,
    StudentT: _located,
}

# (graph, network, weights, readout's input [B, …], values with missing ones replaced [B, C], scales [B, H·C]) → "y";
# returns the size of a scaled unit for `bounds`
TASK_TWINS: dict[type, Callable[[Graph, Network, Weights, str, str, str], str]] = {
    Forecast: _forecast,
    Regress: _regress,
    Classify: _classify,
}
