"""A model's spec from keyword arguments. Each key must have its own type; a wrong one is refused by name before
sending."""

from __future__ import annotations

import datetime as dt
import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor

from freshet.arguments import MAX_NAME, encodable, integer, invalid, listed
from freshet.v1 import types_pb2

FIELDS: Mapping[str, FieldDescriptor] = types_pb2.ModelSpec.DESCRIPTOR.fields_by_name
UINT_BITS = {FieldDescriptor.TYPE_UINT32: 32, FieldDescriptor.TYPE_UINT64: 64}


def spec_message(keys: Mapping[str, Any]) -> types_pb2.ModelSpec:
    """Return the message of a spec. Keys that are None are left out; the server uses their defaults.

    Raises InvalidArgument naming the key, its value and the remedy, for unknown keys and values of a wrong type.
    """
    message = types_pb2.ModelSpec()
    for key in keys.keys() - FIELDS.keys():
        raise invalid(key, keys[key], f"unknown key; {_meant(key)}known are {', '.join(sorted(FIELDS))}")
    for key, value in keys.items():
        field = FIELDS[key]
        if value is None and key != "channels":
            continue
        if field.is_repeated:
            getattr(message, key).extend(_item(field, item) for item in listed(value, key))
        else:
            setattr(message, key, SCALARS[field.type](key, _plain(value)))
    return message


def _meant(key: str) -> str:
    near = difflib.get_close_matches(key, sorted(FIELDS), n=1)
    return f"did you mean {near[0]}? " if near else ""


def _plain(value: Any) -> Any:
    """Return a NumPy scalar, or an array without dimensions, as a Python value."""
    return value.item() if isinstance(value, np.generic | np.ndarray) and value.ndim == 0 else value


def _item(field: FieldDescriptor, item: Any) -> Any:
    if field.type != FieldDescriptor.TYPE_STRING:
        return _number(field.name, _plain(item))
    if not isinstance(item, str):
        raise invalid(field.name, item, f"a name is 1 to {MAX_NAME} printable characters: give {str(item)!r}")
    if not 1 <= len(item) <= MAX_NAME or not item.isprintable():
        raise invalid(field.name, item, f"a name is 1 to {MAX_NAME} printable characters")
    return str(item)


def _number(key: str, value: Any) -> float:
    if isinstance(value, dt.timedelta):
        raise invalid(key, value, f"give a finite number of seconds: {value.total_seconds():g}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        unit = " of seconds" if key in ("interval", "max_gap") else ""
        raise invalid(key, value, f"give a finite number{unit}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise invalid(key, value, "give a finite number")
    return number


def _whole(key: str, value: Any) -> int:
    number = integer(value, key)
    bits = UINT_BITS[FIELDS[key].type]
    if not 0 <= number < 2**bits:
        raise invalid(key, value, f"give a whole number from 0 to {2**bits - 1}")
    return number


def _truth(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise invalid(key, value, "give True or False")
    return value


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise invalid(key, value, "give a text")
    return encodable(value, key)


SCALARS: Mapping[int, Callable[[str, Any], Any]] = {
    FieldDescriptor.TYPE_DOUBLE: _number,
    FieldDescriptor.TYPE_UINT32: _whole,
    FieldDescriptor.TYPE_UINT64: _whole,
    FieldDescriptor.TYPE_BOOL: _truth,
    FieldDescriptor.TYPE_STRING: _text,
}
