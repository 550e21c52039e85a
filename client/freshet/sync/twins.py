"""One documentation for both forms of a class."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

C = TypeVar("C", bound=type)

# What the blocking form does without, in documentation.
WORDS = {"async with": "with", "await ": "", "aclose": "close", "async iterable": "iterable"}
NAMES = {"close": "aclose"}  # of a method here, and there


def documented_by(twin: type) -> Callable[[C], C]:
    """Give the public members of a class that have no docstring that of their twin, without its awaiting."""

    def document(cls: C) -> C:
        for name, member in vars(cls).items():
            if not name.startswith("_") and not member.__doc__:
                member.__doc__ = _blocking(getattr(twin, NAMES.get(name, name)).__doc__)
        return cls

    return document


def _blocking(words: str | None) -> str | None:
    for there, here in WORDS.items():
        words = words and words.replace(there, here)
    return words
