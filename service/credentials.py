"""What the server reads of who may come, and of who it is: the access file, and PEM files for TLS."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from service.access import OPEN, Access, AccessError, parse
from service.expiry import expiry
from service.limits import MAX_ACCESS_BYTES
from service.metrics import Metrics
from service.watched import Watched

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


def access_file(path: Path | None, metrics: Metrics) -> Watched[Access]:
    """Who may do what, from a file; None: nobody needs a token. Raises AccessError, OSError."""
    paths = {"access": path} if path else {}
    return Watched("access", paths, lambda: read_access(path) if path else OPEN, metrics.file_invalid.labels("access"))


def read_access(path: Path) -> Access:
    """An access file. Raises AccessError naming it."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_ACCESS_BYTES + 1)
        if len(data) > MAX_ACCESS_BYTES:
            raise AccessError(f"larger than {MAX_ACCESS_BYTES} bytes")
        return parse(data.decode())
    except (OSError, UnicodeDecodeError, AccessError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise AccessError(f"access = {path}: {reason}") from error


class Certificates:
    """The server's identity on both ports, and new ones in its place without a restart."""

    def __init__(self, cert: Path, key: Path, client_ca: Path | None, metrics: Metrics) -> None:
        """Reads the files. Raises CertificateError, OSError."""
        self._files = cert, key, client_ca
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # of the HTTP port, where no client is asked who it is
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_ciphers(HTTP_CIPHERS)
        files = {"tls_cert": cert, "tls_key": key, "tls_client_ca": client_ca}
        paths = {setting: path for setting, path in files.items() if path}
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
        if self._watched.look():
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
        chain = cert.read_bytes()
        try:
            expires = expiry(chain)
        except ValueError as error:
            raise CertificateError(f"tls_cert = {cert}: no PEM file of certificates: {error}") from error
        return Pem(chain, key.read_bytes(), client_ca.read_bytes() if client_ca else None, expires)


def configuration(pem: Pem) -> Any:
    """As gRPC wants it."""
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.cert)], pem.client_ca)


def encrypted() -> bytes:
    """Called for a key's password. Raises CertificateError: nobody is there to type it."""
    raise CertificateError(
        "tls_key is encrypted: give a key without a password, in a file that only the server may read"
    )
