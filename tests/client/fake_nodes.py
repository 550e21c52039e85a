"""Several fake servers as the nodes of one: they share what they hold, and say where else a model is."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Protocol, TypeVar

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from freshet.search import rendezvous


class Fake(Protocol):
    """A fake server."""

    port: int
    streams: Any
    interceptors: list[Any]

    async def start(self) -> None: ...
    async def stop(self) -> None: ...


F = TypeVar("F", bound=Fake)


def moved(address: str) -> Any:
    """The status of a call about a model that is on another node."""
    details = [any_pb2.Any()]
    facts = {"value": "3", "address": address}
    details[0].Pack(error_details_pb2.ErrorInfo(reason="MOVED", domain="freshet", metadata=facts))
    text = f"shard = 3: it is on another node: connect to {address}"
    return rpc_status.to_status(status_pb2.Status(code=code_pb2.UNAVAILABLE, message=text, details=details))


class Door(grpc.aio.ServerInterceptor):
    """Before a node's methods: with `elsewhere` every call learns that the model is there. `asked` counts calls."""

    def __init__(self) -> None:
        self.elsewhere = ""
        self.asked: list[str] = []

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        self.asked.append(details.method.removeprefix("/freshet.v1."))
        handler = await continuation(details)
        if not self.elsewhere:
            return handler
        status = moved(self.elsewhere)

        async def refuse(request: Any, context: Any) -> None:
            await context.abort_with_status(status)

        kinds = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }
        return kinds[handler.request_streaming, handler.response_streaming](
            refuse, handler.request_deserializer, handler.response_serializer
        )


class Cluster:
    """Nodes in the order in which a client looks for model "m"."""

    def __init__(self, nodes: list[Any], doors: list[Door]) -> None:
        pairs = {f"127.0.0.1:{node.port}": (node, door) for node, door in zip(nodes, doors, strict=True)}
        self.addresses = rendezvous("m", pairs)
        self.nodes = [pairs[one][0] for one in self.addresses]
        self.doors = [pairs[one][1] for one in self.addresses]

    @property
    def target(self) -> str:
        return ",".join(sorted(self.addresses))

    def only(self, owner: int) -> None:
        """Let one node have the model, and the others say so."""
        for number, door in enumerate(self.doors):
            door.elsewhere = "" if number == owner else self.addresses[owner]


@contextlib.asynccontextmanager
async def cluster(make: Callable[[], F], nodes: int = 2) -> AsyncIterator[Cluster]:
    """Nodes that hold the same streams, each started at its own port."""
    made, doors = [make() for _ in range(nodes)], [Door() for _ in range(nodes)]
    for node, door in zip(made, doors, strict=True):
        node.interceptors.append(door)
        node.streams = made[0].streams
        await node.start()
    try:
        yield Cluster(made, doors)
    finally:
        for node in made:
            await node.stop()


@contextlib.contextmanager
def silent(port: int = 0) -> Iterator[str]:
    """The address of a machine that takes connections and never says a word."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
