"""TLS on both ports, by real handshakes: who is believed, who is asked, and new certificates without a restart."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import urllib.error
import urllib.request
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import freshet
from service.console.failures import ServerFailed
from service.programs.backtest.child import ServerChild
from tests.client.certificates import Authority
from tests.journeys import preloaded
from tests.journeys.conftest import QUICK
from tests.journeys.crash import mutate
from tests.journeys.credentials import Entry, written
from tests.journeys.raw import DEADLINE_S, within
from tests.journeys.test_limits import crowd_at, gone


class House:
    """A server with a certificate of `authority`, in files that tests may replace."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.authority = folder, Authority(folder)
        self.cert, self.key = folder / "server.pem", folder / "server.key"
        self.install(self.authority)

    def install(self, authority: Authority, **how: Any) -> None:
        """Put another certificate in the place of the one there; the key last, so that for a moment they do not fit."""
        for made, place in zip(authority.sign("fresh", **how), (self.cert, self.key), strict=True):
            shutil.copy(made, self.folder / "next")
            (self.folder / "next").replace(place)

    @contextlib.asynccontextmanager
    async def started(self, **settings: object) -> AsyncIterator[ServerChild]:
        tls = {"tls_cert": self.cert, "tls_key": self.key}
        async with ServerChild(self.folder / "data", self.folder / "log", settings=QUICK | tls | settings) as child:
            yield child
        assert "Traceback" not in (self.folder / "log").read_text()

    def log(self) -> str:
        return (self.folder / "log").read_text()


async def outcome(target: str, tls: Any, timeout_s: float = 3.0) -> str:
    """Whether a client gets an answer: "in", or the error that it gets after `timeout_s`."""
    try:
        async with freshet.connect(target, tls=tls, timeout_s=timeout_s) as client:
            await client.list_models()
    except freshet.FreshetError as error:
        return type(error).__name__
    return "in"


async def outcomes(target: str, *tls: Any) -> set[str]:
    """The outcomes of several clients at once."""
    return {*await asyncio.gather(*(outcome(target, each) for each in tls))}


def at_localhost(address: str) -> str:
    """The same address by the name that the certificates are for."""
    return f"localhost:{address.rpartition(':')[2]}"


def probe(address: str, path: str, ca: Path | None) -> int | str:
    """The status of a GET over TLS, trusting `ca`; over plain text without; the reason where there is none."""
    context = ssl.create_default_context(cafile=str(ca)) if ca else None
    scheme = "https" if ca else "http"
    try:
        with urllib.request.urlopen(f"{scheme}://{address}{path}", timeout=DEADLINE_S, context=context) as answer:
            return int(answer.status)
    except urllib.error.URLError as error:
        return str(error.reason)
    except OSError as error:
        return str(error)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def standing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[House, ServerChild]]:
    """A house and its server, for tests that change neither."""
    shared = House(tmp_path_factory.mktemp("standing"))
    async with shared.started() as server:
        yield shared, server


async def test_a_client_that_trusts_the_authority_is_answered_and_nobody_in_plain_text(standing):
    house, server = standing
    other, target = Authority(house.folder, "other"), at_localhost(server.grpc)
    async with freshet.connect(target, tls=house.authority.pem) as client:
        await client.create_model("flow", channels=["x"], hidden=4)
        async with client.stream("flow", "pump") as stream:
            assert (await stream.step(1.0)).seq == 1

    assert await outcome(target, house.authority.pem, DEADLINE_S) == "in"
    elsewhere = freshet.Tls(ca=house.authority.pem, server_name="elsewhere")
    assert await outcomes(target, None, other.pem, elsewhere) == {"Unavailable"}

    http = at_localhost(server.http)
    assert await asyncio.to_thread(probe, http, "/readyz", house.authority.pem) == 200
    assert "CERTIFICATE_VERIFY_FAILED" in str(await asyncio.to_thread(probe, http, "/readyz", other.pem))
    assert await asyncio.to_thread(probe, http, "/readyz", None) != 200


@pytest.mark.parametrize("how", [{"days": -1}, {"host": "elsewhere"}], ids=["expired", "of another name"])
async def test_a_server_whose_certificate_is_not_good_is_not_talked_to(house, how):
    house.install(house.authority, **how)
    async with house.started() as server:
        assert await outcome(at_localhost(server.grpc), house.authority.pem) == "Unavailable"
        assert "CERTIFICATE_VERIFY_FAILED" in str(
            await asyncio.to_thread(probe, at_localhost(server.http), "/healthz", house.authority.pem)
        )


async def test_with_mtls_only_clients_with_a_good_certificate_come_in(house):
    ours, theirs = Authority(house.folder, "clients"), Authority(house.folder, "strangers")
    pairs = {
        "good": ours.sign("gateway"),
        "expired": ours.sign("old", days=-1),
        "another authority's": theirs.sign("stranger"),
        "the server authority's": house.authority.sign("cousin"),
    }
    async with house.started(tls_client_ca=ours.pem) as server:
        target, ca = at_localhost(server.grpc), house.authority.pem
        asked = {name: freshet.Tls(ca=ca, cert=cert, key=key) for name, (cert, key) in pairs.items()}
        assert await outcome(target, asked.pop("good"), DEADLINE_S) == "in"
        assert await outcomes(target, ca, *asked.values()) == {"Unavailable"}
        assert await asyncio.to_thread(probe, at_localhost(server.http), "/readyz", ca) == 200


async def test_a_new_certificate_serves_new_connections_and_open_streams_go_on(house):
    fresh = Authority(house.folder, "fresh")
    async with house.started() as server:
        target = at_localhost(server.grpc)
        async with freshet.connect(target, tls=house.authority.pem) as client:
            await client.create_model("flow", channels=["x"], hidden=4)
            async with client.stream("flow", "pump") as stream:
                await stream.step(1.0)
                house.install(fresh)

                async with asyncio.timeout(DEADLINE_S):
                    while await outcome(target, fresh.pem) != "in":
                        pass
                assert await outcome(target, house.authority.pem) == "Unavailable"
                assert (await stream.step(2.0)).seq == 2
                assert stream.reconnects == 0
        assert await asyncio.to_thread(probe, at_localhost(server.http), "/healthz", fresh.pem) == 200


async def test_a_new_certificate_that_is_no_good_is_not_taken_and_it_is_said(house):
    async with house.started() as server:
        target = at_localhost(server.grpc)
        house.cert.write_text("not a certificate")
        async with asyncio.timeout(DEADLINE_S):
            while "stays in force" not in house.log():
                assert await outcome(target, house.authority.pem, DEADLINE_S) == "in"

        house.install(house.authority)
        assert await outcome(target, house.authority.pem, DEADLINE_S) == "in"


@pytest.mark.parametrize("fault", ["no such file", "not PEM", "another's key", "an encrypted key"])
async def test_a_server_does_not_start_with_files_that_make_no_certificate(house, fault):
    if fault == "no such file":
        house.cert.unlink()
    elif fault == "not PEM":
        house.cert.write_text("nothing")
    elif fault == "another's key":
        shutil.copy(house.authority.sign("another")[1], house.key)
    else:
        house.key.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n")

    with pytest.raises(ServerFailed, match="ended with exit code") as caught:
        async with house.started():
            pass

    assert str(house.cert) in str(caught.value)
    if fault == "no such file":
        assert f"freshet: tls_cert = {house.cert}: No such file or directory" in str(caught.value)
    assert "Traceback" not in str(caught.value)


async def test_the_command_line_shows_its_token_and_speaks_tls(house):
    access = house.folder / "access.toml"
    access.write_text(written(Entry("fr-a", "a", "predict"), Entry("fr-ops", "default", "admin")))
    async with house.started(access=access) as server:
        target, http = at_localhost(server.grpc), at_localhost(server.http)

        async def told(*words: object, **variables: object) -> tuple[int, str]:
            environment = {f"FRESHET_{name.upper()}": str(value) for name, value in variables.items()}
            process = await preloaded.command(*words, "--url", target, merged=True, variables=environment)
            said, _ = await within(process.communicate())
            return process.returncode or 0, said.decode()

        ca, other = house.authority.pem, Authority(house.folder, "other").pem
        for way in (("--ca", ca, "--token", "fr-a"), ()):
            code, seen = await told("models", "list", *way, **({} if way else {"token": "fr-ops", "ca": ca}))
            assert (code, "no models yet" in seen) == (0, True), seen
        code, seen = await told("top", "--once", "--json", "--interval", 0.2, "--http", http, token="fr-ops", ca=ca)
        assert code == 0, seen
        for words, variables, named in (
            (("models", "list"), {"ca": ca}, "authorization"),
            (("models", "list"), {"ca": ca, "token": "wrong"}, "authorization"),
            (("models", "delete", "flow", "--yes"), {"ca": ca, "token": "fr-a"}, "admin"),
            (("models", "list"), {"token": "fr-a"}, "speaks TLS, but this client plain text"),
            (("models", "list"), {"token": "fr-a"}, "does it use TLS? Give --ca"),
            (("models", "list"), {"ca": other, "token": "fr-a"}, "is not trusted"),
            (
                ("models", "list"),
                {"ca": other, "token": "fr-a"},
                "give --ca FILE with the authority that",
            ),
        ):
            code, seen = await told(*words, **variables)
            assert (code, named in seen) == (1, True), seen
            assert "Traceback" not in seen


async def test_connections_that_fall_silent_before_they_speak_tls_do_not_pile_up(standing):
    house, server = standing
    async with crowd_at(server.http, HALF_A_GREETING):
        at = at_localhost(server.http)
        assert await asyncio.to_thread(probe, at, "/healthz", house.authority.pem) == 200


@pytest.mark.long
async def test_a_side_server_that_counts_only_who_speaks_tls_would_be_noticed(house, monkeypatch):
    no_limit = "import service.edge.http\nservice.edge.http.Door = lambda listening, *of: listening"
    mutate(monkeypatch, house.folder, no_limit)
    monkeypatch.setattr("tests.journeys.test_limits.DEADLINE_S", 10.0)  # it never comes
    async with house.started() as server:
        with pytest.raises(TimeoutError):
            async with crowd_at(server.http, HALF_A_GREETING):
                pass


HALF_A_GREETING = b"\x16\x03\x01"
VERSIONS = (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


async def spoken(address: str, version: ssl.TLSVersion, ca: Path, ciphers: str = "ALL:@SECLEVEL=0") -> str:
    """The version that a handshake of exactly this one comes to, or "refused". ciphers: those up to TLS 1.2; by default
    all, or this side would refuse the old versions itself."""
    context = ssl.create_default_context(cafile=str(ca))
    context.set_ciphers(ciphers)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port), ssl=context), DEADLINE_S)
    except (ssl.SSLError, ConnectionResetError):
        return "refused"
    writer.close()
    return str(writer.get_extra_info("ssl_object").version())


async def test_both_ports_speak_tls_1_2_and_1_3_and_nothing_older(standing):
    house, server = standing
    for address in (server.grpc, server.http):
        got = [await spoken(at_localhost(address), version, house.authority.pem) for version in VERSIONS]
        assert got == ["refused", "refused", "TLSv1.2", "TLSv1.3"], address


async def test_tls_1_2_is_authenticated_encryption_with_forward_secrecy(standing):
    house, server = standing
    for address in (server.grpc, server.http):
        got = {}
        for ciphers in ("ECDHE+AESGCM", "ECDHE+AES:!AESGCM", "kRSA", "aNULL"):
            how = at_localhost(address), ssl.TLSVersion.TLSv1_2, house.authority.pem, f"{ciphers}:@SECLEVEL=0"
            got[ciphers] = await spoken(*how)
        assert got == dict.fromkeys(got, "refused") | {"ECDHE+AESGCM": "TLSv1.2"}, address


async def test_handshakes_of_strangers_do_not_fill_the_log(house):
    async with house.started() as server:
        before = house.log()
        for address in (server.grpc, server.http) * 20:
            await gone(address, b"GET / HTTP/1.0\r\n\r\n")
        assert house.log() == before


@pytest.mark.long
async def test_a_port_that_speaks_what_is_older_would_be_noticed(house, monkeypatch):
    code = """
import ssl
minimum, choose = ssl.SSLContext.minimum_version, ssl.SSLContext.set_ciphers
ssl.SSLContext.minimum_version = property(minimum.__get__, lambda of, _: minimum.__set__(of, ssl.TLSVersion.TLSv1))
ssl.SSLContext.set_ciphers = lambda of, _: choose(of, "ALL:@SECLEVEL=0")
"""
    mutate(monkeypatch, house.folder, code)
    async with house.started() as server:
        assert await spoken(at_localhost(server.http), ssl.TLSVersion.TLSv1_1, house.authority.pem) == "TLSv1.1"
