"""Versions' sessions from their stored files; damaged files are made again from intact weights, to the bit."""

from __future__ import annotations

import structlog

from service.engine.export import Canary, export, read_weights
from service.engine.loaded import Engine
from service.engine.session import BadVersion, StepSession
from service.observe.metrics import Metrics
from service.storage.versions import Blobs, Version, VersionCorrupt, VersionMissing, Versions
from service.streams.sessions import ServedModel

log = structlog.get_logger("versions")

UNREADABLE = VersionCorrupt, VersionMissing, BadVersion


class Loader:
    """Loads sessions. Every method may run in any thread."""

    def __init__(self, versions: Versions, engine: Engine, metrics: Metrics) -> None:
        self._versions, self._engine, self._metrics = versions, engine, metrics

    def load(self, model: ServedModel, number: int) -> StepSession:
        """A version's session, compared with its recorded answers; a damaged graph is made again from intact weights.

        Raises UNREADABLE.
        """
        intact = self._versions.intact(model.number, number)
        if "onnx" not in intact or "canary" not in intact:
            made = _made_again(model, self._versions.get(model.number, number), intact.get("weights"))
            if made is None:
                made = self._versions.blobs(model.number, number)  # raises: it says what is damaged
            self._versions.repair(model.number, number, made)
            self._metrics.corrupt.labels("version").inc()
            log.error("a damaged version was made again from its weights", model=model.name, version=number)
            intact = made._asdict()
        session, _ = self._engine.prepare(intact["onnx"], Canary.unpack(intact["canary"]))
        return session

    def is_intact(self, model: ServedModel, number: int) -> bool:
        """Whether a version's files are there as they were stored: with high odds, it can be loaded when it is wanted,
        which costs some ten times as much."""
        try:
            return len(self._versions.intact(model.number, number)) == len(Blobs._fields)
        except VersionMissing:
            return False

    def readable_before(self, model: ServedModel, number: int, why: Exception) -> tuple[Version, StepSession]:
        """The newest version before `number` that can be loaded; it is never pruned from now on. Raises `why` where
        there is none."""
        for version in self._versions.list(model.number):
            if version.number >= number:
                continue
            try:
                session = self.load(model, version.number)
            except UNREADABLE as error:
                log.error("nor can this version be read", model=model.name, version=version.number, why=str(error))
                continue
            self._versions.pin(model.number, version.number)
            return version, session
        raise why


def _made_again(model: ServedModel, version: Version, weights: bytes | None) -> Blobs | None:
    """A version's files from its intact weights, if there are: equal weights give equal files. None: not these."""
    if weights is None:
        return None
    made = export(model.network, model.network.weights(read_weights(model.network, weights)))
    return Blobs(made.onnx, weights, made.canary) if made.digest.hex() == version.digest else None
