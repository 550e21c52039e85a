"""The findings of one kind of torture, and of all kinds as the JSON that `dev.py torture` writes."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NUMBERS = ("rounds", "hits", "acknowledged", "lost", "learned_twice", "digests_unequal")
LISTS = ("mutants_caught", "mutants_survived")


@dataclass
class Part:
    """The findings of one kind. A round is a hit only if its fault really happened."""

    rounds: int = 0
    hits: int = 0
    acknowledged: int = 0  # ticks, labels and windows acknowledged as durable
    lost: int = 0  # acknowledged ones that the surviving journal lacks
    learned_twice: int = 0
    digests_unequal: int = 0  # learners that differ from an uninterrupted fold of the journal
    mutants_caught: list[str] = field(default_factory=list)
    mutants_survived: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # any other broken promise, in words
    hits_of: Counter[str] = field(default_factory=Counter)  # by name of the fault
    numbers: dict[str, Any] = field(default_factory=dict)  # further measurements
    skipped: bool = False  # not possible on this machine; the summary says why
    summary: str = ""

    @property
    def good(self) -> bool:
        """Return whether every promise holds and at least one was tested."""
        broken = self.lost or self.learned_twice or self.digests_unequal or self.mutants_survived or self.wrong
        return not broken and (self.hits > 0 or self.skipped)

    def as_json(self) -> dict[str, Any]:
        """Return everything, with the keys of the whole report first."""
        values = {name: getattr(self, name) for name in (*NUMBERS, *LISTS, "wrong", "numbers", "skipped", "summary")}
        return {"good": self.good, **values, "hits_of": dict(sorted(self.hits_of.items()))}


def show(done: str) -> None:
    """Print the progress of a kind."""
    print(f"  … {done}", file=sys.stderr, flush=True)


def whole(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the report of several kinds, given as JSON: sums, and the parts by name."""
    report: dict[str, Any] = {name: sum(part.get(name, 0) for part in parts.values()) for name in NUMBERS}
    report |= {name: [m for part in parts.values() for m in part.get(name, [])] for name in LISTS}
    bad = [name for name, part in parts.items() if not part.get("good", False)]
    report["summary"] = (
        f"{report['hits']} faults in {report['rounds']} rounds, {report['acknowledged']} acknowledged, "
        f"{report['lost']} lost, {report['learned_twice']} learned twice, {report['digests_unequal']} digests unequal, "
        f"{len(report['mutants_caught'])} mutants caught, {len(report['mutants_survived'])} survived; "
        + (f"NOT as promised: {', '.join(bad)}" if bad else "all as promised")
    )
    return {**report, "parts": dict(parts)}
