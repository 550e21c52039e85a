"""A script without async: sensors of a line, and the quality that a laboratory measures later.

python examples/application_sync.py [HOST:PORT]
"""

import os
import random
import sys

import freshet

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8300"
SENSORS = ["pressure", "speed"]


def reading() -> dict[str, float]:
    """Replace this by your sensors: return a value by channel, or a list in the order of the channels."""
    return {"speed": random.uniform(0.5, 1.5), "pressure": random.gauss(5, 1)}


with freshet.sync.connect(ADDRESS, token=os.environ.get("FRESHET_TOKEN")) as client:
    client.create_model("quality", channels=SENSORS, task="regress", targets=["strength"], label_horizon=64)

    with client.stream("quality", "line-3") as stream:
        errors = []
        for _ in range(300):
            parts = reading()
            estimate = stream.step(parts)
            # The label may come up to label_horizon readings later; on return it is on the server's disk.
            measured = 10 + 2 * parts["pressure"] - 3 * parts["speed"]
            stream.label(estimate.seq, measured)
            errors.append(abs(float(estimate.y[0, 0]) - measured))
        stream.wait_judged(estimate.seq - 32)  # nearly all labels are judged in the serving weights
        print(f"mean error, first 50 readings: {sum(errors[:50]) / 50:.2f}, last 50: {sum(errors[-50:]) / 50:.2f}")

        frame = {"speed": [0.9, 1.1], "pressure": [4.0, 6.0]}  # a DataFrame of pandas or polars, an Arrow table …
        print("estimates:", [round(float(e.y[0, 0]), 1) for e in stream.forecasts(frame)])
