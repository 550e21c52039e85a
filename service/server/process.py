"""The signals that end the process."""

from __future__ import annotations

import asyncio
import os
import signal

INTERRUPTED = 130  # exit code after a second signal


def stop_signal() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set. A second one ends the process: what is acknowledged is on disk."""
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()

    def on_signal() -> None:
        if stopping.is_set():
            os._exit(INTERRUPTED)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return stopping
