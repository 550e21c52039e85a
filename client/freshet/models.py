"""Models and their versions: create, look up, export, import, promote, roll back, pause, resume, delete, watch."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc

from freshet.calls import Calls
from freshet.errors import InvalidArgument, Unavailable, from_rpc
from freshet.retry import Backoff
from freshet.v1 import models_pb2, models_pb2_grpc, types_pb2


class Models(Calls):
    """The part of `Client` that speaks of models."""

    @property
    def _models(self) -> models_pb2_grpc.ModelsAsyncStub:
        return models_pb2_grpc.ModelsStub(self._connected())

    # --- create and look up

    async def create_model(
        self, name: str, channels: Sequence[str], *, weights: bytes = b"", **spec: Any
    ) -> models_pb2.Model:
        """Create a model, or answer the existing one if its spec, and the weights if some are given, are the same.

        spec: fields of freshet.v1.ModelSpec, e.g. horizon=24, interval=1800.0, cell="gru", hidden=64; the server fills
        in the rest. weights: those of version 1, safetensors as `export` gives them; empty: drawn from the spec's seed.
        Raises InvalidArgument naming the field, AlreadyExists for another spec or other weights.
        """
        try:
            message = types_pb2.ModelSpec(channels=channels, **spec)
        except (TypeError, ValueError) as error:
            known = ", ".join(field.name for field in types_pb2.ModelSpec.DESCRIPTOR.fields)
            bad = next((key for key in spec if key not in types_pb2.ModelSpec.DESCRIPTOR.fields_by_name), "spec")
            remedy = f"fields are {known}"
            raise InvalidArgument(f"{error}; {remedy}", bad, str(spec.get(bad, spec)), remedy) from error
        request = models_pb2.CreateModelRequest(name=name, spec=message, weights=weights)
        if weights:
            request.weights_digest = _digest(weights)
        return await self._unary(self._models.Create, request)

    async def get_model(self, name: str) -> models_pb2.Model:
        """One model, as it is now."""
        return await self._unary(self._models.Get, models_pb2.GetModelRequest(name=name))

    async def list_models(self) -> list[models_pb2.Model]:
        """Every model that this client may see."""
        answer = await self._unary(self._models.List, models_pb2.ListModelsRequest())
        return list(answer.models)

    async def versions(self, name: str) -> list[models_pb2.Version]:
        """The versions that are kept, newest first."""
        answer = await self._unary(self._models.Versions, models_pb2.VersionsRequest(name=name))
        return list(answer.versions)

    async def export(self, name: str, version: int = 0) -> models_pb2.ExportResponse:
        """A version's files: `.onnx`, the whole forecaster, and `.weights` (safetensors). 0: what serves."""
        return await self._unary(self._models.Export, models_pb2.ExportRequest(name=name, version=version))

    # --- change

    async def import_version(
        self, name: str, weights: bytes, *, onnx: bytes = b"", digest: str = ""
    ) -> models_pb2.Version:
        """Add a version from weights of the same spec. It serves once it is promoted; the same weights are added once.

        weights: safetensors, as `export` gives them. onnx: their graph, if it is to be compared with the server's own.
        digest: sha256 of the weights, hex, where it is known from elsewhere; made of the bytes otherwise.
        Raises InvalidArgument for other names, shapes, values that are not finite, a graph that answers otherwise.
        """
        request = models_pb2.ImportRequest(name=name, weights=weights, digest=digest or _digest(weights), onnx=onnx)
        return await self._unary(self._models.Import, request)

    async def promote(self, name: str, version: int) -> models_pb2.Model:
        """Put a kept version into service; learning goes on from its weights, and it is the anchor.

        On return that is on disk. Raises NotFound for a version that is not kept.
        """
        return await self._unary(self._models.Promote, models_pb2.PromoteRequest(name=name, version=version))

    async def rollback(self, name: str, version: int = 0) -> models_pb2.Model:
        """Return serving and learning to an earlier version (0: the anchor), publishing nothing for a while.

        On return that is on disk. Raises NotFound for a version that is not kept, InvalidArgument for a later one.
        """
        return await self._unary(self._models.Rollback, models_pb2.RollbackRequest(name=name, version=version))

    async def pause(self, name: str) -> models_pb2.Model:
        """Stop learning; serving goes on. What arrives meanwhile is never learned."""
        return await self._unary(self._models.Pause, models_pb2.PauseRequest(name=name))

    async def resume(self, name: str) -> models_pb2.Model:
        """Go on learning."""
        return await self._unary(self._models.Resume, models_pb2.ResumeRequest(name=name))

    async def delete_model(self, name: str, *, erase: bool = False) -> list[str]:
        """Delete a model with its streams and versions, for good. Its open streams end with NotFound.

        Never repeated by itself: after Unavailable, look whether it is gone. erase, and what is returned: as of
        `delete_stream`; of the model nothing is left then, weights included.
        """
        answer = await self._unary(self._models.Delete, models_pb2.DeleteModelRequest(name=name, erase=erase))
        return list(answer.remains)

    # --- watch

    async def history(self, name: str = "", events: int = 50) -> list[models_pb2.ModelEvent]:
        """The last events of one model (empty: of all) that the server remembers since its start, oldest first."""
        request = models_pb2.WatchRequest(name=name, recent=events, recent_only=True)
        try:
            call = self._models.Watch(request, timeout=self._timeout_s, metadata=self._metadata())
            return [event async for event in call]
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error

    async def watch(self, name: str = "", *, give_up_s: float = 60.0) -> AsyncIterator[models_pb2.ModelEvent]:
        """Events of one model (empty: of all) as they happen, until the loop is left.

        Reconnects by itself; what happens in between is missed. Raises Unavailable after `give_up_s` without success.
        """
        open_call, loop = self._opener(self._models.Watch), asyncio.get_running_loop()
        backoff, was_open = Backoff(give_up_s, random.Random()), False
        while True:
            call = open_call(models_pb2.WatchRequest(name=name))
            why = "ended by the server"
            try:
                await call.wait_for_connection()
                was_open = True
                backoff.succeeded()
                async for event in call:
                    yield event
            except grpc.aio.AioRpcError as error:
                if not open_call.passes(error, was_open):
                    raise from_rpc(error) from error
                why = f"{error.code().name}: {error.details()}"
            finally:
                call.cancel()
            wait = backoff.failed(loop.time())
            if wait is None:
                raise Unavailable(f"no success for {give_up_s:g} s; the last call: {why}")
            await asyncio.sleep(wait)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
