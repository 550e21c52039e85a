"""Models: create, look up, change, export, watch. Translates; what is done and refused is `Control`'s."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from freshet.v1 import models_pb2, models_pb2_grpc
from service.common.errors import Invalid, Unavailable
from service.edge import wire_models
from service.edge.guard.security import caller, check_may_erase, key
from service.edge.guard.statuses import statuses
from service.edge.parts import EventMessages, Parts, Places
from service.edge.writing import Writers
from service.engine.export import download
from service.observe.events import Events
from service.serving.erasure import EVERY_MODEL, check_erasable
from service.streams.served import ServedModel


def _shown(model: ServedModel) -> bool:
    """Whether a caller's list has the model: of a model with slices, its home's is shown."""
    return model.tenant == caller().tenant and not model.slices.part


class Models(models_pb2_grpc.ModelsServicer):
    """The Models service of freshet.v1."""

    def __init__(self, places: Places, events: Events, writers: Writers) -> None:
        self._places, self._events, self._writers = places, events, writers

    @staticmethod
    def _message(parts: Parts, model: ServedModel) -> models_pb2.Model:
        offset, source = parts.journal.offset(model.number), parts.catalog.source_of(model)
        message = wire_models.model_message(model, source, offset, parts.metrics.of(model.key))
        if parts.whereabouts:
            message.shard, message.node, message.epoch = parts.whereabouts
        return message

    async def Create(self, request: models_pb2.CreateModelRequest, context: Any) -> models_pb2.Model:
        """Create a model. Answers once it is on disk and serves."""
        async with statuses(context):
            spec = await asyncio.to_thread(wire_models.spec, request.spec)  # it may read the file of a zone
            if spec.shadow and (fitting := self._places.beside(key(request.name), key(spec.shadow))):
                remedy = (
                    f"its name puts it in another shard than {spec.shadow}, of which it is a shadow: name it {fitting}"
                )
                raise Invalid("name", request.name, remedy)
            parts = await self._places.of(key(request.name))
            model = await parts.control.create(key(request.name), spec, request.weights, request.weights_digest)
            return self._message(parts, model)

    async def Get(self, request: models_pb2.GetModelRequest, context: Any) -> models_pb2.Model:
        """Return one model."""
        async with statuses(context):
            parts = await self._places.of(key(request.name))
            return self._message(parts, parts.catalog.model(key(request.name)))

    async def List(self, request: models_pb2.ListModelsRequest, context: Any) -> models_pb2.ListModelsResponse:
        """Return all models of the tenant, those on other nodes included."""
        async with statuses(context):
            messages = await self._places.elsewhere(context)  # first: what comes here meanwhile is not left out
            known = {message.name for message in messages}
            for parts in self._places.here():
                for model in [m for m in parts.catalog.models.values() if _shown(m) and m.name not in known]:
                    messages.append(self._message(parts, model))
                    await asyncio.sleep(0)  # a thousand models of a thousand channels each take a while
            return models_pb2.ListModelsResponse(models=messages)

    async def Versions(self, request: models_pb2.VersionsRequest, context: Any) -> models_pb2.VersionsResponse:
        """Return the kept versions, newest first."""
        async with statuses(context):
            parts = await self._places.of(key(request.name))
            model = parts.catalog.model(key(request.name))
            versions = await asyncio.to_thread(parts.versions.list, model.number)
            return models_pb2.VersionsResponse(versions=[wire_models.version_message(v) for v in versions])

    async def Export(self, request: models_pb2.ExportRequest, context: Any) -> models_pb2.ExportResponse:
        """Return a version's files, checked against their digests."""
        async with statuses(context):
            parts = await self._places.of(key(request.name))
            model = parts.catalog.model(key(request.name))
            version = await parts.control.version(model, request.version or model.champion)
            blobs = await asyncio.to_thread(parts.versions.blobs, model.number, version.number)
            onnx = blobs.onnx
            if request.metadata or request.licence:
                onnx = download(model.network, onnx, version.number, request.licence)
            return models_pb2.ExportResponse(
                version=wire_models.version_message(version), onnx=onnx, weights=blobs.weights
            )

    async def Import(self, request: models_pb2.ImportRequest, context: Any) -> models_pb2.Version:
        """Import a version. Answers once it is stored; it serves after Promote."""
        async with statuses(context):
            parts = await self._places.of(key(request.name))
            version = await parts.control.import_version(
                key(request.name), request.weights, request.digest, request.onnx
            )
            return wire_models.version_message(version)

    async def Promote(self, request: models_pb2.PromoteRequest, context: Any) -> models_pb2.Model:
        """Promote a version. Answers once that is on disk; from the swap on, every forecast is by the version."""
        async with statuses(context):
            parts = await self._places.of(key(request.name))
            return self._message(parts, await parts.control.promote(key(request.name), request.version))

    async def Rollback(self, request: models_pb2.RollbackRequest, context: Any) -> models_pb2.Model:
        """Return to an earlier version. Answers as Promote."""
        async with statuses(context):
            parts = await self._places.of(key(request.name))
            return self._message(parts, await parts.control.roll_back(key(request.name), request.version))

    async def Update(self, request: models_pb2.UpdateModelRequest, context: Any) -> models_pb2.Model:
        """Change settings of learning. Answers once that is on disk."""
        async with statuses(context):
            values = wire_models.changes(request)
            parts = await self._places.of(key(request.name))
            return self._message(parts, await parts.control.update(key(request.name), values))

    async def Pause(self, request: models_pb2.PauseRequest, context: Any) -> models_pb2.Model:
        """Pause learning. Answers once that is on disk."""
        async with statuses(context):
            parts = await self._places.of(key(request.name))
            return self._message(parts, await parts.control.pause(key(request.name)))

    async def Resume(self, request: models_pb2.ResumeRequest, context: Any) -> models_pb2.Model:
        """Resume learning. Answers once that is on disk."""
        async with statuses(context):
            parts = await self._places.of(key(request.name))
            return self._message(parts, await parts.control.resume(key(request.name)))

    async def Delete(self, request: models_pb2.DeleteModelRequest, context: Any) -> models_pb2.DeleteModelResponse:
        """Delete a model, and erase its data on request. Answers once that is on disk."""
        async with statuses(context):
            name = key(request.name)
            parts = await self._places.of(name)
            known = parts.catalog.by_key
            number = known[name].number if name in known else EVERY_MODEL
            if request.erase:
                check_may_erase()
                parts.admission.check_disk()
                if name in known:
                    check_erasable(known[name])
                    parts.control.check_deletable(name)
                await parts.erasure.owe(number)
            if not request.erase or name in known:
                await parts.control.delete(name)
            remains = await parts.erasure.erased(number) if request.erase else ()
            return models_pb2.DeleteModelResponse(remains=remains)

    async def Watch(self, request: models_pb2.WatchRequest, context: Any) -> None:  # type: ignore[override]  # writes
        """Send recent events if asked, then new ones, until the client leaves or does not read."""
        async with self._writers.call(context) as writing:
            if request.name:
                (await self._places.of(key(request.name))).catalog.model(key(request.name))
            if request.recent_only:
                for past in await self._past(request, context):
                    await writing.send(past)
                return
            async with self._places.joined(self._watched(request), request, context) as watched:
                await context.send_initial_metadata(())  # the client can rely on events from here on
                async for message in watched:
                    await writing.send(message)
            raise Unavailable("service", "draining", "watch again in a moment", retry_s=1.0)

    async def _past(self, request: models_pb2.WatchRequest, context: Any) -> list[models_pb2.ModelEvent]:
        """Return the last kept events, oldest first, those of other nodes included."""
        found = [wire_models.event_message(e) for e in self._events.recent(key(request.name), request.recent)]
        found += await self._places.past_elsewhere(request, context)
        return sorted(found, key=lambda event: event.time)[-request.recent :] if request.recent else []

    async def _watched(self, request: models_pb2.WatchRequest) -> EventMessages:
        async with contextlib.aclosing(self._events.watch(key(request.name), request.recent)) as watched:
            async for event in watched:
                yield wire_models.event_message(event)
