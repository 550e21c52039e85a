"""Calls of a node to its peers: does one own a shard, and which models does it serve."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from freshet.v1 import cluster_pb2, cluster_pb2_grpc, models_pb2, models_pb2_grpc
from service.cluster.nodes.placing import health_name
from service.server.config import ServeConfig

log = structlog.get_logger("cluster")

ASK_S = 1.0  # a node that is silent this long is taken for gone; its claims protect it if it is not
LIST_S = 5.0
COVERED = "x-freshet-shards"  # trailing metadata: the shards of the node that has answered a hop
HOP = "x-freshet-hop"  # metadata of calls between nodes, which are answered for one node alone
FORWARDED = ("authorization",)


class Standing(enum.Enum):
    """A peer's word on a shard."""

    OWNED = "owned"
    LEAVING = "leaving"  # it is handing the shard over: ask again
    NONE = "none"  # it does not own it, or is gone


class Peers:
    """Channels to other nodes, opened when first needed."""

    def __init__(self, config: ServeConfig) -> None:
        self._credentials = _credentials(config)
        self._channels: dict[str, Any] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def standing(self, address: str, shard: int) -> Standing:
        """Ask a node whether it owns a shard. One that refuses connections, or is silent for ASK_S, does not."""
        request = health_pb2.HealthCheckRequest(service=health_name(shard))
        status = health_pb2.HealthCheckResponse
        try:
            answer = await health_pb2_grpc.HealthStub(self._channel(address)).Check(request, timeout=ASK_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                log.info("a node does not answer", node=address, shard=shard, why=error.details())
                self._forget(address)
            return Standing.NONE
        found = {status.SERVING: Standing.OWNED, status.NOT_SERVING: Standing.LEAVING}
        return found.get(answer.status, Standing.NONE)

    async def models(self, addresses: Iterable[str], context: Any) -> tuple[list[models_pb2.Model], set[int]]:
        """Return what other nodes answer to the caller of a List, whose token is passed on, and the shards that their
        answers cover. Nodes that do not answer are left out."""
        metadata, models, covered = _passed_on(context), list[models_pb2.Model](), set[int]()

        async def ask(address: str) -> None:
            call = models_pb2_grpc.ModelsStub(self._channel(address)).List(
                models_pb2.ListModelsRequest(), timeout=LIST_S, metadata=metadata
            )
            try:
                answer = await call
                models.extend(answer.models)
                covered.update(_shards(await call.trailing_metadata()))
            except grpc.aio.AioRpcError as error:
                log.info("a node does not answer", node=address, why=error.details())
                self._forget(address)

        await asyncio.gather(*(ask(address) for address in addresses))
        return models, covered

    async def nodes(self, addresses: Iterable[str], context: Any) -> dict[str, cluster_pb2.NodesResponse]:
        """Return what other nodes say of themselves to the caller, by address; without those that do not answer."""
        metadata, found = _passed_on(context), dict[str, cluster_pb2.NodesResponse]()

        async def ask(address: str) -> None:
            stub = cluster_pb2_grpc.ClusterStub(self._channel(address))
            try:
                found[address] = await stub.Nodes(cluster_pb2.NodesRequest(), timeout=ASK_S, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                log.info("a node does not answer", node=address, why=error.details())
                self._forget(address)

        await asyncio.gather(*(ask(address) for address in addresses))
        return found

    async def past(self, addresses: Iterable[str], request: Any, context: Any) -> list[models_pb2.ModelEvent]:
        """Return the recent events of other nodes; without those of nodes that do not answer."""
        metadata, found = _passed_on(context), list[models_pb2.ModelEvent]()

        async def ask(address: str) -> None:
            stub = models_pb2_grpc.ModelsStub(self._channel(address))
            try:
                found.extend([event async for event in stub.Watch(request, timeout=LIST_S, metadata=metadata)])
            except grpc.aio.AioRpcError as error:
                log.info("a node does not answer", node=address, why=error.details())

        await asyncio.gather(*(ask(address) for address in addresses))
        return found

    def watch(self, address: str, request: Any, context: Any) -> Any:
        """Open a Watch at another node; the caller ends it."""
        return models_pb2_grpc.ModelsStub(self._channel(address)).Watch(request, metadata=_passed_on(context))

    async def close(self) -> None:
        """Close the channels."""
        for task in self._closing:
            task.cancel()
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()

    def _channel(self, address: str) -> Any:
        if address not in self._channels:
            # A refused connection must be tried again at once, not after gRPC's back-off of up to two minutes.
            options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
            self._channels[address] = (
                grpc.aio.secure_channel(address, self._credentials, options)
                if self._credentials
                else grpc.aio.insecure_channel(address, options)
            )
        return self._channels[address]

    def _forget(self, address: str) -> None:
        """Use a new channel next time. Other questions to that node end by themselves: closing at once would cancel
        them, and with them the calls that wait for their answers."""
        channel = self._channels.pop(address, None)
        if channel is not None:
            task = asyncio.create_task(channel.close(LIST_S), name=f"close {address}")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def cover(context: Any, shards: Iterable[int]) -> None:
    """Add to the answer of a hop which shards it covers."""
    context.set_trailing_metadata(((COVERED, ",".join(map(str, shards))),))


def _shards(metadata: Any) -> set[int]:
    """Return what `cover` has added to an answer."""
    return {int(word) for name, value in metadata or () if name == COVERED for word in value.split(",") if word}


def is_hop(context: Any) -> bool:
    """Whether a call comes from another node and is to be answered for this node alone."""
    return any(name == HOP for name, _ in context.invocation_metadata() or ())


def _passed_on(context: Any) -> list[tuple[str, str]]:
    """Return the metadata of a call to another node: what is passed on of the caller's, and the mark of a hop."""
    return [*((name, value) for name, value in context.invocation_metadata() or () if name in FORWARDED), (HOP, "1")]


def _credentials(config: ServeConfig) -> Any:
    """Return what a node shows its peers: the server's certificate, if there is one."""
    if not config.tls_cert or not config.tls_key:
        return None
    roots = Path(config.tls_peer_ca).read_bytes() if config.tls_peer_ca else None
    return grpc.ssl_channel_credentials(roots, config.tls_key.read_bytes(), config.tls_cert.read_bytes())
