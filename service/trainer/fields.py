"""How one field of a message becomes JSON and blobs, and comes back: strictly, one class for each kind of type."""

# encode and decode are documented once, in Field:
# ruff: noqa: D102

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from types import NoneType
from typing import Any, ClassVar, Protocol, get_args, get_origin, get_type_hints


class Field(Protocol):
    """How the values of one type become JSON and blobs, and come back."""

    def encode(self, value: Any, blobs: list[bytes]) -> Any:
        """The JSON value; bytes are appended to `blobs`."""

    def decode(self, value: Any, blobs: Iterator[bytes]) -> Any:
        """The inverse. Raises ValueError for another type, StopIteration for a missing blob."""


class Scalar:
    """A number, string or bool. A JSON integer also stands for a float."""

    def __init__(self, type_: type) -> None:
        self.types, self._name = {type_} | ({int} if type_ is float else set()), type_.__name__

    def encode(self, value: Any, blobs: list[bytes]) -> Any:
        return value

    def decode(self, value: Any, blobs: Iterator[bytes]) -> Any:
        self.check(value, {type(value)})
        return value

    def check(self, shown: object, types: set[type]) -> None:
        """Raise ValueError unless all of `types` may stand for this one."""
        if not types <= self.types:
            raise ValueError(f"{shown!r:.80} is not of type {self._name}")


class Blob:
    """Bytes."""

    def encode(self, value: bytes, blobs: list[bytes]) -> None:
        blobs.append(value)

    def decode(self, value: Any, blobs: Iterator[bytes]) -> bytes:
        if value is not None:
            raise ValueError(f"{value!r:.80} stands for bytes: it must be null")
        return next(blobs)


class Several:
    """A tuple of any length with items of one type."""

    def __init__(self, item: Field) -> None:
        self._item = item

    def encode(self, value: tuple[Any, ...], blobs: list[bytes]) -> Any:
        return value if isinstance(self._item, Scalar) else [self._item.encode(item, blobs) for item in value]

    def decode(self, value: Any, blobs: Iterator[bytes]) -> tuple[Any, ...]:
        if type(value) is not list:
            raise ValueError(f"{value!r:.80} is not a list")
        if isinstance(self._item, Scalar):  # checked at once: a progress report has hundreds
            self._item.check(value, set(map(type, value)))
            return tuple(value)
        return tuple([self._item.decode(item, blobs) for item in value])


class Row:
    """A tuple with one type for each place."""

    def __init__(self, items: tuple[Field, ...]) -> None:
        self._items = items

    def encode(self, value: tuple[Any, ...], blobs: list[bytes]) -> Any:
        return [item.encode(part, blobs) for item, part in zip(self._items, value, strict=True)]

    def decode(self, value: Any, blobs: Iterator[bytes]) -> tuple[Any, ...]:
        if type(value) is not list or len(value) != len(self._items):
            raise ValueError(f"{value!r:.80} is not a list of {len(self._items)}")
        return tuple([item.decode(part, blobs) for item, part in zip(self._items, value, strict=True)])


class ByKey:
    """A mapping from strings or integers."""

    def __init__(self, key: type, item: Field) -> None:
        self._key, self._item = key, item

    def encode(self, value: Mapping[Any, Any], blobs: list[bytes]) -> Any:
        if isinstance(self._item, Scalar):
            return value  # JSON makes strings of the keys
        return {key: self._item.encode(item, blobs) for key, item in value.items()}

    def decode(self, value: Any, blobs: Iterator[bytes]) -> dict[Any, Any]:
        if type(value) is not dict:
            raise ValueError(f"{value!r:.80} is not an object")
        if isinstance(self._item, Scalar):
            self._item.check(value, set(map(type, value.values())))
            return value if self._key is str else dict(zip(map(self._key, value), value.values(), strict=True))
        return {self._key(key): self._item.decode(item, blobs) for key, item in value.items()}


class Maybe:
    """A value or None."""

    def __init__(self, item: Field) -> None:
        self._item = item

    def encode(self, value: Any, blobs: list[bytes]) -> Any:
        return None if value is None else self._item.encode(value, blobs)

    def decode(self, value: Any, blobs: Iterator[bytes]) -> Any:
        return None if value is None else self._item.decode(value, blobs)


class Fields:
    """A dataclass or named tuple, as an object with exactly its fields."""

    def __init__(self, type_: type) -> None:
        hints = get_type_hints(type_).items()
        self._type = type_
        self._fields = {name: field_of(hint) for name, hint in hints if get_origin(hint) is not ClassVar}
        # Types that need no call of the field: most fields are scalars, and each call costs as much as the rest of it.
        self._plain = {
            name: field.types if isinstance(field, Scalar) else frozenset() for name, field in self._fields.items()
        }

    def encode(self, value: Any, blobs: list[bytes]) -> dict[str, Any]:
        return {
            name: getattr(value, name) if self._plain[name] else field.encode(getattr(value, name), blobs)
            for name, field in self._fields.items()
        }

    def decode(self, value: Any, blobs: Iterator[bytes]) -> Any:
        name = self._type.__name__
        if type(value) is not dict or value.keys() != self._fields.keys():
            got = sorted(value) if type(value) is dict else f"{value!r:.80}"
            raise ValueError(f"{name} has the fields {sorted(self._fields)}, not {got}")
        parts = []
        try:
            for name, field in self._fields.items():
                part = value[name]
                parts.append(part if type(part) in self._plain[name] else field.decode(part, blobs))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        return self._type(*parts)


def field_of(hint: Any) -> Field:
    """The field for a type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in (int, float, str, bool):
        return Scalar(hint)
    if hint is bytes:
        return Blob()
    if origin is tuple and arguments[1:] == (...,):
        return Several(field_of(arguments[0]))
    if origin is tuple:
        return Row(tuple(map(field_of, arguments)))
    if origin is Mapping:
        return ByKey(arguments[0], field_of(arguments[1]))
    if arguments[1:] == (NoneType,):
        return Maybe(field_of(arguments[0]))
    if is_dataclass(hint) or hasattr(hint, "_fields"):
        return Fields(hint)
    raise TypeError(f"a message cannot have a field of type {hint}")
