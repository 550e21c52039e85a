"""How one field of a record is stored: each kind of field encodes values and decodes them strictly.

Little-endian, zero-padded to a multiple of 8 bytes, so that arrays can be read in place. A value has one encoding.
number: 8 bytes · text: length, UTF-8 · array: shape, elements · optional: 0 or 1, then the value.
"""

# encode and decode are documented once, in Field:
# ruff: noqa: D102

from __future__ import annotations

import math
import operator
import struct
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

_U64 = struct.Struct("<Q")
_F64 = struct.Struct("<d")


class RecordError(ValueError):
    """A record that cannot be written, or bytes that are not a chunk. The text names record, field and value."""


class Cursor:
    """Reads fields in sequence, never beyond `end`."""

    __slots__ = ("at", "data", "end")

    def __init__(self, data: bytes, at: int, end: int) -> None:
        self.data, self.at, self.end = data, at, end

    def advance(self, size: int) -> int:
        """Advance by `size` bytes and their padding; return where they begin."""
        start, padded = self.at, size + -size % 8
        if start + padded > self.end:
            raise RecordError(f"needs {padded} bytes, {self.end - start} are left")
        self.at = start + padded
        if padded != size and any(self.data[start + size : self.at]):
            raise RecordError("padding is not zero")
        return start

    def number(self) -> int:
        """Read a u64."""
        value: int = _U64.unpack_from(self.data, self.advance(8))[0]
        return value


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 8)


class Field(Protocol):
    """Encodes and decodes the values of one field. Both raise RecordError for a value or bytes that do not fit."""

    def encode(self, value: Any) -> bytes:
        """Return the bytes of a value, padded. A wrong type may also raise TypeError, AttributeError, struct.error."""
        ...

    def decode(self, cursor: Cursor) -> Any:
        """Return the value at the cursor, and advance it."""
        ...


@dataclass(frozen=True, slots=True)
class Unsigned:
    """An integer in 0..limit."""

    limit: int

    def encode(self, value: Any) -> bytes:
        return _U64.pack(self.check(operator.index(value)))

    def decode(self, cursor: Cursor) -> int:
        return self.check(cursor.number())

    def check(self, value: int) -> int:
        """Return `value` if it is in range."""
        if not 0 <= value <= self.limit:
            raise RecordError(f"{value} is not in 0..{self.limit}")
        return value


class Float:
    """A float64, bit for bit."""

    def encode(self, value: Any) -> bytes:
        return _F64.pack(value)

    def decode(self, cursor: Cursor) -> float:
        value: float = _F64.unpack_from(cursor.data, cursor.advance(8))[0]
        return value


class Text:
    """A string, UTF-8."""

    def encode(self, value: Any) -> bytes:
        data = value.encode()
        return _U64.pack(len(data)) + _padded(data)

    def decode(self, cursor: Cursor) -> str:
        size = cursor.number()
        start = cursor.advance(size)
        return cursor.data[start : start + size].decode()


class Digest:
    """A sha256 digest: 32 bytes."""

    def encode(self, value: Any) -> bytes:
        if len(value) != 32:
            raise RecordError(f"a sha256 digest has 32 bytes, got {len(value)}")
        return bytes(value)

    def decode(self, cursor: Cursor) -> bytes:
        start = cursor.advance(32)
        return cursor.data[start : start + 32]


@dataclass(frozen=True, slots=True)
class Array:
    """A non-empty array of exactly this dtype, copied when written; a read-only view of the bytes when read."""

    dtype: np.dtype[Any]
    ndim: int

    def encode(self, value: Any) -> bytes:
        if value.dtype != self.dtype or value.ndim != self.ndim or not value.size:
            raise RecordError(
                f"expected a non-empty {self.ndim}-d {self.dtype} array, got {value.dtype} with shape {value.shape}"
            )
        return struct.pack(f"<{self.ndim}Q", *value.shape) + _padded(value.tobytes())

    def decode(self, cursor: Cursor) -> npt.NDArray[Any]:
        shape = tuple(cursor.number() for _ in range(self.ndim))
        count = math.prod(shape)
        if not count:
            raise RecordError(f"shape {shape} is empty")
        start = cursor.advance(count * self.dtype.itemsize)
        flat = np.frombuffer(cursor.data, self.dtype, count, start)
        return flat if self.ndim == 1 else flat.reshape(shape)


@dataclass(frozen=True, slots=True)
class Optional:
    """A value or None."""

    field: Field

    def encode(self, value: Any) -> bytes:
        return _U64.pack(0) if value is None else _U64.pack(1) + self.field.encode(value)

    def decode(self, cursor: Cursor) -> Any:
        present = cursor.number()
        if present > 1:
            raise RecordError(f"presence is 0 or 1, got {present}")
        return self.field.decode(cursor) if present else None
