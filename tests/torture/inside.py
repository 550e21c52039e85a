"""Failpoints inside a server or trainer process that was started with `failpoints.injected`.

The test writes a plan: one seam and the pass at which the process must die. The plan is a file that each pass reads, so
it reaches a running process. A process claims it by renaming it, so it kills once.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

STALL_S = 0.05


def always(*_: Any) -> bool:
    return True


class Seams:
    """Wrap the places where a crash is most harmful."""

    def __init__(self, folder: Path) -> None:
        self._plan, self._hit = folder / "plan", folder / "hit"
        self._passes: Counter[str] = Counter()

    def due(self, seam: str) -> bool:
        """Count a pass. Returns whether the process must die in it, which completes the plan."""
        try:
            plan = self._plan.read_text()
        except FileNotFoundError:
            return False
        name, number, _ = plan.split()
        self._passes[plan] += name == seam
        if name != seam or self._passes[plan] < int(number):
            return False
        try:
            self._plan.rename(self._hit)
        except FileNotFoundError:  # another process was first
            return False
        return True

    def planned(self, seam: str) -> bool:
        """Whether the process will die at this seam, some pass."""
        try:
            return self._plan.read_text().split()[0] == seam
        except FileNotFoundError:
            return False

    def at(self, seam: str) -> None:
        """Die here if the plan says so."""
        if self.due(seam):
            die()

    def around(
        self, owner: Any, name: str, before: str = "", after: str = "", when: Callable[..., bool] = always
    ) -> None:
        """Wrap a function of a class or module with seams; `when` decides by its arguments whether a call counts.

        A process that was forked has imported everything, also functions by their names.
        """
        inner = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            counts = when(*args)
            if before and counts:
                self.at(before)
            result = inner(*args, **kwargs)
            if after and counts:
                self.at(after)
            return result

        for module in [module for at, module in sys.modules.items() if at.startswith("service.")]:
            for own in [own for own, value in vars(module).items() if value is inner]:
                setattr(module, own, wrapped)
        setattr(owner, name, wrapped)


def die() -> NoReturn:
    """Send SIGKILL to this process."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def serving(seams: Seams) -> None:
    """Install the seams of the serving process."""
    from service.journal import log, records
    from service.journal import writer as journal
    from service.publishing import publisher
    from service.server.shard import recovery
    from service.storage import states, versions

    seams.around(log.SegmentLog, "stage", "journal.before_write")
    seams.around(log.SegmentLog, "sync", after="journal.after_write")
    seams.around(os, "fdatasync", "journal.before_sync", "journal.after_sync")
    seams.around(journal.Journal, "_finish_waiters", "journal.after_ack")
    seams.around(log, "create_segment", "segment.before", "segment.after")
    seams.around(states.States, "save", "snapshot.before", "snapshot.after")
    seams.around(versions.Versions, "add", "version.before", "version.after")
    seams.around(publisher.Publisher, "_into_service", "swap.recorded", "swap.installed")
    seams.around(recovery.Replay, "_ticks", "recovery.mid")
    seams.around(recovery, "recover", after="recovery.after")

    def holds_swap(payloads: Sequence[bytes]) -> bool:
        return any(isinstance(r, records.Swap) for data in payloads for r in records.decode_chunk(data).records)

    write, write_all, save = log.SegmentLog.write, log._write_all, states.States.save
    quickly = log.SegmentLog.stages_quickly

    def unwritten(self: Any, payloads: Sequence[bytes]) -> int:
        if holds_swap(payloads) and seams.due("swap.unwritten"):
            time.sleep(STALL_S)  # a slow disk: meanwhile the loop sends answers of the new version
            die()
        return write(self, payloads)

    def beside_the_loop(self: Any, size: int) -> bool:
        return quickly(self, size) and not seams.planned("swap.unwritten")

    def torn(fd: int, data: bytes | bytearray, offset: int) -> None:
        if seams.due("journal.mid_write"):
            write_all(fd, data[: random.randrange(1, len(data))], offset)
            die()
        write_all(fd, data, offset)

    def half_saved(self: Any, position: int, models: Any, streams: Iterable[Any], *rest: Any) -> None:
        def lines() -> Iterator[Any]:
            for row in streams:
                yield row
                seams.at("snapshot.mid")

        save(self, position, models, lines(), *rest)

    log.SegmentLog.write = unwritten  # type: ignore[method-assign]  # a failpoint
    log.SegmentLog.stages_quickly = beside_the_loop  # type: ignore[method-assign]  # a failpoint
    log._write_all = torn
    states.States.save = half_saved  # type: ignore[method-assign, assignment]  # a failpoint


def shared(seams: Seams) -> None:
    """Install the seams of a node of a cluster."""
    from service.cluster.shards import images, keeper, opening, owner, shared_log, versions
    from service.server import components

    seams.around(shared_log.SharedLog, "_append", "store.before_append", "store.after_append")
    seams.around(opening.Prepared, "_offer", "claim.before", "claim.after")
    seams.around(owner, "hint", "claim.unhinted", "claim.hinted")
    seams.around(images, "put_files", "image.before", "image.blocks")
    seams.around(images, "publish", "image.unpublished", "image.published")
    seams.around(keeper.Keeper, "_tidy", after="image.tidied")
    seams.around(versions.SharedVersions, "_record", "version.unnamed", "version.named")
    seams.around(components.Components, "leave", "handover.before", "handover.leaving")


def training(seams: Seams) -> None:
    """Install the seams of the trainer process."""
    from service.engine import export
    from service.trainer import channel, checkpoint, hosting, quarantine

    seams.around(hosting.HostedModel, "apply", "learn.before", "learn.after")
    seams.around(checkpoint.Checkpoints, "save", "checkpoint.before", "checkpoint.after")
    seams.around(quarantine.Quarantine, "changes", "checkpoint.mid")  # called inside the transaction
    seams.around(export, "export", "export.before", "export.after")
    seams.around(channel, "encode", "verdict.before", when=lambda message: message.kind == "verdict")


def arm(folder: str) -> None:
    """Install all seams. The injected sitecustomize calls it before any code of the service runs."""
    trainer = "service.trainer.process" in sys.orig_argv
    if trainer or "service.cli" in sys.orig_argv:
        seams = Seams(Path(folder))
        (training if trainer else serving)(seams)
        if "--store" in sys.orig_argv:
            shared(seams)
