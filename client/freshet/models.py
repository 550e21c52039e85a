"""Models and their versions: create, look up, change, export, import, promote, pause, delete, watch."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import grpc

from freshet.arguments import binary, invalid, listed, named, number, whole
from freshet.calls import Calls, cancelled_from_outside
from freshet.defaults import GIVE_UP_S
from freshet.errors import StreamClosed, Unavailable
from freshet.results import Cluster, Comparison, Export, Model, ModelEvent, Version
from freshet.retry import Backoff
from freshet.spec import spec_message
from freshet.v1 import cluster_pb2, cluster_pb2_grpc, models_pb2, models_pb2_grpc

MAX_EVENTS = 2**32 - 1


class Models(Calls):
    """The methods of `Client` for models."""

    # --- create and look up

    async def create_model(
        self, name: str, channels: Iterable[str] = (), *, weights: bytes = b"", **spec: Any
    ) -> Model:
        """Create a model. Returns an existing one if its spec, and the weights if given, are the same.

        spec: fields of freshet.v1.ModelSpec, e.g. horizon=24, interval=1800.0, cell="gru", hidden=64. The server fills
            in fields that are absent or None.
        weights: the weights of version 1, safetensors as `export` returns them; empty: drawn from the spec's seed.

        Raises InvalidArgument naming the field; AlreadyExists if the spec or the weights differ.
        """
        message = spec_message(spec | {"channels": channels})
        weights = binary(weights, "weights")
        request = models_pb2.CreateModelRequest(name=named(name), spec=message, weights=weights)
        if weights:
            request.weights_digest = _digest(weights)
        return Model.of(await self._unary(lambda to: _stub(to).Create, request))

    async def get_model(self, name: str) -> Model:
        """Return one model as it is now. Raises NotFound."""
        return await self._get_model(name)

    async def _get_model(self, name: str, within_s: float = 0.0) -> Model:
        request = models_pb2.GetModelRequest(name=named(name))
        return Model.of(await self._unary(lambda to: _stub(to).Get, request, within_s))

    async def compare_models(self, name: str, other: str) -> Comparison:
        """Return the losses of a shadow and its source, in either order, on the labels that both have learned.

        Raises NotFound, InvalidArgument if neither model is the other's shadow.
        """
        models = await asyncio.gather(self.get_model(name), self.get_model(other))
        for shadow, source in (models, models[::-1]):
            if shadow.spec.shadow == source.name and shadow.report and shadow.report.comparison:
                return shadow.report.comparison
        raise invalid("other", other, f"neither is a shadow of the other: create one with shadow = {name!r}")

    async def list_models(self) -> list[Model]:
        """Return every model that this client may see."""
        answer = await self._unary(lambda to: _stub(to).List, models_pb2.ListModelsRequest())
        return [Model.of(model) for model in answer.models]

    async def cluster(self) -> Cluster:
        """Return the living nodes of the server's cluster, and which of them owns each shard.

        Raises Unimplemented if the server is alone.
        """

        def nodes(to: grpc.aio.Channel) -> Any:
            stub: cluster_pb2_grpc.ClusterAsyncStub = cluster_pb2_grpc.ClusterStub(to)
            return stub.Nodes

        return Cluster.of(await self._unary(nodes, cluster_pb2.NodesRequest()))

    async def versions(self, name: str) -> list[Version]:
        """Return the versions that are kept, newest first."""
        answer = await self._unary(lambda to: _stub(to).Versions, models_pb2.VersionsRequest(name=named(name)))
        return [Version.of(version) for version in answer.versions]

    async def export(self, name: str, version: int = 0, *, metadata: bool = False, licence: str = "") -> Export:
        """Return a version's files: `.onnx`, the whole forecaster, and `.weights` (safetensors). 0: the serving
        version.

        metadata: append the model's facts to the .onnx (channels, targets, interval, version …), for someone who has
            nothing but the file; without it the file is what the version's digest names.
        licence: of the weights, for the metadata.
        """
        request = models_pb2.ExportRequest(
            name=named(name),
            version=whole(version, "version"),
            metadata=metadata,
            licence=named(licence, "licence"),
        )
        return Export.of(await self._unary(lambda to: _stub(to).Export, request))

    # --- change

    async def import_version(self, name: str, weights: bytes, *, onnx: bytes = b"", digest: str = "") -> Version:
        """Add a version from weights of the same spec. It serves once it is promoted. Equal weights are added only
        once.

        weights: safetensors, as `export` returns them.
        onnx: the graph of these weights, to be compared with the server's own.
        digest: sha256 of the weights, hex, if known from elsewhere; default: computed from the bytes.

        Raises InvalidArgument for other names or shapes, values that are not finite, or a graph with other answers.
        """
        weights, onnx = binary(weights, "weights"), binary(onnx, "onnx")
        digest = named(digest, "digest") or _digest(weights)
        request = models_pb2.ImportRequest(name=named(name), weights=weights, digest=digest, onnx=onnx)
        return Version.of(await self._unary(lambda to: _stub(to).Import, request))

    async def promote(self, name: str, version: int) -> Model:
        """Put a kept version into service. Learning continues from its weights, and it becomes the anchor.

        Returns once that is on disk. Raises NotFound if the version is not kept.
        """
        return Model.of(
            await self._unary(
                lambda to: _stub(to).Promote,
                models_pb2.PromoteRequest(name=named(name), version=whole(version, "version")),
            )
        )

    async def rollback(self, name: str, version: int = 0) -> Model:
        """Return serving and learning to an earlier version (0: the anchor); publish nothing for a while.

        Returns once that is on disk. Raises NotFound if the version is not kept, InvalidArgument for a later version.
        """
        return Model.of(
            await self._unary(
                lambda to: _stub(to).Rollback,
                models_pb2.RollbackRequest(name=named(name), version=whole(version, "version")),
            )
        )

    async def update_model(self, name: str, *, defaults: Iterable[str] = (), **changes: Any) -> Model:
        """Change how a running model learns, e.g. learning_rate=1e-4; returns it once that is on disk.

        changes: keys of the spec and their new values: learning_rate, rate_floor, schedule, warmup, schedule_updates,
            clip, clip_value, layer_rates, drift_reaction, drift_raise, drift_labels, label_range, max_share. Absent or
            None: unchanged.
        defaults: names of keys that return to their defaults.

        Weights, streams and the optimizer's state stay; labels of later ticks are learned by the new settings. Raises
        InvalidArgument naming the key, also for a key that is fixed; nothing is changed then.
        """
        request = models_pb2.UpdateModelRequest(name=named(name), changes=spec_message(changes))
        request.defaults.extend(named(key, "defaults") for key in listed(defaults, "defaults"))
        return Model.of(await self._unary(lambda to: _stub(to).Update, request))

    async def pause(self, name: str) -> Model:
        """Stop learning; the model keeps serving. Labels that arrive in the meantime are never learned."""
        return Model.of(await self._unary(lambda to: _stub(to).Pause, models_pb2.PauseRequest(name=named(name))))

    async def resume(self, name: str) -> Model:
        """Resume learning."""
        return Model.of(await self._unary(lambda to: _stub(to).Resume, models_pb2.ResumeRequest(name=named(name))))

    async def delete_model(self, name: str, *, erase: bool = False) -> list[str]:
        """Delete a model with its streams and versions. Its open streams end with NotFound.

        The call is never repeated: after Unavailable, check whether the model is gone. `erase` and the result are as
        for `delete_stream`; erasing a model removes its weights too.
        """
        answer = await self._unary(
            lambda to: _stub(to).Delete, models_pb2.DeleteModelRequest(name=named(name), erase=erase), once=True
        )
        return list(answer.remains)

    # --- watch

    async def history(self, name: str = "", events: int = 50) -> list[ModelEvent]:
        """Return the last events of one model (empty: of all) since the server's start, oldest first."""
        request = models_pb2.WatchRequest(
            name=named(name), recent=whole(events, "events", 0, MAX_EVENTS), recent_only=True
        )
        return await self._unary(_events, request)

    async def watch(self, name: str = "", *, give_up_s: float = GIVE_UP_S) -> AsyncIterator[ModelEvent]:
        """Iterate over events of one model (empty: of all) as they happen, without an end.

        It reconnects by itself and misses the events in between. Raises Unavailable after `give_up_s` without success.
        """
        request, give_up_s = models_pb2.WatchRequest(name=named(name)), number(give_up_s, "give_up_s")
        open_call = self._opener(request.name, lambda to: _stub(to).Watch)
        backoff, was_open = Backoff(give_up_s, random.Random()), False
        while True:
            call = await open_call(request)
            try:
                async with asyncio.timeout(give_up_s or None):
                    await call.wait_for_connection()
                was_open = True
                backoff.succeeded()
                async for event in call:
                    open_call.succeeded(backoff)
                    yield ModelEvent.of(event)
                why = open_call.ended("ended by the server")
            except grpc.aio.AioRpcError as error:
                why = await open_call.failed(error, was_open)
            except TimeoutError:
                raise Unavailable(f"no answer to Watch within {give_up_s:g} s") from None
            except asyncio.CancelledError:
                if cancelled_from_outside():
                    raise
                raise StreamClosed("the client was closed during the call") from None
            finally:
                call.cancel()
            await open_call.pause(backoff, why)


def _stub(to: grpc.aio.Channel) -> models_pb2_grpc.ModelsAsyncStub:
    return models_pb2_grpc.ModelsStub(to)


def _events(to: grpc.aio.Channel) -> Callable[..., Awaitable[list[ModelEvent]]]:
    """Return a method that collects the events of a call of Watch that ends by itself."""

    async def collect(request: models_pb2.WatchRequest, **settings: Any) -> list[ModelEvent]:
        return [ModelEvent.of(event) async for event in _stub(to).Watch(request, **settings)]

    return collect


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
