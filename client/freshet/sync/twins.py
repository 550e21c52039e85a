"""One documentation for both forms of a class."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

C = TypeVar("C", bound=type)

NAMES = {"close": "aclose"}  # of a method here, and there


def documented_by(twin: type) -> Callable[[C], C]:
    """Give the public members of a class that have no docstring that of their twin."""

    def document(cls: C) -> C:
        for name, member in vars(cls).items():
            if not name.startswith("_") and not member.__doc__:
                member.__doc__ = getattr(twin, NAMES.get(name, name)).__doc__
        return cls

    return document
