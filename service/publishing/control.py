"""People's control over models: create, import, promote, roll back, pause, resume, delete. On disk on return.

Every method but `delete` may be repeated: what is so already is answered as it is, without another record.
"""

from __future__ import annotations

import asyncio
from hashlib import sha256

from model.graph.importing import check_step
from model.network import Network
from model.spec import ModelSpec
from service.common import limits
from service.common.errors import Exhausted, Invalid, NotFound
from service.common.names import ModelKey, check_model_name
from service.engine.export import Array, Canary, Export, export, read_weights
from service.engine.session import PARITY, BadVersion, StepSession, parity
from service.journal.records import ModelDelete, Paused, Promote, Resumed, Rollback
from service.observe import events as ev
from service.publishing.creation import Creation
from service.publishing.publisher import Publisher, Return
from service.serving.ticks import Serving
from service.storage.versions import Version, VersionMissing, new_version
from service.streams.sessions import ServedModel

BY_HAND = "by hand"


class Control:
    """What people may do to models. Methods raise ServiceError's children, VersionCorrupt, JournalFailed."""

    def __init__(self, serving: Serving, publisher: Publisher) -> None:
        self._serving, self._publisher, self._creation = serving, publisher, Creation(serving)

    async def create(self, key: ModelKey, spec: ModelSpec, weights: bytes = b"", digest: str = "") -> ServedModel:
        """Create a model, or find it if it exists with this spec and, where some are given, these first weights.

        weights: safetensors, those of version 1; empty: drawn from the spec's seed. digest: their sha256, hex.
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
        """Store a version that does not serve yet. The same weights again are the version that they are already.

        weights: safetensors; digest: their sha256, hex; onnx: their graph, to be compared with the one made here.
        """
        self._serving.check_disk()
        model = self._serving.model(key)
        check_digest("digest", digest, weights)
        before = await asyncio.to_thread(self._serving.versions.pinned, model.number)
        if len(before) >= limits.MAX_PINNED:
            remedy = f"the model keeps {len(before)} versions for good, its limit: create another from these weights"
            raise Exhausted("name", key.name, remedy)
        number = await asyncio.to_thread(self._import, model, weights, onnx)
        if model.deleted:  # meanwhile, and its versions with it: this one came too late
            await asyncio.to_thread(self._serving.versions.drop, model.number)
            raise NotFound("model", key.name, "deleted meanwhile")
        if number not in before:
            self._serving.emit(model, ev.IMPORTED, self._serving.journal.offset(model.number), number, BY_HAND)
        return await self.version(model, number)

    def _import(self, model: ServedModel, weights: bytes, onnx: bytes) -> int:
        """In a thread: check everything, then store; the version's number."""
        serving, network = self._serving, model.network
        made = export(network, network.weights(checked_weights(network, weights)))
        try:
            _, error = serving.engine.prepare(made.onnx, Canary.unpack(made.canary))
        except BadVersion as bad:
            raise Invalid("weights", f"{len(weights)} bytes", f"they make no forecaster: {bad}") from bad
        if onnx:
            check_graph(onnx, made)
        numbers = {"parity_error": error}
        # Learned from none of this model's records: offset 0, which also tells the same weights again.
        version = new_version(model.number, model.champion, 0, made.onnx, made.weights, serving.wall(), numbers)
        return serving.versions.add(version, made.onnx, made.weights, made.canary, pinned=True)

    async def promote(self, key: ModelKey, number: int) -> ServedModel:
        """A kept version serves from here on, is the anchor, and learning goes on from its weights."""
        return await self._return(Promote, key, number)

    async def roll_back(self, key: ModelKey, number: int = 0) -> ServedModel:
        """Serving and learning return to an earlier version, by default the anchor; then nothing is published for a
        while."""
        model = self._serving.model(key)
        number = number or model.anchor
        await self.version(model, number)
        if number > model.champion:
            remedy = f"later than the version that serves, {model.champion}: promote it instead"
            raise Invalid("version", number, remedy)
        return await self._return(Rollback, key, number)

    async def pause(self, key: ModelKey) -> ServedModel:
        """Learning stops: labels that come from here on are never learned. Serving goes on."""
        return await self._set_paused(key, True)

    async def resume(self, key: ModelKey) -> ServedModel:
        """Learning goes on from here."""
        return await self._set_paused(key, False)

    async def delete(self, key: ModelKey) -> None:
        """The model, its streams and its versions are gone for good; its number stays used, its name is free."""
        self._serving.check_disk()
        # To its end also if the caller leaves: the versions go once the record is on disk.
        await asyncio.shield(self._delete(self._serving.model(key)))

    async def _delete(self, model: ServedModel) -> None:
        serving = self._serving
        end = serving.record(model, ModelDelete())
        serving.remove_model(model)
        serving.emit(model, ev.DELETED, end, model.champion, BY_HAND)
        await serving.journal.flush()
        await asyncio.to_thread(serving.versions.drop, model.number)

    async def version(self, model: ServedModel, number: int) -> Version:
        """The facts of a version that is kept. Raises NotFound."""
        try:
            return await asyncio.to_thread(self._serving.versions.get, model.number, number)
        except VersionMissing as error:
            remedy = f"model {model.name} has no version {number}, or keeps it no longer: list its versions"
            raise NotFound("version", number, remedy) from error

    async def _return(self, kind: Return, key: ModelKey, number: int) -> ServedModel:
        self._serving.check_disk()
        model = self._serving.model(key)
        await self.version(model, number)
        if (model.champion, model.anchor) != (number, number):
            try:
                await self._publisher.begin_again(kind, model, number, BY_HAND)
            except VersionMissing as error:  # since it was looked up
                raise NotFound("version", number, f"model {key.name} keeps it no longer: list its versions") from error
            except BadVersion as bad:
                raise Invalid("version", number, f"it cannot serve here: {bad}; choose another version") from bad
        await self._serving.journal.flush()
        return model

    async def _set_paused(self, key: ModelKey, paused: bool) -> ServedModel:
        serving = self._serving
        serving.check_disk()
        model = serving.model(key)
        if model.paused != paused:
            end = serving.record(model, Paused() if paused else Resumed())
            serving.emit(model, ev.PAUSED if paused else ev.RESUMED, end, model.champion, BY_HAND)
        await serving.journal.flush()
        return model


def check_graph(onnx: bytes, made: Export) -> None:
    """Raises Invalid unless a graph is that of the weights: made alike, and answering alike. Reads no other file."""
    try:
        check_step(onnx, made.onnx)
        error = parity(StepSession(onnx), Canary.unpack(made.canary))
        if not error <= PARITY:
            raise BadVersion(f"it answers otherwise than the weights, by {error:.1e}, allowed {PARITY:.0e}")
    except (ValueError, BadVersion) as error:
        raise Invalid("onnx", f"{len(onnx)} bytes", f"{error}; send the .onnx of these weights, or none") from error


def check_digest(field: str, digest: str, data: bytes) -> None:
    """Raises Invalid unless `digest` is the sha256 of the weights, hex."""
    if not data:
        raise Invalid("weights", "(empty)", "give the weights that go with the digest, safetensors")
    actual = sha256(data).hexdigest()
    if digest.lower() != actual:
        remedy = f"the sha256 of these {len(data)} bytes is {actual}: send the weights again, or their own digest"
        raise Invalid(field, digest or "(empty)", remedy)


def checked_weights(network: Network, data: bytes) -> Array:
    """The flat parameters in a weights file that somebody sent. Raises Invalid for other names, shapes, values."""
    try:
        return read_weights(network, data)
    except ValueError as error:
        remedy = f"{error}; send the weights of a version of this spec"
        raise Invalid("weights", f"{len(data)} bytes", remedy) from error
