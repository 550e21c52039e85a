"""Gradient of one window by truncated backpropagation through time (Williams & Peng 1990).

With rule rtrl, the start states come with their traces, and the gradient covers all ticks before the window too.

One signature serves every kind of label: `weight` marks the outputs and positions that have one. Labels of the newest
tick only, of horizon h, late labels, whole windows and padding differ only in this mask.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from model.network import Network, Tape
from model.parameters import Array, Weights
from model.update.rounds import padded_rows


class Batch(NamedTuple):
    """The data of one update: T ticks of B rows. Rows with fewer ticks are padded at the end with weight 0."""

    start: Array  # [B, hidden_size] hidden states before the first input
    X: Array  # [T, B, E] feature rows
    Y: Array  # [T, B, O] scaled targets
    weight: Array  # [T, B, O]; 0 where there is no label
    trace: Array | None = None  # [B, trace_size] of the start states, with rule rtrl


def padded(batch: Batch) -> Batch:
    """Return the batch with unlabelled zero rows appended up to one of PADDED_ROWS, the sizes that tapes have."""
    size = padded_rows(len(batch.start))
    X, Y, weight = (pad_rows(size, a, 1) for a in (batch.X, batch.Y, batch.weight))
    trace = None if batch.trace is None else pad_rows(size, batch.trace, 0)
    return Batch(pad_rows(size, batch.start, 0), X, Y, weight, trace)


def pad_rows(size: int, array: Array, axis: int) -> Array:
    """Return `array` with zeros appended along `axis` up to length `size`; itself if it has that length."""
    missing = size - array.shape[axis]
    if not missing:
        return array
    widths: list[Any] = [(0, 0)] * array.ndim
    widths[axis] = (0, missing)
    return np.pad(array, widths)


def labelled(weight: Array) -> tuple[int, int]:
    """Return the first position with a label and one past the last, of weight [T, B, O]; (0, 0) without labels."""
    positions = np.flatnonzero(weight.any(axis=(1, 2)))
    return (int(positions[0]), int(positions[-1]) + 1) if len(positions) else (0, 0)


def predict(
    network: Network, weights: Weights, batch: Batch, tape: Tape, span: tuple[int, int], read: int | None = None
) -> Array:
    """Return scaled forecasts p [t1 − t0, B, O] at positions t0..t1 of `span`. The tape then allows a `backward`.

    read: the first position whose hidden state the caller reads, if that is before the span.
    """
    t0, t1 = span
    H = network.forward(weights, batch.start, batch.X, tape, t0 if read is None else min(t0, read))[t0:t1]
    n = (t1 - t0) * tape.B
    p = network.head.forward(weights.head, H.reshape(n, -1), tape.F[t0:t1].reshape(n, -1))
    return p.reshape(t1 - t0, tape.B, -1)


def gradient(
    network: Network, weights: Weights, batch: Batch, tape: Tape, grad: Weights, read: int | None = None
) -> tuple[float, Array, tuple[int, int]]:
    """Compute loss and gradient of a batch: forward, loss at the labelled positions, backward over all T.

    The loss is summed over a row's labelled outputs and averaged over rows with a label. grad is overwritten; it is
    zero in frozen parts, so that its norm covers only what learns. read: see `predict`.
    Returns the loss, the forecasts p and the span of their positions (see `predict`).
    """
    t0, t1 = span = labelled(batch.weight)
    grad.flat[...] = 0
    p = predict(network, weights, batch, tape, span, read)
    each, dp = network.loss(p, batch.Y[t0:t1], batch.weight[t0:t1])
    rows = max(1, int(batch.weight.any(axis=(0, 2)).sum()))
    dp /= rows
    n = (t1 - t0) * tape.B
    H = tape.H[t0:t1].reshape(n, -1)
    dH = network.head.backward(weights.head, H, tape.F[t0:t1].reshape(n, -1), dp.reshape(n, -1), grad.head)
    tape.dH[...] = 0
    tape.dH[t0:t1] = dH.reshape(t1 - t0, tape.B, -1)
    dseen, dstate = network.backward(weights, tape, tape.dH, grad)
    if batch.trace is not None and network.traced is not None:
        network.traced.trace_gradient(batch.trace, dstate, grad.cells[0])
    if dseen is not None:
        _embed_backward(network, weights, batch, dseen, dp, span, grad)
    for part in network.frozen:
        grad.flat[part] = 0
    return float(each.sum()) / rows, p, span


def trace_after(network: Network, tape: Tape, trace: Array, steps: int) -> Array:
    """Return ∂(state)/∂(parameters) after `steps` steps of the last forward, a new array; only with rule rtrl.

    trace: [B', trace_size], of the start states of the tape's first B' rows; only read. Like the states, a trace is
    computed with the weights of its time: it is exact for weights that do not change.
    """
    assert network.traced is not None
    return network.traced.advance_trace(tape.cells[0], trace, steps)


def _embed_backward(
    network: Network, weights: Weights, batch: Batch, dseen: Array, dp: Array, span: tuple[int, int], grad: Weights
) -> None:
    """Add the gradient of the tables: through the cells, dseen [T, B, seen], and through the head, dp at `span`."""
    T, B = batch.X.shape[:2]
    W = weights.head["W"][:, network.spec.hidden : -1]
    dF = np.zeros((T, B, W.shape[1]), W.dtype)
    dF[span[0] : span[1]] = dp.reshape(-1, B, dp.shape[-1]) @ W
    network.embed_backward(batch.X.reshape(T * B, -1), dF.reshape(T * B, -1), dseen.reshape(T * B, -1), grad)
