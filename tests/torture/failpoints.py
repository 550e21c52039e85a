"""Failpoints on the side of the test: their names, how to inject them, how to plan a death."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.journeys.preloaded import LATE

ROOT = Path(__file__).resolve().parents[2]

# By seam: the maximum number of passes before the one that kills. The seams of a commit are passed 50 times a second.
SERVER = {
    "journal.before_write": 40, "journal.mid_write": 40, "journal.before_sync": 40, "journal.after_sync": 40,
    "journal.after_write": 40, "journal.after_ack": 40, "segment.before": 2, "segment.after": 2,
    "snapshot.before": 2, "snapshot.mid": 8, "snapshot.after": 2, "version.before": 4, "version.after": 4,
    "swap.recorded": 4, "swap.installed": 4, "swap.unwritten": 4,
}  # fmt: skip
STARTING = {"recovery.mid": 1, "recovery.after": 1}
TRAINER = {
    "learn.before": 40, "learn.after": 40, "checkpoint.before": 3, "checkpoint.mid": 6, "checkpoint.after": 3,
    "export.before": 4, "export.after": 4, "verdict.before": 4,
}  # fmt: skip
RANDOM_SERVER, RANDOM_TRAINER = "server.random", "trainer.random"
ALL = (*SERVER, *STARTING, *TRAINER, RANDOM_SERVER, RANDOM_TRAINER)


@contextlib.contextmanager
def injected(folder: Path, code: str) -> Iterator[None]:
    """Make servers and trainers started inside the block run this code first, as their sitecustomize."""
    folder.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(code)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


class Failpoints:
    """Plan one death at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._plans = itertools.count()

    @property
    def code(self) -> str:
        """Return the code that a process must run to have the failpoints."""
        paths = [str(ROOT), str(ROOT / "client")]
        return (
            f"{LATE}import sys\nsys.path += {paths}\nfrom tests.torture.inside import arm\narm({str(self._folder)!r})\n"
        )

    def plan(self, seam: str, number: int) -> None:
        """Plan the death of the process that passes the seam for the `number`-th time from now on."""
        (self._folder / "hit").unlink(missing_ok=True)
        (self._folder / "written").write_text(f"{seam} {number} {next(self._plans)}")
        (self._folder / "written").rename(self._folder / "plan")

    def withdraw(self) -> bool:
        """Remove the plan if it has not been carried out. Returns whether it has."""
        (self._folder / "plan").unlink(missing_ok=True)
        return self.hit

    @property
    def hit(self) -> bool:
        """Return whether the plan has been carried out."""
        return (self._folder / "hit").exists()
