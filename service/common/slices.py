"""Slices: which slice of a model has a stream, and how many slices a setting gives a model."""

from __future__ import annotations

from hashlib import sha256

from service.common.names import ModelKey

MOST = 64  # slices of a model


def slice_of(stream: str, count: int) -> int:
    """Return the slice, 0 .. count - 1, that has a stream of a model with `count` slices."""
    return int.from_bytes(sha256(stream.encode()).digest()[:8]) % count


def parse(text: str) -> dict[str, int]:
    """Return the slices that a setting such as `power=4,acme/flow=2` gives to models, by name or TENANT/NAME.

    Raises ValueError, naming the part that cannot be read.
    """
    found: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        if not name or not equals or not number.isdecimal() or not 1 <= int(number) <= MOST:
            raise ValueError(f"slices = {part!r}: give MODEL=N or TENANT/MODEL=N, N from 1 to {MOST}")
        found[name] = int(number)
    return found


def wanted(slices: dict[str, int], key: ModelKey) -> int:
    """Return the slices that `parse` has found for a model; 1 if it is not named."""
    return slices.get(f"{key.tenant}/{key.name}", slices.get(key.name, 1))
