"""Models: create, look up, export, watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from freshet.v1 import models_pb2, models_pb2_grpc
from service import wire
from service.edge.statuses import statuses
from service.errors import NotFound, Unavailable
from service.serving import Serving
from service.sessions import Sessions
from service.storage.versions import VersionMissing


class Models(models_pb2_grpc.ModelsServicer):
    """The Models service of freshet.v1; methods not built yet answer UNIMPLEMENTED by name."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def _message(self, model: Sessions) -> models_pb2.Model:
        return wire.model_message(model, self._serving.journal.offset(model.number))

    async def Create(self, request: models_pb2.CreateModelRequest, context: Any) -> models_pb2.Model:
        """Answers once the model is on disk and serves."""
        async with statuses(context):
            return self._message(await self._serving.create_model(request.name, wire.spec(request.spec)))

    async def Get(self, request: models_pb2.GetModelRequest, context: Any) -> models_pb2.Model:
        """One model."""
        async with statuses(context):
            return self._message(self._serving.model(request.name))

    async def List(self, request: models_pb2.ListModelsRequest, context: Any) -> models_pb2.ListModelsResponse:
        """All models."""
        return models_pb2.ListModelsResponse(models=[self._message(m) for m in self._serving.models.values()])

    async def Versions(self, request: models_pb2.VersionsRequest, context: Any) -> models_pb2.VersionsResponse:
        """The versions kept, newest first."""
        async with statuses(context):
            model = self._serving.model(request.name)
            versions = await asyncio.to_thread(self._serving.versions.list, model.number)
            return models_pb2.VersionsResponse(versions=[wire.version_message(v) for v in versions])

    async def Export(self, request: models_pb2.ExportRequest, context: Any) -> models_pb2.ExportResponse:
        """A version's files, checked against their digests."""
        async with statuses(context):
            model, store = self._serving.model(request.name), self._serving.versions
            number = request.version or model.champion
            try:
                version = await asyncio.to_thread(store.get, model.number, number)
            except VersionMissing as error:
                remedy = f"model {model.name} has no version {number}, or keeps it no longer: list its versions"
                raise NotFound("version", number, remedy) from error
            blobs = await asyncio.to_thread(store.blobs, model.number, number)
            return models_pb2.ExportResponse(
                version=wire.version_message(version), onnx=blobs.onnx, weights=blobs.weights
            )

    async def Watch(self, request: models_pb2.WatchRequest, context: Any) -> AsyncIterator[models_pb2.ModelEvent]:
        """Events from now on, until the client leaves."""
        async with statuses(context):
            if request.name:
                self._serving.model(request.name)
            await context.send_initial_metadata(())  # tells the client that events from here on will come
            async for event in self._serving.events.watch(request.name):
                yield wire.event_message(event)
            raise Unavailable("service", "draining", "watch again in a moment", retry_s=1.0)
