"""Checks of arguments: names, ids, numbers. Each refusal names the field, the value and the remedy."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Set
from collections.abc import KeysView as Keys
from typing import Any, SupportsIndex

import numpy as np

from freshet.errors import InvalidArgument

SHOWN_CHARACTERS = 80
MAX_NAME = 256  # characters of a stream's id: streams.proto
MAX_COUNT = 2**64 - 1


def invalid(field: str, value: object, remedy: str) -> InvalidArgument:
    """Return the refusal of an argument, in the form of a server's refusal."""
    text = shown(value)
    return InvalidArgument(f"{field} = {text}: {remedy}", field, text, remedy)


def shown(value: object) -> str:
    """Return the value as one short line."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a foreign object's own repr failed
        text = f"<{type(value).__name__}>"
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def identifier(value: object, field: str = "stream") -> str:
    """Return the id of a stream or sender as the wire has it: text unchanged, an integer as decimal digits.

    Raises InvalidArgument for other types, and for text that is not 1 to 256 printable characters.
    """
    text = value
    if not isinstance(text, str):
        number = as_integer(value)
        if number is None:
            raise invalid(field, value, f"give text or a whole number{_example(value)}")
        text = str(number)
    if not 1 <= len(text) <= MAX_NAME or not text.isprintable():
        raise invalid(field, value, f"give 1 to {MAX_NAME} printable characters")
    return str(text)  # numpy.str_ becomes str


def _example(value: object) -> str:
    try:
        text = str(value)
    except Exception:  # a foreign object's own str failed
        return ""
    return f", such as {text!r}" if value is not None and len(text) <= SHOWN_CHARACTERS and text.isprintable() else ""


def named(value: object, field: str = "name") -> str:
    """Return the name of a model; the server checks the rest. Raises InvalidArgument."""
    if not isinstance(value, str):
        raise invalid(field, value, "give a text")
    return encodable(value, field)


def encodable(value: str, field: str) -> str:
    """Return text that can be encoded. Raises InvalidArgument for surrogates (halves of characters)."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise invalid(field, value, "give valid text: this cannot be encoded as UTF-8") from None
    return str(value)


def binary(value: object, field: str) -> bytes:
    """Return the bytes of a file's content. Raises InvalidArgument for other types, such as a path."""
    if not isinstance(value, bytes | bytearray | memoryview):
        raise invalid(field, value, "give bytes: the content of the file")
    return bytes(value)


def whole(value: object, field: str, low: int = 0, high: int = MAX_COUNT) -> int:
    """Return an integer from low to high, also from NumPy. Raises InvalidArgument, also for bool."""
    number = integer(value, field)
    if not low <= number <= high:
        raise invalid(field, value, f"give a whole number from {low} to {high}")
    return number


def integer(value: object, field: str) -> int:
    """Return an integer of any size and sign, also from NumPy. Raises InvalidArgument, also for bool."""
    number = as_integer(value)
    if number is None:
        raise invalid(field, value, "give a whole number")
    return number


def number(value: object, field: str) -> float:
    """Return a number, such as seconds to wait; infinity is allowed. Raises InvalidArgument for other types, bool and
    NaN."""
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, bool) or not isinstance(plain, int | float) or plain != plain:
        raise invalid(field, value, "give a number")
    return plain


def as_integer(value: object) -> int | None:
    """Return the value as int if it is an integer of any library; None otherwise, also for bool."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, SupportsIndex):
        return None
    try:
        return operator.index(value)
    except TypeError:  # arrays have __index__, but it works only with one element
        return None


def listed(value: object, field: str) -> list[Any]:
    """Return the items of an ordered collection: list, tuple, array, index of a frame, keys of a dict.

    Raises InvalidArgument for text, which is a collection of letters, and for sets, which have no order.
    """
    if isinstance(value, str | bytes):
        raise invalid(field, value, f"give a list: [{value!r}]" if len(value) <= SHOWN_CHARACTERS else "give a list")
    if isinstance(value, Set) and not isinstance(value, Keys):
        raise invalid(field, value, "give a list: a set has no order")
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        raise invalid(field, value, "give a list")
    return list(value)
