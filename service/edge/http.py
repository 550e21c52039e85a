"""The HTTP side server: /metrics, /healthz (the process lives) and /readyz (it accepts streams).

The page and its API, at every other path, are an application of their own: `service.edge.api`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Collection, Sequence
from typing import Any

import uvicorn
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.common.errors import Forbidden, Unauthenticated
from service.common.limits import MAX_HTTP_CONNECTIONS

BACKLOG = 32  # connections waiting to be accepted, and accepted in one turn of the loop; a browser opens six
CLOSED = -1  # descriptor of a closed socket
SEND_BYTES = 1 << 17  # that the kernel keeps of a connection whose peer does not read; else it is megabytes
TRANSPORT = "transport"  # the connection's, in the state of each request's scope


def application(
    text: Callable[[], bytes],
    not_ready: Callable[[], str],
    check: Callable[[str | None, str], None],
    rest: ASGIApp,
    beside: Sequence[BaseRoute] = (),
) -> Starlette:
    """Return the routes.

    text: returns the text of a scrape; called in a thread. not_ready: returns why the server accepts no streams, or "".
    check: called with (authorization, peer); raises Unauthenticated or Forbidden unless the caller may read the metrics
    of all tenants. beside: further routes. rest: answers every other path.
    """

    async def metrics(request: Request) -> Response:
        try:
            peer = f"{request.client.host}:{request.client.port}" if request.client else ""
            check(request.headers.get("authorization"), peer)
        except Unauthenticated as error:
            return PlainTextResponse(f"{error}\n", 401, {"WWW-Authenticate": "Bearer"})
        except Forbidden as error:
            return PlainTextResponse(f"{error}\n", 403)
        # Render off the loop: thousands of series take milliseconds, and forecasts must not wait for them.
        return Response(await asyncio.to_thread(text), media_type=CONTENT_TYPE_LATEST)

    async def healthz(request: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def readyz(request: Request) -> Response:
        reason = not_ready()
        return PlainTextResponse(f"not ready: {reason}\n" if reason else "ready\n", 503 if reason else 200)

    routes = [Route("/metrics", metrics), Route("/healthz", healthz), Route("/readyz", readyz), *beside]
    return Starlette(routes=[*routes, Mount("/", rest)])


class Protocol(H11Protocol):
    """HTTP/1.1 whose requests know their connection, so that one whose peer does not read can be cut."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keep the transport for the scope of each request."""
        self.app_state = {**self.app_state, TRANSPORT: transport}
        super().connection_made(transport)


class Door(socket.socket):
    """A listening socket that closes the oldest connection beyond a limit, so that probes always get in.

    The limit includes connections that have not begun their TLS handshake, which the HTTP server does not see yet.
    Event streams, which are admitted, are closed last.
    """

    def __init__(self, listening: socket.socket, most: int, viewers: Collection[Any]) -> None:
        """most: connections. viewers: the peers of the event streams, (host, port)."""
        super().__init__(fileno=listening.detach())
        self._most, self._viewers = most, viewers
        self._connections: list[tuple[socket.socket, Any]] = []  # the oldest first, each with its peer

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection and count it until it is closed."""
        connection, address = super().accept()
        self._connections = [(c, peer) for c, peer in self._connections if c.fileno() != CLOSED]
        self._connections.append((connection, address[:2]))
        if len(self._connections) > self._most:
            oldest = next((n for n, (_, peer) in enumerate(self._connections) if peer not in self._viewers), 0)
            with contextlib.suppress(OSError):  # its peer has left
                self._connections.pop(oldest)[0].shutdown(socket.SHUT_RDWR)  # its reader sees the end and closes it
        return connection, address


class HttpServer:
    """uvicorn on the server's event loop. The constructor binds the socket, so the port is known before `run`."""

    def __init__(
        self,
        app: Starlette,
        host: str,
        port: int,
        context: ssl.SSLContext | None = None,
        most: int = MAX_HTTP_CONNECTIONS,
        viewers: Collection[Any] = (),
    ) -> None:
        """Bind the socket. context: TLS; None: plain text. most, viewers: see `Door`."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = Door(socket.create_server((host, port), family=family), most, viewers)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)  # accepted connections inherit it
        config = uvicorn.Config(
            app, http=Protocol, ws="none", backlog=BACKLOG, lifespan="off", log_config=None, log_level="warning",
            access_log=False, timeout_graceful_shutdown=2,
        )  # fmt: skip
        config.load()
        config.ssl = context
        self._server = uvicorn.Server(config)
        self._server.capture_signals = _no_signals  # type: ignore[method-assign,assignment]  # the composition root owns signals

    @property
    def port(self) -> int:
        """The bound port."""
        return int(self._socket.getsockname()[1])

    async def run(self) -> None:
        """Serve until cancelled or `stop`."""
        try:
            await self._server.serve(sockets=[self._socket])
        finally:
            self._socket.close()

    def stop(self) -> None:
        """Make `run` return soon."""
        self._server.should_exit = True


class _no_signals:  # replaces a context manager function of uvicorn
    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...
