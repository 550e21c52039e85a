"""Labels ticks of somebody else's stream, from a process of its own: "ready" out, lines "seq y" in, a ledger out.

Run as `python -m tests.journeys.laboratory HOST:PORT MODEL STREAM`.
"""

from __future__ import annotations

import asyncio
import json
import sys

import freshet


async def main(target: str, model: str, stream: str) -> None:
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    sent = 0
    async with freshet.connect(target) as client:
        async with client.learn(model, "laboratory", on_refused="keep") as learning:
            print("ready", flush=True)
            async for line in lines:
                seq, y = line.split()
                await learning.label(stream, int(seq), float(y))
                sent += 1
            await learning.flush()
        labels = [error for error in learning.refused if isinstance(error, freshet.LabelRefused)]
        refused = [(error.seq, error.reason.name) for error in labels]
    print(json.dumps({"acknowledged": sent - len(refused), "refused": refused, "reconnects": learning.reconnects}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
