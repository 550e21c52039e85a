"""`freshet health`, which a container's health check calls."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from service.cli.main import app
from tests.client.certificates import Authority
from tests.journeys.crash import a_server


async def health(*arguments: object, **environment: str) -> Result:
    words = ["health", "--timeout", "20", *map(str, arguments)]
    return await asyncio.to_thread(CliRunner().invoke, app, words, env=environment)


class Draining(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(503 if self.path == "/readyz" else 200)
        self.end_headers()
        self.wfile.write(b"not ready: \x1b[31mdraining\nmore" if self.path == "/readyz" else b"alive\n")

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture(params=["", "TLS"])
def draining(request, tmp_path) -> Iterator[tuple[str, Path | None]]:
    """A server that is not ready: its address, and the authority behind its certificate if it speaks TLS."""
    server, ca = HTTPServer(("127.0.0.1", 0), Draining), None
    if request.param:
        authority = Authority(tmp_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.sign("server"))
        server.socket, ca = context.wrap_socket(server.socket, server_side=True), authority.pem
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}", ca
    server.shutdown()
    thread.join()
    server.server_close()


async def test_it_reports_a_server_that_accepts_streams(server):
    for told in (
        await health("--http", server.http),
        await health(FRESHET_HTTP=f"0.0.0.0:{server.http.split(':')[1]}"),
    ):
        assert (told.exit_code, told.output) == (0, "ready\n")
    told = await health("--http", server.http, "--live")
    assert (told.exit_code, told.output) == (0, "alive\n")


async def test_it_reports_why_a_server_is_not_ready_with_exit_code_1(draining):
    address, ca = draining
    ways = [["--ca", ca], ["--tls"]] if ca else [[]]
    for way in ways:
        told = await health("--http", address, *way)
        assert (told.exit_code, told.output) == (1, "not ready: ?[31mdraining\n")
        assert (await health("--http", address, *way, "--live")).exit_code == 0
    if ca:
        assert (await health("--http", address, "--live", FRESHET_TLS_CERT="server.pem")).exit_code == 0


@pytest.mark.parametrize("draining", ["TLS"], indirect=True)
async def test_with_an_authority_it_trusts_no_other(draining, tmp_path):
    told = await health("--http", draining[0], "--live", "--ca", Authority(tmp_path, "other").pem)
    assert told.exit_code == 1
    assert "certificate verify failed" in told.output


@pytest.mark.parametrize("draining", ["TLS"], indirect=True)
async def test_the_variable_of_the_other_verbs_names_the_authority(draining, tmp_path):
    address, ca = draining
    told = await health("--http", address, FRESHET_CA=str(ca))
    assert (told.exit_code, told.output) == (1, "not ready: ?[31mdraining\n")
    told = await health("--http", address, FRESHET_CA=str(Authority(tmp_path, "other").pem))
    assert "certificate verify failed" in told.output
    told = await health("--http", address, FRESHET_CA=str(tmp_path / "none.pem"))
    assert told.exit_code == 2
    assert f"freshet: ca = {tmp_path / 'none.pem'}: No such file or directory" in told.output


async def test_a_port_that_speaks_tls_and_is_asked_in_plain_text_gives_a_hint(tmp_path):
    cert, key = Authority(tmp_path).sign("server")
    async with a_server(tmp_path, tls_cert=cert, tls_key=key) as server:
        told = await health("--http", server.http)
    assert told.exit_code == 1
    assert told.output.endswith("does it speak TLS? give --ca FILE or --tls\n")


async def test_it_reports_an_address_that_does_not_answer_or_is_invalid():
    told = await health("--http", "127.0.0.1:1")
    assert told.exit_code == 1
    assert "freshet: 127.0.0.1:1: " in told.output
    assert "TLS" not in told.output
    told = await health("--http", "localhost")
    assert told.exit_code == 2
    assert "give HOST:PORT" in told.output
