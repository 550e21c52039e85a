"""The covariates as ONNX nodes: the twin of `Covariates.update` and `Covariates.expand`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.covariates import CLIP, Covariates
from model.graph.builder import Graph
from model.graph.scalers import tick_count
from model.parameters import Weights
from model.scalers.contract import ALPHA, TINY


class Covered(NamedTuple):
    """Names of values: features for cells and head, features only for the head, next statistics."""

    seen: list[str]
    later: list[str]
    parts: list[str]


def covariates(g: Graph, own: Covariates, weights: Weights, parts: Sequence[str], sent: str) -> Covered:
    """Append the nodes. parts: names of the statistics that are not empty, in order; sent: [B, sent]."""
    if not own.sent:
        return Covered([], [], [])
    named = dict(zip([i for i, size in enumerate(own.parts) if size], parts, strict=True))
    v, static = _split(g, sent, own.ahead, own.sent - own.ahead)
    kept: list[str] = []
    observed = ""
    if own.known:
        v, observed = _filled(g, own, v, named.get(1, ""))
        seen = tick_count(g, named[0], observed)
        kept = [seen, *([_steps(g, own, v, range(own.known), 1)[0]] if own.hold else [])]
    first: list[str] = []
    later: list[str] = []
    if len(own.reals):
        z, mean, variance = _standardized(g, own, v, seen, named[2], named[3], observed)
        first, later = z[:1], z[1:]
        kept += [mean, variance]
    if len(own.static_reals):
        first.append(g.op("Clip", _columns(g, static, own.static_reals, own.static), -CLIP, CLIP))
    for i, name in zip(own.ids, own.tables, strict=False):
        now, rest = _steps(g, own, v, [int(i)], own.horizon)
        first.append(_looked_up(g, weights, name, now))
        later += [_looked_up(g, weights, name, rest)] if rest else []
    for i, name in zip(own.static_ids, own.tables[len(own.ids) :], strict=True):
        first.append(_looked_up(g, weights, name, _columns(g, static, [int(i)], own.static)))
    return Covered(first, later, [*kept, *([static] if own.static else [])])


def _split(g: Graph, sent: str, ahead: int, static: int) -> tuple[str, str]:
    if ahead and static:
        v, s = g.split(sent, [ahead, static])
        return v, s
    return (sent, "") if ahead else ("", sent)


def _columns(g: Graph, value: str, columns: Sequence[int] | NDArray[np.intp], width: int) -> str:
    if list(columns) == list(range(width)):
        return value
    return str(g.op("Gather", value, g.constant(np.atleast_1d(columns), np.int64), axis=1))


def _steps(g: Graph, own: Covariates, v: str, of: Sequence[int] | NDArray[np.intp], last: int) -> tuple[str, str]:
    """Return the values of known inputs `of` at step 1, and at steps 2 to `last`, step-major; "" for no steps."""
    whole = own.ahead
    now = _columns(g, v, [int(i) for i in of], whole)
    if last < 2:
        return now, ""
    return now, _columns(g, v, [h * own.known + int(i) for h in range(1, last) for i in of], whole)


def _filled(g: Graph, own: Covariates, v: str, last: str) -> tuple[str, str]:
    """Return v with missing values replaced by the last step-1 value, and the mask of step 1; "" without hold."""
    if not own.hold:
        return v, ""
    missing = g.op("IsNaN", v)
    filled = g.op("Where", missing, g.concat(*[last] * own.horizon), v)
    first = g.op("Where", missing, 0.0, 1.0)
    return str(filled), _columns(g, first, list(range(own.known)), own.ahead)


def _standardized(
    g: Graph, own: Covariates, v: str, seen: str, mean: str, variance: str, observed: str
) -> tuple[list[str], str, str]:
    """See `Covariates._standardized`. Returns z-scores of step 1 and, if there are, of later steps; mean, variance."""
    now, rest = _steps(g, own, v, own.reals, own.horizon)
    t = _columns(g, seen, own.reals, own.known) if observed else seen
    rate = g.op("Max", g.op("Div", 1.0, g.op("Max", t, 1.0)), ALPHA)
    if observed:
        rate = g.op("Mul", rate, _columns(g, observed, own.reals, own.known))
    begun = g.op("Clip", g.op("Sub", t, 1.0), 0.0, 1.0)
    off = g.op("Sub", now, mean)
    bound = g.op("Mul", g.op("Sqrt", variance), CLIP)
    clipped = g.op("Max", g.op("Min", off, bound), g.op("Neg", bound))
    off = g.op("Where", g.op("Greater", variance, 0.0), clipped, off)
    moved = g.op("Mul", rate, off)
    kept = g.op("Mul", g.op("Sub", 1.0, rate), g.op("Add", variance, g.op("Mul", moved, off)))
    variance = g.op("Mul", begun, kept)
    mean = g.op("Add", mean, moved)
    unit = g.op("Add", g.op("Sqrt", variance), TINY)
    later = own.horizon - 1
    pairs = [(now, mean, unit)]
    if rest:
        pairs.append((rest, g.concat(*[mean] * later), g.concat(*[unit] * later)))
    z = [g.op("Clip", g.op("Div", g.op("Sub", value, m), u), -CLIP, CLIP) for value, m, u in pairs]
    return z, mean, variance


def _looked_up(g: Graph, weights: Weights, name: str, ids: str) -> str:
    """Return the rows of a table for ids [B, n], [B, n·d]."""
    table = weights.embed[name]
    at = g.op("Cast", g.op("Clip", ids, 0.0, float(len(table) - 1)), to=7)  # int64
    rows = g.op("Gather", g.constant(table), at, axis=0)
    return str(g.op("Reshape", rows, g.constant([0, -1], np.int64)))
