"""Which stored versions are kept: those that recovery, the trainer or a rollback may need, and some for people."""

from __future__ import annotations

from typing import NamedTuple

from service.serving.catalog import Catalog
from service.storage.versions import Versions
from service.streams.served import ServedModel
from service.trainer.reports import Ready, Saved

HOUR_S = 3600.0


class CheckpointVersions(NamedTuple):
    """The versions that a trainer's checkpoint refers to: the one that served, and those that the gate names."""

    version: int
    named: set[int]


class Retention:
    """Prunes versions after each snapshot. On the event loop, but for `snapshot_taken`, which may run in a thread."""

    def __init__(self, keep_versions: int, catalog: Catalog, versions: Versions) -> None:
        """keep_versions: recent ones to keep, besides those that something needs."""
        self._keep_versions, self._catalog, self._versions = keep_versions, catalog, versions
        self._needed: dict[int, int] = {}  # by model: champion of the last snapshot, from which recovery starts
        # By trainer and model: where the trainer's recovery starts.
        self._checkpoint: dict[int, dict[int, CheckpointVersions]] = {}
        self._prunable: set[int] = set()  # models that may have become able to spare a version
        catalog.on_removed.append(self._removed)

    def look_at(self, model: int) -> None:
        """Note that a model may be able to spare a version after the next snapshot."""
        self._prunable.add(model)

    def checkpointed(self, message: Ready | Saved, trainer: int = 0) -> None:
        """Note the versions that a trainer's checkpoint needs. One that was saved names the models that changed, one
        that was loaded names all."""
        its = self._checkpoint.setdefault(trainer, {})
        if isinstance(message, Ready):
            its.clear()
        for number, standing in message.models.items():
            known = CheckpointVersions(standing.version, {standing.anchor, standing.contender})
            if its.get(number) != known:
                its[number] = known
                self._prunable.add(number)

    def snapshot_taken(self, champions: dict[int, int]) -> None:
        """Prune versions after a snapshot. champions: of the models that it wrote, by number."""
        noted = self._prunable  # the loop may add to it meanwhile
        self._prunable = set()
        for number in noted | champions.keys():
            model = self._catalog.models.get(number)
            if model is None or (number not in self._needed and number not in champions):
                continue  # no snapshot of this process holds it: recovery may start from any version
            needed = self._needed.get(number, champions.get(number, 0))
            champion = self._needed[number] = champions.get(number, needed)
            if needed != champion:  # the next snapshot may free the version that the former one needed
                self._prunable.add(number)
            self._versions.prune(number, self._keep(model, min(needed, champion)))

    def _keep(self, model: ServedModel, since: int) -> set[int]:
        """Return the versions to keep: all since the older of snapshot (`since`) and checkpoint, those that the gate
        names, recent ones, and one per hour. Pinned ones are kept besides."""
        known = (versions[model.number] for versions in self._checkpoint.values() if model.number in versions)
        without = model.champion if model.slices.part else 0  # a slice is learned elsewhere
        checkpoint = next(known, CheckpointVersions(without, set()))
        since = min(since, checkpoint.version)
        keep, hour = {model.anchor, model.champion, *checkpoint.named}, None
        for version in reversed(self._versions.list(model.number)):
            fresh = version.number >= since or version.number > model.champion - self._keep_versions
            if fresh or version.created // HOUR_S != hour:
                keep.add(version.number)
            hour = version.created // HOUR_S
        return keep

    def _removed(self, model: int) -> None:
        self._needed.pop(model, None)
        for checkpoint in self._checkpoint.values():
            checkpoint.pop(model, None)
        self._prunable.discard(model)
