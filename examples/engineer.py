"""An ML engineer: learn from history, read loss and gradients, and decide which version serves.

python examples/engineer.py [HOST:PORT http://HOST:PORT]
"""

import os
import re
import sys
import urllib.request

import numpy as np

import freshet

ADDRESS, URL = sys.argv[1:] or ["127.0.0.1:8300", "http://127.0.0.1:8301"]
TOKEN = os.environ.get("FRESHET_TOKEN", "")  # if the server requires one
t = np.arange(4_000.0)
series = np.sin(t / 5) + 0.4 * np.sin(t / 17) + np.random.default_rng(1).normal(0, 0.05, len(t))
history, live = series[:3_500], series[3_500:]

with freshet.sync.connect(ADDRESS, token=TOKEN or None) as client:
    client.create_model("waves", channels=["height"], hidden=32, learning_rate=2e-3)
    with client.learn("waves", source="history", acknowledge="learned") as learn:
        for start in range(0, len(history) - 65, 64):  # windows of inputs, and the value after each input
            learn.window(history[start : start + 64], history[start + 1 : start + 65])

    with client.stream("waves", "buoy-7") as stream:
        forecasts = np.array([forecast.y[0, 0] for forecast in stream.forecasts(live, max_staleness=32)])
    print(f"mean squared error {np.mean((forecasts[:-1] - live[1:]) ** 2):.4f}, "
          f"of persistence {np.mean(np.diff(live) ** 2):.4f}")  # fmt: skip
    request = urllib.request.Request(f"{URL}/metrics", headers={"authorization": f"Bearer {TOKEN}"})
    metrics = urllib.request.urlopen(request).read().decode()
    print("gradient:", *re.findall(r'gradient_lag_norm{(lag="\d+"),.*?model="waves".*?} (\S+)', metrics)[:8])
    for event in client.history("waves", events=3):  # verdicts with their reasons and numbers
        numbers = {name: round(number, 3) for name, number in sorted(event.numbers.items())}
        print(event.Kind.Name(event.kind), event.version, event.reason, numbers)

    newest, *_, oldest = [version.number for version in client.versions("waves")]
    client.rollback("waves", oldest)  # learning continues from there too; `promote` moves forward again
    print("serves", client.promote("waves", newest).champion, "of", oldest, "to", newest)
