"""The service inference.GRPCInferenceService. Translates only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from service.access.tenants import Tenants
from service.common.errors import Unsupported
from service.edge.guard.statuses import statuses
from service.edge.oip import inference_pb2 as pb
from service.edge.oip import inference_pb2_grpc, messages
from service.edge.oip.cards import Cards
from service.edge.oip.inferring import Inferring
from service.edge.oip.streaming import StreamCall
from service.edge.writing import Writers, both_sides

REMOTE = "the server may be on another machine: send tensors in the request, and ask for outputs in the answer"
LEARNED = "models are created, and change as they learn: use freshet.v1.Models"
INSTEAD = {  # of methods that are not offered
    "RepositoryModelLoad": LEARNED,
    "RepositoryModelUnload": LEARNED,
    "SystemSharedMemoryStatus": REMOTE,
    "SystemSharedMemoryRegister": REMOTE,
    "SystemSharedMemoryUnregister": REMOTE,
    "CudaSharedMemoryStatus": REMOTE,
    "CudaSharedMemoryRegister": REMOTE,
    "CudaSharedMemoryUnregister": REMOTE,
    "TraceSetting": "there are no traces: read the metrics, and the log",
    "LogSettings": "the settings of the server decide: see log_level",
}


def _not_offered(method: str) -> Callable[..., Awaitable[NoReturn]]:
    async def refuse(self: Any, request: Any, context: Any) -> NoReturn:
        async with statuses(context):
            raise Unsupported("method", method, INSTEAD[method])
        raise AssertionError("statuses ends the call")

    return refuse


class Inference(inference_pb2_grpc.GRPCInferenceServiceServicer):
    """The Open Inference Protocol over gRPC."""

    def __init__(self, inferring: Inferring, cards: Cards, tenants: Tenants, writers: Writers) -> None:
        self._inferring, self._cards = inferring, cards
        self._tenants, self._writers = tenants, writers

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Any) -> pb.ServerLiveResponse:
        """Return that the process answers."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Any) -> pb.ServerReadyResponse:
        """Return whether the server accepts streams."""
        return pb.ServerReadyResponse(ready=self._cards.ready())

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Any) -> pb.ModelReadyResponse:
        """Return whether a model serves; false for one that does not exist."""
        async with statuses(context):
            return pb.ModelReadyResponse(ready=await self._cards.model_ready(request.name, request.version))

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: Any) -> pb.ServerMetadataResponse:
        """Return what the server implements."""
        return pb.ServerMetadataResponse(**self._cards.server())

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Any) -> pb.ModelMetadataResponse:
        """Return what a model takes and answers."""
        async with statuses(context):
            return pb.ModelMetadataResponse(**await self._cards.metadata(request.name, request.version))

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Any) -> pb.ModelConfigResponse:
        """Return a model's configuration."""
        async with statuses(context):
            return pb.ModelConfigResponse(config=await self._cards.config(request.name, request.version))  # type: ignore[arg-type]  # protobuf takes a dict for a message

    async def ModelStatistics(self, request: pb.ModelStatisticsRequest, context: Any) -> pb.ModelStatisticsResponse:
        """Return counts and durations of requests."""
        async with statuses(context):
            found: Any = await self._cards.statistics(request.name, request.version)
            return pb.ModelStatisticsResponse(model_stats=found)

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, context: Any) -> pb.RepositoryIndexResponse:
        """Return the caller's models here."""
        found: Any = self._cards.index()
        return pb.RepositoryIndexResponse(models=found)

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Any) -> bytes:  # type: ignore[override]  # see `Serialised`
        """Answer the ticks of one request."""
        async with statuses(context):
            return messages.serialised(await self._inferring.infer(messages.request(request)))

    async def ModelStreamInfer(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # reads and writes
        """Answer requests in their order; see `StreamCall`."""
        async with self._writers.call(context) as writing:
            await both_sides(StreamCall(self._inferring, self._tenants, context, writing))

    RepositoryModelLoad = _not_offered("RepositoryModelLoad")
    RepositoryModelUnload = _not_offered("RepositoryModelUnload")
    SystemSharedMemoryStatus = _not_offered("SystemSharedMemoryStatus")
    SystemSharedMemoryRegister = _not_offered("SystemSharedMemoryRegister")
    SystemSharedMemoryUnregister = _not_offered("SystemSharedMemoryUnregister")
    CudaSharedMemoryStatus = _not_offered("CudaSharedMemoryStatus")
    CudaSharedMemoryRegister = _not_offered("CudaSharedMemoryRegister")
    CudaSharedMemoryUnregister = _not_offered("CudaSharedMemoryUnregister")
    TraceSetting = _not_offered("TraceSetting")
    LogSettings = _not_offered("LogSettings")
