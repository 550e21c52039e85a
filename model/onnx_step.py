"""A version as ONNX: the whole forecaster as one step, scaler and head inside (DESIGN R9).

x[B,C], u[B,F], state[B,S] → y[B,O], state'[B,S]. Opset 17, IR 8, so that older runtimes load it too. The graph computes
what `Network.step` does, in as few nodes as it can: at one row each costs about the same, whatever it does. A test
compares the two on long runs with perturbed weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

from model import scaler as sc
from model.cell import Params
from model.cells.gru import GRU
from model.cells.lstm import LSTM
from model.network import Network
from model.parameters import Weights

OPSET, IR = 17, 8
UNCAPPED = 2.0**106  # above the square of any difference; times MAX_COUNT still a float32


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


def _scaler(g: Graph, network: Network, row: Sequence[str], x: str) -> tuple[str, str, str, str, list[str]]:
    """Statistics parts and x → u_{t-1}, u_t, l_t, scales [B, H·C] and the next parts. See `ResidualScaler.update`.

    A choice is a product with 0 or 1, or a bound, for onnxruntime's Where costs as much as three of those. It is the
    same choice because a stream's row begins with zeros and no value is beyond 1e15: every product is finite.
    """
    C, H = network.scaler.channels, network.scaler.horizon
    count, mean, var, square, last, last_u = row
    wide = H if C > 1 else 1  # a single channel is broadcast over the horizon

    t = g.op("Min", g.op("Add", count, 1.0), sc.MAX_COUNT)
    steps = np.repeat(np.arange(1, H + 1), C)[None] if H > 1 else 1.0
    seen = g.op("Sub", t, g.constant(steps))
    valid = g.op("Clip", seen, 0.0, 1.0)
    begun = g.op("Clip", g.op("Sub", t, 1.0), 0.0, 1.0) if H > 1 else valid
    a = g.op("Max", g.op("Reciprocal", t), sc.ALPHA)
    e = g.op("Sub", x, mean)
    ae = g.op("Mul", a, e)
    mean_next = g.op("Add", mean, ae)
    var_next = g.op("Mul", g.op("Sub", 1.0, a), g.op("Add", var, g.op("Mul", ae, e)))
    sigma = g.op("Sqrt", var_next)
    level = g.op("Clip", g.op("Div", e, g.op("Add", sigma, sc.TINY)), -sc.LEVEL_CLIP, sc.LEVEL_CLIP)
    level = g.op("Mul", level, begun)

    d = g.op("Sub", g.concat(*[x] * wide), last)
    floor = g.concat(*[g.op("Mul", sigma, sc.RELATIVE_FLOOR)] * wide)
    bound = g.op("Add", g.op("Sqrt", square), floor)
    uncapped = g.op("Mul", g.op("Sub", sc.WARM_DIFFERENCES + 1.0, seen), UNCAPPED)
    cap = g.op("Max", g.op("Mul", g.op("Mul", bound, sc.CAP), bound), uncapped)
    q = g.op("Min", g.op("Mul", d, d), cap)
    b = g.op("Mul", g.op("Clip", g.op("Reciprocal", seen), sc.ALPHA, 1.0), valid)
    square_next = g.op("Add", square, g.op("Mul", b, g.op("Sub", q, square)))
    usable = g.op("Add", g.op("Add", g.op("Sqrt", square_next), floor), sc.TINY)
    scale = g.op("Mul", usable, valid)

    rest = (H - 1) * C
    first_d, first_scale = (g.split(v, [C, rest])[0] if rest else v for v in (d, usable))
    u = g.op("Clip", g.op("Div", first_d, first_scale), -sc.DIFFERENCE_CLIP, sc.DIFFERENCE_CLIP)
    u = g.op("Mul", u, begun)
    last_next = g.concat(x, g.split(last, [rest, C])[0]) if rest else x
    return last_u, u, level, scale, [t, mean_next, var_next, square_next, last_next, u]


def _lstm(g: Graph, cell: LSTM, p: Params, state: Sequence[str], x: Sequence[str]) -> list[str]:
    H = cell.hidden
    h, c = state
    W = p["W"]
    gates = g.op("Gemm", g.concat(h, *x), g.constant(W[:, :-1].T), g.constant(W[:, -1]))
    oif, candidate = g.split(gates, [3 * H, H])
    o, i, f = g.split(g.op("Sigmoid", oif), [H, H, H])
    c = g.op("Add", g.op("Mul", i, g.op("Tanh", candidate)), g.op("Mul", f, c))
    return [g.op("Mul", o, g.op("Tanh", c)), c]


def _gru(g: Graph, cell: GRU, p: Params, state: Sequence[str], x: Sequence[str]) -> list[str]:
    H = cell.hidden
    U, W = p["U"], p["W"]
    (h,) = state
    hn, rz_h = g.split(g.op("Gemm", h, g.constant(U[:, :-1].T), g.constant(U[:, -1])), [H, 2 * H])
    input_bias = g.constant(np.r_[np.zeros(2 * H), p["b"]])
    rz_x, nx = g.split(g.op("Gemm", g.concat(*x), g.constant(W.T), input_bias), [2 * H, H])
    r, z = g.split(g.op("Sigmoid", g.op("Add", rz_h, rz_x)), [H, H])
    n = g.op("Tanh", g.op("Add", g.op("Mul", r, hn), nx))
    return [g.op("Add", g.op("Mul", g.op("Sub", h, n), z), n)]


# state parts and input parts [B, …] → next state parts, the output first
EXPORTS: dict[type, Callable[..., list[str]]] = {LSTM: _lstm, GRU: _gru}


def export_step(network: Network, weights: Weights) -> bytes:
    """The serialized step graph of these weights (copied into it). Deterministic: equal weights, equal bytes."""
    g = Graph()
    scaler, C, H = network.scaler, len(network.spec.channels), network.spec.horizon
    widths = [[cell.hidden] * (cell.state_size // cell.hidden) for cell in network.cells]
    parts = g.split("state", [*scaler.parts, *(w for layer in widths for w in layer)])
    last_u, u, level, scale, statistics = _scaler(g, network, parts[: len(scaler.parts)], "x")
    known = ["u"] if network.calendar_size else []
    inputs, hidden, states = [u, level, *known], [], iter(parts[len(scaler.parts) :])
    for cell, params, layer in zip(network.cells, weights.cells, widths, strict=True):
        after = EXPORTS[type(cell)](g, cell, params, [next(states) for _ in layer], inputs)
        hidden += after
        inputs = after[:1]
    W = weights.head["W"]
    readout = g.concat(*inputs, last_u, u, level, *known)
    p = g.op("Gemm", readout, g.constant(W[:, :-1].T), g.constant(W[:, -1]))
    value = "x"
    if network.spec.target_index != list(range(C)):
        columns = [h * C + i for h in range(H) for i in network.spec.target_index]
        scale = g.op("Gather", scale, g.constant(columns, np.int64), axis=1)
        value = g.op("Gather", "x", g.constant(network.spec.target_index, np.int64), axis=1)
    g.op("Add", g.concat(*[value] * H), g.op("Mul", scale, p), outputs=["y"])
    g.op("Concat", *statistics, *hidden, axis=1, outputs=["next_state"])
    return _serialize(g, network)


def _serialize(g: Graph, network: Network) -> bytes:
    def rows(name: str, width: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", width])

    inputs = [
        rows("x", len(network.spec.channels)),
        rows("u", network.calendar_size),
        rows("state", network.state_size),
    ]
    outputs = [rows("y", network.spec.outputs), rows("next_state", network.state_size)]
    graph = helper.make_graph(g.nodes, "freshet_step", inputs, outputs, list(g.constants.values()))
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR, producer_name="freshet"
    )
    checker.check_model(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data
