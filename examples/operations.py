"""An operator's check: does the server live, does it take streams, what does it do; and, leaving, has it left.

    python examples/operations.py [http://HOST:PORT] [--until-drained]

Ends with 0 if the server is ready, 1 if not. FRESHET_TOKEN, of role metrics, is sent where the server asks for one.
"""

import os
import sys
import time
import urllib.error
import urllib.request

URL = next((word for word in sys.argv[1:] if not word.startswith("-")), "http://127.0.0.1:8301")
SHOWN = ("freshet_ticks_total", "freshet_streams_open{", "freshet_trainer_backlog", "freshet_disk_free")


def get(path: str) -> tuple[int, str]:
    """Status and text; status 0 where nobody answers."""
    token = os.environ.get("FRESHET_TOKEN", "")
    request = urllib.request.Request(URL + path, headers={"authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, f"{error}\n"


if "--until-drained" in sys.argv:  # after SIGTERM: clients are told to go, everything is put on disk, the port closes
    while get("/healthz")[0] == 200:
        time.sleep(0.1)
    print("drained: the next server may start on its data")
    sys.exit()

ready = get("/readyz")
print("healthz:", get("/healthz")[1], "readyz:", ready[1], sep=" ", end="")
print(*(line for line in get("/metrics")[1].splitlines() if line.startswith(SHOWN)), sep="\n")
sys.exit(ready[0] != 200)
