"""What the server reads of who may come, and of who it is: the access file, and PEM files for TLS."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from service.access.expiry import expiry
from service.access.grants import OPEN, Access, AccessError, parse
from service.access.watched import Watched
from service.common.documents import DocumentError, read, read_text
from service.common.limits import MAX_PEM_BYTES
from service.observe.server_metrics import AccessMetrics

HTTP_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2: forward secret and authenticated, as the gRPC port's


class CertificateError(ValueError):
    """Files that make no certificate: names the setting, the file and what is wrong."""


@dataclass(frozen=True, slots=True)
class Pem:
    """The bytes of a certificate chain, its key, and who signs clients' certificates (None: nobody is asked).
    expires: seconds since 1970."""

    cert: bytes
    key: bytes
    client_ca: bytes | None
    expires: float


def access_file(path: Path | None, metrics: AccessMetrics) -> Watched[Access]:
    """Who may do what, from a file; None: nobody needs a token. Raises AccessError, OSError."""
    paths = {"access": path} if path else {}
    return Watched("access", paths, lambda: read_access(path) if path else OPEN, metrics.file_invalid.labels("access"))


def read_access(path: Path) -> Access:
    """An access file. Raises AccessError naming it."""
    try:
        return parse(read_text(path))
    except Exception as error:  # whatever is in it: the server goes on with what it has read before
        reason = error.strerror if isinstance(error, OSError) else error
        raise AccessError(f"access = {path}: {reason}") from error


class Certificates:
    """The server's identity on both ports, and new ones in its place without a restart."""

    def __init__(self, cert: Path, key: Path, client_ca: Path | None, metrics: AccessMetrics) -> None:
        """Reads the files. Raises CertificateError, OSError."""
        self._files = cert, key, client_ca
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # of the HTTP port, where no client is asked who it is
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_ciphers(HTTP_CIPHERS)
        self._paths = {"tls_cert": cert, "tls_key": key, "tls_client_ca": client_ca}
        paths = {setting: path for setting, path in self._paths.items() if path}
        self._watched = Watched("certificate", paths, self._read, metrics.file_invalid.labels("certificate"))
        self._served = self._watched.current
        self._expires = metrics.certificate_expiry.labels("certificate")
        self._expires.set(self._served.expires)

    def grpc(self) -> grpc.ServerCredentials:
        """Credentials of the gRPC port: each handshake is with the files in force then."""
        return grpc.dynamic_ssl_server_credentials(
            configuration(self._watched.current), self._fresh, require_client_authentication=self._files[2] is not None
        )

    def look(self) -> None:
        """Read the files again if they have changed."""
        self._take(self._watched.look())

    async def look_aside(self, within_s: float) -> None:
        """As `look`, off the event loop; see `Watched.look_aside`."""
        self._take(await self._watched.look_aside(within_s))

    def _take(self, changed: bool) -> None:
        if changed:
            self._expires.set(self._watched.current.expires)

    def _fresh(self) -> Any:
        """On one of gRPC's threads, before each handshake: what has changed since the last, or nothing."""
        current = self._watched.current
        if current == self._served:
            return None
        self._served = current
        return configuration(current)

    def _read(self) -> Pem:
        """What the files hold, which the HTTP port's next handshakes are with. They may be replaced at any moment."""
        cert, key, client_ca = self._files
        chain, secret, authorities = (_pem(setting, path) for setting, path in self._paths.items())
        trial = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            if client_ca:
                trial.load_verify_locations(client_ca)
        except ssl.SSLError as error:
            raise CertificateError(
                f"tls_client_ca = {client_ca}: no PEM file of certificates: {error.reason}"
            ) from error
        try:
            for context in (trial, self.context):
                context.load_cert_chain(cert, key, password=encrypted)
        except ssl.SSLError as error:
            raise CertificateError(
                f"tls_cert = {cert}, tls_key = {key}: no pair of PEM files: {error.reason}"
            ) from error
        try:
            expires = expiry(chain)
        except ValueError as error:
            raise CertificateError(f"tls_cert = {cert}: no PEM file of certificates: {error}") from error
        return Pem(chain, secret, authorities or None, expires)


def _pem(setting: str, path: Path | None) -> bytes:
    """A PEM file, before anything parses it; nothing without a path. Raises CertificateError, OSError."""
    try:
        return read(path, MAX_PEM_BYTES) if path else b""
    except DocumentError as error:
        raise CertificateError(f"{setting} = {path}: {error}") from error


def configuration(pem: Pem) -> Any:
    """As gRPC wants it."""
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.cert)], pem.client_ca)


def encrypted() -> bytes:
    """Called for a key's password. Raises CertificateError: nobody is there to type it."""
    raise CertificateError(
        "tls_key is encrypted: give a key without a password, in a file that only the server may read"
    )
