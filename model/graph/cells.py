"""Cells as ONNX: the twins of one step of `Cell.forward`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from model.cells.between import EPS, Between
from model.cells.contract import FLOOR, Params
from model.cells.gru import GRU
from model.cells.gru_before import GRUBefore
from model.cells.lru import LRU, rates
from model.cells.lstm import LSTM
from model.cells.mingru import MinGRU
from model.cells.rnn import RNN
from model.graph.builder import Graph

Layer = tuple[str, list[str]]  # output [B, H], and the next state's parts [B, …], as in `Cell.bounds`


def layer(g: Graph, cell: Any, p: Params, state: Sequence[str], x: Sequence[str]) -> Layer:
    """Add one step of a cell: parts of state and input, [B, …] each → output and the next state's parts."""
    return EXPORTS[type(cell)](g, cell, p, state, x)


def _lstm(g: Graph, cell: LSTM, p: Params, state: Sequence[str], x: Sequence[str]) -> Layer:
    H = cell.hidden
    h, c = state
    W = p["W"]
    gates = g.op("Gemm", g.concat(h, *x), g.constant(W[:, :-1].T), g.constant(W[:, -1]))
    oif, candidate = g.split(gates, [3 * H, H])
    o, i, f = g.split(g.op("Sigmoid", oif), [H, H, H])
    c = g.op("Add", g.op("Mul", i, g.op("Tanh", candidate)), g.op("Mul", f, c))
    h = g.op("Mul", o, g.op("Tanh", c))
    return h, [h, c]


def _gru(g: Graph, cell: GRU, p: Params, state: Sequence[str], x: Sequence[str]) -> Layer:
    H = cell.hidden
    U, W = p["U"], p["W"]
    (h,) = state
    hn, rz_h = g.split(g.op("Gemm", h, g.constant(U[:, :-1].T), g.constant(U[:, -1])), [H, 2 * H])
    input_bias = g.constant(np.r_[np.zeros(2 * H), p["b"]])
    rz_x, nx = g.split(g.op("Gemm", g.concat(*x), g.constant(W.T), input_bias), [2 * H, H])
    r, z = g.split(g.op("Sigmoid", g.op("Add", rz_h, rz_x)), [H, H])
    n = g.op("Tanh", g.op("Add", g.op("Mul", r, hn), nx))
    h = g.op("Add", g.op("Mul", g.op("Sub", h, n), z), n)
    return h, [h]


def _gru_before(g: Graph, cell: GRUBefore, p: Params, state: Sequence[str], x: Sequence[str]) -> Layer:
    H = cell.hidden
    U, W = p["U"], p["W"]
    (h,) = state
    rz_x, nx = g.split(g.op("Gemm", g.concat(*x), g.constant(W[:, :-1].T), g.constant(W[:, -1])), [2 * H, H])
    rz = g.op("Sigmoid", g.op("Add", g.op("MatMul", h, g.constant(U[: 2 * H].T)), rz_x))
    r, z = g.split(rz, [H, H])
    n = g.op("Tanh", g.op("Add", g.op("MatMul", g.op("Mul", r, h), g.constant(U[2 * H :].T)), nx))
    h = g.op("Add", g.op("Mul", g.op("Sub", h, n), z), n)
    return h, [h]


def _rnn(g: Graph, cell: RNN, p: Params, state: Sequence[str], x: Sequence[str]) -> Layer:
    W = p["W"]
    a = g.op("Gemm", g.concat(*state, *x), g.constant(W[:, :-1].T), g.constant(W[:, -1]))
    h = g.op({"tanh": "Tanh", "relu": "Relu"}[cell.activation], a)
    return h, [h]


def _mingru(g: Graph, cell: MinGRU, p: Params, state: Sequence[str], x: Sequence[str]) -> Layer:
    H = cell.hidden
    W = p["W"]
    (h,) = state
    floor = np.repeat(np.array([0, FLOOR], np.float32), H)
    gate, candidate = g.split(g.op("Gemm", g.concat(*x), g.constant(W[:, :-1].T), g.constant(W[:, -1] + floor)), [H, H])
    z = g.op("Sigmoid", gate)
    h = g.op("Add", g.op("Mul", g.op("Sub", 1.0, z), h), g.op("Mul", z, candidate))
    return h, [h]


def _lru(g: Graph, cell: LRU, p: Params, state: Sequence[str], x: Sequence[str]) -> Layer:
    H = cell.hidden
    W = p["W"]
    of = rates(p)
    real, imaginary = state
    gamma, floor = np.tile(of.gamma, 2)[:, None], np.full(2 * H, FLOOR)
    u = g.op("Gemm", g.concat(*x), g.constant((p["B"] * gamma).T), g.constant(floor))
    stay = g.op("Mul", g.concat(real, imaginary), g.constant(np.tile(of.real, 2)[None]))
    crossed = g.op("Mul", g.concat(imaginary, real), g.constant(np.concatenate([-of.imaginary, of.imaginary])[None]))
    s = g.op("Add", g.op("Add", stay, crossed), u)
    y = g.op("Relu", g.op("Gemm", g.concat(s, *x), g.constant(W[:, :-1].T), g.constant(W[:, -1])))
    return y, [s]


def _between(g: Graph, cell: Between, p: Params, state: Sequence[str], x: Sequence[str]) -> Layer:
    read = x = [g.concat(*x)]
    if cell.layer_norm:
        gain, bias = (g.constant(row) for row in p["norm"])
        read = [g.op("LayerNormalization", x[0], gain, bias, axis=-1, epsilon=EPS)]
    output, after = layer(g, cell.cell, p, state, read)
    return (g.op("Add", output, x[0]) if cell.residual else output), after


# (graph, cell, parameters, state parts, input parts [B, …]) → `Layer`
EXPORTS: dict[type, Callable[..., Layer]] = {
    LSTM: _lstm, GRU: _gru, GRUBefore: _gru_before, RNN: _rnn, LRU: _lru, MinGRU: _mingru, Between: _between,
}  # fmt: skip
