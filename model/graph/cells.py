"""Cells as ONNX: the twins of one step of `Cell.forward`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from model.attend import phases
from model.cells.attention import Block
from model.cells.between import Between
from model.cells.contract import FLOOR, Params
from model.cells.gru import GRU
from model.cells.gru_before import GRUBefore
from model.cells.kernels import EPS
from model.cells.lru import LRU, rates
from model.cells.lstm import LSTM
from model.cells.mingru import MinGRU
from model.cells.rnn import RNN
from model.graph.builder import Graph

NOWHERE = 1e30  # times −1 or less: a score that no other is below
Layer = tuple[str, list[str]]  # output [B, H], and the next state's parts [B, …], as in `Cell.bounds`


def layer(g: Graph, cell: Any, p: Params, state: Sequence[str], x: Sequence[str]) -> Layer:
    """Add one step of a cell: parts of state and input, [B, …] each → output and the next state's parts."""
    return EXPORTS[type(cell)](g, cell, p, state, x)


def _parts(g: Graph, x: str, W: Any, first: int) -> tuple[str, str]:
    """Return the first columns of W·[x; 1], and the others: as two products, because a split copies."""
    if g.edition == 1:
        first_part, second = g.split(_linear(g, x, W), [first, len(W) - first])
        return first_part, second
    return _linear(g, x, W[:first]), _linear(g, x, W[first:])


def _lstm(g: Graph, cell: LSTM, p: Params, state: Sequence[str], x: Sequence[str]) -> Layer:
    H = cell.hidden
    h, c = state
    W = p["W"]
    oif, candidate = _parts(g, g.concat(h, *x), W, 3 * H)
    o, i, f = g.split(g.op("Sigmoid", oif), [H, H, H])
    c = g.op("Add", g.op("Mul", i, g.op("Tanh", candidate)), g.op("Mul", f, c))
    h = g.op("Mul", o, g.op("Tanh", c))
    return h, [h, c]


def _gru(g: Graph, cell: GRU, p: Params, state: Sequence[str], x: Sequence[str]) -> Layer:
    H = cell.hidden
    U, W = p["U"], p["W"]
    (h,) = state
    hn, rz_h = _parts(g, h, U, H)
    if g.edition == 1:
        input_bias = g.constant(np.r_[np.zeros(2 * H), p["b"]])
        rz_x, nx = g.split(g.op("Gemm", g.concat(*x), g.constant(W.T), input_bias), [2 * H, H])
        rz = g.op("Add", rz_h, rz_x)
    else:
        inputs = g.concat(*x)
        rz = g.op("Gemm", inputs, g.constant(W[: 2 * H].T), rz_h)
        nx = g.op("Gemm", inputs, g.constant(W[2 * H :].T), g.constant(p["b"]))
    r, z = g.split(g.op("Sigmoid", rz), [H, H])
    n = g.op("Tanh", g.op("Add", g.op("Mul", r, hn), nx))
    h = g.op("Add", g.op("Mul", g.op("Sub", h, n), z), n)
    return h, [h]


def _gru_before(g: Graph, cell: GRUBefore, p: Params, state: Sequence[str], x: Sequence[str]) -> Layer:
    H = cell.hidden
    U, W = p["U"], p["W"]
    (h,) = state
    rz_x, nx = _parts(g, g.concat(*x), W, 2 * H)
    if g.edition == 1:
        rz = g.op("Add", g.op("MatMul", h, g.constant(U[: 2 * H].T)), rz_x)
    else:
        rz = g.op("Gemm", h, g.constant(U[: 2 * H].T), rz_x)
    rz = g.op("Sigmoid", rz)
    r, z = g.split(rz, [H, H])
    reset = g.op("Mul", r, h)
    if g.edition == 1:
        n = g.op("Tanh", g.op("Add", g.op("MatMul", reset, g.constant(U[2 * H :].T)), nx))
    else:
        n = g.op("Tanh", g.op("Gemm", reset, g.constant(U[2 * H :].T), nx))
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
    W = np.c_[W[:, :-1], W[:, -1] + floor]
    gate, candidate = _parts(g, g.concat(*x), W, H)
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


def _attention(g: Graph, cell: Block, p: Params, state: Sequence[str], x: Sequence[str]) -> Layer:
    """Heads are kept apart by zeros: one product of the ring with [d, heads] costs less than to reorder the ring."""
    d, W, heads = cell.hidden, cell.window, cell.heads
    own = np.repeat(np.eye(heads), d // heads, axis=0)  # [d, heads]: 1 where a unit belongs to the head
    u = _linear(g, g.concat(*x), p["E"])
    scale = np.r_[np.full(d, (d // heads) ** -0.5), np.ones(2 * d)][:, None]
    biases = np.r_[p["b"][:d], np.zeros(d), p["b"][d:]][:, None]
    q, k, v = g.split(_linear(g, _norm(g, u, d), scale * np.c_[p["QKV"], biases]), [d, d, d])
    keys, values = (
        g.concat(g.op("Slice", ring, *map(g.integers, (d, W * d, 1))), new) if W > 1 else new
        for ring, new in zip(state[:2], (k, v), strict=True)
    )
    filled = g.op("Min", g.op("Add", g.op("Round", state[2]), 1.0), float(W))
    read = _shaped(g, keys, (0, W, d))
    if cell.rotary:
        scores = _turned(g, read, q, cell, own)
    else:
        scores = g.op("MatMul", read, _apart(g, q, own))
        scores = g.op("Add", scores, g.constant(p["lags"][None, :, ::-1].transpose(0, 2, 1)))
    missing = g.op("Min", g.op("Add", g.constant(np.arange(W)[None] - W), filled), 0.0)  # below 0 in empty slots
    scores = g.op("Add", scores, _shaped(g, g.op("Mul", missing, NOWHERE), (0, W, 1)))
    shares = g.op("Transpose", g.op("Softmax", scores, axis=1), perm=[0, 2, 1])
    each = g.op("Mul", g.op("MatMul", shares, _shaped(g, values, (0, W, d))), g.constant(own.T[None]))  # [B, heads, d]
    attended = g.op("ReduceSum", each, g.integers(1), keepdims=0)
    a = g.op("Add", u, g.op("MatMul", attended, g.constant(p["O"].T)))
    inner = g.op("Relu", _linear(g, _norm(g, a, d), p["M1"]))
    y = _norm(g, g.op("Add", a, _linear(g, inner, p["M2"])), d)
    return y, [keys, values, filled]


def _apart(g: Graph, q: str, own: Any) -> str:
    """Return a query [B, d] as [B, d, heads], 0 where a unit belongs to another head."""
    return str(g.op("Mul", _shaped(g, q, (0, own.shape[0], 1)), g.constant(own[None])))


def _turned(g: Graph, keys: str, q: str, cell: Block, own: Any) -> str:
    """Return the scores [B, W, heads] of a query [B, d] and keys [B, W, d], each turned back by its age.

    The twin of `attend.turn`. A pair (x, y) turns to (cos·x − sin·y, cos·y + sin·x): each feature meets the query's
    same feature by the cosine and its neighbour by the sine.
    """
    width, d = cell.hidden // cell.heads, cell.hidden
    angle = phases(cell.window, width, np.float64)[::-1].conj().repeat(2, axis=1)
    cos, sin = np.ones((cell.window, width)), np.zeros((cell.window, width))
    cos[:, : angle.shape[1]], sin[:, : angle.shape[1]] = angle.real, angle.imag
    sin[:, 1::2] *= -1
    units = np.arange(d)
    neighbours = np.where(units % width < angle.shape[1], units - units % width + (units % width ^ 1), units)
    same, other = (g.constant(np.tile(part, cell.heads)[None]) for part in (cos, sin))
    swapped = g.op("Gather", q, g.constant(neighbours, np.int64), axis=1)
    straight = g.op("MatMul", g.op("Mul", keys, same), _apart(g, q, own))
    return str(g.op("Add", straight, g.op("MatMul", g.op("Mul", keys, other), _apart(g, swapped, own))))


def _linear(g: Graph, x: str, W: Any) -> str:
    """Return W·[x; 1]."""
    return str(g.op("Gemm", x, g.constant(W[:, :-1].T), g.constant(W[:, -1])))


def _norm(g: Graph, x: str, features: int) -> str:
    return str(g.op("LayerNormalization", x, g.constant(np.ones(features)), axis=-1, epsilon=EPS))


def _shaped(g: Graph, x: str, shape: Sequence[int]) -> str:
    """Return x in another shape; 0 keeps the dimension, -1 takes the rest."""
    return str(g.op("Reshape", x, g.integers(*shape)))


def _between(g: Graph, cell: Between, p: Params, state: Sequence[str], x: Sequence[str]) -> Layer:
    read = x = [g.concat(*x)]
    if cell.layer_norm:
        gain, bias = (g.constant(row) for row in p["norm"])
        read = [g.op("LayerNormalization", x[0], gain, bias, axis=-1, epsilon=EPS)]
    output, after = layer(g, cell.cell, p, state, read)
    return (g.op("Add", output, x[0]) if cell.residual else output), after


# (graph, cell, parameters, state parts, input parts [B, …]) → `Layer`
EXPORTS: dict[type, Callable[..., Layer]] = {
    LSTM: _lstm, GRU: _gru, GRUBefore: _gru_before, RNN: _rnn, LRU: _lru, MinGRU: _mingru, Block: _attention,
    Between: _between,
}  # fmt: skip
