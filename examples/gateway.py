"""A gateway: send one row per hour of each of thousands of meters in one call, and get all forecasts in one answer.

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
    """Replace this by your meters: return kilowatts, one row per meter; NaN if one did not answer."""
    rng, phase = np.random.default_rng(hour), np.arange(len(METERS))
    kw = 2 + np.sin(2 * np.pi * hour / 24 + phase) + rng.normal(0, 0.1, len(METERS))
    return np.where(rng.random(len(METERS)) < 0.01, np.nan, kw)


async def main() -> None:
    """Send a day of readings."""
    async with freshet.connect(ADDRESS, token=os.environ.get("FRESHET_TOKEN")) as client:
        await client.create_model("meters", channels=["kw"], missing="hold")
        async with client.mux("meters") as mux:  # streams are created, resumed and evicted as needed
            for hour in range(24):
                began = time.monotonic()
                packed = await mux.step(METERS, readings(hour))  # add the time if the model has an interval
                for index, refused in packed.refused.items():  # the other rows are answered
                    print(f"{METERS[index]}: {refused}")
            took = 1000 * (time.monotonic() - began)
            print(f"{np.isfinite(packed.y).sum():,} forecasts in {took:.0f} ms, by version {packed.version.max()}")


asyncio.run(main())
