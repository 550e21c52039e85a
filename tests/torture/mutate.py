"""Almost valid messages: mutations of bytes without knowledge of their meaning."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

# Numbers at the limits of lengths, varints and floats.
EDGES = (
    b"\0", b"\x7f", b"\x80", b"\xff", b"\xff\xff\xff\xff\x07", b"\xff\xff\xff\xff\x0f", b"\xff" * 9 + b"\x01",
    b"\xff" * 4, b"\0\0\0\x80", b"\xff\xff\xff\x7f", b"\0\0\x80\x7f", b"\0\0\xc0\x7f", b"\xff" * 8, b"\0" * 8,
)  # fmt: skip
LONGEST = 4096
VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
FIXED = {FIXED64: 8, FIXED32: 4}


def split(message: bytes) -> list[tuple[int, bytes]]:
    """Return the top-level fields of a protobuf message: key and bytes of the value. Raises IndexError for other
    bytes."""
    fields, at = [], 0
    while at < len(message):
        key, at = _varint(message, at)
        begin = at
        if key & 7 == VARINT:
            _, at = _varint(message, at)
        elif key & 7 == LENGTH_DELIMITED:
            size, begin = _varint(message, at)
            at = begin + size
        else:
            at += FIXED.get(key & 7, len(message))
        if at > len(message):
            raise IndexError(f"a field ends after the message, at byte {at}")
        fields.append((key, message[begin:at]))
    return fields


def join(fields: list[tuple[int, bytes]]) -> bytes:
    """Return the message of these fields: the inverse of `split`."""
    parts = []
    for key, held in fields:
        parts.append(_as_varint(key))
        if key & 7 == LENGTH_DELIMITED:
            parts.append(_as_varint(len(held)))
        parts.append(held)
    return b"".join(parts)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while data[at] & 128:
        value, shift, at = value | (data[at] & 127) << shift, shift + 7, at + 1
    return value | data[at] << shift, at + 1


def _as_varint(value: int) -> bytes:
    parts = bytearray()
    while value >= 128:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes((*parts, value))


class Mutator:
    """Mutate bytes in one to five places by one of `_ways` each, and the fields of messages."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._ways: Sequence[Callable[[bytearray, int, int], None]] = (
            self._flip, self._overwrite, self._insert, self._remove, self._repeat, self._cut,
        )  # fmt: skip

    def mutated(self, message: bytes) -> bytes:
        """Return a mutant of at most `LONGEST` bytes."""
        data, rng = bytearray(message[:LONGEST]), self._rng
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(len(data) + 1)
            rng.choice(self._ways)(data, at, min(len(data), at + rng.randrange(1, 17)))
        return bytes(data[:LONGEST])

    def mutated_message(self, message: bytes) -> bytes:
        """Return `mutated`, or a protobuf message that parses, with fields removed, repeated or changed."""
        try:
            fields = split(message)
        except IndexError:
            fields = []
        if not fields or self._rng.random() < 0.3:
            return self.mutated(message)
        at = self._rng.randrange(len(fields))
        key, held = fields[at]
        way = self._rng.randrange(8)
        if way == 0:
            del fields[at]
        elif way == 1:
            fields.insert(at, self._rng.choice(fields))
        elif key & 7 == LENGTH_DELIMITED:
            fields[at] = key, self.mutated_message(held)
        else:
            return self.mutated(message)
        return join(fields)[:LONGEST]

    def _flip(self, data: bytearray, at: int, end: int) -> None:
        if at < len(data):
            data[at] ^= 1 << self._rng.randrange(8)

    def _overwrite(self, data: bytearray, at: int, end: int) -> None:
        edge = self._rng.choice(EDGES)
        data[at : at + len(edge)] = edge

    def _insert(self, data: bytearray, at: int, end: int) -> None:
        data[at:at] = self._rng.choice((self._rng.choice(EDGES), self._rng.randbytes(self._rng.randrange(1, 9))))

    def _remove(self, data: bytearray, at: int, end: int) -> None:
        del data[at:end]

    def _repeat(self, data: bytearray, at: int, end: int) -> None:
        data[at:at] = data[at:end] * self._rng.choice((1, 2, 30))

    def _cut(self, data: bytearray, at: int, end: int) -> None:
        del data[at:]
