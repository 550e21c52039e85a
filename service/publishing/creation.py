"""Making models: the first version, and the records that a model begins with."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator

import numpy as np
from numpy.typing import NDArray

from model.spec import ModelSpec
from service.common import limits
from service.common.errors import AlreadyExists, Exhausted
from service.common.names import ModelKey, check_model_name
from service.engine.export import Canary, Export, export, pack_weights
from service.engine.session import StepSession
from service.journal.records import ModelCreate, Promote, Swap
from service.observe import events as ev
from service.publishing.differences import differences
from service.serving.ticks import Serving
from service.storage.versions import Version, new_version
from service.streams.sessions import ServedModel

Array = NDArray[np.float32]


AT_ONCE = 4  # models made at the same time: more would only wait for each other's processor
KEPT_SPECS = 8  # first versions that are kept for another model of the same spec
KEPT_BYTES = 1 << 20  # of each, its graph


class Creation:
    """Makes models, several at a time; calls that name the same one take turns."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._making = asyncio.Semaphore(AT_ONCE)
        self._names: dict[ModelKey, tuple[asyncio.Lock, int]] = {}  # of calls under way: their lock, how many they are
        # By spec, JSON: the last first versions that were drawn from a seed, and their parity: many models are alike.
        self._made: OrderedDict[str, tuple[Export, float]] = OrderedDict()
        self._places: Counter[str] = Counter()  # of models on their way, by tenant: they count as there

    async def create(self, key: ModelKey, spec: ModelSpec, weights: Array | None = None) -> ServedModel:
        """Create a model, or find it if it exists with this very spec; on return it is on disk and serves version 1.

        weights: flat, version 1's; None: drawn from the seed. Given, an existing model must have begun with them.
        Raises Invalid, AlreadyExists, Exhausted, Unavailable; BadVersion for weights that answer with no numbers.
        """
        check_model_name(key.name)
        self._serving.check_disk()
        limits.check_size(spec)
        # To its end also if the caller leaves: half a model is not to be seen by the next one.
        return await asyncio.shield(self._find_or_create(key, spec, weights))

    async def _find_or_create(self, key: ModelKey, spec: ModelSpec, weights: Array | None) -> ServedModel:
        serving = self._serving
        async with self._turn(key):
            existing = serving.by_key.get(key)
            if existing is not None:
                if existing.spec not in (spec, spec.as_of_first_release()):  # which asks for the same by name
                    apart = differences(existing.spec, spec)
                    remedy = f"exists with another spec: {apart}; a spec is immutable: choose another name"
                    raise AlreadyExists("name", key.name, remedy)
                if weights is not None and not await asyncio.to_thread(self._began_with, existing, weights):
                    remedy = "began with other weights: import these as a version of it, or choose another name"
                    raise AlreadyExists("name", key.name, remedy)
                return existing
            held = len(serving.models) + self._places.total()
            if held >= serving.config.max_models:
                raise Exhausted("name", key.name, f"the server holds {held} models, its limit", retry_s=60)
            of_tenant = serving.totals.models_of(key.tenant) + self._places[key.tenant]
            serving.tenants.of(key.tenant).check_models(of_tenant, key.name)
            self._places[key.tenant] += 1
            serving.last_model += 1  # taken, whatever comes of it
            model = ServedModel(serving.last_model, key.tenant, key.name, spec)
            serving.coming.add(model.number)
            try:
                async with self._making:
                    await self._create(model, spec, weights)
            finally:
                serving.coming.discard(model.number)
                self._places[key.tenant] -= 1
            await serving.journal.flush()
            return model

    @contextlib.asynccontextmanager
    async def _turn(self, key: ModelKey) -> AsyncIterator[None]:
        """Until it ends, no other call creates, or looks for, a model of this name."""
        lock, calls = self._names.get(key, (asyncio.Lock(), 0))
        self._names[key] = lock, calls + 1
        try:
            async with lock:
                yield
        finally:
            lock, calls = self._names.pop(key)
            if calls > 1:
                self._names[key] = lock, calls - 1

    async def _create(self, model: ServedModel, spec: ModelSpec, weights: Array | None) -> None:
        """Make the first version, then, without a pause, the records; they are not on disk yet on return."""
        serving = self._serving
        version, session = await asyncio.to_thread(self._first_version, model, weights)
        record = ModelCreate(model.tenant, model.name, json.dumps(spec.to_stored()))
        serving.journal.append(model.number, record)
        digest = bytes.fromhex(version.digest)
        if weights is None:
            serving.record(model, Swap(version.number, 0, digest))
        else:  # the learner begins with them, not with the seed's
            serving.record(model, Promote(version.number, 0, digest, "its first weights"))
        if session is not None:
            serving.engine.offer(model.number, version.number, session)
        serving.add_model(model)
        serving.emit(model, ev.CREATED, 0, version.number, "created")

    def _keep(self, spec: str, made: Export, error: float) -> None:
        if spec and len(made.onnx) <= KEPT_BYTES:
            self._made[spec] = made, error
            while len(self._made) > KEPT_SPECS:
                self._made.popitem(last=False)

    def _began_with(self, model: ServedModel, weights: Array) -> bool:
        """Whether the model's first version, which is always kept, has these weights."""
        first = self._serving.versions.list(model.number)[-1]
        return first.weights_digest == hashlib.sha256(pack_weights(model.network, weights)).hexdigest()

    def _first_version(self, model: ServedModel, flat: Array | None) -> tuple[Version, StepSession | None]:
        """In a thread: the stored version, and its session unless the same files were checked before."""
        serving = self._serving
        spec = "" if flat is not None else json.dumps(model.spec.to_mapping())
        session = None
        kept = self._made.get(spec)
        if kept is not None:
            made, error = kept
        else:
            made = export(model.network, model.network.weights(model.network.init_params() if flat is None else flat))
            session, error = serving.engine.prepare(made.onnx, Canary.unpack(made.canary))
            self._keep(spec, made, error)
        version = new_version(model.number, 0, 0, made.onnx, made.weights, serving.wall(), {"parity_error": error})
        # Pinned: it is the gate's anchor until that has chosen one.
        number = serving.versions.add(version, made.onnx, made.weights, made.canary, pinned=True)
        return serving.versions.get(model.number, number), session
