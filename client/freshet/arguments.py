"""Checks of what users give: names, ids, whole numbers. Each refusal names the field, the value and the remedy."""

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
    """The refusal of one argument, in the form that a server's refusals have."""
    text = shown(value)
    return InvalidArgument(f"{field} = {text}: {remedy}", field, text, remedy)


def shown(value: object) -> str:
    """The value as one short line."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # of a foreign object: the refusal says what is wrong all the same
        text = f"<{type(value).__name__}>"
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def identifier(value: object, field: str = "stream") -> str:
    """The id of a stream, or of a sender, as the wire has it: text as it is, an integer in decimal digits.

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
    return str(text)  # a plain str of numpy.str_


def _example(value: object) -> str:
    try:
        text = str(value)
    except Exception:  # of a foreign object: there is no example then
        return ""
    return f", such as {text!r}" if value is not None and len(text) <= SHOWN_CHARACTERS and text.isprintable() else ""


def named(value: object, field: str = "name") -> str:
    """The name of a model, which only the server judges further. Raises InvalidArgument."""
    if not isinstance(value, str):
        raise invalid(field, value, "give a text")
    return encodable(value, field)


def encodable(value: str, field: str) -> str:
    """The text, where it can be sent at all. Raises InvalidArgument for halves of characters (surrogates)."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise invalid(field, value, "give text of whole characters: this cannot be written as UTF-8") from None
    return str(value)


def binary(value: object, field: str) -> bytes:
    """The content of a file. Raises InvalidArgument for all but bytes, such as the file's path."""
    if not isinstance(value, bytes | bytearray | memoryview):
        raise invalid(field, value, "give bytes: the content of the file")
    return bytes(value)


def whole(value: object, field: str, low: int = 0, high: int = MAX_COUNT) -> int:
    """A whole number from low to high, NumPy's included. Raises InvalidArgument, for bool too."""
    number = integer(value, field)
    if not low <= number <= high:
        raise invalid(field, value, f"give a whole number from {low} to {high}")
    return number


def integer(value: object, field: str) -> int:
    """A whole number of any size and sign, NumPy's included. Raises InvalidArgument, for bool too."""
    number = as_integer(value)
    if number is None:
        raise invalid(field, value, "give a whole number")
    return number


def number(value: object, field: str) -> float:
    """A number, such as seconds to wait; infinite is one. Raises InvalidArgument for other types, bool and NaN."""
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, bool) or not isinstance(plain, int | float) or plain != plain:
        raise invalid(field, value, "give a number")
    return plain


def as_integer(value: object) -> int | None:
    """The value as int where it is an integer of any library; None for all else, bool included."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, SupportsIndex):
        return None
    try:
        return operator.index(value)
    except TypeError:  # arrays have __index__ and mean it only with one element
        return None


def listed(value: object, field: str) -> list[Any]:
    """The items of an ordered collection: list, tuple, array, index of a frame, keys of a dict.

    Raises InvalidArgument for text, whose items are letters, and for sets, which have no order.
    """
    if isinstance(value, str | bytes):
        raise invalid(field, value, f"give a list: [{value!r}]" if len(value) <= SHOWN_CHARACTERS else "give a list")
    if isinstance(value, Set) and not isinstance(value, Keys):
        raise invalid(field, value, "give a list: a set has no order")
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        raise invalid(field, value, "give a list")
    return list(value)
