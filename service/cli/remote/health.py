"""`freshet health`: a health check of a server, for containers and scripts."""

from __future__ import annotations

import os
import ssl
import sys
from http.client import BadStatusLine, HTTPConnection, HTTPException, HTTPSConnection
from typing import Annotated

import typer

from service.common.addresses import split_address
from service.console.remote import SYSTEM
from service.console.verbs import refused

ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # address to ask a server that listens on all addresses
SHOWN_BYTES = 1000


def health(
    http: Annotated[
        str, typer.Option(help="The server's HTTP port.", metavar="HOST:PORT", envvar="FRESHET_HTTP")
    ] = "127.0.0.1:8301",
    live: Annotated[bool, typer.Option("--live", help="Ask only whether the process is alive.")] = False,
    tls: Annotated[
        bool, typer.Option("--tls", help="Use TLS without checking the certificate [default: if FRESHET_TLS_CERT].")
    ] = False,
    ca: Annotated[
        str | None,
        typer.Option(
            help=f"Use TLS and trust the authorities of this PEM file; {SYSTEM}: those of this machine.",
            metavar="FILE",
            envvar="FRESHET_CA",
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, max=600, help="Longest wait.", metavar="SECONDS")] = 3.0,
) -> None:
    """Ask a server whether it is ready for streams.

    Prints the answer. Exit code 0: it is ready; 1: it is not, or it does not answer. No token is sent, so without --ca
    no certificate is checked.
    """
    speaks_tls = tls or ca is not None or bool(os.environ.get("FRESHET_TLS_CERT"))
    try:
        host, port = split_address("http", http)
        context = _context(ca) if speaks_tls else None
    except (ValueError, OSError) as error:
        raise refused(error) from None
    try:
        status, text = _asked(ANY.get(host, host), port, "/healthz" if live else "/readyz", context, timeout)
    except (OSError, HTTPException) as error:
        closed = context is None and isinstance(error, ConnectionResetError | BadStatusLine)
        hint = ": does it speak TLS? give --ca FILE or --tls" if closed else ""
        print(f"freshet: {http}: {error}{hint}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(text)
    raise typer.Exit(0 if status == 200 else 1)


def _context(ca: str | None) -> ssl.SSLContext:
    if ca is not None:
        try:
            return ssl.create_default_context(cafile=None if ca == SYSTEM else ca)
        except OSError as error:
            raise OSError(f"ca = {ca}: {error.strerror or error}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _asked(host: str, port: int, path: str, context: ssl.SSLContext | None, timeout: float) -> tuple[int, str]:
    """Return status and first line of the answer. Raises OSError, HTTPException."""
    if context is None:
        connection = HTTPConnection(host, port, timeout=timeout)
    else:
        connection = HTTPSConnection(host, port, timeout=timeout, context=context)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        lines = response.read(SHOWN_BYTES).decode(errors="replace").splitlines()
        return response.status, "".join(c if c.isprintable() else "?" for c in lines[0]) if lines else ""
    finally:
        connection.close()
