"""Giving freed memory back to the system, which glibc's allocator does not do by itself; and what Python need not look
through for garbage again and again."""

from __future__ import annotations

import ctypes
import functools
import gc
import platform
from typing import Any

M_MMAP_THRESHOLD = -3
# Arrays from here on are mapped one by one, and unmapped when they are freed. Left alone, glibc raises the limit to
# 32 MB as large blocks come and go, and what is freed in the middle of the heap stays with the process.
MAPPED_BYTES = 1 << 20


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def map_large_blocks() -> None:
    """To be called once, early: blocks of MAPPED_BYTES and more go back as soon as they are freed."""
    if _libc():
        _libc().mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)


def trim() -> None:
    """Give back what is free now. Takes milliseconds: off the event loop (it holds no lock of Python's)."""
    if _libc():
        _libc().malloc_trim(0)


def keep() -> None:
    """To be called once, when all is loaded: what is there now is not searched for cycles any more. A full collection
    of it takes 40 ms, of the thread that happens to allocate: the event loop's."""
    gc.collect()
    gc.freeze()
