"""`python -m deploy.version`: copy the version from client/freshet/version.py to files that cannot read it.

A test compares each copy with the version.
"""

from __future__ import annotations

import re
from pathlib import Path

from freshet.version import __version__

ROOT = Path(__file__).resolve().parents[1]
COPIES = {  # by file: what precedes the version on its line
    "pyproject.toml": r'^    "freshet==',
    "deploy/compose.yaml": r"^ +image: freshet:",
    "deploy/kubernetes/kustomization.yaml": r"^ +newTag: ",
    "deploy/kubernetes/statefulset.yaml": r"^ +image: freshet:",
    "deploy/cluster/compose.yaml": r"^ +image: freshet:",
    "deploy/cluster/kubernetes/kustomization.yaml": r"^ +newTag: ",
    "deploy/cluster/kubernetes/statefulset.yaml": r"^ +image: freshet:",
}


def updated(text: str, before: str, version: str) -> str:
    """Return `text` with `version` in the one place where a line begins with `before`.

    Raises ValueError unless there is exactly one such line.
    """
    new, places = re.subn(rf'({before})[^\s"]+', rf"\g<1>{version}", text, flags=re.M)
    if places != 1:
        raise ValueError(f"expected one line that matches {before!r}, found {places}: correct COPIES in {__name__}")
    return new


if __name__ == "__main__":
    for file, before in COPIES.items():
        old = (ROOT / file).read_text(encoding="utf-8")
        new = updated(old, before, __version__)
        (ROOT / file).write_text(new, encoding="utf-8")
        print(f"{'same ' if new == old else 'wrote'} {file}")
