"""`python -m docs.stubs`: write the Python stubs of protos/, where they are stale.

Those of freshet.v1 belong to the SDK, client/freshet/v1; those of the Open Inference Protocol to the room that serves
it, so that users can have another implementation's stubs of that package beside the SDK. A test compares the committed
stubs with `generated`.
"""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
CLIENT = ROOT / "client"
ROOM = "service/edge/oip"  # where inference.proto is for protoc, so that its stubs import each other from there
PLUGINS = ("python", "grpc_python", "mypy", "mypy_grpc")


def generated() -> dict[str, bytes]:
    """Return the contents of every stub that protoc makes from protos/, by its path under the root."""
    protos = sorted(str(path.relative_to(ROOT / "protos")) for path in (ROOT / "protos" / "freshet").rglob("*.proto"))
    protos.append(f"{ROOM}/inference.proto")
    # protoc finds its mypy plugins beside the interpreter.
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    with TemporaryDirectory() as folder:
        outputs = [f"--{plugin}_out={folder}" for plugin in PLUGINS]
        sources = ["-Iprotos", f"-I{ROOM}=protos/inference"]
        command = [sys.executable, "-m", "grpc_tools.protoc", *sources, *outputs, *protos]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        made = Path(folder)
        return {_place(path.relative_to(made)): path.read_bytes() for path in made.rglob("*_pb2*.py*")}


def _place(made: Path) -> str:
    """Return where a stub belongs, under the root."""
    return made.as_posix() if made.as_posix().startswith(ROOM) else f"{CLIENT.name}/{made.as_posix()}"


def committed() -> dict[str, bytes]:
    """Return the contents of every committed stub, by its path under the root."""
    folders = CLIENT / "freshet" / "v1", ROOT / ROOM
    paths = (path for folder in folders for path in folder.glob("*_pb2*.py*"))
    return {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in paths}


def write() -> None:
    """Write the stubs that changed and delete those whose proto is gone."""
    new, old = generated(), committed()
    for name in sorted(new.keys() | old.keys()):
        if name not in new:
            (ROOT / name).unlink()
            print(f"deleted {name}")
        elif new[name] != old.get(name):
            (ROOT / name).write_bytes(new[name])
            print(f"wrote   {name}")
    if new == old:
        print(f"same    {len(new)} stubs")


if __name__ == "__main__":
    write()
