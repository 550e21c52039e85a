"""A gateway: thousands of meters in one call, a row of each an hour, forecasts for all of them in one answer.

python examples/gateway.py [HOST:PORT]
"""

import asyncio
import os
import sys
import time

import numpy as np

import freshet

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8300"
METERS = [f"meter-{number:04}" for number in range(2_000)]


def readings(hour: int) -> np.ndarray:
    """Stands for your meters: kilowatts, one row per meter; NaN where one did not answer."""
    rng, phase = np.random.default_rng(hour), np.arange(len(METERS))
    kw = 2 + np.sin(2 * np.pi * hour / 24 + phase) + rng.normal(0, 0.1, len(METERS))
    return np.where(rng.random(len(METERS)) < 0.01, np.nan, kw)


async def main() -> None:
    """A day of readings."""
    async with freshet.connect(ADDRESS, token=os.environ.get("FRESHET_TOKEN")) as client:
        await client.create_model("meters", channels=["kw"], missing="hold")
        async with client.mux("meters") as mux:  # streams are created, resumed and put to disk as they come and go
            for hour in range(24):
                began = time.monotonic()
                packed = await mux.step(METERS, readings(hour))  # and the time, for a model with an interval
                for index, refused in packed.refused.items():  # the others are answered all the same
                    print(f"{METERS[index]}: {refused}")
            took = 1000 * (time.monotonic() - began)
            print(f"{np.isfinite(packed.y).sum():,} forecasts in {took:.0f} ms, by version {packed.version.max()}")


asyncio.run(main())
