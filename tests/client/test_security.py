"""Who the client says it is, on every call; whom it talks to; and that a token never travels in the clear unasked."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

import freshet
from freshet.target import is_local
from freshet.v1 import cluster_pb2, models_pb2, streams_pb2, training_pb2
from tests.client.certificates import Authority
from tests.client.fake_server import FakeServer

SECRET = "fst_0123456789abcdef"
HEARD = [("/freshet.v1.Models/List", f"Bearer {SECRET}")]


class Doorkeeper(grpc.GenericRpcHandler):
    """Takes any call of any service, notes who asks, and admits nobody."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | bytes | None]] = []
        self.port = 0

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        metadata = dict(details.invocation_metadata)
        self.asked.append((details.method, metadata.get("authorization")))
        return grpc.stream_stream_rpc_method_handler(self._refuse)

    async def _refuse(self, requests: Any, context: Any) -> None:
        await anext(aiter(requests))  # a write that races the end would hide its status (grpc/grpc#36066)
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no such token")


@pytest.fixture
async def door() -> AsyncIterator[Doorkeeper]:
    door, server = Doorkeeper(), grpc.aio.server()
    server.add_generic_rpc_handlers((door,))
    door.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield door
    await server.stop(0)


async def opened(context: Any) -> None:
    async with context:
        pass


async def learn_after_a_look_at_the_model(client: freshet.Client) -> None:
    sender = client.learn("m", "src")
    sender._describe = lambda: described()  # the look itself is `get_model`
    await opened(sender)


async def mux_after_a_look_at_the_model(client: freshet.Client) -> None:
    mux = client.mux("m")
    mux._get_model = lambda: described(models_pb2.Model)
    async with mux:
        await mux.step(["a"], [1.0])


async def described(kind: Any = None) -> Any:
    return kind(spec=FakeServer().spec) if kind else FakeServer().spec


CALLS: dict[str, Callable[[freshet.Client], Awaitable[Any]]] = {
    "Models/Create": lambda c: c.create_model("m", ["x"]),
    "Models/Get": lambda c: c.get_model("m"),
    "Models/List": lambda c: c.list_models(),
    "Models/Versions": lambda c: c.versions("m"),
    "Models/Export": lambda c: c.export("m"),
    "Models/Import": lambda c: c.import_version("m", b"w"),
    "Models/Promote": lambda c: c.promote("m", 1),
    "Models/Rollback": lambda c: c.rollback("m"),
    "Models/Update": lambda c: c.update_model("m", clip=2.0),
    "Models/Pause": lambda c: c.pause("m"),
    "Models/Resume": lambda c: c.resume("m"),
    "Models/Delete": lambda c: c.delete_model("m"),
    "Models/Watch": lambda c: anext(c.watch("m")),
    "Streams/Open": lambda c: opened(c.stream("m", "s")),
    "Streams/Mux": mux_after_a_look_at_the_model,
    "Streams/Get": lambda c: c.get_stream("m", "s"),
    "Streams/Put": lambda c: c.put_stream(streams_pb2.Stream()),
    "Streams/Delete": lambda c: c.delete_stream("m", "s"),
    "Streams/List": lambda c: anext(c.list_streams("m")),
    "Streams/Errors": lambda c: c.stream_errors("m", worst=10),
    "Training/Learn": learn_after_a_look_at_the_model,
    "Training/Quarantine": lambda c: anext(c.quarantine("m")),
    "Training/Replay": lambda c: c.replay("m", [1]),
    "Cluster/Nodes": lambda c: c.cluster(),
}


def test_every_method_of_the_protos_is_in_the_list_of_calls():
    files = (models_pb2.DESCRIPTOR, streams_pb2.DESCRIPTOR, training_pb2.DESCRIPTOR, cluster_pb2.DESCRIPTOR)
    services = [service for file in files for service in file.services_by_name.values()]
    assert CALLS.keys() == {f"{service.name}/{method.name}" for service in services for method in service.methods}


@pytest.mark.parametrize("method", CALLS)
async def test_every_call_says_who_calls_and_is_not_repeated_when_nobody_knows_it(door, method):
    async with freshet.connect(f"127.0.0.1:{door.port}", token=SECRET) as client:
        with pytest.raises(freshet.Unauthenticated, match="no such token") as raised:
            await CALLS[method](client)

    if method == "Streams/Mux":  # it writes on while it is being refused, and may so miss the first status
        del door.asked[1:]
    assert door.asked == [(f"/freshet.v1.{method}", f"Bearer {SECRET}")]
    assert isinstance(raised.value, freshet.PermissionDenied)
    assert SECRET not in "".join(traceback.format_exception(raised.value))


async def test_without_a_token_nothing_is_sent_of_one(door):
    async with freshet.connect(f"127.0.0.1:{door.port}") as client:
        with pytest.raises(freshet.Unauthenticated):
            await client.list_models()

    assert [said for _, said in door.asked] == [None]


async def test_a_token_is_read_anew_for_every_call(door):
    numbers = itertools.count(1)
    async with freshet.connect(f"127.0.0.1:{door.port}", token=lambda: f"token-{next(numbers)}\n") as client:
        for call in ("Models/List", "Streams/Open", "Models/Get"):
            with pytest.raises(freshet.Unauthenticated):
                await CALLS[call](client)

    assert [said for _, said in door.asked] == ["Bearer token-1", "Bearer token-2", "Bearer token-3"]


@pytest.mark.parametrize("call", ["Models/List", "Streams/Open", "Training/Learn", "Streams/Mux", "Models/Watch"])
async def test_what_keeps_the_token_from_being_read_is_what_the_caller_sees(door, call):
    def broken() -> str:
        raise OSError("the secret store is away")

    async with freshet.connect(f"127.0.0.1:{door.port}", token=broken) as client:
        with pytest.raises(OSError, match="the secret store is away"):
            await CALLS[call](client)

    assert door.asked == []


@pytest.mark.parametrize("token", ["", " \n", "two words", "schlüssel", "a\r\nb", lambda: "", lambda: None])
async def test_what_is_no_token_is_refused_before_anything_is_sent_and_not_shown(door, token):
    with pytest.raises(freshet.InvalidArgument, match="printable ASCII") as raised:
        async with freshet.connect(f"127.0.0.1:{door.port}", token=token) as client:
            await client.list_models()

    assert raised.value.field == "token"
    assert callable(token) or not token.strip() or token.strip() not in str(raised.value)
    assert door.asked == []


def test_a_token_does_not_leave_this_machine_in_plain_text():
    for target in ("freshet.example:8300", "10.0.0.7:8300", "[2001:db8::1]:8300", "127.0.0.1:1,10.0.0.7:1"):
        with pytest.raises(freshet.InvalidArgument, match=r"plain text.*tls=…, or insecure_token=True") as raised:
            freshet.connect(target, token=SECRET)
        assert SECRET not in str(raised.value)
        freshet.connect(target)
        freshet.connect(target, token=SECRET, insecure_token=True)
        freshet.connect(target, token=SECRET, tls=True)
        freshet.connect(target, token=SECRET, credentials=grpc.ssl_channel_credentials())


@pytest.mark.parametrize(
    ("target", "local"),
    [
        ("127.0.0.1:8300", True), ("127.9.9.9:1", True), ("localhost:8300", True), ("localhost", True),
        ("[::1]:8300", True), ("::1", True), ("ipv4:127.0.0.1:8300", True), ("ipv6:[::1]:8300", True),
        ("dns:///localhost:8300", True), ("dns:localhost:8300", True), ("unix:/run/freshet.sock", True),
        ("unix-abstract:freshet", True), ("0.0.0.0:8300", False), ("localhost.example:8300", False),
        ("dns://127.0.0.1/freshet.example:8300", False), ("ipv4:127.0.0.1:1,192.0.2.1:1", False), ("", False),
        ("[::]:8300", False), ("127.0.0.1.example:8300", False),
    ],
)  # fmt: skip
def test_only_what_surely_stays_on_this_machine_is_local(target, local):
    assert is_local(target) is local


# --- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


def credentials(files: tuple[Path, Path], clients: Authority | None = None) -> grpc.ServerCredentials:
    """A server's: its certificate and key, and who must have signed its clients'."""
    certificate, key = files
    pair = [(key.read_bytes(), certificate.read_bytes())]
    return grpc.ssl_server_credentials(pair, clients.pem.read_bytes() if clients else None, clients is not None)


async def greet(server_credentials: grpc.ServerCredentials | None, tls: Any) -> list[tuple[str, str | bytes | None]]:
    """What a new server heard of a client, which it admits nowhere. Raises Unavailable where it heard nothing."""
    door, server = Doorkeeper(), grpc.aio.server()
    server.add_generic_rpc_handlers((door,))
    if server_credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", server_credentials)
    await server.start()
    once = [("grpc.enable_retries", 0)]
    try:
        async with freshet.connect(f"127.0.0.1:{port}", token=SECRET, tls=tls, options=once) as client:
            with pytest.raises(freshet.Unauthenticated):
                await client.list_models()
    except freshet.Unavailable:
        assert door.asked == []
        raise
    finally:
        await server.stop(0)
    return door.asked


@pytest.mark.parametrize("given", [lambda a: a.pem, lambda a: str(a.pem), lambda a: freshet.Tls(ca=a.pem)])
async def test_tls_with_the_authority_of_the_server(authority, given):
    assert await greet(credentials(authority.sign("server")), given(authority)) == HEARD


async def test_tls_with_a_certificate_of_ones_own(authority, stranger):
    server = credentials(authority.sign("server"), clients=authority)
    certificate, key = authority.sign("me")
    assert await greet(server, freshet.Tls(ca=authority.pem, cert=certificate, key=key)) == HEARD

    certificate, key = stranger.sign("me")
    for tls in (authority.pem, freshet.Tls(ca=authority.pem, cert=certificate, key=key)):
        with pytest.raises(freshet.Unavailable):
            await greet(server, tls)


async def test_a_certificate_for_another_name_is_taken_where_that_name_is_expected(authority):
    server = credentials(authority.sign("elsewhere", host="elsewhere.example"))
    assert await greet(server, freshet.Tls(ca=authority.pem, server_name="elsewhere.example")) == HEARD
    with pytest.raises(freshet.Unavailable):
        await greet(server, authority.pem)


@pytest.mark.parametrize("wrong", ["authority", "expired", "plain server", "plain client", "system"])
async def test_no_token_goes_to_a_server_that_is_not_the_one(authority, stranger, wrong):
    server = {
        "authority": lambda: credentials(stranger.sign("server")),
        "expired": lambda: credentials(authority.sign("old", days=-1)),
        "plain server": lambda: None,
    }.get(wrong, lambda: credentials(authority.sign("server")))()
    with pytest.raises(freshet.Unavailable):
        await greet(server, {"plain client": None, "system": True}.get(wrong, authority.pem))


def test_files_that_cannot_be_used_are_named_at_once(authority, tmp_path):
    (tmp_path / "text").write_text("not a certificate")
    wrong: dict[str, Callable[[], Any]] = {
        "tls.ca": lambda: freshet.connect("h:1", tls=tmp_path / "missing.pem"),
        "tls.cert": lambda: freshet.connect("h:1", tls=freshet.Tls(cert=tmp_path / "text", key=authority.pem)),
        "tls.key": lambda: freshet.Tls(cert=authority.pem),
        "credentials": lambda: freshet.connect("h:1", tls=True, credentials=grpc.ssl_channel_credentials()),
    }
    for field, make in wrong.items():
        with pytest.raises(freshet.InvalidArgument) as raised:
            make()
        assert raised.value.field == field
        assert raised.value.remedy
    freshet.connect("h:1", tls=False)
