"""`python -m deploy.locks`: write the parts of requirements.lock that the image needs.

deploy/requirements.lock holds what the two distributions need at run time, deploy/build.lock what building their wheels
needs. A test compares both with the committed files.
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
STORES = ("object", "postgres")  # extras that the image has, so that many of it can share a store
OURS = {"freshet", "freshet-server"}
IMAGE = {  # the environment for markers, on every machine that runs this
    "implementation_name": "cpython", "os_name": "posix", "platform_python_implementation": "CPython",
    "platform_system": "Linux", "python_full_version": "3.11.0", "python_version": "3.11", "sys_platform": "linux",
}  # fmt: skip
NOTE = "# made by `python -m deploy.locks` from requirements.lock\n"


def locked() -> dict[str, str]:
    """Return the lines of requirements.lock that pin each distribution, by its name."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pins = re.finditer(r"^([A-Za-z0-9._-]+)==.*\n(?:[ \t]+.*\n)*", text, re.M)
    return {canonicalize_name(pin[1]): pin[0] for pin in pins}


def closure(wanted: Iterable[str]) -> set[str]:
    """Return the names of all distributions that these requirements need, themselves included, without ours."""
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
    """Return the contents of deploy/requirements.lock."""
    projects = [tomllib.loads((ROOT / path).read_text(encoding="utf-8"))["project"] for path in PROJECTS]
    stores = [text for extra in STORES for text in projects[0]["optional-dependencies"][extra]]
    return _lines(closure([*stores, *(text for project in projects for text in project["dependencies"])]))


def build() -> str:
    """Return the contents of deploy/build.lock."""
    return _lines(closure(["setuptools", "wheel"]))


def _lines(names: set[str]) -> str:
    pins = locked()
    return NOTE + "".join(pins[name] for name in sorted(names))


FILES = {"requirements.lock": runtime, "build.lock": build}

if __name__ == "__main__":
    for file, made in FILES.items():
        (ROOT / "deploy" / file).write_text(made(), encoding="utf-8")
