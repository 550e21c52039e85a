"""Memory that a server uses, apart from what its allocator keeps for later.

Resident memory also counts what is freed but not returned. After 12,000 calls that come at once and end, a server uses
what it used before, while glibc keeps 75 to 220 MiB in the middle of its heaps: the more, the longer the calls wait for
the event loop, so the more, the busier the machine is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from service.common.limits import REQUEST_S
from tests.journeys.crash import DEADLINE_S

# Runs the sitecustomize that it hides, a mutant's for example.
RETURNS_MEMORY = """
import sys
if "service.cli" in sys.orig_argv:
    import ctypes, gc, os, signal
    from pathlib import Path
    def trim(*_):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        done = Path(__file__).with_name("trimmed")
        done.with_suffix(".new").write_text(Path("/proc/self/statm").read_text())
        done.with_suffix(".new").rename(done)
    signal.signal(signal.SIGUSR1, trim)
import importlib.machinery, importlib.util
others = [folder for folder in sys.path if folder != __file__.rpartition("/")[0]]
if (hidden := importlib.machinery.PathFinder.find_spec("sitecustomize", others)) and hidden.loader:
    hidden.loader.exec_module(importlib.util.module_from_spec(hidden))
"""


class Used:
    """The memory of servers that were started inside `measured`."""

    def __init__(self, folder: Path) -> None:
        self._done = folder / "trimmed"

    async def of(self, pid: int) -> int:
        """Let the server collect garbage and return what is free to the system; return the bytes then resident."""
        self._done.unlink(missing_ok=True)
        os.kill(pid, signal.SIGUSR1)
        async with asyncio.timeout(DEADLINE_S):
            while not self._done.exists():
                await asyncio.sleep(0.01)
        return int(self._done.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    async def at_most(self, most: int, pid: int) -> int:
        """Return the bytes in use as soon as they are at most `most`, for calls may still be ending; otherwise those in
        use after REQUEST_S: what a server keeps, it still has then."""
        loop = asyncio.get_running_loop()
        end = loop.time() + REQUEST_S
        while (used := await self.of(pid)) > most and loop.time() < end:
            await asyncio.sleep(0.1)
        return used


@contextlib.contextmanager
def measured(folder: Path) -> Iterator[Used]:
    """Let servers that are started inside return their free memory when asked. folder: an empty one, for files."""
    (folder / "sitecustomize.py").write_text(RETURNS_MEMORY)
    sys.path.insert(0, str(folder))  # ServerChild hands it on
    try:
        yield Used(folder)
    finally:
        sys.path.remove(str(folder))
