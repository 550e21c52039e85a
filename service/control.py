"""People's control over models: create, promote, roll back, pause, resume. Each is journaled and on disk on return.

Every method may be repeated: what is so already is answered as it is, without another record.
"""

from __future__ import annotations

import asyncio
from hashlib import sha256

from model.network import Network
from model.spec import ModelSpec
from service import events as ev
from service import limits
from service.engine import BadVersion
from service.errors import Invalid, NotFound
from service.export import Array, read_weights
from service.names import check_model_name
from service.publisher import Publisher, Return
from service.records import Paused, Promote, Resumed, Rollback
from service.serving import Serving
from service.sessions import Sessions
from service.storage.versions import Version, VersionMissing

BY_HAND = "by hand"


class Control:
    """What people may do to models. Methods raise ServiceError's children, VersionCorrupt, JournalFailed."""

    def __init__(self, serving: Serving, publisher: Publisher) -> None:
        self._serving, self._publisher = serving, publisher

    async def create(self, name: str, spec: ModelSpec, weights: bytes = b"", digest: str = "") -> Sessions:
        """Create a model, or find it if it exists with this spec and, where some are given, these first weights.

        weights: safetensors, those of version 1; empty: drawn from the spec's seed. digest: their sha256, hex.
        """
        if not weights and not digest:
            return await self._serving.create_model(name, spec)
        check_model_name(name)
        check_digest("weights_digest", digest, weights)
        limits.check_size(spec)
        flat = await asyncio.to_thread(checked_weights, Network(spec), weights)
        try:
            return await self._serving.create_model(name, spec, flat)
        except BadVersion as bad:
            raise Invalid("weights", f"{len(weights)} bytes", f"they make no forecaster: {bad}") from bad

    async def promote(self, name: str, number: int) -> Sessions:
        """A kept version serves from here on, is the anchor, and learning goes on from its weights."""
        return await self._return(Promote, name, number)

    async def roll_back(self, name: str, number: int = 0) -> Sessions:
        """Serving and learning return to an earlier version, by default the anchor; then nothing is published for a
        while."""
        model = self._serving.model(name)
        number = number or model.anchor
        if number > model.champion:
            remedy = f"later than the version that serves, {model.champion}: promote it instead"
            raise Invalid("version", number, remedy)
        return await self._return(Rollback, name, number)

    async def pause(self, name: str) -> Sessions:
        """Learning stops: labels that come from here on are never learned. Serving goes on."""
        return await self._set_paused(name, True)

    async def resume(self, name: str) -> Sessions:
        """Learning goes on from here."""
        return await self._set_paused(name, False)

    async def version(self, model: Sessions, number: int) -> Version:
        """The facts of a version that is kept. Raises NotFound."""
        try:
            return await asyncio.to_thread(self._serving.versions.get, model.number, number)
        except VersionMissing as error:
            remedy = f"model {model.name} has no version {number}, or keeps it no longer: list its versions"
            raise NotFound("version", number, remedy) from error

    async def _return(self, kind: Return, name: str, number: int) -> Sessions:
        self._serving.check_open()
        model = self._serving.model(name)
        await self.version(model, number)
        if (model.champion, model.anchor) != (number, number):
            try:
                await self._publisher.begin_again(kind, model, number, BY_HAND)
            except BadVersion as bad:
                raise Invalid("version", number, f"it cannot serve here: {bad}; choose another version") from bad
        await self._serving.journal.flush()
        return model

    async def _set_paused(self, name: str, paused: bool) -> Sessions:
        serving = self._serving
        serving.check_open()
        model = serving.model(name)
        if model.paused != paused:
            end = serving.record(model, Paused() if paused else Resumed())
            serving.emit(model, ev.PAUSED if paused else ev.RESUMED, end, model.champion, BY_HAND)
        await serving.journal.flush()
        return model


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
