"""A version as ONNX: the whole forecaster as one step, scaler and head inside (DESIGN R9).

x[B,C], u[B,F], state[B,S] → y[B,O], state'[B,S]. Opset 17, IR 8, so that older runtimes load it too. The graph mirrors
`Network.step` operation by operation; a test compares the two on long runs with perturbed weights.
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
    """Statistics parts and x → u_{t-1}, u_t, l_t, scales [B, H·C] and the next parts. See `ResidualScaler.update`."""
    C, H = network.scaler.channels, network.scaler.horizon
    count, mean, var, square, last, last_u = row
    t = g.op("Min", g.op("Add", count, 1.0), sc.MAX_COUNT)
    begun = g.op("Greater", t, 1.0)
    a = g.op("Max", g.op("Div", 1.0, t), sc.ALPHA)
    e = g.op("Where", begun, g.op("Sub", x, mean), 0.0)
    mean_next = g.op("Where", begun, g.op("Add", mean, g.op("Mul", a, e)), x)
    var_next = g.op("Mul", g.op("Sub", 1.0, a), g.op("Add", var, g.op("Mul", a, g.op("Mul", e, e))))
    sigma = g.op("Sqrt", var_next)
    level = g.op("Clip", g.op("Div", e, g.op("Add", sigma, sc.TINY)), -sc.LEVEL_CLIP, sc.LEVEL_CLIP)

    d = g.op("Sub", g.concat(*[x] * H), last)
    steps = np.repeat(np.arange(1, H + 1, dtype=np.float32), C)[None]
    seen = g.op("Sub", t, g.constant(steps))
    valid = g.op("GreaterOrEqual", seen, 1.0)
    floor = g.concat(*[g.op("Mul", sigma, sc.RELATIVE_FLOOR)] * H)
    bound = g.op("Add", g.op("Sqrt", square), floor)
    dd = g.op("Mul", d, d)
    capped = g.op("Min", dd, g.op("Mul", g.op("Mul", bound, sc.CAP), bound))
    q = g.op("Where", g.op("Greater", seen, float(sc.WARM_DIFFERENCES)), capped, dd)
    b = g.op("Max", g.op("Div", 1.0, g.op("Max", seen, 1.0)), sc.ALPHA)
    square_next = g.op("Add", square, g.op("Where", valid, g.op("Mul", b, g.op("Sub", q, square)), 0.0))
    usable = g.op("Add", g.op("Add", g.op("Sqrt", square_next), floor), sc.TINY)
    scale = g.op("Where", valid, usable, 0.0)

    rest = (H - 1) * C
    first_d, first_scale = (g.split(v, [C, rest])[0] if rest else v for v in (d, usable))
    u = g.op("Where", begun, g.op("Div", first_d, first_scale), 0.0)
    u = g.op("Clip", u, -sc.DIFFERENCE_CLIP, sc.DIFFERENCE_CLIP)
    last_next = g.concat(x, g.split(last, [rest, C])[0]) if rest else x
    return last_u, u, level, scale, [t, mean_next, var_next, square_next, last_next, u]


def _lstm(g: Graph, cell: LSTM, p: Params, state: str, x: str) -> tuple[str, str]:
    H = cell.hidden
    h, c = g.split(state, [H, H])
    W = p["W"]
    gates = g.op("Gemm", g.concat(h, x), g.constant(W[:, :-1].T), g.constant(W[:, -1]))
    oif, candidate = g.split(gates, [3 * H, H])
    o, i, f = g.split(g.op("Sigmoid", oif), [H, H, H])
    c = g.op("Add", g.op("Mul", i, g.op("Tanh", candidate)), g.op("Mul", f, c))
    h = g.op("Mul", o, g.op("Tanh", c))
    return h, g.concat(h, c)


def _gru(g: Graph, cell: GRU, p: Params, state: str, x: str) -> tuple[str, str]:
    H = cell.hidden
    U, W = p["U"], p["W"]
    hn, rz_h = g.split(g.op("Gemm", state, g.constant(U[:, :-1].T), g.constant(U[:, -1])), [H, 2 * H])
    rz_x, nx = g.split(g.op("Gemm", x, g.constant(W.T), g.constant(np.r_[np.zeros(2 * H), p["b"]])), [2 * H, H])
    r, z = g.split(g.op("Sigmoid", g.op("Add", rz_h, rz_x)), [H, H])
    n = g.op("Tanh", g.op("Add", g.op("Mul", r, hn), nx))
    h = g.op("Add", g.op("Mul", g.op("Sub", state, n), z), n)
    return h, h


EXPORTS: dict[type, Callable[..., tuple[str, str]]] = {LSTM: _lstm, GRU: _gru}


def export_step(network: Network, weights: Weights) -> bytes:
    """The serialized step graph of these weights (copied into it). Deterministic: equal weights, equal bytes."""
    g = Graph()
    scaler, C, H = network.scaler, len(network.spec.channels), network.spec.horizon
    parts = g.split("state", [*scaler.parts, *(cell.state_size for cell in network.cells)])
    last_u, u, level, scale, statistics = _scaler(g, network, parts[: len(scaler.parts)], "x")
    known = ["u"] if network.calendar_size else []
    out = g.concat(u, level, *known)
    hidden = []
    for cell, params, state in zip(network.cells, weights.cells, parts[len(scaler.parts) :], strict=True):
        out, after = EXPORTS[type(cell)](g, cell, params, state, out)
        hidden.append(after)
    W = weights.head["W"]
    readout = g.concat(out, last_u, u, level, *known)
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
