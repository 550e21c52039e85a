"""The common parts of the blocking classes: opening and closing, `repr`, and documentation shared with the awaited
class."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from freshet import shown
from freshet.sync.portal import Portal

C = TypeVar("C", bound=type)


class Awaited(Protocol):
    """A stream, Mux or sender of the awaited form."""

    def open(self) -> Coroutine[Any, Any, object]: ...
    def aclose(self) -> Coroutine[Any, Any, None]: ...
    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> Coroutine[Any, Any, None]: ...


A = TypeVar("A", bound=Awaited)


class Blocking(Generic[A]):
    """The blocking form of `twin`, whose coroutines run in the portal's thread."""

    def __init__(self, portal: Portal, twin: A) -> None:
        self._portal, self._twin = portal, twin

    def __repr__(self) -> str:
        return shown.blocking(repr(self._twin))

    def open(self) -> Self:
        self._portal.call(self._twin.open())
        return self

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._portal.call(self._twin.__aexit__(kind, error, traceback))

    def close(self) -> None:
        self._portal.call(self._twin.aclose())


# The words of the awaited form, and those that replace them in the documentation of the blocking form.
WORDS = {"async with": "with", "await ": "", "aclose": "close", "async iterable": "iterable"}
NAMES = {"close": "aclose"}  # of a method here, and there


def documented_by(twin: type) -> Callable[[C], C]:
    """Give each public member without a docstring that of the awaited twin, worded for the blocking form."""

    def document(cls: C) -> C:
        for name in dir(cls):
            member = getattr(cls, name)
            if name.startswith("_") or member.__doc__:
                continue
            if name not in vars(cls):  # of `Blocking`: each class gets a function of its own, with its own words
                member = _copy(member)
                setattr(cls, name, member)
            member.__doc__ = _blocking(getattr(twin, NAMES.get(name, name)).__doc__)
        return cls

    return document


def _copy(function: Any) -> Any:
    copy = types.FunctionType(function.__code__, function.__globals__, closure=function.__closure__)
    return functools.update_wrapper(copy, function, updated=())


def _blocking(words: str | None) -> str | None:
    for there, here in WORDS.items():
        words = words and words.replace(there, here)
    return words
