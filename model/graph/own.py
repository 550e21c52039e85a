"""A stream's own readout as ONNX nodes: the twin of `Own.label`, `learn`, `look` and `keep`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from model.answers.mixture import FORGET, LARGEST_FORECAST, TINY_SQUARE, Mixture
from model.answers.own import (
    EXPERTS,
    FIRST_SHARE,
    FORGETTING,
    LARGEST_GAIN,
    LARGEST_WEIGHT,
    START,
    Own,
)
from model.answers.tasks import TARGET_CLIP
from model.graph.builder import Graph
from model.parameters import Weights

LEAST_UNIT = 1e-30  # far below any that is known
SMALL = 1 << 15  # numbers of a matrix of zeros and ones


class Tick(NamedTuple):
    """Names of the values of a tick."""

    model: str  # [B, K] the mixture's p
    inputs: str  # what the mixture's one product reads
    x: str  # [B, K]
    before: str  # [B, K] value of the last tick
    observed: str  # [B, K], 1 or 0; "": all
    scale: str  # [B, K]


def parts(own: Own | None) -> list[int]:
    """Return the sizes of the own readout's parts of a state row."""
    return [bound.size for bound in own.bounds] if own else []


def owned(
    g: Graph, own: Own, mixture: Mixture, weights: Weights, state: list[str], tick: Tick
) -> tuple[str, list[str]]:
    """Return the stream's answer [B, K] and the next values of the parts of the state."""
    readout, gain, given, scale, share, *mixing = state
    K = own.targets
    y, known = _label(g, own, scale, tick)
    there = g.op("Cast", known, to=1)
    by_model, by_own = g.split(given, [K, K])
    error = g.op("Mul", g.op("Sub", y, by_own), there)
    moved = g.op("Add", readout, g.op("Mul", gain, _each(g, own, error)))
    readout = g.op("Where", g.op("LessOrEqual", g.op("Abs", moved), LARGEST_WEIGHT), moved, readout)
    step = g.op("Mul", g.op("Sub", 1.0, share), 1 - FORGETTING)
    share = g.op("Add", share, g.op("Mul", step, there))
    mixing = _mix(g, own, mixing, (by_model, by_own), y, known, there)
    z = _regressors(g, own, mixture, tick.inputs)
    own_p = _sum(g, own, g.op("Mul", z, readout))
    limited = g.op("Clip", g.concat(tick.model, own_p), -LARGEST_FORECAST, LARGEST_FORECAST)
    own_p = g.split(limited, [K, K])[1]
    answer = _answer(g, _weights(g, mixing), tick.model, own_p)
    return answer, [readout, _gain(g, own, weights, z, share), limited, tick.scale, share, *mixing]


def _label(g: Graph, own: Own, scale: str, tick: Tick) -> tuple[str, str]:
    known = g.op("Greater", scale, 0.0)
    if tick.observed:
        known = g.op("And", known, g.op("Greater", tick.observed, 0.0))
    if own.range is not None:
        low, high = (g.constant(ends[None]) for ends in own.range)
        below = g.op("Sub", low, g.op("Min", tick.x, tick.before))
        beyond = g.op("Max", below, g.op("Sub", g.op("Max", tick.x, tick.before), high))
        beyond = g.op("ReduceMax", beyond, axes=[1], keepdims=1)
        known = g.op("And", known, g.op("LessOrEqual", beyond, 0.0))
    moved = g.op("Sub", tick.x, tick.before)
    unit = g.op("Where", known, scale, 1.0) if g.edition == 1 else g.op("Max", scale, LEAST_UNIT)
    y = g.op("Div", moved, unit)
    return g.op("Clip", y, -TARGET_CLIP, TARGET_CLIP), known


def _each(g: Graph, own: Own, value: str) -> str:
    """Repeat [B, K] for each regressor, [B, K·n]; a single target is broadcast."""
    if own.targets == 1:
        return value
    return str(g.op("Gather", value, g.constant(np.repeat(np.arange(own.targets), own.n), np.int64), axis=1))


def _total(g: Graph, value: str, axis: int = 1, keepdims: int = 1) -> str:
    return str(g.op("ReduceSum", value, g.constant([axis], np.int64), keepdims=keepdims))


def _sum(g: Graph, own: Own, value: str) -> str:
    """Return the sum of [B, K·n] over a target's regressors, [B, K]."""
    if own.targets == 1:
        return _total(g, value)
    return _total(g, g.op("Reshape", value, g.constant([0, own.targets, own.n], np.int64)), axis=2, keepdims=0)


def _mix(g: Graph, own: Own, mixing: list[str], given: tuple[str, str], y: str, known: str, there: str) -> list[str]:
    """Return the next state of the weights."""
    regret, squares, largest = mixing
    K = own.targets
    answer = _answer(g, _weights(g, mixing), *given)
    slope = g.op("Mul", g.op("Mul", g.op("Sub", answer, y), 2.0), there)
    off = g.concat(*(g.op("Sub", answer, part) for part in given), answer)
    gained = g.op("Mul", off, g.concat(*[slope] * (EXPERTS if K > 1 else 1)))
    counted = known if g.edition == 1 else there
    if K > 1:
        count = _total(g, there)
        gained = g.op("MatMul", gained, g.constant(np.repeat(np.eye(EXPERTS), K, axis=0)))
        gained = g.op("Div", gained, g.op("Max", count, 1.0))
        counted = g.op("Greater", count, 0.0) if g.edition == 1 else g.op("Clip", count, 0.0, 1.0)
    if g.edition == 1:
        keep = g.op("Where", counted, FORGET, 1.0)
    else:  # `counted` is 1 or 0
        keep = g.op("HardSigmoid", counted, alpha=FORGET - 1, beta=1.0)
    square = g.op("Mul", gained, gained)
    most = g.op("ReduceMax", square, axes=[1], keepdims=1)
    return [
        g.op("Add", g.op("Mul", keep, regret), gained),
        g.op("Add", g.op("Mul", keep, squares), square),
        g.op("Max", g.op("Mul", keep, largest), most),
    ]


def _weights(g: Graph, mixing: list[str]) -> list[str]:
    """Return the weights of the model and of the own readout, [B, 1] each."""
    regret, squares, largest = mixing
    size = g.op("Add", g.op("Add", largest, squares), TINY_SQUARE)
    first = g.constant(FIRST_SHARE * np.eye(1, EXPERTS))
    share = g.op("Add", g.op("Div", g.op("Relu", regret), size), first)
    weights: list[str] = g.split(g.op("Div", share, _total(g, share)), [1] * EXPERTS)
    return weights[:2]


def _answer(g: Graph, weights: list[str], model: str, own: str) -> str:
    return str(g.op("Add", g.op("Mul", weights[0], model), g.op("Mul", weights[1], own)))


def _regressors(g: Graph, own: Own, mixture: Mixture, inputs: str) -> str:
    """Return the regressors [B, K·n] among the inputs of the mixture's product, and a one.

    As a product with zeros and ones, which is exact, where that is small: onnxruntime gathers each value by itself.
    """
    K, seasons = own.targets, len(mixture.columns.periods)
    before = mixture.columns.every - 2 * seasons  # regressors before those of the seasons
    size = mixture.size + mixture.columns.every * K
    bias, target = mixture.size, np.arange(K)[:, None]
    base = np.where(own.base == bias, size, own.base)
    recent = mixture.size + np.arange(before) * K + target
    season, part = np.divmod(np.arange(2 * seasons), 2)  # in the graph, all values off come before all changes
    columns = mixture.size + (before + part * seasons + season) * K + target
    at = np.concatenate([base, recent, columns], axis=1).reshape(-1)
    if g.edition > 1 and size * len(at) <= SMALL:
        chosen = np.eye(size + 1, dtype=np.float32)[:, at]
        return str(g.op("Gemm", inputs, g.constant(chosen[:-1]), g.constant(chosen[-1])))
    whole = g.op("Pad", inputs, g.constant([0, 0, 0, 1], np.int64), g.constant(1.0))
    return str(g.op("Gather", whole, g.constant(at, np.int64), axis=1))


def _gain(g: Graph, own: Own, weights: Weights, z: str, share: str) -> str:
    """Return the gains [B, K·n]."""
    K, n = own.targets, own.n
    axes, squares = weights.experts["own_axes"], np.maximum(weights.experts["own_squares"], 0)
    last = 1
    if K > 1:  # [K, B, n]
        z = g.op("Transpose", g.op("Reshape", z, g.constant([0, K, n], np.int64)), perm=[1, 0, 2])
        share = g.op("Reshape", g.op("Transpose", share, perm=[1, 0]), g.constant([K, -1, 1], np.int64))
        last = 2
    shape = (1, n) if K == 1 else (K, 1, n)
    transposed = axes.transpose(0, 2, 1)
    along = g.op("MatMul", z, g.constant(axes[0] if K == 1 else axes))
    learned = g.op("Mul", share, g.constant(squares.reshape(shape) / np.float32(1 - FORGETTING)))
    precision = g.op("Add", g.op("Mul", g.op("Sub", 1.0, share), 1 / START), learned)
    part = g.op("Div", along, g.op("Max", precision, 1 / START))
    energy = g.op("Add", _total(g, g.op("Mul", along, part), axis=last), FORGETTING)
    gain = g.op("Div", g.op("MatMul", part, g.constant(transposed[0] if K == 1 else transposed)), energy)
    gain = g.op("Clip", gain, -LARGEST_GAIN, LARGEST_GAIN)
    if K == 1:
        return str(gain)
    return str(g.op("Reshape", g.op("Transpose", gain, perm=[1, 0, 2]), g.constant([0, K * n], np.int64)))
