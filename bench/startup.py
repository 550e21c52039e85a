"""Measure the start of a server that was killed: seconds from exec to ready with 100,000 streams and a tail to replay.

Every stream ticks once and is saved in a snapshot, then ticks once more. When that is durable, the server is killed
with -9. The next start reads the snapshot, verifies the journal, and replays the ticks after the snapshot, each with
the version that answered it; the server's log gives the rate of this part. Two more starts are measured: after an
orderly stop, with nothing to replay, and the first one, on an empty directory.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import grpc
import numpy as np

from bench.memory import HIDDEN, bind_all, create_model, metric, tick_all
from bench.report import Row, finish, parser
from service.programs.backtest.child import ServerChild

SNAPSHOT_S = 30.0  # long enough to write the tail and kill the server before the next snapshot
DEADLINE_S = 300.0


async def until(http: str, name: str, least: float) -> None:
    """Wait until a metric reaches a value."""
    while await metric(http, name) < least:
        await asyncio.sleep(0.1)


async def live_and_die(child: ServerChild, streams: int) -> None:
    """Make a data directory with all streams in a snapshot and one tick of each after it."""
    rng = np.random.default_rng(0)
    options = [("grpc.max_receive_message_length", 64 << 20)]
    async with grpc.aio.insecure_channel(child.grpc, options=options) as channel, asyncio.timeout(DEADLINE_S):
        await create_model(channel, learn=True)
        call = await bind_all(channel, streams)
        await tick_all(call, streams, 1, rng)
        snapshots = await metric(child.http, "freshet_snapshot_seconds_count")
        await until(child.http, "freshet_snapshot_seconds_count", snapshots + 1)
        before = await metric(child.http, "freshet_journal_position_bytes")
        await tick_all(call, streams, 2, rng)
        await until(child.http, "freshet_journal_position_bytes", before + 1)
        while await metric(child.http, "freshet_journal_undurable_entries"):
            await asyncio.sleep(0.1)
        child.kill()
        await child.wait()


async def timed_start(child: ServerChild) -> float:
    """Start the server, and return the seconds from exec to ready."""
    started = time.perf_counter()
    await child.start(DEADLINE_S)
    return time.perf_counter() - started


async def measure(streams: int) -> list[Row]:
    """Return the rows of one run."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        settings = {"snapshot_s": SNAPSHOT_S, "max_resident": 2 * streams}
        child = ServerChild(Path(folder) / "data", log, settings=settings)
        on_nothing = await timed_start(child)
        await live_and_die(child, streams)
        after_kill = await timed_start(child)
        told = log.read_text().splitlines()
        facts = dict(re.findall(r"(\w+)=(\S+)", next(line for line in reversed(told) if "event=recovered" in line)))
        replayed, recovery_s = int(facts["replayed"]), float(facts["seconds"])
        if replayed < streams:
            raise RuntimeError(
                f"only {replayed} entries were left to replay, because a snapshot was taken too early: run it again"
            )
        await child.stop(DEADLINE_S)
        after_stop = await timed_start(child)
        await child.stop(DEADLINE_S)
    case = f"{streams} streams, H={HIDDEN}"
    return [
        Row("no data yet", "to ready", on_nothing, "s"),
        Row(case, "to ready after an orderly stop", after_stop, "s"),
        Row(case, "entries replayed after kill -9", replayed, "entries"),
        Row(case, "to ready after kill -9", after_kill, "s"),
        Row(case, "of it, snapshot and replay", recovery_s, "s"),
        Row(case, "replayed per second", replayed / recovery_s, "entries/s", better="higher"),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print the rows."""
    options = parser(__doc__)
    options.add_argument("--streams", type=int, default=100_000)
    arguments = options.parse_args(argv)
    return finish(asyncio.run(measure(arguments.streams)), arguments.json)


if __name__ == "__main__":
    sys.exit(main())
