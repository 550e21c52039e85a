"""The mixture's regressors and its one readout as ONNX nodes: the twins of `Columns.update` and `Mixture.product`."""

from __future__ import annotations

import numpy as np

from model.answers.columns import CLIP, LAGS, LEVEL_CLIP, NEVER_ZERO, Columns
from model.answers.mixture import Mixture
from model.graph.builder import Graph
from model.network import Network
from model.parameters import Array, Weights
from model.scalers.contract import TINY


def parts(mixture: Mixture | None) -> list[int]:
    """Return the sizes of the mixture's parts of a state row."""
    return [bound.size for bound in mixture.columns.bounds] if mixture else []


def mixed(
    g: Graph,
    network: Network,
    weights: Weights,
    state: list[str],
    features: list[str],
    x: str,
    slot: str,
    scale: str,
    statistics: list[str],
) -> tuple[str, str, list[str]]:
    """Return p [B, O], the inputs of its product, and the next values of the mixture's parts of the state.

    state: these parts; features: parts of [h; φ]; x: [B, K] values of the targets; slot: [B, 1], unused without
    seasons; scale: [B, H·K]; statistics: means and variances of the targets, [B, K] each, with this tick.
    """
    mixture = network.mixture
    assert mixture is not None
    columns, H, K = mixture.columns, mixture.horizon, mixture.targets
    made = mixture.product(weights.experts, weights.head["W"])
    unit = g.op("Max", scale, TINY)
    first = g.leading(unit, K, (H - 1) * K) if H > 1 else unit
    stored = g.op("Add", x, NEVER_ZERO)
    recent = state[0]
    kept = g.leading(recent, (LAGS - 1) * K, K)
    newest = x if g.edition == 1 else stored  # changes by NEVER_ZERO are none, and one Concat is enough
    changes = g.op("Sub", g.concat(newest, kept), recent)
    changes = _where_stored(g, recent, changes)
    regressors = [_clip(g, g.op("Div", changes, _tiled(g, first, K, LAGS)))]
    regressors.append(_level(g, x, *statistics))
    after, matrices, own = [g.concat(stored, kept)], [_rows(made.Q[..., : columns.before_seasons])], ""
    if columns.slots:
        season, ring = _season(g, columns, state[1], x, stored, slot, unit)
        after.append(ring)
        if H > 1:
            own = _of_steps(g, season, made.S)
            season = g.op("Gather", season, g.constant(_profile(columns), np.int64), axis=1)
        regressors.append(season)
        matrices.append(_season_rows(columns, made.Q[..., columns.before_seasons :], made.S))
    W = np.concatenate([made.W[:, :-1].T, *matrices])
    inputs = g.concat(*features, *regressors)
    p = g.op("Gemm", inputs, g.constant(W), g.constant(made.W[:, -1]))
    return g.op("Add", p, own) if own else p, inputs, after


def _where_stored(g: Graph, kept: str, value: str) -> str:
    """Return `value`, 0 where `kept` is 0: nothing was stored there yet. A Where takes longer than three nodes."""
    if g.edition == 1:
        return str(g.op("Where", g.op("Equal", kept, 0.0), 0.0, value))
    stored = g.op("HardSigmoid", g.op("Abs", kept), alpha=2 / NEVER_ZERO, beta=0.0)
    return str(g.op("Mul", value, stored))


def _clip(g: Graph, value: str) -> str:
    return str(g.op("Clip", value, -CLIP, CLIP))


def _level(g: Graph, x: str, mean: str, variance: str) -> str:
    """See `columns.level`."""
    unit = g.op("Add", g.op("Sqrt", variance), TINY)
    return str(g.op("Clip", g.op("Div", g.op("Sub", x, mean), unit), -LEVEL_CLIP, LEVEL_CLIP))


def _tiled(g: Graph, value: str, width: int, times: int) -> str:
    """Repeat the columns of a value; a single one is broadcast."""
    return g.concat(*[value] * (times if width > 1 else 1))


def _season(g: Graph, columns: Columns, ring: str, x: str, stored: str, slot: str, unit: str) -> tuple[str, str]:
    """Return each step's regressors, [B, (2·seasons)·H·K], and the next slots."""
    H, K, seasons = columns.horizon, columns.targets, len(columns.periods)
    past = g.op("GatherElements", ring, _index(g, columns, slot, columns.before), axis=1)  # [B, seasons·K]
    delta = g.op("Sub", _tiled(g, x, K, seasons), past)
    delta = _where_stored(g, past, delta)
    ring = g.op("ScatterElements", ring, _index(g, columns, slot, columns.now.reshape(1)), stored, axis=1)
    values = g.op("GatherElements", ring, _index(g, columns, slot, columns.ahead.reshape(-1)), axis=1)
    off = g.op("Sub", values, _tiled(g, x, K, seasons * H))
    off = _where_stored(g, values, off)
    parts = g.split(delta, [K] * seasons)
    changed = g.concat(*[part for part in parts for _ in range(H)])
    units = g.concat(*[unit] * (2 * seasons)) if 2 * seasons * H * K > 1 else unit
    return _clip(g, g.op("Div", g.concat(off, changed), units)), ring


def _index(g: Graph, columns: Columns, slot: str, offsets: Array) -> str:
    """Return the positions in the ring, int64 [B, len(offsets)·K], at `offsets` slots from each row's."""
    at = g.op("Floor", g.op("Mod", g.op("Add", slot, g.constant(offsets[None])), float(columns.slots), fmod=1))
    at = g.op("Cast", at, to=7)
    if columns.targets == 1:
        return str(at)
    K = columns.targets
    repeated = g.op("Gather", at, g.constant(np.repeat(np.arange(len(offsets)), K), np.int64), axis=1)
    scaled = g.op("Mul", repeated, g.constant([K], np.int64))
    return str(g.op("Add", scaled, g.constant(np.tile(np.arange(K), len(offsets))[None], np.int64)))


def _rows(Q: Array) -> Array:
    """Return the matrix [n·K, O] of regressors [n, K] that a target sees only of its own. Q: [H, K, n]."""
    H, K, n = Q.shape
    out = np.zeros((n, K, H, K))
    for k in range(K):
        out[:, k, :, k] = Q[:, k].T
    return out.reshape(n * K, H * K)


def _of_steps(g: Graph, season: str, S: Array) -> str:
    """Return the part of p that each step's own regressors give, [B, O]. season: [B, (2·seasons)·O]."""
    H, K, n = S.shape
    coefficients = np.concatenate([S[..., ::2], S[..., 1::2]], axis=2).transpose(2, 0, 1)  # [off, changed] × season
    total, *rest = g.split(g.op("Mul", season, g.constant(coefficients.reshape(1, -1))), [H * K] * n)
    for part in rest:
        total = g.op("Add", total, part)
    return total


def _profile(columns: Columns) -> Array:
    """Return the columns of `_season` that every step reads: [off at the profile's steps, change] × season × target."""
    H, K, seasons = columns.horizon, columns.targets, len(columns.periods)
    place = np.arange(2 * seasons * H * K).reshape(2, seasons, H, K)
    return np.concatenate([np.r_[place[0, s, columns.profile].ravel(), place[1, s, -1]] for s in range(seasons)])


def _season_rows(columns: Columns, Q: Array, S: Array) -> Array:
    """Return the matrix of the season's regressors. Horizon 1: of all of `_season`; above: of `_profile`.

    Q [H, K, seasons·(profile + 1)]: coefficients of the profile; S [H, K, 2·seasons]: of the own step.
    """
    if columns.horizon > 1:
        return _rows(Q)
    K, seasons = columns.targets, len(columns.periods)
    both = (Q + S).reshape(1, K, seasons, 2).transpose(0, 1, 3, 2).reshape(1, K, -1)  # [off, changed] × season
    return _rows(both)
