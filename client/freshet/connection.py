"""Explain failed connections: examine the address with plain sockets after gRPC could not connect.

gRPC reports only the last address it tried, in the words of its libraries. This module tries each address once and
keeps the most informative finding, with a remedy.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import grpc

from freshet.errors import FreshetError, Unavailable
from freshet.security import Tls
from freshet.target import Address, Proxy

CONNECT_S = 2.0  # longest wait for a connection, and for the first bytes on it
MOST_ADDRESSES = 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # with an empty SETTINGS frame
SETTINGS = 4  # type of the first frame of an HTTP/2 server
NAME_MISMATCH = {62, 64}  # X509_V_ERR_HOSTNAME_MISMATCH, …_IP_ADDRESS_MISMATCH
OUT_OF_DATE = {9, 10}  # X509_V_ERR_CERT_NOT_YET_VALID, …_HAS_EXPIRED

Encryption: TypeAlias = (
    "Tls | Literal['unknown'] | None"  # None: plain text; unknown: gRPC credentials given by the user
)


@dataclass(frozen=True, slots=True)
class Problem:
    """A finding and its remedy. lasting: later calls fail too until one side changes."""

    kind: str
    found: str
    remedy: str
    lasting: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """The client's way to a server. address: None if gRPC resolves the target by its own means."""

    target: str
    address: Address | None
    encryption: Encryption
    proxy: Proxy | None

    async def explained(self, error: FreshetError) -> FreshetError:
        """Return the error with the cause of the failed connection, if that is why it was raised."""
        if not isinstance(error, Unavailable) or not unconnected(error):
            return error
        problem = await asyncio.to_thread(problem_of, self, str(error))
        return error if problem is None else unavailable(problem, error)


def unavailable(problem: Problem, error: Unavailable) -> Unavailable:
    """Return an error with the finding, the remedy and gRPC's own text."""
    said = Unavailable(f"{problem.found}; {problem.remedy} ({error})", error.code)
    said.problem, said.found, said.remedy, said.lasting = problem.kind, problem.found, problem.remedy, problem.lasting
    return said


# Parts of gRPC's texts for a connection that failed. Errors sent by a server contain none of them.
UNCONNECTED = (
    "failed to connect", "errors resolving", "DNS resolution", "lookup", "Socket closed", "andshake", "recvmsg",
    "sendmsg", "onnection reset", "HTTP/2", "http1", "HTTP proxy", "all backends failing", "GOAWAY", "Broken pipe",
)  # fmt: skip


def unconnected(error: Unavailable) -> bool:
    """Whether the error is that of a connection, not a server's answer."""
    text = str(error)
    return error.code is grpc.StatusCode.DEADLINE_EXCEEDED or any(words in text for words in UNCONNECTED)


def problem_of(route: Route, said: str) -> Problem | None:
    """Find what is between the client and its server; None if nothing is, or it cannot be determined. Blocks.

    said: gRPC's text. Takes at most a few times CONNECT_S.
    """
    if route.proxy is not None:
        host = route.address.host if route.address else route.target
        found = (
            f"no connection to {route.target} through the proxy {route.proxy.url}, which {route.proxy.variable} names"
        )
        return Problem("proxy", found, f"if it is reached without a proxy, add {host} to no_proxy")
    if route.address is None:
        return None
    try:
        infos = socket.getaddrinfo(route.address.host, route.address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        text = f"the host {route.address.host!r} of {route.target} has no address ({error})"
        return Problem("unresolved", text, "check its spelling and this machine's DNS, or give its IP address")
    places = list(dict.fromkeys(info[4] for info in infos))[:MOST_ADDRESSES]
    problems = [Look(route, place, said).problem() for place in places]
    if None in problems:
        return None
    return min((p for p in problems if p is not None), key=lambda p: _UNINFORMATIVE.get(p.kind, 0))


_UNINFORMATIVE = {"silent": 1, "unreachable": 2, "refused": 3}  # any other problem says more


class Look:
    """One examination of one address."""

    def __init__(self, route: Route, place: Any, said: str) -> None:
        self._route, self._place, self._said = route, place, said
        self._target = route.target

    def problem(self) -> Problem | None:
        """Find the problem at the address; None if a gRPC server answers as it should."""
        try:
            with self._connected() as connection:
                if self._route.encryption is None:
                    return self._plain(connection)
                return self._encrypted(connection, self._route.encryption)
        except ConnectionRefusedError:
            return Problem(
                "refused", f"nothing listens on {self._target}", "start a server there, or correct the address"
            )
        except TimeoutError:
            remedy = "check the address and the firewalls on the way"
            return Problem("silent", f"{self._target} does not answer within {CONNECT_S:g} s", remedy)
        except OSError as error:
            return Problem(
                "unreachable", f"{self._target} cannot be reached ({error})", "check the address and the network"
            )

    def _connected(self) -> socket.socket:
        return socket.create_connection(self._place[:2], CONNECT_S)

    # --- plain text

    def _plain(self, connection: socket.socket) -> Problem | None:
        spoken = _spoken(connection)
        if spoken == "nothing" and self._speaks_tls():
            spoken = "tls"
        if spoken == "grpc":
            return None
        if spoken == "tls":
            remedy = 'give tls=True, or tls="ca.pem" with the PEM of the CA that signed its certificate'
            return Problem("tls", f"{self._target} speaks TLS, but this client plain text", remedy, True)
        return self._no_grpc(spoken)

    def _no_grpc(self, spoken: str) -> Problem:
        if spoken == "http":
            found = f"{self._target} speaks HTTP/1, not gRPC, as a server's port for pages and metrics does"
            return Problem("http", found, "give the server's gRPC port, 8300 by default", True)
        found = f"something listens on {self._target}, but closes the connection or sends nothing"
        return Problem("closed", found, "check that a freshet server has that port")

    def _speaks_tls(self) -> bool:
        context = _trusting_all()
        try:
            with self._connected() as connection, context.wrap_socket(connection):
                return True
        except ssl.SSLError as error:  # also from a server that requires a client certificate
            return error.reason is not None and "ALERT" in error.reason
        except OSError:
            return False

    # --- TLS

    def _encrypted(self, connection: socket.socket, tls: Encryption) -> Problem | None:
        assert self._route.address is not None
        name = self._route.address.host
        if tls == "unknown" or tls is None:
            if "CERTIFICATE_VERIFY_FAILED" in self._said:
                return self._untrusted("CERTIFICATE_VERIFY_FAILED")
            context = _trusting_all()
        else:
            name = tls.server_name or name
            try:
                context = _context(tls)
            except (OSError, ValueError) as error:
                remedy = "give PEM files: a CA's certificate, and a client certificate with its own key"
                return Problem("files", f"the files of tls cannot be used ({error})", remedy, True)
        context.set_alpn_protocols(["h2"])
        try:
            with context.wrap_socket(connection, server_hostname=name) as encrypted:
                if encrypted.selected_alpn_protocol() != "h2":
                    return self._no_grpc("http")
                # Send nothing: a reset in reply would hide why the server rejects this client.
                return None if encrypted.recv(64) else self._without_a_word(tls)
        except ssl.SSLCertVerificationError as error:
            return self._distrusted(error, name, context)
        except ssl.SSLError as error:
            return self._failed(error)
        except ConnectionError as error:
            return self._failed(error)

    def _distrusted(self, error: ssl.SSLCertVerificationError, name: str, context: ssl.SSLContext) -> Problem:
        if error.verify_code in NAME_MISMATCH:
            names = self._names(context)
            known = f"; it is for {', '.join(names)}" if names else ""
            remedy = "connect by a name in its certificate, or give freshet.Tls(server_name=…)"
            return Problem("name", f"the certificate of {self._target} is not for {name!r}{known}", remedy, True)
        if error.verify_code in OUT_OF_DATE:
            remedy = "renew it on the server, or correct this machine's clock"
            return Problem("expired", f"the certificate of {self._target}: {error.verify_message}", remedy, True)
        return self._untrusted(error.verify_message)

    def _untrusted(self, why: str) -> Problem:
        remedy = 'give tls="ca.pem" with the PEM of the CA that signed it'
        return Problem("untrusted", f"the certificate of {self._target} is not trusted: {why}", remedy, True)

    def _names(self, context: ssl.SSLContext) -> list[str]:
        """Return the names in the certificate, which is trusted except for its name."""
        context.check_hostname = False
        with (
            contextlib.suppress(OSError),
            self._connected() as connection,
            context.wrap_socket(connection) as encrypted,
        ):
            certificate = encrypted.getpeercert() or {}
            return [str(entry[1]) for entry in certificate.get("subjectAltName", ())][:5]
        return []

    def _failed(self, error: OSError) -> Problem:
        reason = getattr(error, "reason", None) or str(error)
        if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
            remedy = "give freshet.Tls(cert=…, key=…) with the files from the operator"
            return Problem("certificate", f"{self._target} requires a client certificate", remedy, True)
        if "UNKNOWN_CA" in reason or ("ALERT" in reason and "CERT" in reason):
            remedy = "give the certificate issued by the operator, with its key"
            return Problem("certificate", f"{self._target} refuses this client's certificate ({reason})", remedy, True)
        with contextlib.suppress(OSError), self._connected() as connection:
            spoken = _spoken(connection)
            if spoken == "grpc":
                found = f"{self._target} speaks plain text, but this client TLS"
                return Problem("plain", found, "omit tls, or give the server a certificate", True)
            if spoken == "http":
                return self._no_grpc("http")
        remedy = "check that it is a freshet server and speaks TLS"
        return Problem("closed", f"the TLS handshake with {self._target} fails ({reason})", remedy)

    def _without_a_word(self, tls: Encryption) -> Problem:
        """Return the problem of a server that closes the connection after the handshake: gRPC does so with unknown
        clients."""
        found = f"{self._target} speaks TLS and closes the connection"
        if isinstance(tls, Tls) and tls.cert is not None:
            remedy = "most likely it rejects this client's certificate: give the one issued by the operator"
        else:
            remedy = "most likely it requires a client certificate: give freshet.Tls(cert=…, key=…)"
        return Problem("certificate", found, remedy)


def _context(tls: Tls) -> ssl.SSLContext:
    """Return a context that trusts what gRPC's credentials trust. Raises OSError, ValueError for invalid files."""
    context = ssl.create_default_context(cafile=None if tls.ca is None else os.fspath(tls.ca))
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if tls.cert is not None:
        context.load_cert_chain(os.fspath(tls.cert), None if tls.key is None else os.fspath(tls.key))
    return context


def _trusting_all() -> ssl.SSLContext:
    """Return a context for examining a server: only the beginning of HTTP/2 is sent over it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _spoken(connection: socket.socket) -> str:
    """Return how a server answers the beginning of HTTP/2 in plain text: "grpc", "http", "tls", or "nothing"."""
    try:
        return _first_word(connection)
    except OSError:
        return "nothing"


def _first_word(connection: socket.socket) -> str:
    connection.sendall(PREFACE)
    heard = b""
    while len(heard) < 9 and (more := connection.recv(64)):
        heard += more
    if heard.startswith((b"HTTP/", b"<")):
        return "http"
    if heard[:2] == b"\x15\x03":  # a TLS alert
        return "tls"
    return "grpc" if len(heard) >= 9 and heard[3] == SETTINGS else "nothing"
