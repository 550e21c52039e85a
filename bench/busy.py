"""Measure the latency of single ticks on one server, in turns with an idle and a busy trainer.

A burst of ticks to a second model with a large network keeps the trainer busy; nothing else goes to that model. The
measured stream belongs to a model that does not learn. The idle phase begins when the burst has its verdict.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

import freshet
from bench.report import Row, finish, parser
from service.programs.backtest.child import ServerChild

BURST = 250


async def latencies(stream: freshet.Stream, n: int) -> list[float]:
    """Send n ticks one at a time, and return the seconds that each takes."""
    taken = []
    for value in np.random.default_rng(n).standard_normal(n):
        started = time.perf_counter()
        await stream.step([value])
        taken.append(time.perf_counter() - started)
    return taken


async def measure(rounds: int, n: int) -> dict[str, list[list[float]]]:
    """Return the latencies of each phase, a list per round."""
    found: dict[str, list[list[float]]] = {"idle": [], "busy": []}
    with tempfile.TemporaryDirectory() as folder:
        child = ServerChild(Path(folder) / "data", Path(folder) / "log")
        async with child, freshet.connect(child.grpc) as client:
            await client.create_model("served", channels=["v"], learn=False)
            await client.create_model("heavy", channels=["v"], hidden=256, window=64)
            async with client.stream("served", "s") as stream, client.stream("heavy", "s") as heavy:
                await latencies(stream, n)  # warm up
                for r in range(rounds):
                    print(f"round {r + 1} of {rounds}", file=sys.stderr)
                    found["idle"].append(await latencies(stream, n))
                    burst = np.cumsum(np.random.default_rng(r).standard_normal(BURST))
                    async for _ in heavy.forecasts(burst):
                        pass
                    before = heavy.judged_through
                    taken = await latencies(stream, n)
                    if heavy.judged_through >= heavy.next_seq - 1 and before < heavy.next_seq - 1:
                        print(
                            "the burst was learned before the phase ended: use fewer ticks or a longer burst",
                            file=sys.stderr,
                        )
                    found["busy"].append(taken)
                    await asyncio.wait_for(heavy.wait_judged(heavy.next_seq - 1), 120)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print the rows; return 1 if the ratio of the medians exceeds its bound."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--ticks", type=int, default=500, help="ticks per phase")
    arguments = options.parse_args(argv)
    found = asyncio.run(measure(arguments.rounds, arguments.ticks))
    rows = []
    for phase, rounds in found.items():
        together = np.concatenate(rounds)
        rows.append(Row(f"trainer {phase}", "latency p50", float(np.quantile(together, 0.5)), "s"))
        rows.append(Row(f"trainer {phase}", "latency p99", float(np.quantile(together, 0.99)), "s"))
    pairs = list(zip(found["busy"], found["idle"], strict=True))
    ratio = median(float(np.median(b) / np.median(i)) for b, i in pairs)
    tail = median(float(np.quantile(b, 0.99) / np.quantile(i, 0.99)) for b, i in pairs)
    rows.append(Row("busy over idle", "latency p50", ratio, "ratio", asked=1.3))
    rows.append(Row("busy over idle", "latency p99", tail, "ratio"))
    return finish(rows, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
