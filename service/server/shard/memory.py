"""The memory of the process: return what is freed to the system, spare the garbage collector objects that stay."""

from __future__ import annotations

import ctypes
import functools
import gc
import platform
from typing import Any

M_MMAP_THRESHOLD = -3
# Arrays of this size and more are mapped one by one, and unmapped when freed. By default glibc raises the limit up to
# 32 MB as large blocks come and go, and memory freed in the middle of the heap stays with the process.
MAPPED_BYTES = 1 << 20


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def map_large_blocks() -> None:
    """Return blocks of MAPPED_BYTES and more to the system as soon as they are freed. Call once, early."""
    if _libc():
        _libc().mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)


def trim() -> None:
    """Return all memory that is free now. Takes milliseconds without the interpreter's lock: call it off the loop."""
    if _libc():
        _libc().malloc_trim(0)


def freeze() -> None:
    """Exclude all present objects from garbage collection. Call once, after loading.

    A full collection of them takes 40 ms of the thread that happens to allocate: the event loop's.
    """
    gc.collect()
    gc.freeze()
