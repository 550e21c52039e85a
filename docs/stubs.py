"""`python -m docs.stubs`: write the Python stubs of protos/ to client/freshet/v1, where they are stale.

A test compares the committed stubs with `generated`.
"""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
CLIENT = ROOT / "client"
PLUGINS = ("python", "grpc_python", "mypy", "mypy_grpc")


def generated() -> dict[str, bytes]:
    """Return the contents of every stub that protoc makes from protos/, by its path under client/."""
    protos = sorted(str(path.relative_to(ROOT / "protos")) for path in (ROOT / "protos").rglob("*.proto"))
    # protoc finds its mypy plugins beside the interpreter.
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    with TemporaryDirectory() as folder:
        outputs = [f"--{plugin}_out={folder}" for plugin in PLUGINS]
        command = [sys.executable, "-m", "grpc_tools.protoc", "-Iprotos", *outputs, *protos]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        made = Path(folder)
        return {path.relative_to(made).as_posix(): path.read_bytes() for path in made.rglob("*_pb2*.py*")}


def committed() -> dict[str, bytes]:
    """Return the contents of every committed stub, by its path under client/."""
    paths = (CLIENT / "freshet" / "v1").glob("*_pb2*.py*")
    return {path.relative_to(CLIENT).as_posix(): path.read_bytes() for path in paths}


def write() -> None:
    """Write the stubs that changed and delete those whose proto is gone."""
    new, old = generated(), committed()
    for name in sorted(new.keys() | old.keys()):
        if name not in new:
            (CLIENT / name).unlink()
            print(f"deleted client/{name}")
        elif new[name] != old.get(name):
            (CLIENT / name).write_bytes(new[name])
            print(f"wrote   client/{name}")
    if new == old:
        print(f"same    client/freshet/v1, {len(new)} stubs")


if __name__ == "__main__":
    write()
