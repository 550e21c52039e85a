"""freshet without `await`: the same names, blocking, for scripts, threads and notebooks.

with freshet.sync.connect("127.0.0.1:8300") as client, client.stream("taxi", "nyc") as stream:
    for forecast in stream.forecasts(values, times):
        print(forecast.seq, forecast.y)

Each client has a thread of its own in which all of its work is done, until it is closed; any thread may call it. Behind
a fork it raises Forked. Ctrl-C ends a wait, as cancelling does: a tick that was sent stays sent.
"""

from freshet.sync.client import Client, connect
from freshet.sync.senders import Learning, Mux
from freshet.sync.stream import Forecasts, Stream

__all__ = ["Client", "Forecasts", "Learning", "Mux", "Stream", "connect"]
