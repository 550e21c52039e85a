"""Files that the server reads again when they change: the access file, and PEM files for TLS."""

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

HTTP_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # for TLS 1.2: forward secret and authenticated, as gRPC's own


class CertificateError(ValueError):
    """Invalid TLS files. Names the setting, the file and the fault."""


@dataclass(frozen=True, slots=True)
class Pem:
    """The bytes of a certificate chain, its key, and the authorities of client certificates (None: none are asked for).

    expires: seconds since 1970.
    """

    cert: bytes
    key: bytes
    client_ca: bytes | None
    expires: float

    def __repr__(self) -> str:
        """Without the key."""
        return f"Pem({len(self.cert)} bytes, expires={self.expires:.0f})"


def access_file(path: Path | None, metrics: AccessMetrics) -> Watched[Access]:
    """Return the access rules of a file; None: no caller needs a token. Raises AccessError, OSError."""
    paths = {"access": path} if path else {}
    return Watched("access", paths, lambda: read_access(path) if path else OPEN, metrics.file_invalid.labels("access"))


def read_access(path: Path) -> Access:
    """Read an access file. Raises AccessError naming it."""
    try:
        return parse(read_text(path))
    except Exception as error:  # of any kind: the server keeps the rules it has
        reason = error.strerror if isinstance(error, OSError) else error
        raise AccessError(f"access = {path}: {reason}") from error


class Certificates:
    """The server's certificate on both ports, replaced without a restart when its files change."""

    def __init__(self, cert: Path, key: Path, client_ca: Path | None, metrics: AccessMetrics) -> None:
        """Read the files. Raises CertificateError, OSError."""
        self._files = cert, key, client_ca
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # of the HTTP port: no client certificates
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_ciphers(HTTP_CIPHERS)
        self._paths = {"tls_cert": cert, "tls_key": key, "tls_client_ca": client_ca}
        paths = {setting: path for setting, path in self._paths.items() if path}
        self._watched = Watched("certificate", paths, self._read, metrics.file_invalid.labels("certificate"))
        self._served = self._watched.current
        self._expires = metrics.certificate_expiry.labels("certificate")
        self._expires.set(self._served.expires)

    def grpc(self) -> grpc.ServerCredentials:
        """Return credentials for the gRPC port. Each handshake uses the files in force at that moment."""
        return grpc.dynamic_ssl_server_credentials(
            configuration(self._watched.current), self._fresh, require_client_authentication=self._files[2] is not None
        )

    def look(self) -> None:
        """Read the files again if they have changed."""
        self._note(self._watched.look())

    async def look_aside(self, within_s: float) -> None:
        """Run `look` off the event loop; see `Watched.look_aside`."""
        self._note(await self._watched.look_aside(within_s))

    def _note(self, changed: bool) -> None:
        if changed:
            self._expires.set(self._watched.current.expires)

    def _fresh(self) -> Any:
        """Return the configuration if it has changed since the last handshake. Runs on gRPC's threads."""
        current = self._watched.current
        if current == self._served:
            return None
        self._served = current
        return configuration(current)

    def _read(self) -> Pem:
        """Read the files and load them for the HTTP port. They may be replaced at any moment."""
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
    """Return the bytes of a PEM file, unparsed; b"" without a path. Raises CertificateError, OSError."""
    try:
        return read(path, MAX_PEM_BYTES) if path else b""
    except DocumentError as error:
        raise CertificateError(f"{setting} = {path}: {error}") from error


def configuration(pem: Pem) -> Any:
    """Return gRPC's form of the certificate."""
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.cert)], pem.client_ca)


def encrypted() -> bytes:
    """Stand in for a prompt for the key's password. Raises CertificateError."""
    raise CertificateError(
        "tls_key is encrypted: give a key without a password, in a file that only the server may read"
    )
