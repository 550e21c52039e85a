"""Creating models: the first version, and the first records."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model.spec import ModelSpec, keeps_layout
from service.common import limits
from service.common.errors import AlreadyExists, Exhausted
from service.common.names import ModelKey, check_model_name
from service.engine.export import Canary, Export, export, pack_weights
from service.engine.loaded import Engine
from service.engine.session import StepSession
from service.journal.records import Gathered, ModelCreate, Promote, Swap
from service.journal.writer import Journal
from service.observe import events as ev
from service.publishing.differences import differences
from service.publishing.shadows import check_source
from service.serving.admission import Admission
from service.serving.catalog import Catalog
from service.storage.versions import Version, Versions, new_version
from service.streams.served import ServedModel

Array = NDArray[np.float32]


AT_ONCE = 4  # models created at the same time: more would only compete for processors
KEPT_SPECS = 8  # first versions kept for another model of the same spec
KEPT_BYTES = 1 << 20  # largest graph that is kept


class Slicing(Protocol):
    """Decides which new models are served in slices by other shards. Both methods raise Invalid, Unavailable."""

    async def slices(self, key: ModelKey, spec: ModelSpec) -> int:
        """Return the number of slices of a model that is to be made; 0: it is served where it learns."""

    async def created(self, model: ServedModel) -> None:
        """Let the slices find a model with slices, which is on disk. May be repeated."""


class Creation:
    """Creates models, several at a time; calls for the same name take turns."""

    def __init__(
        self,
        max_models: int,
        catalog: Catalog,
        admission: Admission,
        journal: Journal,
        versions: Versions,
        engine: Engine,
        wall: Callable[[], float],
    ) -> None:
        """max_models: of all tenants together; wall: seconds since 1970."""
        self._max_models, self._catalog, self._admission = max_models, catalog, admission
        self._journal, self._versions, self._engine, self._wall = journal, versions, engine, wall
        self.slicing: Slicing | None = None  # None: no model has slices
        self._making = asyncio.Semaphore(AT_ONCE)
        self._names: dict[ModelKey, tuple[asyncio.Lock, int]] = {}  # of calls under way: their lock and their number
        # By spec, as JSON: recent first versions drawn from a seed, and their parity. Many models share a spec.
        self._made: OrderedDict[str, tuple[Export, float]] = OrderedDict()
        self._places: Counter[str] = Counter()  # models being created, by tenant: they count as existing

    async def create(self, key: ModelKey, spec: ModelSpec, weights: Array | None = None) -> ServedModel:
        """Create a model, or return it if it has this spec now or was created with it.

        On return it is on disk and serves.

        weights: of version 1, flat; None: drawn from the seed. If given, an existing model must have begun with them.
        Raises Invalid, AlreadyExists, Exhausted, Unavailable; BadVersion for weights whose answers are not finite.
        """
        check_model_name(key.name)
        self._admission.check_disk()
        limits.check_size(spec)
        # Shielded from a caller that leaves: the next call must not find half a model.
        return await asyncio.shield(self._find_or_create(key, spec, weights))

    async def _find_or_create(self, key: ModelKey, spec: ModelSpec, weights: Array | None) -> ServedModel:
        async with self._turn(key):
            existing = self._catalog.by_key.get(key)
            if existing is not None:
                as_meant = spec, spec.as_of(2), spec.as_of(1)  # by this release and by earlier ones
                if existing.spec not in as_meant and existing.created_as not in as_meant:
                    apart = differences(existing.spec, spec)
                    remedy = f"exists with another spec: {apart}; a spec is immutable: choose another name"
                    if keeps_layout(existing.spec, spec):
                        remedy = f"exists with another spec: {apart}; change it with Models.Update"
                    raise AlreadyExists("name", key.name, remedy)
                if weights is not None and not await asyncio.to_thread(self._began_with, existing, weights):
                    remedy = "began with other weights: import these as a version of it, or choose another name"
                    raise AlreadyExists("name", key.name, remedy)
                return await self._findable(existing)
            check_source(self._catalog, key, spec)
            held = len(self._catalog.models) + self._places.total()
            if held >= self._max_models:
                raise Exhausted("name", key.name, f"the server holds {held} models, its limit", retry_s=60)
            of_tenant = self._catalog.totals.models_of(key.tenant) + self._places[key.tenant]
            self._admission.tenants.of(key.tenant).check_models(of_tenant, key.name)
            slices = await self.slicing.slices(key, spec) if self.slicing else 0
            self._places[key.tenant] += 1
            number = self._catalog.next_number()
            try:
                model = ServedModel(number, key.tenant, key.name, spec)
                async with self._making:
                    await self._create(model, spec, weights, slices)
            finally:
                self._catalog.coming.discard(number)
                self._places[key.tenant] -= 1
            await self._journal.flush()
            return await self._findable(model)

    async def _findable(self, model: ServedModel) -> ServedModel:
        """Let the slices of a model find it, if it has some."""
        if model.slices.count and self.slicing:
            await self.slicing.created(model)
        return model

    @contextlib.asynccontextmanager
    async def _turn(self, key: ModelKey) -> AsyncIterator[None]:
        """Keep other calls from creating or looking up a model of this name."""
        lock, calls = self._names.get(key, (asyncio.Lock(), 0))
        self._names[key] = lock, calls + 1
        try:
            async with lock:
                yield
        finally:
            lock, calls = self._names.pop(key)
            if calls > 1:
                self._names[key] = lock, calls - 1

    async def _create(self, model: ServedModel, spec: ModelSpec, weights: Array | None, slices: int) -> None:
        """Make the first version, then, without awaiting, the records. They are not on disk yet on return."""
        try:
            version, session = await asyncio.to_thread(self._first_version, model, weights)
        except Exception:
            self._admission.check_open()  # of a shard handed over meanwhile, whose files are closed, name the next node
            raise
        check_source(self._catalog, model.key, spec)  # again: it may have been deleted meanwhile
        record = ModelCreate(model.tenant, model.name, json.dumps(spec.to_stored()))
        self._journal.append(model.number, record)
        if slices:
            self._catalog.record(model, Gathered(0, slices, 0, 0, 0, 0))
        digest = bytes.fromhex(version.digest)
        if weights is None:
            self._catalog.record(model, Swap(version.number, 0, digest))
        else:  # the learner starts from them, not from the seed
            self._catalog.record(model, Promote(version.number, 0, digest, "its first weights"))
        if session is not None:
            self._engine.offer(model.number, version.number, session)
        self._catalog.add(model)
        self._catalog.emit(model, ev.CREATED, 0, version.number, "created")

    def _keep(self, spec: str, made: Export, error: float) -> None:
        if spec and len(made.onnx) <= KEPT_BYTES:
            self._made[spec] = made, error
            while len(self._made) > KEPT_SPECS:
                self._made.popitem(last=False)

    def _began_with(self, model: ServedModel, weights: Array) -> bool:
        """Whether the model's first version, which is never pruned, has these weights."""
        first = self._versions.list(model.number)[-1]
        return first.weights_digest == hashlib.sha256(pack_weights(model.network, weights)).hexdigest()

    def _first_version(self, model: ServedModel, flat: Array | None) -> tuple[Version, StepSession | None]:
        """Store the first version; returns it, and its session unless the files were checked before. In a thread."""
        spec = "" if flat is not None else json.dumps(model.spec.to_mapping())
        session = None
        kept = self._made.get(spec)
        if kept is not None:
            made, error = kept
        else:
            made = export(model.network, model.network.weights(model.network.init_params() if flat is None else flat))
            session, error = self._engine.prepare(made.onnx, Canary.unpack(made.canary))
            self._keep(spec, made, error)
        version = new_version(model.number, 0, 0, made.onnx, made.weights, self._wall(), {"parity_error": error})
        # Pinned: it is the anchor until the gate has chosen one.
        number = self._versions.add(version, made.onnx, made.weights, made.canary, pinned=True)
        return self._versions.get(model.number, number), session
