"""An application: send each reading of a sensor and get a forecast of the next five, from a model that learns.

    python examples/application.py [HOST:PORT]

Run it again, and the stream continues where it was. FRESHET_TOKEN is the token, if the server requires one.
"""

import asyncio
import math
import os
import random
import sys
from collections.abc import AsyncIterator

import freshet

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8300"


async def boiler(first: int) -> AsyncIterator[tuple[float, list[float]]]:
    """Replace this by your sensor: yield event time, seconds since 1970, and a row, one value per channel."""
    for minute in range(first, first + 300):
        yield 1_700_000_000 + 60 * minute, [50 + 20 * math.sin(minute / 8) + random.gauss(0, 0.5)]


async def main() -> None:
    """Run one stream from where it was."""
    async with freshet.connect(ADDRESS, token=os.environ.get("FRESHET_TOKEN")) as client:
        # Creating it again has no effect; another spec would be an error.
        await client.create_model("boiler", channels=["celsius"], interval=60.0, horizon=5, learning_rate=2e-3)
        async with client.stream("boiler", "cellar") as stream:
            # Several readings are in flight; each is answered once, in order, also across restarts of the server.
            async for forecast in stream.forecasts(boiler(stream.next_seq), max_staleness=32):
                if forecast.seq % 50 == 0:
                    ahead = ", ".join(f"{y:.1f}" for y in forecast.y[:, 0])
                    print(f"reading {forecast.seq}: then {ahead} °C, says version {forecast.version}")


asyncio.run(main())
