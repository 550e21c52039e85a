"""What is sent with a tick beside its channels: known and static inputs, joined with them to one row. Pure decisions.

The journal holds the row, so that recovery and learning get what was sent. A stream's static values are part of its
state from its first tick on.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from model.network import Network
from service.common.errors import Invalid, Reason, Refusal, shown
from service.common.limits import MAX_MAGNITUDE
from service.common.names import Origin
from service.streams.served import ServedModel
from service.streams.table import ABSENT

Array = NDArray[np.float32]


def row_of(network: Network, seq: int, x: Array, u: Array, static: Array) -> Array | Refusal:
    """Return a tick's row [row], or why its values have the wrong number. static: [S], as `static_values` gives it.

    With missing = hold, a tick without u has missing known values.
    """
    spec, own = network.spec, network.covariates
    if not own.sent and not len(u):
        return x
    if len(u) != own.ahead and (len(u) or not own.hold):
        value = f"{len(u)} values" if len(u) else "none"
        return Refusal(seq, Reason.SHAPE, "u", value, _asked(network))
    if len(x) != len(spec.channels):
        remedy = f"send {len(spec.channels)} values, one per channel"
        return Refusal(seq, Reason.SHAPE, "x", f"{len(x)} values", remedy)
    if not len(u):
        u = np.full(own.ahead, np.nan, np.float32)
    return np.concatenate([x, u, static])


def _asked(network: Network) -> str:
    spec, own = network.spec, network.covariates
    if not own.known:
        return "the model has no known inputs: leave u out"
    names = ", ".join(spec.known)[:200]
    steps = f", the values of step 1 first, {spec.horizon} steps" if spec.horizon > 1 else ""
    return f"send {own.ahead} values of {names} with every tick{steps}"


def rows_of(network: Network, x: Array, u: Array, static: Array) -> Array:
    """Return the rows of packed ticks. x: [n, C]; u: [n, horizon × known]; static: [n, S]."""
    return np.concatenate([x, u, static], axis=1) if network.covariates.sent else x


def check_categories(network: Network, seq: int, row: Array) -> Refusal | None:
    """Return why a row is refused if one of its known values is no category, or None."""
    own = network.covariates
    if not own.shapes:
        return None
    found = own.outside(row[len(network.spec.channels) :])
    if not found:
        return None
    at, remedy = found
    value = shown(float(row[len(network.spec.channels) + at]))
    return Refusal(seq, Reason.INVALID, f"u[{at}]", value, remedy)


def static_values(model: ServedModel, id: str, given: Mapping[str, float]) -> Array:
    """Return the static values [S] of a stream that is opened with `given` ones; those it has had are the default.

    Raises Invalid for other names than the model's, for values that are not finite or no category, and for others than
    the stream has had since it was new or reset.
    """
    names = model.spec.static
    if not names and not given:
        return np.zeros(0, np.float32)
    had = _had(model, id)
    if given or had is None:
        found = _checked(model.network, given)
        if had is None:
            return found
        if not np.array_equal(had, found):
            at = int((had != found).argmax())
            remedy = f"stream {id!r} has {names[at]} = {had[at]:g}: send that, or reset the stream first"
            raise Invalid(f"static.{names[at]}", f"{found[at]:g}", remedy)
    return had


def _checked(network: Network, given: Mapping[str, float]) -> Array:
    own, names = network.covariates, network.spec.static
    for name in given:
        if name not in names:
            known = f"its static inputs are {', '.join(names)}"[:200] if names else "the model has none"
            raise Invalid("static", name, f"no such input: {known}")
    for name in names:
        if name not in given:
            raise Invalid(f"static.{name}", "none", "a new stream of this model needs all its static inputs")
        if not abs(given[name]) <= MAX_MAGNITUDE:
            remedy = f"send finite values of magnitudes up to {MAX_MAGNITUDE:g}"
            raise Invalid(f"static.{name}", shown(given[name]), remedy)
    padded = np.zeros(own.sent, np.float32)
    padded[own.ahead :] = [given[name] for name in names]
    if found := own.outside(padded):
        at, remedy = found
        raise Invalid(f"static.{names[at - own.ahead]}", f"{padded[at]:g}", remedy)
    return padded[own.ahead :]


def _had(model: ServedModel, id: str) -> Array | None:
    """Return the static values in a stream's state; None if it has none yet."""
    row = model.table.by_id.get(id, ABSENT)
    if row == ABSENT or model.table.origin[row] not in (Origin.RESUMED, Origin.IMPORTED):
        return None
    end = model.network.statistics_size
    return np.array(model.table.state[row, end - model.network.covariates.static : end])
