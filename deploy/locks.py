"""`python -m deploy.locks`: write the parts of requirements.lock that an image needs, to run and to build.

deploy/requirements.lock is what the two distributions need to run, in the image; deploy/build.lock is what builds their
wheels. A test compares them with what is committed.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECTS = ("pyproject.toml", "client/pyproject.toml")
OURS = {"freshet", "freshet-server"}
IMAGE = {  # for which markers are decided, wherever this runs
    "implementation_name": "cpython", "os_name": "posix", "platform_python_implementation": "CPython",
    "platform_system": "Linux", "python_full_version": "3.11.0", "python_version": "3.11", "sys_platform": "linux",
}  # fmt: skip
NOTE = "# made by `python -m deploy.locks` from requirements.lock\n"


def locked() -> dict[str, str]:
    """By name: the lines of requirements.lock that pin a distribution."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pins = re.finditer(r"^([A-Za-z0-9._-]+)==.*\n(?:[ \t]+.*\n)*", text, re.M)
    return {canonicalize_name(pin[1]): pin[0] for pin in pins}


def closure(wanted: Iterable[str]) -> set[str]:
    """The names of the distributions that these requirements bring with them, themselves included; not ours."""
    found: set[str] = set()
    todo = [Requirement(text) for text in wanted]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name in found | OURS:
            continue
        found.add(name)
        for text in metadata.requires(name) or ():
            needed = Requirement(text)
            extras = ["", *requirement.extras]
            if needed.marker is None or any(needed.marker.evaluate(IMAGE | {"extra": extra}) for extra in extras):
                todo.append(needed)
    return found


def runtime() -> str:
    """deploy/requirements.lock."""
    projects = [tomllib.loads((ROOT / path).read_text(encoding="utf-8"))["project"] for path in PROJECTS]
    return _lines(closure(text for project in projects for text in project["dependencies"]))


def build() -> str:
    """deploy/build.lock."""
    return _lines(closure(["setuptools", "wheel"]))


def _lines(names: set[str]) -> str:
    pins = locked()
    return NOTE + "".join(pins[name] for name in sorted(names))


FILES = {"requirements.lock": runtime, "build.lock": build}

if __name__ == "__main__":
    for file, made in FILES.items():
        (ROOT / "deploy" / file).write_text(made(), encoding="utf-8")
