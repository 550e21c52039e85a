"""The Cluster service: which nodes there are, and what they own. What a node knows of the others is given to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from freshet.v1 import cluster_pb2, cluster_pb2_grpc
from service.common.errors import Unsupported
from service.edge.guard.security import caller
from service.edge.guard.statuses import statuses

Nodes = Callable[[Any, str], Awaitable[cluster_pb2.NodesResponse]]  # given the context of the call, and its tenant


class Cluster(cluster_pb2_grpc.ClusterServicer):
    """The Cluster service of freshet.v1."""

    def __init__(self, nodes: Nodes | None) -> None:
        """nodes: answers its call; None: a single server, which has nothing to answer."""
        self._nodes = nodes

    async def Nodes(self, request: cluster_pb2.NodesRequest, context: Any) -> cluster_pb2.NodesResponse:
        """Return nodes and shards."""
        async with statuses(context):
            if self._nodes is None:
                raise Unsupported("store", "", "this server is alone: give it a store to make it a node of a cluster")
            return await self._nodes(context, caller().tenant)
