"""Ports of this machine for servers that tests start: each port is given once, and to one process of a run."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket
from collections.abc import Iterator

# Below those that the system gives to connections, which could take one between two starts of a server.
FIRST, END = 20_000, 32_000


def ports(worker: int, workers: int) -> Iterator[int]:
    """Yield the ports of one of the processes that share the tests, again and again.

    They begin at a random one: on the same machine, another run may be under way.
    """
    each = (END - FIRST) // workers
    own = range(FIRST + worker % workers * each, FIRST + (worker % workers + 1) * each)
    first = random.SystemRandom().randrange(each)
    return itertools.cycle((*own[first:], *own[:first]))


WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PORTS = ports(WORKER, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def free_port() -> int:
    """Return a port that is free now, and that this run's other tests do not get.

    Ports drawn at random for six servers are the same one time in 800, and the tests draw hundreds; a server that has
    been killed also needs its port again.
    """
    while True:
        port = next(_PORTS)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):  # OSError: taken
            return port
