"""Repeat a call of a store that cannot be reached, with doubling delays, and measure every call."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from service.cluster.store.around import Around
from service.cluster.store.seam import Conflict, Missing, Store, StoreUnavailable
from service.storage.disk import again_s

T = TypeVar("T")


def repeat(
    call: Callable[[], T],
    wait: Callable[[float], bool],
    give_up_s: float = math.inf,
    failed: Callable[[StoreUnavailable], None] = lambda error: None,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Return what `call` returns, called again after every StoreUnavailable; its other errors pass.

    wait: waits this many seconds and returns whether to give up now, as `threading.Event.wait` of an end. give_up_s:
    longest time from the first call to the start of the last. failed: is called with every StoreUnavailable. Raises the
    last.
    """
    end, tries = clock() + give_up_s, 0
    while True:
        try:
            return call()
        except StoreUnavailable as error:
            failed(error)
            tries += 1
            pause_s = again_s(tries)
            if clock() + pause_s > end or wait(pause_s):
                raise


class Call(NamedTuple):
    """A call that has ended."""

    operation: str  # the name of the method
    seconds: float
    size: int  # bytes of entries, blobs and notes, in either direction
    failed: bool  # False for a Conflict and a Missing, which are answers


class Metered(Around):
    """Reports each call to `observe`, in the thread that made it. Owns the store: `close` closes it, uncounted."""

    def __init__(self, store: Store, observe: Callable[[Call], None]) -> None:
        super().__init__(store)
        self._observe = observe

    def _pass(self, operation: str, call: Callable[[], T], size: int = 0) -> T:
        started, failed = time.perf_counter(), True
        try:
            result = call()
            failed, size = False, len(result) if isinstance(result, bytes) else size
            return result
        except (Conflict, Missing):
            failed = False
            raise
        finally:
            self._observe(Call(operation, time.perf_counter() - started, size, failed))
