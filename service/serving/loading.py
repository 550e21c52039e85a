"""Sessions of versions, loaded from their stored files when a tick needs them.

Damaged files are made again from intact weights, bit for bit. Where a version cannot be read, an older one serves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from service.engine.export import Canary, exports, read_weights
from service.engine.loaded import Engine
from service.engine.session import BadVersion, StepSession
from service.journal.records import Rollback
from service.journal.writer import Journal
from service.observe import events as ev
from service.observe.server_metrics import StorageMetrics
from service.observe.serving_metrics import ServingMetrics
from service.serving.catalog import Catalog
from service.storage.versions import Blobs, Version, VersionCorrupt, VersionMissing, Versions
from service.streams.served import ServedModel

log = structlog.get_logger("versions")

UNREADABLE = VersionCorrupt, VersionMissing, BadVersion
LOADS_AT_ONCE = 2  # in threads that snapshots and commits of versions need too


class Loader:
    """Loads sessions. Every method may run in any thread."""

    def __init__(self, versions: Versions, engine: Engine, metrics: StorageMetrics) -> None:
        self._versions, self._engine, self._metrics = versions, engine, metrics

    def load(self, model: ServedModel, number: int) -> StepSession:
        """Return a version's session, checked against its recorded answers. A damaged graph is made again first.

        Raises UNREADABLE.
        """
        intact = self._versions.intact(model.number, number)
        if "onnx" not in intact or "canary" not in intact:
            made = _made_again(model, self._versions.get(model.number, number), intact.get("weights"))
            if made is None:
                made = self._versions.blobs(model.number, number)  # raises, and names the damage
            self._versions.repair(model.number, number, made)
            self._metrics.corrupt.labels("version").inc()
            log.error("a damaged version was made again from its weights", model=model.name, version=number)
            intact = made._asdict()
        session, _ = self._engine.prepare(intact["onnx"], Canary.unpack(intact["canary"]))
        return session

    def is_intact(self, model: ServedModel, number: int) -> bool:
        """Whether a version's files are there as they were stored. It can then very likely be loaded; trying that
        costs about ten times as much."""
        try:
            return len(self._versions.intact(model.number, number)) == len(Blobs._fields)
        except VersionMissing:
            return False

    def readable_before(self, model: ServedModel, number: int, why: Exception) -> tuple[Version, StepSession]:
        """Return the newest version before `number` that can be loaded, and pin it. Raises `why` if there is none."""
        for version in self._versions.list(model.number):
            if version.number >= number:
                continue
            try:
                session = self.load(model, version.number)
            except UNREADABLE as error:
                log.error(
                    "this version cannot be read either", model=model.name, version=version.number, why=str(error)
                )
                continue
            self._versions.pin(model.number, version.number)
            return version, session
        raise why


def _made_again(model: ServedModel, version: Version, weights: bytes | None) -> Blobs | None:
    """Make a version's files from its intact weights: equal weights give equal files. None if they differ.

    The edition of its graph is the one with the recorded digest: an earlier version of freshet may have made it.
    """
    if weights is None:
        return None
    for made in exports(model.network, model.network.weights(read_weights(model.network, weights))):
        if made.digest.hex() == version.digest:
            return Blobs(made.onnx, weights, made.canary)
    return None


class Champions:
    """The sessions of the versions that serve, each loaded when it is needed. For the event loop."""

    def __init__(
        self,
        catalog: Catalog,
        engine: Engine,
        loader: Loader,
        journal: Journal,
        metrics: ServingMetrics,
        storage: StorageMetrics,
        clock: Callable[[], float],
    ) -> None:
        self._catalog, self._engine, self._loader = catalog, engine, loader
        self._journal, self._metrics, self._storage, self._clock = journal, metrics, storage, clock
        self._loads: dict[int, asyncio.Task[None]] = {}  # loads under way, by model
        self._places = asyncio.Semaphore(LOADS_AT_ONCE)
        catalog.on_removed.append(self._removed)

    def loaded(self, model: ServedModel) -> StepSession | None:
        """Return the champion's session if it is loaded."""
        return self._engine.get(model.number, model.champion)

    def session(self, model: ServedModel) -> StepSession:
        """Return the champion's session. Loads it on the loop if it has left memory since `bring`, which is rare.

        Raises UNREADABLE.
        """
        session = self._engine.get(model.number, model.champion)
        if session is None:
            session = self._loader.load(model, model.champion)
            self._engine.install(model.number, model.champion, session)
        return session

    async def bring(self, model: ServedModel) -> None:
        """Load the champion's session in a thread, unless it is loaded. It stays until the caller awaits.

        Where that version cannot be read, an older one serves from then on, by record. Raises UNREADABLE if there is
        none; NotFound for a deleted model.
        """
        while self.loaded(model) is None:
            self._catalog.check_there(model)
            if model.number not in self._loads:
                task = self._loads[model.number] = asyncio.create_task(self._load(model))
                task.add_done_callback(lambda _: self._loads.pop(model.number))
            await asyncio.shield(self._loads[model.number])  # other callers wait for it too

    async def _load(self, model: ServedModel) -> None:
        number = model.champion
        async with self._places:
            started = self._clock()
            try:
                session = await asyncio.to_thread(self._loader.load, model, number)
            except UNREADABLE as error:
                found = await asyncio.to_thread(self._loader.readable_before, model, number, error)
                if model.champion == number and not model.deleted:
                    self.fall_back(model, *found, error)
                return
        self._metrics.session_load_seconds.observe(self._clock() - started)
        if model.champion == number and not model.deleted:
            self._engine.install(model.number, number, session)

    def fall_back(self, model: ServedModel, version: Version, session: StepSession, why: Exception) -> None:
        """Put an older version into service, by record, because the champion cannot be read."""
        reason = f"version {model.champion} cannot be read: {why}"
        log.error("an older version serves", model=model.name, version=version.number, why=reason)
        offset = self._journal.offset(model.number)
        self._catalog.record(model, Rollback(version.number, offset, bytes.fromhex(version.digest), reason))
        self.install(model, session)
        self._storage.corrupt.labels("version").inc()
        self._catalog.emit(model, ev.ROLLED_BACK, offset, version.number, reason)

    def install(self, model: ServedModel, session: StepSession) -> None:
        """Make this the champion's session, and the model's only one."""
        self._engine.retire(model.number, set())
        self._engine.install(model.number, model.champion, session)

    def _removed(self, model: int) -> None:
        self._engine.retire(model, set())
