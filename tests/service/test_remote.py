"""The command line and servers that cannot be reached: what was found, and which option mends it; proxies."""

from __future__ import annotations

import http.server
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

import freshet
from service.cli.main import app
from service.common.errors import Invalid
from service.console.remote import REMEDIES, Remote
from tests.client.certificates import Authority


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def page() -> Iterator[str]:
    """A server of HTTP/1 that answers every page."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.path.encode())

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


def listed(*words: object):
    return CliRunner().invoke(app, ["models", "list", *map(str, words)])


def test_the_http_port_in_the_place_of_grpcs_is_named(page):
    answer = listed("--url", page)

    assert answer.exit_code == 1
    assert f"no working server on {page}: {page} speaks HTTP/1" in answer.stderr
    assert REMEDIES["http"] in answer.stderr
    assert "tls=" not in answer.stderr


def test_tls_spoken_to_a_port_of_plain_text_is_named_in_one_line(tmp_path, page):
    words = ("models", "list", "--url", page, "--ca", Authority(tmp_path).pem)
    answer = subprocess.run([sys.executable, "-m", "service.cli", *map(str, words)], capture_output=True, text=True)

    assert answer.returncode == 1
    assert "gRPC port" in answer.stderr
    assert answer.stderr.count("\n") == 1, "gRPC has written too"


@pytest.mark.parametrize(
    ("url", "remedy"),
    [("http://127.0.0.1:8300", "without http://"), ("localhost", "the port is missing"), ("::1", "in brackets"),
     ("unix:/tmp/s", "give HOST:PORT"), ("127.0.0.1:0", "a port from 1"), ("127.0.0.1:99999", "a port from 1")],
)  # fmt: skip
def test_a_url_that_is_no_address_says_what_is_wrong_with_it(url, remedy):
    with pytest.raises(Invalid, match="url = ") as refused:
        Remote(url).connect()
    assert remedy in refused.value.remedy


def test_a_url_may_be_several_addresses_or_a_dns_name():
    assert Remote("h1:8300, h2:8300").connect().nodes == ("h1:8300", "h2:8300")
    assert Remote("dns:///freshet.example:8300").connect().nodes == ("dns:///freshet.example:8300",)
    with pytest.raises(Invalid, match="the port is missing"):
        Remote("h1:8300,h2").connect()


def test_every_problem_of_the_sdk_has_a_remedy_of_the_command_line():
    words = freshet.Unavailable.__doc__ or ""
    assert {word for word in REMEDIES if f'"{word}"' not in words} == set()


def test_a_proxy_for_another_host_is_named_with_its_variable(monkeypatch, closed):
    monkeypatch.setenv("https_proxy", f"http://{closed}")

    answer = listed("--url", "freshet.example:8300")

    assert answer.exit_code == 1
    assert "which https_proxy names" in answer.stderr
    assert "add freshet.example to no_proxy" in answer.stderr


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_a_page_of_this_machine_is_not_fetched_through_a_proxy(monkeypatch, page, closed, variable):
    monkeypatch.setenv(variable, f"http://{closed}")
    remote = Remote("127.0.0.1:8300")

    assert remote.fetch(remote.page(page, "metrics"), 5.0) == (200, "/metrics")
    with pytest.raises(OSError, match=f"the proxy that .*{variable} names .*add freshet.example to no_proxy"):
        remote.fetch(remote.page("freshet.example:8301", "metrics"), 5.0)
