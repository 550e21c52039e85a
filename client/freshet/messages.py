"""The common base of results: small frozen objects built from messages."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, ClassVar, Self, cast

from google.protobuf.message import Message

SHOWN_CHARACTERS = 60


class WireEnum(enum.IntEnum):
    """A named number of the wire. A number that only a newer server knows has the name UNKNOWN_n."""

    @classmethod
    def _missing_(cls, value: object) -> Self:
        if not isinstance(value, int):
            raise ValueError(f"{value!r} is not a {cls.__name__}")
        unknown = int.__new__(cls, value)
        unknown._name_, unknown._value_ = f"UNKNOWN_{value}", value
        return unknown

    @classmethod
    def Name(cls, number: int) -> str:  # as of protobuf's enums
        """Return the name of a number."""
        return cls(number).name


class Result:
    """Builds results from messages and shows them in one line."""

    __slots__ = ()
    READ: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}  # converters of fields, by name
    SHOWN: ClassVar[tuple[str, ...]] = ()  # the fields that identify a result, for its repr; empty: all
    ONLY_WITH: ClassVar[Mapping[str, str]] = {}  # fields that are shown only if another one is not empty

    @classmethod
    def of(cls, message: Message) -> Self:
        """Build the result from its message."""
        known = {field.name for field in fields(cast("Any", cls))}
        optional = {field.name for field in fields(cast("Any", cls)) if field.default is None}
        named = (field for field in message.DESCRIPTOR.fields if field.name in known)
        given = (f for f in named if not (f.name in optional and f.has_presence) or message.HasField(f.name))
        return cls(**{field.name: _value(message, field, cls.READ.get(field.name)) for field in given})

    def __repr__(self) -> str:
        names = self.SHOWN or tuple(field.name for field in fields(cast("Any", self)))
        names = tuple(name for name in names if name not in self.ONLY_WITH or getattr(self, self.ONLY_WITH[name]))
        shown = [f"{name}={short(getattr(self, name))}" for name in names]
        return f"{type(self).__name__}({', '.join(shown)}{', …' if self.SHOWN else ''})"


def _value(message: Message, field: Any, read: Any) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    if field.is_repeated:
        return tuple(map(read, value) if read else value)
    if field.message_type is None and field.has_presence and not message.HasField(field.name):
        return None
    return read(value) if read else value


def short(value: Any) -> str:
    """Show a value in at most SHOWN_CHARACTERS; a result bounds its own length."""
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, WireEnum):
        return value.name
    if isinstance(value, Result):
        return repr(value)
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"
