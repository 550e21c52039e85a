"""Tokens and TLS: the client's credentials, the server's identity, and no token in plain text over the network."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import grpc

from freshet.errors import InvalidArgument
from freshet.target import is_local

Token: TypeAlias = "str | Callable[[], str]"
FilePath: TypeAlias = "str | os.PathLike[str]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """TLS settings. Each file is PEM and is read when the client is made.

    ca: the CA that signed the server's certificate; None: this machine's trusted CAs.
    cert, key: the client's certificate and key, for servers that require one (mTLS).
    server_name: the name in the server's certificate, if it differs from the target.
    """

    ca: FilePath | None = None
    cert: FilePath | None = None
    key: FilePath | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            missing = "key" if self.key is None else "cert"
            remedy = "a client's certificate needs its key: give both, or none"
            raise InvalidArgument(f"tls.{missing} = None; {remedy}", f"tls.{missing}", "None", remedy)

    def credentials(self) -> grpc.ChannelCredentials:
        """Return gRPC channel credentials. Raises InvalidArgument for a file that cannot be read or is not PEM."""
        return grpc.ssl_channel_credentials(_pem("ca", self.ca), _pem("key", self.key), _pem("cert", self.cert))

    def options(self) -> list[tuple[str, str]]:
        """Return gRPC channel options."""
        return [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []


def tls_of(tls: bool | FilePath | Tls | None) -> Tls | None:
    """Return the `tls` argument of `connect` as Tls: None or False for plain text, True for trusted CAs, a path for a
    CA."""
    if tls is None or isinstance(tls, Tls):
        return tls
    if isinstance(tls, bool):
        return Tls() if tls else None
    return Tls(ca=tls)


def check_token(token: Token, target: str, encrypted: bool, insecure_token: bool) -> None:
    """Refuse a token that cannot be sent, and one that others could read on the way. Raises InvalidArgument."""
    if not callable(token):
        bearer(token)
    if not encrypted and not insecure_token and not is_local(target):
        remedy = "use tls=…, or insecure_token=True on a private network"
        text = f"a token would go to {target!r} in plain text, readable on the way; {remedy}"
        raise InvalidArgument(text, "token", target, remedy)


def bearer(token: Token) -> str:
    """Return the authorization header's value. Raises InvalidArgument for an invalid token, without showing it."""
    text = token() if callable(token) else token
    stripped = text.strip() if isinstance(text, str) else ""
    if not stripped or not all("!" <= char <= "~" for char in stripped):
        got = f"{len(text)} characters" if isinstance(text, str) else type(text).__name__
        remedy = "a token is printable ASCII without spaces, as `freshet token new` prints it"
        raise InvalidArgument(f"token = {got}; {remedy}", "token", got, remedy)
    return f"Bearer {stripped}"


def _pem(field: str, path: FilePath | None) -> bytes | None:
    if path is None:
        return None
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        remedy = "give the path of a PEM file"
        raise InvalidArgument(f"tls.{field}: {error}; {remedy}", f"tls.{field}", str(path), remedy) from error
    if b"-----BEGIN " not in data:
        remedy = "give a PEM file, which has a line -----BEGIN …"
        text = f"tls.{field} = {os.fspath(path)!r} contains no PEM; {remedy}"
        raise InvalidArgument(text, f"tls.{field}", str(path), remedy)
    return data
