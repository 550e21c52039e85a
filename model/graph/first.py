"""What graphs of the first edition had otherwise. Such a graph is made only where one was damaged: with the same bytes.

Nothing here ever changes: tests/model/test_editions.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.graph.builder import Graph
from model.graph.scalers import Scaled, Twin, of_channels, share, tick_count
from model.scalers import residual as res
from model.scalers import robust, standard
from model.scalers.contract import ALPHA, TINY, Scaler
from model.scalers.residual import ResidualScaler
from model.scalers.standard import StandardScaler

UNBOUNDED = 1e30  # of a deviation: larger than any value, so much that a value divided by it is 0 in effect


def _above(g: Graph, value: str, dead: float) -> str:
    """See `robust.above`. Rounds as NumPy does, unlike `_share`: what follows may cancel."""
    return str(g.op("Clip", g.op("Div", g.op("Sub", value, dead), 1 - dead), 0.0, 1.0))


def _follow_pace(g: Graph, pace: str, trend: str, size: str) -> tuple[str, str]:
    """See `robust.follow_pace`. size: of the change. Returns the next pace and trend."""
    moved, unset = share(g, size, 0.0, TINY), share(g, pace, TINY, 0.0)
    least = g.op("Add", pace, TINY)
    ratio = g.op("Div", g.op("Add", size, TINY), least)
    off = g.op("Mul", robust.TREND_GAIN, g.op("Div", g.op("Sub", size, pace), g.op("Add", size, least)))
    evidence = g.op("Clip", off, -1.0, 1.0)  # without a change, neither it nor the factor has an effect
    followed = g.op("Mul", g.op("Mul", moved, robust.TREND_RATE), g.op("Sub", evidence, trend))
    trend = g.op("Add", trend, followed)
    swift = slow = g.op("Sqrt", g.op("Clip", ratio, 1 / robust.PACE_REACH, robust.PACE_REACH))
    for _ in range(robust.PACE_ROOTS - 1):
        slow = g.op("Sqrt", slow)
    hurry = g.op("Mul", _above(g, g.op("Mul", trend, evidence), robust.TREND_DEAD), robust.PACE_HURRY)
    factor = g.op("Add", slow, g.op("Mul", hurry, g.op("Sub", swift, slow)))
    grown = g.op("Mul", g.op("Mul", pace, moved), g.op("Sub", factor, 1.0))
    return g.op("Sum", pace, grown, g.op("Mul", unset, size)), trend


def _pull(g: Graph, pace: str, haste: str, root: str, observed: str) -> tuple[str, str, str]:
    """See `robust.pull`. Returns the factor, the level's jump, and the next haste."""
    ratio = g.op("Div", g.op("Add", root, TINY), g.op("Add", pace, TINY))
    factor = g.op("Div", g.op("Clip", ratio, 1 / robust.BAND, robust.BAND), ratio)
    if observed:
        factor = g.op("Add", 1.0, g.op("Mul", observed, g.op("Sub", factor, 1.0)))
        fading = g.op("Div", haste, g.op("Add", 1.0, g.op("Mul", haste, observed)))
    else:
        fading = g.op("Softsign", haste)
    excess = g.op("Max", factor, g.op("Reciprocal", factor))
    # Not as one affine node: rounding near 1 would leave too little of a small haste.
    roused = g.op("Div", g.op("Sub", 1.0, g.op("Reciprocal", g.op("Sqrt", excess))), robust.HASTE_COUNT)
    return factor, share(g, excess, robust.JOLT_FROM, robust.JOLT_TO), g.op("Max", fading, roused)


def _hasty_rate(g: Graph, seen: str, haste: str, observed: str, counted: bool) -> str:
    """See `robust.hasty_rate`. Where nothing was seen yet, the rate has no effect. counted: seen is at least 1."""
    if counted:
        return str(g.op("Max", g.op("Reciprocal", seen), haste, ALPHA))
    a = g.op("Clip", g.op("Max", g.op("Reciprocal", seen), haste), ALPHA, 1.0)
    return str(g.op("Mul", a, observed)) if observed else str(a)


def _least(g: Graph, t: str) -> str:
    """Return the least size of a deviation: UNBOUNDED at the first tick, then TINY. A quotient by it is then 0, a
    bound by it none."""
    return str(g.op("Max", g.op("Mul", share(g, t, 2.0, 1.0), UNBOUNDED), TINY))


def _follow_level(
    g: Graph, shift: str, variance: str, off: str, jolt: str, root: str, least: str, a: str, observed: str
) -> tuple[str, str, str, str, str]:
    """See `robust.follow_level`. Returns the two parts of the distance that the level moves; what the first of them
    leaves; and the next shift and variance."""
    unit = robust.SHIFT_UNIT
    wide = g.op("Max", g.op("Sqrt", variance), root, least)
    evidence = g.op("Clip", g.op("Div", off, wide), -unit, unit)  # times `unit`
    noticed = g.op("Sub", g.op("Mul", evidence, 1 / unit), shift)
    if observed:
        noticed = g.op("Mul", noticed, observed)
    shift = g.op("Add", shift, g.op("Mul", robust.SHIFT_RATE, noticed))
    agreed = g.op("Mul", shift, evidence)
    jump = g.op("Mul", robust.SHIFT_JUMP, share(g, agreed, unit * robust.SHIFT_DEAD, unit))
    jump = g.op("Max", g.op("Mul", jump, observed) if observed else jump, jolt)
    jumped, bound = g.op("Mul", jump, off), g.op("Mul", robust.LEVEL_CAP, wide)
    left = g.op("Sub", off, jumped)
    rest = g.op("Max", g.op("Min", left, bound), g.op("Neg", bound))
    step = g.op("Mul", a, rest)
    trusted = g.op("Mul", a, share(g, agreed, unit, unit * robust.SHIFT_DOUBT))
    squared = g.op("Mul", g.op("Mul", trusted, rest), rest)
    variance = g.op("Mul", g.op("Sub", 1.0, trusted), g.op("Add", variance, squared))
    return jumped, step, left, shift, variance


def _residual(g: Graph, scaler: Scaler, row: Sequence[str], x: str, observed: str) -> Scaled:
    """See `ResidualScaler.update`."""
    C, H = scaler.channels, scaler.horizon
    count, mean, var, square, last, last_u, pace, trend, haste, shift = row
    rest, counted = (H - 1) * C, not observed

    def wide(value: str) -> str:
        """Repeat for each step; a single channel is broadcast."""
        return g.concat(*[value] * (H if C > 1 else 1))

    def first(value: str) -> str:
        return str(g.split(value, [C, rest])[0] if rest else value)

    ticks = tick_count(g, count, observed)
    t = of_channels(g, ticks, C, observed)
    begun = share(g, t, 1.0, 2.0)
    d = g.op("Sub", wide(x), last)
    change = g.op("Mul", first(d), begun)
    pace, trend = _follow_pace(g, pace, trend, g.op("Abs", change))

    if rest:
        steps = g.constant(np.repeat(np.arange(1, H + 1), C)[None])
        seen = g.op("Sub", wide(t) if observed else ticks, steps)
        valid = g.op("Clip", seen, 0.0, 1.0)
        begins = g.op("Mul", share(g, seen, 2.0, 1.0), steps)
        known = g.op("Add", square, g.op("Mul", begins, wide(first(square))))
    else:
        seen = g.op("Sub", t, begun if counted else 1.0)
        valid, known = begun, square
    floor = g.op("Mul", g.op("Sqrt", var), res.RELATIVE_FLOOR)
    bound = g.op("Add", g.op("Max", g.op("Sqrt", known), wide(pace)), wide(floor))
    capped = g.op("Min", g.op("Mul", d, d), g.op("Mul", g.op("Mul", bound, robust.CAP), bound))
    rate = _hasty_rate(g, seen, wide(haste), wide(observed) if observed else "", counted and not rest)
    b = g.op("Mul", rate, valid)
    square = g.op("Add", square, g.op("Mul", b, g.op("Sub", capped, square)))
    factor, jolt, haste = _pull(g, pace, haste, g.op("Sqrt", first(square)), observed)
    square = g.op("Mul", square, wide(factor))
    root = g.op("Sqrt", square)

    off, a, least = g.op("Sub", x, mean), _hasty_rate(g, t, haste, observed, counted), _least(g, t)
    var = g.op("Mul", var, factor)
    jumped, step, _, shift, var = _follow_level(g, shift, var, off, jolt, first(root), least, a, observed)
    sigma = g.op("Add", g.op("Sqrt", var), least)
    level = g.op("Clip", g.op("Div", off, sigma), -res.LEVEL_CLIP, res.LEVEL_CLIP)
    usable = g.op("Add", root, wide(g.op("Mul", sigma, res.RELATIVE_FLOOR)))
    u = g.op("Clip", g.op("Div", change, first(usable)), -res.DIFFERENCE_CLIP, res.DIFFERENCE_CLIP)
    last_next = g.concat(x, g.split(last, [rest, C])[0]) if rest else x
    statistics = [ticks, g.op("Sum", mean, jumped, step), var, square, last_next, u, pace, trend, haste, shift]
    return Scaled([last_u], [u, level], g.op("Mul", usable, valid), statistics)


def _standard(g: Graph, scaler: Scaler, row: Sequence[str], x: str, observed: str) -> Scaled:
    """See `StandardScaler.update`."""
    count, last, deviation, variance, square, pace, trend, haste, shift = row
    C, counted = scaler.channels, not observed
    ticks = tick_count(g, count, observed)
    t = of_channels(g, ticks, C, observed)
    begun = share(g, t, 1.0, 2.0)
    d = g.op("Sub", x, last)
    size = g.op("Abs", g.op("Mul", d, begun))
    pace, trend = _follow_pace(g, pace, trend, size)
    cap = g.op("Mul", g.op("Max", square, g.op("Mul", pace, pace)), robust.CAP)
    capped = g.op("Min", g.op("Mul", size, size), cap)
    seen = g.op("Sub", t, begun if counted else 1.0)
    b = g.op("Mul", begun, _hasty_rate(g, seen, haste, observed, counted))
    square = g.op("Add", square, g.op("Mul", b, g.op("Sub", capped, square)))
    factor, jolt, haste = _pull(g, pace, haste, g.op("Sqrt", square), observed)
    square, variance = g.op("Mul", square, factor), g.op("Mul", variance, factor)

    off, a, root = g.op("Add", deviation, d), _hasty_rate(g, t, haste, observed, counted), g.op("Sqrt", square)
    level = _follow_level(g, shift, variance, off, jolt, root, _least(g, t), a, observed)
    _, step, left, shift, variance = level
    deviation = g.op("Sub", left, step)
    sigma = g.op("Sqrt", variance)
    z = g.op("Clip", g.op("Div", deviation, g.op("Add", sigma, TINY)), -standard.Z_CLIP, standard.Z_CLIP)
    statistics = [ticks, x, deviation, variance, square, pace, trend, haste, shift]
    return Scaled([], [z], g.concat(*[sigma] * scaler.horizon), statistics)


SCALERS: dict[type, Twin] = {ResidualScaler: _residual, StandardScaler: _standard}
