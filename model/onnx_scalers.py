"""The scalers as ONNX nodes, each computing what its `update` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from model.onnx_graph import Graph
from model.scaler import ALPHA, MAX_COUNT, TINY, Scaler
from model.scalers import residual as res
from model.scalers import standard
from model.scalers.none import NoScaler
from model.scalers.residual import ResidualScaler
from model.scalers.standard import StandardScaler

UNCAPPED = 2.0**106  # above the square of any difference; times MAX_COUNT still a float32


class Scaled(NamedTuple):
    """Names of values: features that only the head reads, those that all read, scales [B, H·C], next statistics."""

    unseen: list[str]
    seen: list[str]
    scale: str
    parts: list[str]


# statistics parts, x and observed [B, C], "" without hold → what `update` gives
Twin = Callable[[Graph, Scaler, Sequence[str], str, str], Scaled]


def fill(g: Graph, scaler: Scaler, state: str, x: str) -> tuple[str, str]:
    """See `scaler.fill`: what stands for x, and what of it was observed, "" without `hold`."""
    if not scaler.hold:
        return x, ""
    columns = [g.constant([n], np.int64) for n in (scaler.held.start, scaler.held.stop, 1)]
    missing = g.op("IsNaN", x)
    value = g.op("Where", missing, g.op("Slice", state, *columns), x)
    return value, g.op("Where", missing, 0.0, 1.0)


def _count(g: Graph, before: str, observed: str) -> str:
    return str(g.op("Min", g.op("Add", before, observed or 1.0), MAX_COUNT))


def _rate(g: Graph, t: str, observed: str) -> str:
    if not observed:
        return str(g.op("Max", g.op("Reciprocal", t), ALPHA))
    return str(g.op("Mul", g.op("Clip", g.op("Reciprocal", t), ALPHA, 1.0), observed))  # 1/0 becomes 1


def _residual(g: Graph, scaler: Scaler, row: Sequence[str], x: str, observed: str) -> Scaled:
    """See `ResidualScaler.update`.

    A choice is a product with 0 or 1, or a bound, for onnxruntime's Where costs as much as three of those. It is the
    same choice because a stream's row begins with zeros and no value is beyond 1e15: every product is finite.
    """
    C, H = scaler.channels, scaler.horizon
    count, mean, var, square, last, last_u = row
    wide = H if C > 1 else 1  # a single channel is broadcast over the horizon

    t = _count(g, count, observed)
    steps = np.repeat(np.arange(1, H + 1), C)[None] if H > 1 else 1.0
    seen = g.op("Sub", g.concat(*[t] * wide) if observed else t, g.constant(steps))
    valid = g.op("Clip", seen, 0.0, 1.0)
    begun = g.op("Clip", g.op("Sub", t, 1.0), 0.0, 1.0) if H > 1 else valid
    a = _rate(g, t, observed)
    e = g.op("Sub", x, mean)
    ae = g.op("Mul", a, e)
    mean_next = g.op("Add", mean, ae)
    var_next = g.op("Mul", g.op("Sub", 1.0, a), g.op("Add", var, g.op("Mul", ae, e)))
    sigma = g.op("Sqrt", var_next)
    level = g.op("Clip", g.op("Div", e, g.op("Add", sigma, TINY)), -res.LEVEL_CLIP, res.LEVEL_CLIP)
    level = g.op("Mul", level, begun)

    d = g.op("Sub", g.concat(*[x] * wide), last)
    floor = g.concat(*[g.op("Mul", sigma, res.RELATIVE_FLOOR)] * wide)
    bound = g.op("Add", g.op("Sqrt", square), floor)
    uncapped = g.op("Mul", g.op("Sub", res.WARM_DIFFERENCES + 1.0, seen), UNCAPPED)
    cap = g.op("Max", g.op("Mul", g.op("Mul", bound, res.CAP), bound), uncapped)
    q = g.op("Min", g.op("Mul", d, d), cap)
    b = g.op("Mul", g.op("Clip", g.op("Reciprocal", seen), ALPHA, 1.0), valid)
    if observed:
        b = g.op("Mul", b, g.concat(*[observed] * wide))
    square_next = g.op("Add", square, g.op("Mul", b, g.op("Sub", q, square)))
    usable = g.op("Add", g.op("Add", g.op("Sqrt", square_next), floor), TINY)
    scale = g.op("Mul", usable, valid)

    rest = (H - 1) * C
    first_d, first_scale = (g.split(v, [C, rest])[0] if rest else v for v in (d, usable))
    u = g.op("Clip", g.op("Div", first_d, first_scale), -res.DIFFERENCE_CLIP, res.DIFFERENCE_CLIP)
    u = g.op("Mul", u, begun)
    last_next = g.concat(x, g.split(last, [rest, C])[0]) if rest else x
    return Scaled([last_u], [u, level], scale, [t, mean_next, var_next, square_next, last_next, u])


def _standard(g: Graph, scaler: Scaler, row: Sequence[str], x: str, observed: str) -> Scaled:
    """See `StandardScaler.update`."""
    count, last, deviation, variance = row
    t = _count(g, count, observed)
    a = _rate(g, t, observed)
    kept = g.op("Sub", 1.0, a)
    e = g.op("Add", deviation, g.op("Sub", x, last))
    deviation_next = g.op("Mul", kept, e)
    variance_next = g.op("Mul", kept, g.op("Add", variance, g.op("Mul", a, g.op("Mul", e, e))))
    sigma = g.op("Sqrt", variance_next)
    z = g.op("Div", deviation_next, g.op("Add", sigma, TINY))
    z = g.op("Clip", z, -standard.Z_CLIP, standard.Z_CLIP)
    return Scaled([], [z], g.concat(*[sigma] * scaler.horizon), [t, x, deviation_next, variance_next])


def _none(g: Graph, scaler: Scaler, row: Sequence[str], x: str, observed: str) -> Scaled:
    """See `NoScaler.update`."""
    if observed:
        unit = g.op("Max", row[1], observed)
        return Scaled([], [x], g.concat(*[unit] * scaler.horizon), [x, unit])
    return Scaled([], [x], g.constant(np.ones((1, scaler.horizon * scaler.channels))), [])


SCALER_TWINS: dict[type, Twin] = {ResidualScaler: _residual, StandardScaler: _standard, NoScaler: _none}
