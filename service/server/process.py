"""The process: how gRPC runs in it, and the signals that end it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import MutableMapping

INTERRUPTED = 130  # exit code after a second signal

GRPC_DEFAULTS = {
    "GRPC_VERBOSITY": "ERROR",  # otherwise it logs every failed handshake
    # The thread that waits for gRPC's events then reads the sockets itself. By default a pool of threads reads them and
    # hands each message over: three waits of threads and a fifth of an echo's CPU per message more.
    "GRPC_EXPERIMENTS": "-event_engine_listener",
}


def set_grpc_defaults(environ: MutableMapping[str, str] = os.environ) -> None:
    """Set how gRPC runs, where the operator has not. To be called before gRPC is imported, which reads it once."""
    for name, value in GRPC_DEFAULTS.items():
        environ.setdefault(name, value)


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
