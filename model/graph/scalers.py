"""The scalers as ONNX nodes. Each function computes what the scaler's `update` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from model.graph.builder import Graph
from model.scalers import residual as res
from model.scalers import residual_v1 as res_v1
from model.scalers import robust, standard, standard_v1
from model.scalers.contract import ALPHA, MAX_COUNT, TINY, Scaler
from model.scalers.none import NoScaler
from model.scalers.residual import ResidualScaler
from model.scalers.residual_v1 import ResidualScalerV1
from model.scalers.standard import StandardScaler
from model.scalers.standard_v1 import StandardScalerV1

UNCAPPED = 2.0**106  # larger than the square of any difference; times MAX_COUNT it still fits float32

COUNTED = 1 / ALPHA  # ticks after which the rate of the running statistics stays the same


class Scaled(NamedTuple):
    """Names of values: features only for the head, features for all, scales [B, H·C], next statistics."""

    unseen: list[str]
    seen: list[str]
    scale: str
    parts: list[str]


class Counts(NamedTuple):
    """Names of values: the next count of ticks, as in the state; it, and the one before, by channel; 1 from the second
    tick on, else 0."""

    kept: str
    t: str
    before: str  # of a channel that is not observed: any
    begun: str


# (graph, scaler, statistics parts, x [B, C], observed [B, C] or "" without hold) → what `update` returns
Twin = Callable[[Graph, Scaler, Sequence[str], str, str], Scaled]


def fill(g: Graph, scaler: Scaler, state: str, x: str) -> tuple[str, str]:
    """See `contract.fill`: x with missing values replaced, and the mask, "" without `hold`."""
    if not scaler.hold:
        return x, ""
    columns = [g.constant([n], np.int64) for n in (scaler.held.start, scaler.held.stop, 1)]
    missing = g.op("IsNaN", x)
    value = g.op("Where", missing, g.op("Slice", state, *columns), x)
    if g.edition == 1:
        return value, g.op("Where", missing, 0.0, 1.0)
    return value, g.op("Cast", g.op("Not", missing), to=1)


def tick_count(g: Graph, before: str, observed: str) -> str:
    """See `contract.count`."""
    return str(g.op("Min", g.op("Add", before, observed or 1.0), MAX_COUNT))


def of_channels(g: Graph, t: str, channels: int, observed: str) -> str:
    """Repeat a count of ticks for each channel: onnxruntime broadcasts a column 15 times more slowly than it adds."""
    return t if observed else g.concat(*[t] * channels)


def _rate(g: Graph, t: str, observed: str) -> str:
    if not observed:
        return str(g.op("Max", g.op("Reciprocal", t), ALPHA))
    return str(g.op("Mul", g.op("Clip", g.op("Reciprocal", t), ALPHA, 1.0), observed))  # 1/0 becomes 1


def share(g: Graph, value: str, none: float, full: float) -> str:
    """Map `value` linearly from none..full to 0..1, clipped: one node."""
    return str(g.op("HardSigmoid", value, alpha=1 / (full - none), beta=-none / (full - none)))


def _part(g: Graph, value: str, none: float, full: float, part: float) -> str:
    """`share`, times a factor of at most 1, of a value that is at most `full`: its upper limit is never needed."""
    return str(g.op("HardSigmoid", value, alpha=part / (full - none), beta=-part * none / (full - none)))


def _counts(g: Graph, scaler: Scaler, count: str, observed: str) -> Counts:
    kept = tick_count(g, count, observed)
    t = of_channels(g, kept, scaler.channels, observed)
    before = count if observed or scaler.channels == 1 else str(g.op("Sub", t, 1.0))
    return Counts(kept, t, before, share(g, t, 1.0, 2.0))


def _follow_pace(g: Graph, pace: str, trend: str, size: str) -> tuple[str, str]:
    """See `robust.follow_pace`. size: of the change. Returns the next pace and trend.

    Without a change, the ratio is 1: no evidence, and no factor. Evidence is the module's times its rate.
    """
    rate, gain = robust.TREND_RATE, robust.TREND_RATE * robust.TREND_GAIN
    still, unset = share(g, size, TINY, 0.0), share(g, pace, TINY, 0.0)
    ratio = g.op("Clip", g.op("Div", size, g.op("Add", pace, TINY)), 1 / robust.PACE_REACH, robust.PACE_REACH)
    ratio = g.op("Max", ratio, still)
    off = g.op("Sub", g.op("Mul", g.op("Softsign", ratio), 2 * gain), gain)  # (r − 1)/(r + 1) is 2·r/(r + 1) − 1
    evidence = g.op("Clip", off, -rate, rate)
    trend = g.op("Add", g.op("Mul", trend, g.op("Max", still, 1 - rate)), evidence)
    swift = slow = g.op("Sqrt", ratio)
    for _ in range(robust.PACE_ROOTS - 1):
        slow = g.op("Sqrt", slow)
    agreed = _part(g, g.op("Mul", trend, evidence), rate * robust.TREND_DEAD, rate, robust.PACE_HURRY)
    hurry = g.op("Mul", agreed, g.op("Sub", swift, slow))
    return g.op("Add", g.op("Mul", pace, g.op("Add", slow, hurry)), g.op("Mul", unset, size)), trend


def _pull(g: Graph, pace: str, haste: str, root: str, observed: str) -> tuple[str, str, str]:
    """See `robust.pull`. Returns the factor, the level's jump, and the next haste."""
    ratio = g.op("Div", g.op("Add", root, TINY), g.op("Add", pace, TINY))
    factor = g.op("Div", g.op("Clip", ratio, 1 / robust.BAND, robust.BAND), ratio)
    if observed:
        factor = g.op("Add", 1.0, g.op("Mul", observed, g.op("Sub", factor, 1.0)))
        fading = g.op("Div", haste, g.op("Add", 1.0, g.op("Mul", haste, observed)))
    else:
        fading = g.op("Softsign", haste)
    excess, full = g.op("Max", factor, g.op("Reciprocal", factor)), 1 / robust.HASTE_COUNT
    roused = g.op("HardSigmoid", g.op("Reciprocal", g.op("Sqrt", excess)), alpha=-full, beta=full)
    return factor, share(g, excess, robust.JOLT_FROM, robust.JOLT_TO), g.op("Max", fading, roused)


def _hasty_rate(g: Graph, seen: str, haste: str, observed: str) -> str:
    """See `robust.hasty_rate`; haste is at most 1."""
    a = g.op("Max", g.op("Reciprocal", g.op("Clip", seen, 1.0, COUNTED)), haste)
    return str(g.op("Mul", a, observed)) if observed else str(a)


def _follow_level(
    g: Graph, shift: str, variance: str, off: str, jolt: str, root: str, begun: str, a: str, observed: str
) -> tuple[str, str, str, str, str]:
    """See `robust.follow_level`. Returns the two parts of the distance that the level moves; what the first of them
    leaves; and the next shift and variance.

    At the first tick, and where nothing was observed, `wide` is infinite: no evidence, and no bound.
    """
    unit, rate = robust.SHIFT_UNIT, robust.SHIFT_RATE
    wide = g.op("Max", g.op("Sqrt", variance), root, TINY)
    wide = g.op("Div", wide, g.op("Mul", begun, observed) if observed else begun)
    evidence = g.op("Clip", g.op("Div", off, wide), -unit, unit)  # times `unit`
    kept = g.op("HardSigmoid", observed, alpha=-rate, beta=1.0) if observed else 1 - rate
    shift = g.op("Add", g.op("Mul", shift, kept), g.op("Mul", evidence, rate / unit))
    agreed = g.op("Mul", shift, evidence)
    jump = _part(g, agreed, unit * robust.SHIFT_DEAD, unit, robust.SHIFT_JUMP)
    jumped, bound = g.op("Mul", g.op("Max", jump, jolt), off), g.op("Mul", robust.LEVEL_CAP, wide)
    left = g.op("Sub", off, jumped)
    rest = g.op("Max", g.op("Min", left, bound), g.op("Neg", bound))
    step = g.op("Mul", a, rest)
    trusted = g.op("Mul", a, share(g, agreed, unit, unit * robust.SHIFT_DOUBT))
    squared = g.op("Mul", g.op("Mul", trusted, rest), rest)
    variance = g.op("Mul", g.op("Sub", 1.0, trusted), g.op("Add", variance, squared))
    return jumped, step, left, shift, variance


def _wide(g: Graph, scaler: Scaler, value: str) -> str:
    """Repeat for each step; a single channel is broadcast."""
    return g.concat(*[value] * (scaler.horizon if scaler.channels > 1 else 1))


def _first(g: Graph, scaler: Scaler, value: str) -> str:
    """Return the columns of the first step."""
    C, H = scaler.channels, scaler.horizon
    return g.leading(value, C, (H - 1) * C) if H > 1 else value


def _squares(
    g: Graph, scaler: Scaler, count: Counts, var: str, square: str, change: tuple[str, str, str], haste: str,
    observed: str,
) -> tuple[str, str]:  # fmt: skip
    """See `ResidualScaler._update_squares`. Returns the next mean squares, and 1 or 0 for those that are valid.

    change: all differences, the size of the first, the pace. A first difference over one step is 0, and so is its cap:
    its rate has no effect.
    """
    C, H = scaler.channels, scaler.horizon
    d, size, pace = change
    known, valid, rate = square, count.begun, ""
    if H > 1:
        steps = g.fixed(np.repeat(np.arange(1, H + 1, dtype=np.float32), C)[None])
        seen = g.op("Sub", _wide(g, scaler, count.t) if observed else count.kept, steps)
        begins = g.op("Mul", share(g, seen, 2.0, 1.0), steps)
        known = g.op("Add", square, g.op("Mul", begins, _wide(g, scaler, _first(g, scaler, square))))
        valid = g.op("Clip", seen, 0.0, 1.0)
        ended = _wide(g, scaler, observed) if observed else ""
        rate = g.op("Mul", _hasty_rate(g, seen, _wide(g, scaler, haste), ended), valid)
    floor = g.op("Mul", g.op("Sqrt", var), res.RELATIVE_FLOOR)
    bound = g.op("Add", g.op("Max", g.op("Sqrt", known), _wide(g, scaler, pace)), _wide(g, scaler, floor))
    if H > 1:
        capped = g.op("Min", g.op("Mul", d, d), g.op("Mul", g.op("Mul", bound, robust.CAP), bound))
    else:
        rate = _hasty_rate(g, count.before, haste, observed)
        reach = g.op("Min", size, g.op("Mul", bound, float(np.sqrt(robust.CAP))))
        capped = g.op("Mul", reach, reach)
    return g.op("Add", square, g.op("Mul", rate, g.op("Sub", capped, square))), valid


def _residual(g: Graph, scaler: Scaler, row: Sequence[str], x: str, observed: str) -> Scaled:
    """See `ResidualScaler.update`."""
    C, H = scaler.channels, scaler.horizon
    ticks, mean, var, square, last, last_u, pace, trend, haste, shift = row
    count = _counts(g, scaler, ticks, observed)
    d = g.op("Sub", _wide(g, scaler, x), last)
    first = g.op("Sub", x, _first(g, scaler, last))  # not of `d`: numbers alone, in a divided step
    change = g.op("Mul", first, count.begun)
    size = g.op("Abs", change)
    pace, trend = _follow_pace(g, pace, trend, size)
    square, valid = _squares(g, scaler, count, var, square, (d, size, pace), haste, observed)
    factor, jolt, haste = _pull(g, pace, haste, g.op("Sqrt", _first(g, scaler, square)), observed)
    square = g.op("Mul", square, _wide(g, scaler, factor))
    root = g.op("Sqrt", square)

    off, a = g.op("Sub", x, mean), _hasty_rate(g, count.t, haste, observed)
    var = g.op("Mul", var, factor)
    moved = _follow_level(g, shift, var, off, jolt, _first(g, scaler, root), count.begun, a, observed)
    jumped, step, _, shift, var = moved
    sigma = g.op("Add", g.op("Sqrt", var), TINY)
    level = g.op("Div", g.op("Mul", off, count.begun), sigma)
    level = g.op("Clip", level, -res.LEVEL_CLIP, res.LEVEL_CLIP)
    usable = g.op("Add", root, _wide(g, scaler, g.op("Mul", sigma, res.RELATIVE_FLOOR)))
    u = g.op("Div", change, _first(g, scaler, usable))
    u = g.op("Clip", u, -res.DIFFERENCE_CLIP, res.DIFFERENCE_CLIP)
    last_next = g.concat(x, g.leading(last, (H - 1) * C, C)) if H > 1 else x
    mean = g.op("Add", g.op("Add", mean, jumped), step)
    statistics = [count.kept, mean, var, square, last_next, u, pace, trend, haste, shift]
    return Scaled([last_u], [u, level], g.op("Mul", usable, valid), statistics)


def _standard(g: Graph, scaler: Scaler, row: Sequence[str], x: str, observed: str) -> Scaled:
    """See `StandardScaler.update`."""
    ticks, last, deviation, variance, square, pace, trend, haste, shift = row
    count = _counts(g, scaler, ticks, observed)
    d = g.op("Sub", x, last)
    size = g.op("Abs", g.op("Mul", d, count.begun))
    pace, trend = _follow_pace(g, pace, trend, size)
    cap = g.op("Mul", g.op("Max", square, g.op("Mul", pace, pace)), robust.CAP)
    capped = g.op("Min", g.op("Mul", size, size), cap)
    b = _hasty_rate(g, count.before, haste, observed)  # no effect at the first tick: both squares are 0
    square = g.op("Add", square, g.op("Mul", b, g.op("Sub", capped, square)))
    factor, jolt, haste = _pull(g, pace, haste, g.op("Sqrt", square), observed)
    square, variance = g.op("Mul", square, factor), g.op("Mul", variance, factor)

    off, a, root = g.op("Add", deviation, d), _hasty_rate(g, count.t, haste, observed), g.op("Sqrt", square)
    level = _follow_level(g, shift, variance, off, jolt, root, count.begun, a, observed)
    _, step, left, shift, variance = level
    deviation = g.op("Sub", left, step)
    sigma = g.op("Sqrt", variance)
    z = g.op("Clip", g.op("Div", deviation, g.op("Add", sigma, TINY)), -standard.Z_CLIP, standard.Z_CLIP)
    statistics = [count.kept, x, deviation, variance, square, pace, trend, haste, shift]
    return Scaled([], [z], g.concat(*[sigma] * scaler.horizon), statistics)


def _residual_v1(g: Graph, scaler: Scaler, row: Sequence[str], x: str, observed: str) -> Scaled:
    """See `ResidualScalerV1.update`.

    Choices are products with 0 or 1, or bounds, because a Where costs onnxruntime as much as three of those. They are
    equivalent because a stream's row starts as zeros and no value exceeds 1e15, so that every product is finite.
    """
    C, H = scaler.channels, scaler.horizon
    count, mean, var, square, last, last_u = row
    wide = H if C > 1 else 1  # a single channel is broadcast over the horizon

    t = tick_count(g, count, observed)
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
    level = g.op("Clip", g.op("Div", e, g.op("Add", sigma, TINY)), -res_v1.LEVEL_CLIP, res_v1.LEVEL_CLIP)
    level = g.op("Mul", level, begun)

    d = g.op("Sub", g.concat(*[x] * wide), last)
    floor = g.concat(*[g.op("Mul", sigma, res_v1.RELATIVE_FLOOR)] * wide)
    bound = g.op("Add", g.op("Sqrt", square), floor)
    uncapped = g.op("Mul", g.op("Sub", res_v1.WARM_DIFFERENCES + 1.0, seen), UNCAPPED)
    cap = g.op("Max", g.op("Mul", g.op("Mul", bound, res_v1.CAP), bound), uncapped)
    q = g.op("Min", g.op("Mul", d, d), cap)
    b = g.op("Mul", g.op("Clip", g.op("Reciprocal", seen), ALPHA, 1.0), valid)
    if observed:
        b = g.op("Mul", b, g.concat(*[observed] * wide))
    square_next = g.op("Add", square, g.op("Mul", b, g.op("Sub", q, square)))
    usable = g.op("Add", g.op("Add", g.op("Sqrt", square_next), floor), TINY)
    scale = g.op("Mul", usable, valid)

    rest = (H - 1) * C
    first_d, first_scale = (g.leading(v, C, rest) if rest else v for v in (d, usable))
    u = g.op("Clip", g.op("Div", first_d, first_scale), -res_v1.DIFFERENCE_CLIP, res_v1.DIFFERENCE_CLIP)
    u = g.op("Mul", u, begun)
    last_next = g.concat(x, g.leading(last, rest, C)) if rest else x
    return Scaled([last_u], [u, level], scale, [t, mean_next, var_next, square_next, last_next, u])


def _standard_v1(g: Graph, scaler: Scaler, row: Sequence[str], x: str, observed: str) -> Scaled:
    """See `StandardScalerV1.update`."""
    count, last, deviation, variance = row
    t = tick_count(g, count, observed)
    a = _rate(g, t, observed)
    kept = g.op("Sub", 1.0, a)
    e = g.op("Add", deviation, g.op("Sub", x, last))
    deviation_next = g.op("Mul", kept, e)
    variance_next = g.op("Mul", kept, g.op("Add", variance, g.op("Mul", a, g.op("Mul", e, e))))
    sigma = g.op("Sqrt", variance_next)
    z = g.op("Div", deviation_next, g.op("Add", sigma, TINY))
    z = g.op("Clip", z, -standard_v1.Z_CLIP, standard_v1.Z_CLIP)
    return Scaled([], [z], g.concat(*[sigma] * scaler.horizon), [t, x, deviation_next, variance_next])


def _none(g: Graph, scaler: Scaler, row: Sequence[str], x: str, observed: str) -> Scaled:
    """See `NoScaler.update`."""
    if observed:
        unit = g.op("Max", row[1], observed)
        return Scaled([], [x], g.concat(*[unit] * scaler.horizon), [x, unit])
    return Scaled([], [x], g.constant(np.ones((1, scaler.horizon * scaler.channels))), [])


SCALER_TWINS: dict[type, Twin] = {
    ResidualScaler: _residual,
    StandardScaler: _standard,
    NoScaler: _none,
    ResidualScalerV1: _residual_v1,
    StandardScalerV1: _standard_v1,
}
