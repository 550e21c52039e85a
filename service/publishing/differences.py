"""The differences of two specs, in a text short enough for a header of a gRPC answer."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from model.spec import ModelSpec

VALUE_CHARACTERS = 40
# The whole text: clients refuse headers above 8 kB, and one character can take 13 bytes in the two places it is sent.
CHARACTERS = 400


def differences(there: ModelSpec, here: ModelSpec) -> str:
    """Name every key that differs, with both values as far as they fit: the existing model's, then the given one's."""
    keys = [key.name for key in fields(ModelSpec) if getattr(there, key.name) != getattr(here, key.name)]
    parts: list[str] = []
    for at, key in enumerate(keys):
        text = _difference(key, getattr(there, key), getattr(here, key))
        if len("; ".join([*parts, text])) + len(_also(keys[at + 1 :])) > CHARACTERS:
            return "; ".join(parts) + _also(keys[at:])
        parts.append(text)
    return "; ".join(parts)


def changes(before: ModelSpec, after: ModelSpec) -> str:
    """Name every key that differs, with its new value and the one before."""
    keys = [key.name for key in fields(ModelSpec) if getattr(before, key.name) != getattr(after, key.name)]
    return "; ".join(f"{key} = {_cut(getattr(after, key))}, was {_cut(getattr(before, key))}" for key in keys)


def _also(keys: list[str]) -> str:
    return f"; and in {', '.join(keys)}" if keys else ""


def _difference(key: str, there: Any, here: Any) -> str:
    if isinstance(there, tuple) and max(len(_shown(there)), len(_shown(here))) > VALUE_CHARACTERS:
        at = next((i for i, (a, b) in enumerate(zip(there, here, strict=False)) if a != b), None)
        if len(there) != len(here):
            return f"{key} has {len(there)} items there, {len(here)} here{_first(at, there, here)}"
        return f"{key}{_first(at, there, here).removeprefix(', ')}"
    return f"{key} = {_cut(there)} there, {_cut(here)} here"


def _first(at: int | None, there: Any, here: Any) -> str:
    return "" if at is None else f", [{at}] = {_cut(there[at])} there, {_cut(here[at])} here"


def _shown(value: Any) -> str:
    return repr(list(value) if isinstance(value, tuple) else value)


def _cut(value: Any) -> str:
    text = _shown(value)
    return text if len(text) <= VALUE_CHARACTERS else text[: VALUE_CHARACTERS - 1] + "…"
