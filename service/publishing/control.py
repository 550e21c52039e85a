"""Administrators' control over models: create, change, import, promote, pause, delete … Durable on return.

Every method but `delete` may be repeated: a model that is already as requested gets no other record.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import Any

from model.graph.importing import check_step
from model.network import Network
from model.spec import ModelSpec, SpecError, changed
from service.common import limits
from service.common.errors import Exhausted, Invalid, NotFound
from service.common.names import ModelKey, check_model_name
from service.engine.export import Array, Canary, Export, export, exports, read_weights
from service.engine.loaded import Engine
from service.engine.session import PARITY, BadVersion, StepSession, parity
from service.journal.records import ModelChange, ModelDelete, Paused, Promote, Resumed, Rollback
from service.journal.writer import Journal
from service.observe import events as ev
from service.publishing.creation import Creation
from service.publishing.differences import changes
from service.publishing.publisher import Publisher, Return
from service.publishing.shadows import check_unwatched
from service.serving.admission import Admission
from service.serving.catalog import Catalog
from service.storage.versions import Version, VersionMissing, Versions, new_version
from service.streams.served import ServedModel

BY_HAND = "by hand"


class Control:
    """Changes models on request. Methods raise ServiceError's children, VersionCorrupt, JournalFailed."""

    def __init__(
        self,
        catalog: Catalog,
        admission: Admission,
        journal: Journal,
        versions: Versions,
        engine: Engine,
        creation: Creation,
        publisher: Publisher,
        wall: Callable[[], float],
    ) -> None:
        """wall: seconds since 1970, the time at which versions are imported."""
        self._catalog, self._admission, self._journal = catalog, admission, journal
        self._versions, self._engine, self._wall = versions, engine, wall
        self._creation, self._publisher = creation, publisher

    async def create(self, key: ModelKey, spec: ModelSpec, weights: bytes = b"", digest: str = "") -> ServedModel:
        """Create a model, or return it if it exists with this spec and, where some are given, these first weights.

        weights: of version 1, safetensors; empty: drawn from the spec's seed. digest: their sha256, hex.
        """
        if not weights and not digest:
            return await self._creation.create(key, spec)
        check_model_name(key.name)
        check_digest("weights_digest", digest, weights)
        limits.check_size(spec)
        flat = await asyncio.to_thread(checked_weights, Network(spec), weights)
        try:
            return await self._creation.create(key, spec, flat)
        except BadVersion as bad:
            raise Invalid("weights", f"{len(weights)} bytes", f"they make no forecaster: {bad}") from bad

    async def import_version(self, key: ModelKey, weights: bytes, digest: str, onnx: bytes = b"") -> Version:
        """Store and return a version that does not serve yet. The same weights again give the same version.

        weights: safetensors; digest: their sha256, hex; onnx: their graph, which is compared with the one made here.
        """
        self._admission.check_disk()
        model = self._catalog.model(key)
        check_digest("digest", digest, weights)
        before = await asyncio.to_thread(self._versions.pinned, model.number)
        if len(before) >= limits.MAX_PINNED:
            remedy = f"the model keeps {len(before)} versions for good, its limit: create another from these weights"
            raise Exhausted("name", key.name, remedy)
        number = await asyncio.to_thread(self._import, model, weights, onnx)
        if model.deleted:  # meanwhile, and its versions with it
            await asyncio.to_thread(self._versions.drop, model.number)
            raise NotFound("model", key.name, "deleted meanwhile")
        if number not in before:
            self._catalog.emit(model, ev.IMPORTED, self._journal.offset(model.number), number, BY_HAND)
        return await self.version(model, number)

    def _import(self, model: ServedModel, weights: bytes, onnx: bytes) -> int:
        """Check everything, then store; returns the version's number. In a thread."""
        network = model.network
        known = network.weights(checked_weights(network, weights))
        made = export(network, known)
        try:
            _, error = self._engine.prepare(made.onnx, Canary.unpack(made.canary))
        except BadVersion as bad:
            raise Invalid("weights", f"{len(weights)} bytes", f"they make no forecaster: {bad}") from bad
        if onnx:
            check_graph(onnx, exports(network, known))
        numbers = {"parity_error": error}
        # Offset 0: it has learned none of this model's records. That also identifies the same weights sent again.
        version = new_version(model.number, model.champion, 0, made.onnx, made.weights, self._wall(), numbers)
        return self._versions.add(version, made.onnx, made.weights, made.canary, pinned=True)

    async def promote(self, key: ModelKey, number: int) -> ServedModel:
        """Put a kept version into service, make it the anchor, and continue learning from its weights."""
        return await self._return(Promote, key, number)

    async def roll_back(self, key: ModelKey, number: int = 0) -> ServedModel:
        """Return serving and learning to an earlier version, by default the anchor. Publishing cools down."""
        model = self._catalog.model(key)
        number = number or model.anchor
        await self.version(model, number)
        if number > model.champion:
            remedy = f"later than the version that serves, {model.champion}: promote it instead"
            raise Invalid("version", number, remedy)
        return await self._return(Rollback, key, number)

    async def update(self, key: ModelKey, values: Mapping[str, Any]) -> ServedModel:
        """Change settings of learning from here on; all or none. A field's default stands for a new spec's value.

        Ticks that are journaled later are learned by them. Weights, optimizer state and streams stay.
        """
        self._admission.check_disk()
        model = self._catalog.model(key)
        if not values:
            raise Invalid("changes", "(empty)", "give at least one key and its value")
        try:
            spec = changed(model.spec, values)
        except SpecError as error:
            raise Invalid(f"changes.{error.field}", error.value, error.remedy) from error
        if spec != model.spec:
            reason = changes(model.spec, spec)
            end = self._catalog.record(model, ModelChange(json.dumps(spec.to_stored())))
            self._catalog.emit(model, ev.CHANGED, end, model.champion, reason)
        await self._journal.flush()
        return model

    async def pause(self, key: ModelKey) -> ServedModel:
        """Stop learning: labels that arrive from now on are never learned. Serving continues."""
        return await self._set_paused(key, True)

    async def resume(self, key: ModelKey) -> ServedModel:
        """Continue learning, with labels that arrive from now on."""
        return await self._set_paused(key, False)

    async def delete(self, key: ModelKey) -> None:
        """Delete a model, its streams and its versions. Its number stays used, its name is free."""
        self._admission.check_disk()
        # Shielded from a caller that leaves: the versions are dropped once the record is on disk.
        await asyncio.shield(self._delete(self._catalog.model(key)))

    def check_deletable(self, key: ModelKey) -> None:
        """Raise Invalid for a model with shadows, which would learn from nothing, NotFound for a missing one."""
        check_unwatched(self._catalog.model(key))

    async def _delete(self, model: ServedModel) -> None:
        check_unwatched(model)
        end = self._catalog.record(model, ModelDelete())
        self._catalog.remove(model)
        self._catalog.emit(model, ev.DELETED, end, model.champion, BY_HAND)
        await self._journal.flush()
        await asyncio.to_thread(self._versions.drop, model.number)

    async def version(self, model: ServedModel, number: int) -> Version:
        """Return the facts of a kept version. Raises NotFound."""
        try:
            return await asyncio.to_thread(self._versions.get, model.number, number)
        except VersionMissing as error:
            remedy = f"model {model.name} has no version {number}, or keeps it no longer: list its versions"
            raise NotFound("version", number, remedy) from error

    async def _return(self, kind: Return, key: ModelKey, number: int) -> ServedModel:
        self._admission.check_disk()
        model = self._catalog.model(key)
        await self.version(model, number)
        if (model.champion, model.anchor) != (number, number):
            try:
                await self._publisher.return_to(kind, model, number, BY_HAND)
            except VersionMissing as error:  # since it was looked up
                raise NotFound("version", number, f"model {key.name} keeps it no longer: list its versions") from error
            except BadVersion as bad:
                raise Invalid("version", number, f"it cannot serve here: {bad}; choose another version") from bad
        await self._journal.flush()
        return model

    async def _set_paused(self, key: ModelKey, paused: bool) -> ServedModel:
        self._admission.check_disk()
        model = self._catalog.model(key)
        if model.paused != paused:
            end = self._catalog.record(model, Paused() if paused else Resumed())
            self._catalog.emit(model, ev.PAUSED if paused else ev.RESUMED, end, model.champion, BY_HAND)
        await self._journal.flush()
        return model


def check_graph(onnx: bytes, made: Iterable[Export]) -> None:
    """Raise Invalid unless a graph has the structure and the answers of the weights. Reads no external file.

    made: the files of the weights by edition. The graph is of one of them; an error names the first's difference.
    """
    why: Exception | None = None
    for own in made:
        try:
            check_step(onnx, own.onnx)
            error = parity(StepSession(onnx), Canary.unpack(own.canary))
            if not error <= PARITY:
                raise BadVersion(f"it answers otherwise than the weights, by {error:.1e}, allowed {PARITY:.0e}")
            return
        except (ValueError, BadVersion) as error:
            why = why or error
    raise Invalid("onnx", f"{len(onnx)} bytes", f"{why}; send the .onnx of these weights, or none") from why


def check_digest(field: str, digest: str, data: bytes) -> None:
    """Raise Invalid unless `digest` is the sha256 of the weights, hex."""
    if not data:
        raise Invalid("weights", "(empty)", "give the weights that go with the digest, safetensors")
    actual = sha256(data).hexdigest()
    if digest.lower() != actual:
        remedy = f"the sha256 of these {len(data)} bytes is {actual}: send the weights again, or their own digest"
        raise Invalid(field, digest or "(empty)", remedy)


def checked_weights(network: Network, data: bytes) -> Array:
    """Return the flat parameters of an uploaded weights file. Raises Invalid for wrong names, shapes or values."""
    try:
        return read_weights(network, data)
    except ValueError as error:
        remedy = f"{error}; send the weights of a version of this spec"
        raise Invalid("weights", f"{len(data)} bytes", remedy) from error
