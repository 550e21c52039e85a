"""An operator's check: health, readiness and metrics of a server; with --until-drained, wait for its end.

    python examples/operations.py [http://HOST:PORT] [--until-drained]

Exits with 0 if the server is ready, 1 if not. FRESHET_TOKEN is a token of role metrics, if the server requires one.
"""

import os
import sys
import time
import urllib.error
import urllib.request

URL = next((word for word in sys.argv[1:] if not word.startswith("-")), "http://127.0.0.1:8301")
SHOWN = ("freshet_ticks_total", "freshet_streams_open{", "freshet_trainer_backlog", "freshet_disk_free")


def get(path: str) -> tuple[int, str]:
    """Return status and text; status 0 without an answer."""
    token = os.environ.get("FRESHET_TOKEN", "")
    request = urllib.request.Request(URL + path, headers={"authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, f"{error}\n"


if "--until-drained" in sys.argv:  # after SIGTERM: the port closes once everything is on disk
    while get("/healthz")[0] == 200:
        time.sleep(0.1)
    print("drained: the next server may start on its data")
    sys.exit()

ready = get("/readyz")
print("healthz:", get("/healthz")[1], "readyz:", ready[1], sep=" ", end="")
print(*(line for line in get("/metrics")[1].splitlines() if line.startswith(SHOWN)), sep="\n")
sys.exit(ready[0] != 200)
