"""A connection that does not come about: the error says why, and what to do, in both forms of the client."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import freshet
from freshet.target import address_of, check_target, is_local, proxy_of
from tests.client.certificates import Authority
from tests.client.fake_server import FakeServer

VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("freshet.calls.ATTEMPT_S", 0.01)  # what the last call found is said, not how long it took


@pytest.fixture
async def plain() -> AsyncIterator[str]:
    server = FakeServer()
    await server.start()
    yield f"127.0.0.1:{server.port}"
    await server.stop()


@pytest.fixture
async def encrypted(tmp_path) -> AsyncIterator[Callable[..., Any]]:
    """Starts servers that speak TLS; gives their port."""
    servers = []

    async def start(certificate: tuple[Path, Path], asks: Path | None = None) -> int:
        cert, key = (path.read_bytes() for path in certificate)
        server = grpc.aio.server()
        root = None if asks is None else asks.read_bytes()
        port = server.add_secure_port(
            "127.0.0.1:0", grpc.ssl_server_credentials([(key, cert)], root, require_client_auth=asks is not None)
        )
        await server.start()
        servers.append(server)
        return port

    yield start
    for server in servers:
        await server.stop(0)


@pytest.fixture
def page() -> Iterator[str]:
    """A server of HTTP/1, as the side server is."""

    class Page(http.server.BaseHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def closed() -> Iterator[str]:
    """An address on which nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


async def failure(target: str, **how: Any) -> freshet.Unavailable:
    """How a plain call fails, awaited and blocking, and how a stream does, which says the same."""

    def block() -> None:
        with freshet.sync.connect(target, **how) as client:
            client.list_models()

    async with freshet.connect(target, **how) as client:
        with pytest.raises(freshet.Unavailable) as awaited:
            await client.list_models()
        with pytest.raises(freshet.Unavailable) as blocked:
            await asyncio.to_thread(block)
        # What is lasting ends a stream at once, however long it may try.
        stream = client.stream("m", "s", give_up_s=600.0 if awaited.value.lasting else 0.1)
        stream._engine._waits.give_up_s = 600.0  # its first call may take as long as it takes to end
        with pytest.raises(freshet.Unavailable) as streamed:
            await stream.open()
    assert blocked.value.problem == awaited.value.problem
    assert awaited.value.found.split(" (")[0] in str(streamed.value)
    assert str(awaited.value).startswith(f"{awaited.value.found}; {awaited.value.remedy}")
    return awaited.value


async def test_where_nothing_listens_the_address_and_the_remedy_are_named(closed):
    error = await failure(closed)

    assert (error.problem, error.lasting) == ("refused", False)
    assert f"nothing listens on {closed}" in str(error)


async def test_a_host_without_an_address_is_named():
    error = await failure("no-such-host.invalid:8300")

    assert (error.problem, error.lasting) == ("unresolved", False)
    assert "no-such-host.invalid" in error.found
    assert "spelling" in error.remedy


async def test_plain_text_spoken_to_tls_is_said_at_once(tmp_path, encrypted):
    port = await encrypted(Authority(tmp_path).sign("server"))

    error = await failure(f"127.0.0.1:{port}")

    assert (error.problem, error.lasting) == ("tls", True)
    assert "tls=" in error.remedy


async def test_tls_spoken_to_plain_text_is_said_at_once(tmp_path, plain):
    error = await failure(plain, tls=Authority(tmp_path).pem)

    assert (error.problem, error.lasting) == ("plain", True)
    assert "omit tls" in error.remedy


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_certificate_that_is_not_trusted_is_said_at_once_and_not_the_reason_of_another_address(
    tmp_path, encrypted, host
):
    port = await encrypted(Authority(tmp_path).sign("server"))

    for tls in (Authority(tmp_path, "other").pem, True):
        error = await failure(f"{host}:{port}", tls=tls)

        assert (error.problem, error.lasting) == ("untrusted", True)
        assert "is not trusted" in error.found
        assert "ca.pem" in error.remedy


async def test_a_certificate_for_another_name_is_said_with_its_names(tmp_path, encrypted):
    authority = Authority(tmp_path)
    port = await encrypted(authority.sign("server", host="pump.example"))

    error = await failure(f"localhost:{port}", tls=authority.pem)

    assert (error.problem, error.lasting) == ("name", True)
    assert "'localhost'" in error.found
    assert "pump.example" in error.found
    assert "server_name" in error.remedy


async def test_a_certificate_that_has_expired_is_said(tmp_path, encrypted):
    authority = Authority(tmp_path)
    port = await encrypted(authority.sign("server", days=-1))

    error = await failure(f"localhost:{port}", tls=authority.pem)

    assert (error.problem, error.lasting) == ("expired", True)
    assert "expired" in error.found


async def test_a_server_that_asks_for_a_certificate_or_for_another_one(tmp_path, encrypted):
    authority = Authority(tmp_path)
    port = await encrypted(authority.sign("server"), asks=authority.pem)

    other = Authority(tmp_path, "other").sign("client")

    error = await failure(f"localhost:{port}", tls=authority.pem)
    assert (error.problem, error.lasting) == ("certificate", False)
    assert "cert=" in error.remedy
    error = await failure(f"localhost:{port}", tls=freshet.Tls(ca=authority.pem, cert=other[0], key=other[1]))
    assert error.problem == "certificate"
    assert "this client's certificate" in error.remedy


@pytest.mark.parametrize("tls", [None, True], ids=["plain", "tls"])
async def test_the_http_port_is_recognised(page, tls):
    error = await failure(page, tls=tls)

    assert (error.problem, error.lasting) == ("http", True)
    assert "gRPC port" in error.remedy


async def test_something_that_only_closes_is_neither(monkeypatch):
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
        error = await failure(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")

    assert (error.problem, error.lasting) == ("closed", False)
    assert "closes the connection" in error.found


async def test_what_a_server_says_itself_is_left_as_it_is(plain):
    """A server that is there and not ready: the connection is not to blame."""
    async with freshet.connect(plain) as client:
        with pytest.raises(freshet.Unimplemented):
            await client.replay("m", [1])


async def test_a_stream_that_was_open_waits_for_its_server_as_before(tmp_path, page):
    """What looks lasting to a new client may be the moment of a change to one that was served there."""
    server = FakeServer()
    await server.start()
    async with (
        freshet.connect(f"127.0.0.1:{server.port}") as client,
        client.stream("m", "s", give_up_s=600.0) as stream,
    ):
        await stream.step(1.0)
        await server.stop()
        with impostor(server.port) as called:
            waiting = asyncio.create_task(stream.step(2.0))
            await asyncio.to_thread(called.wait)
        await server.start()
        assert (await waiting).seq == 2
    await server.stop()


@contextlib.contextmanager
def impostor(port: int) -> Iterator[threading.Event]:
    """A server of HTTP/1 in the place of another, and whether it was called."""
    called = threading.Event()

    class Page(http.server.BaseHTTPRequestHandler):
        def setup(self) -> None:
            super().setup()
            called.set()

        def log_message(self, *words: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield called
    server.shutdown()
    server.server_close()


# --- addresses


@pytest.mark.parametrize(
    ("target", "remedy"),
    [
        ("http://127.0.0.1:8300", 'without http://, as in "127.0.0.1:8300"'),
        ("HTTPS://freshet.example:8300/", 'without HTTPS://, as in "freshet.example:8300", and tls=True'),
        ("http://127.0.0.1", 'as in "127.0.0.1:PORT"'),
        ("grpc://h:1", 'as in "h:1"'),
        ("127.0.0.1", "the port is missing"),
        ("localhost", "the port is missing"),
        ("localhost:", "give HOST:PORT"),
        ("localhost:grpc", "give HOST:PORT"),
        ("localhost:0", "a port from 1 to 65535"),
        ("localhost:70000", "a port from 1 to 65535"),
        ("localhost:8300/", "give HOST:PORT"),
        (" localhost:8300", "give HOST:PORT"),
        (":8300", "the host is missing"),
        ("::1", "in brackets"),
        ("[::1]", "the port is missing"),
        ("dns:///localhost", "the port is missing"),
        ("", "give"),
        (None, "give"),
        (8300, "give"),
        (("127.0.0.1", 8300), "give"),
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_before_anything_is_sent(target, remedy):
    for connect in (freshet.connect, freshet.sync.connect):
        with pytest.raises(freshet.InvalidArgument, match="target = ") as refused:
            connect(target)
        assert refused.value.field == "target"
        assert remedy in refused.value.remedy


@pytest.mark.parametrize(
    "target",
    ["127.0.0.1:8300", "localhost:1", "[::1]:8300", "a-b.example:65535", "dns:///h:1", "dns:h:1", "dns:8300",
    "unix:/tmp/s",     "ipv4:127.0.0.1:8300,127.0.0.2:8300", "host_with_underscores:8300", "bücher.example:8300"],
)  # fmt: skip
def test_an_address_is_taken(target):
    check_target(target)


def test_host_and_port_are_read_off_an_address():
    assert address_of("[::1]:8300") == ("::1", 8300)
    assert address_of("dns:///h:1") == ("h", 1)
    assert address_of("unix:/tmp/s:1") is None


@pytest.mark.parametrize(
    ("target", "local"),
    [("127.0.0.1:1", True), ("127.9.9.9:1", True), ("LOCALHOST:1", True), ("[::1]:1", True), ("0.0.0.0:1", False),
     ("[::ffff:127.0.0.1]:1", True), ("unix:/s", True), ("10.0.0.1:1", False), ("localhost.example:1", False)],
)  # fmt: skip
def test_this_machine_is_known_by_its_addresses(target, local):
    assert is_local(target) is local


# --- proxies


@pytest.mark.parametrize("variable", ["https_proxy", "http_proxy", "grpc_proxy"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]"])
async def test_this_machine_is_never_reached_through_a_proxy(monkeypatch, plain, closed, variable, host):
    monkeypatch.setenv(variable, f"http://{closed}")
    target = plain.replace("127.0.0.1", host)

    def block() -> int:
        with freshet.sync.connect(target) as client:
            return len(client.list_models())

    async with freshet.connect(target) as client:
        assert len(await client.list_models()) == 1
        async with client.stream("m", "s") as stream:
            assert (await stream.step(1.0)).seq == 1
    assert await asyncio.to_thread(block) == 1


@pytest.mark.parametrize("variable", ["https_proxy", "http_proxy", "grpc_proxy"])
async def test_elsewhere_the_error_names_the_variable_and_no_proxy_and_no_password(monkeypatch, closed, variable):
    monkeypatch.setenv(variable, f"http://user:secret@{closed}")

    error = await failure("freshet.example:8300")

    assert (error.problem, error.lasting) == ("proxy", False)
    assert f"{variable} names" in error.found
    assert f"http://{closed}" in error.found
    assert "add freshet.example to no_proxy" in error.remedy
    assert "secret" not in error.found


def test_exceptions_are_read_as_grpc_reads_them(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://p:1")
    monkeypatch.setenv("no_proxy", "example.com, 10.0.0.0/8,,other")

    assert proxy_of("freshet.example.com") is None
    assert proxy_of("10.1.2.3") is None
    assert proxy_of("11.1.2.3") == ("https_proxy", "http://p:1")
    assert proxy_of("freshet.example") is not None


async def test_a_client_that_is_given_its_own_option_keeps_it(monkeypatch, closed, plain):
    monkeypatch.setenv("https_proxy", f"http://{closed}")

    async with freshet.connect(plain, options=[("grpc.enable_http_proxy", 1)]) as client:
        with pytest.raises(freshet.Unavailable, match="https_proxy"):
            await client.list_models()


def test_the_proxy_that_is_asked_about_is_the_one_in_the_environment():
    assert not any(name in os.environ for name in VARIABLES)
    assert proxy_of("freshet.example") is None
