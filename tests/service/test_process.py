"""How gRPC runs in a server."""

from __future__ import annotations

import subprocess
import sys

from service.server.process import GRPC_DEFAULTS, set_grpc_defaults

SHOW = """
import os, sys
from service.cli import main
assert "grpc" not in sys.modules, "it reads its variables once"
from service.server import ports, server
async def serve(config, announce):
    print(os.environ["GRPC_EXPERIMENTS"])
    return 0
server.serve = serve
sys.argv = ["freshet", "serve"]
main.main()
"""


def test_what_the_operator_has_set_stays():
    environ = {"GRPC_EXPERIMENTS": "event_engine_listener"}

    set_grpc_defaults(environ)

    assert environ == {**GRPC_DEFAULTS, "GRPC_EXPERIMENTS": "event_engine_listener"}


def test_a_server_sets_it_before_grpc_is_imported(tmp_path):
    ran = subprocess.run([sys.executable, "-c", SHOW], cwd=tmp_path, capture_output=True, text=True, timeout=240)

    assert (ran.stdout.splitlines()[-1], ran.returncode) == (GRPC_DEFAULTS["GRPC_EXPERIMENTS"], 0), ran.stderr
