"""The stores of a data directory: journal, states.db and versions.db, opened together and recovered together."""

from __future__ import annotations

import time
from pathlib import Path

import structlog

from service.journal.writer import Journal
from service.observe.metrics import Metrics
from service.server.shard.recovery import recover
from service.serving.live import LivePath
from service.storage.directory import DirectoryRefused
from service.storage.states import States
from service.storage.versions import VersionMissing, Versions

log = structlog.get_logger("server")


class Stores:
    """Journal, states and versions of one data directory."""

    def __init__(
        self,
        data: Path,
        segment_bytes: int,
        commit_s: float,
        journal: Journal | None = None,
        versions: Versions | None = None,
    ) -> None:
        """Open or make the files, and lock the journal. Raises what the stores raise: file and remedy are named.

        segment_bytes: size of a journal segment; commit_s: shortest time between two commits. journal, versions: of a
        shard, opened and with its own pace.
        """
        self.data = data
        self._existed = {name for name in ("states.db", "versions.db") if (data / name).exists()}
        if journal is None:
            journal = Journal.open(data / "journal", segment_bytes=segment_bytes)
            journal.pace_s = commit_s
        self.journal = journal
        self.states, self.versions = States(data / "states.db"), versions or Versions(data / "versions.db")

    def __repr__(self) -> str:
        return f"Stores({str(self.data)!r}, position={self.journal.durable_position})"

    def recover(self, serving: LivePath, metrics: Metrics) -> None:
        """Bring `serving` to the journal's end, and drop versions of models that are gone. Raises as `recover`.

        Raises DirectoryRefused where versions.db has been removed from beside the other files.
        """
        metrics.journal.truncated.inc(self.journal.truncated_bytes)
        started = time.monotonic()
        try:
            replayed = recover(
                serving.catalog,
                serving.champions,
                serving.loader,
                self.journal,
                self.versions,
                self.states,
                metrics.serving,
                metrics.learner,
            )
        except VersionMissing as error:
            if "versions.db" in self._existed:
                raise
            self.versions.remove()  # the new, empty one would hide from the next start that the old one is missing
            raise DirectoryRefused(
                f"{self.data / 'versions.db'}: missing, and no other file has the weights of the models in states.db "
                "and the journal: put it back, or restore a backup. Nothing was changed"
            ) from error
        seconds = round(time.monotonic() - started, 3)
        if "states.db" not in self._existed and replayed:
            metrics.storage.states_rebuilt.inc()
            log.warning("states.db was missing: every stream was recomputed from the journal", entries=replayed)
        self.versions.drop_all_but(set(serving.catalog.models))
        facts = {"models": len(serving.catalog.models), "replayed": replayed, "seconds": seconds}
        log.info("recovered", **facts, cut=self.journal.truncated_bytes)

    def close(self) -> None:
        """Close the databases. Blocks on the disk."""
        self.states.close()
        self.versions.close()
