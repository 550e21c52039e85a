"""Measure several nodes over one store, on each engine that is installed: a folder, SeaweedFS, PostgreSQL.

gap: an owner is killed with -9 while streams of a learning model tick; how long each waits for its next answer.
latency: a tick's median latency over that of a server without a store, and the time from an answer to its Durable.
requests: calls of the store by busy and by idle shards.
packed: forecasts of 1, 2 and 3 nodes on this machine, and their CPU.
startup: a node claims every shard of a store with many streams.
lines: of our own code that only a cluster needs.

Parts that compare do so in turns. Other work on the machine moves all that is in seconds: the load is shown.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench._gaps import gap
from bench._nodes import BACKENDS, Backend, backends
from bench._opening import lines, startup
from bench._paces import latency, packed, requests
from bench.report import Row, finish, parser

PARTS = ("gap", "latency", "requests", "packed", "startup", "lines")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print the rows; return 1 if one misses its bound."""
    options = parser(__doc__)
    options.add_argument("--only", nargs="+", default=list(PARTS), choices=PARTS)
    options.add_argument("--backends", nargs="+", default=list(BACKENDS), choices=BACKENDS)
    options.add_argument("--kills", type=int, default=10, help="for each backend")
    options.add_argument("--tail", type=float, default=2.0, help="seconds of ticks before a kill")
    options.add_argument("--rounds", type=int, default=10, help="of the parts that compare")
    options.add_argument("--idle", type=float, default=16.0, help="seconds in which an idle node is watched")
    options.add_argument("--streams", type=int, default=100_000, help="of the part startup")
    arguments = options.parse_args(argv)
    load, rows = os.getloadavg()[0], list[Row]()
    with tempfile.TemporaryDirectory() as folder, backends(Path(folder), arguments.backends) as found:
        parts = measured(found, arguments)
        for name in arguments.only:
            began = time.perf_counter()
            rows += parts[name]()
            print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    rows += [Row("machine", "load at the start", load, "1"), Row("machine", "load at the end", os.getloadavg()[0], "1")]
    return finish(rows, arguments.json)


def measured(found: Sequence[Backend], given: argparse.Namespace) -> dict[str, Callable[[], list[Row]]]:
    """Return what measures each part. given: the options."""
    return {
        "gap": lambda: [row for one in found for row in asyncio.run(gap(one, given.kills, given.tail))],
        "latency": lambda: asyncio.run(latency(found, given.rounds)),
        "requests": lambda: asyncio.run(requests(found, given.idle)),
        "packed": lambda: asyncio.run(packed(found[0], given.rounds)),
        "startup": lambda: asyncio.run(startup(found[0], given.streams)),
        "lines": lines,
    }


if __name__ == "__main__":
    sys.exit(main())
