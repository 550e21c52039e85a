"""The blocking form of freshet, for scripts, threads and notebooks: the same names without `await`.

with freshet.sync.connect("127.0.0.1:8300") as client, client.stream("taxi", "nyc") as stream:
    for forecast in stream.forecasts(values, times):
        print(forecast.seq, forecast.y)

Each client does its work in its own thread until it is closed; any other thread may call it. In a forked process it
raises Forked. Ctrl-C ends a wait, as cancelling does: a tick already sent stays sent.
"""

from freshet.sync.client import Client, connect
from freshet.sync.senders import Learning, Mux
from freshet.sync.stream import Forecasts, Stream

__all__ = ["Client", "Forecasts", "Learning", "Mux", "Stream", "connect"]
