"""The processes behind a server."""

from __future__ import annotations

from pathlib import Path


def child_of(parent: int, containing: str) -> int:
    """The one child process of `parent` whose command line contains the text. Raises LookupError."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            facts = status.read_text().rpartition(")")[2].split()
            command = (status.parent / "cmdline").read_bytes().decode(errors="replace")
        except OSError:  # it has ended meanwhile
            continue
        if int(facts[1]) == parent and containing in command:
            return int(status.parent.name)
    raise LookupError(f"process {parent} has no child with {containing!r}")


def trainer_of(server: int) -> int:
    """The trainer process of a server process."""
    return child_of(server, "service.trainer.process")
