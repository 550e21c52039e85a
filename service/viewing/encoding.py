"""JSON of what is seen, and events of an event stream. Bounded digits: a chart shows fewer than a float has."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIGITS = 6  # significant ones of a float
# Values of these names are moments, in seconds since 1970: six digits would leave days.
MOMENTS = frozenset({"time", "now", "started", "created", "published_time", "expires"})
MOMENT_DECIMALS = 3  # milliseconds


def encode(value: Any) -> bytes:
    """Return a value as JSON, UTF-8. NaN and infinities become null; NumPy arrays become lists.

    value: of dicts with names as keys, sequences, arrays, texts, numbers, booleans, None. Integers stay whole; floats
    have DIGITS significant digits, those of MOMENTS are rounded to milliseconds. Raises TypeError for anything else.
    """
    return _text(value, f"%.{DIGITS}g").encode()


def event(name: str, value: Any) -> bytes:
    """Return one whole event of an event stream (HTML standard, 9.2): its name, one line of JSON, a blank line."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), encode(value))


def _text(value: Any, form: str) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating):
        return form % value if math.isfinite(value) else "null"
    if isinstance(value, np.ndarray):
        return _array(value, form)
    if isinstance(value, Mapping):
        pairs = [f"{json.dumps(name)}:{_text(each, _form(name, form))}" for name, each in value.items()]
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return _list([_text(each, form) for each in value])
    raise TypeError(f"{type(value).__name__} has no JSON here")


def _form(name: str, form: str) -> str:
    return f"%.{MOMENT_DECIMALS}f" if name in MOMENTS else form


def _array(values: NDArray[Any], form: str) -> str:
    """Return an array as lists, by one format for all numbers of a row where they are finite: four times as fast."""
    if values.ndim > 1:
        return _list([_array(each, form) for each in values])
    if values.dtype.kind in "iub":
        return json.dumps(values.tolist(), separators=(",", ":"))
    if not np.isfinite(values).all():
        return _list([form % each if math.isfinite(each) else "null" for each in values.tolist()])
    return _list([form] * len(values)) % tuple(values.tolist())


def _list(texts: list[str]) -> str:
    return "[" + ",".join(texts) + "]"
