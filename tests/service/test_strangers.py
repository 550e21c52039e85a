"""Which connections stay open: those with an admitted call, and those that have sent little."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import grpc
import pytest
from prometheus_client import CollectorRegistry, Counter

from service.edge.guard.strangers import AT_ONCE, GRACE, Peer, Strangers

Pair = tuple[socket.socket, socket.socket, int]  # the peer, our side, and our port


@pytest.fixture
def closed() -> Counter:
    return Counter("closed", "Closed.", registry=CollectorRegistry())


@pytest.fixture(params=["127.0.0.1", "::1"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family) as door:
        port = door.getsockname()[1]
        with socket.create_connection((request.param, port)) as peer:
            ours, _ = door.accept()
            with ours:
                yield peer, ours, port


def sent(pair: Pair, size: int) -> Peer:
    """Receive `size` bytes from the peer; return the peer."""
    peer, ours, _ = pair
    peer.sendall(bytes(size))
    assert len(ours.recv(size, socket.MSG_WAITALL)) == size
    return Peer(*peer.getsockname()[:2])


def open_still(pair: Pair) -> bool:
    peer, ours, _ = pair
    try:
        ours.sendall(b"x")
    except OSError:
        return False
    return peer.recv(1) == b"x"


@pytest.mark.parametrize(
    ("size", "looks", "stays"),
    [(1000, GRACE, True), (1001, GRACE - 1, True), (1001, GRACE, False), (AT_ONCE * 1000 + 1, 1, False)],
)
def test_a_connection_that_sends_too_much_before_a_call_is_admitted_is_closed(pair, closed, size, looks, stays):
    sent(pair, size)
    strangers = Strangers(closed, most=1000)

    for _ in range(looks):
        strangers.sweep(pair[2], frozenset())

    assert open_still(pair) is stays
    assert closed._value.get() == (0 if stays else 1)


async def test_a_grpc_server_names_the_peer_of_a_call_like_its_socket(closed):
    """gRPC listens on 127.0.0.1 with an IPv6 socket, whose peers have mapped addresses."""
    strangers, peers = Strangers(closed, most=0), []

    class Answers(grpc.GenericRpcHandler):
        def service(self, details):
            async def answer(request, context):
                peers.append(context.peer())
                return b""

            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Answers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/any/thing")
            await call(b"")
            strangers.admit(peers[0])
            assert strangers._known <= strangers.sweep(port, frozenset(strangers._known))
            await call(b"")
    finally:
        await server.stop(0)
    assert closed._value.get() == 0
    assert len(set(peers)) == 1


def test_a_connection_with_an_admitted_call_continues(pair, closed):
    who = sent(pair, 5000)
    strangers = Strangers(closed, most=1000)
    host = f"ipv6:%5B{who.host}%5D" if ":" in who.host else f"ipv4:{who.host}"
    strangers.admit(f"{host}:{who.port}")

    assert who in strangers.sweep(pair[2], frozenset(strangers._known))

    assert open_still(pair)
    assert closed._value.get() == 0


def test_connections_to_other_ports_are_left_alone(pair, closed):
    sent(pair, 5000)

    assert Strangers(closed, most=1000).sweep(pair[2] + 1, frozenset()) == set()
    assert open_still(pair)


def test_peers_are_read_as_grpc_writes_them():
    assert Peer.of("ipv4:127.0.0.1:5000") == Peer("127.0.0.1", 5000)
    assert Peer.of("ipv6:%5B::1%5D:5000") == Peer("::1", 5000)
