"""The HTTP side server: /metrics, /healthz (the process lives) and /readyz (it accepts streams)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Any

import uvicorn
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.common.errors import Forbidden, Unauthenticated
from service.common.limits import MAX_HTTP_CONNECTIONS

BACKLOG = 8  # connections waiting to be accepted
CLOSED = -1  # descriptor of a closed socket
INDEX = "freshet: /metrics for Prometheus, /healthz for liveness, /readyz for readiness\n"


def application(
    text: Callable[[], bytes], not_ready: Callable[[], str], check: Callable[[str | None, str], None]
) -> Starlette:
    """Return the routes.

    text: returns the text of a scrape; called in a thread. not_ready: returns why the server accepts no streams, or "".
    check: called with (authorization, peer); raises Unauthenticated or Forbidden unless the caller may read the metrics
    of all tenants.
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

    async def index(request: Request) -> Response:
        return PlainTextResponse(INDEX)

    routes = [Route("/", index), Route("/metrics", metrics), Route("/healthz", healthz), Route("/readyz", readyz)]
    return Starlette(routes=routes)


class Door(socket.socket):
    """A listening socket that closes the oldest connection beyond MAX_HTTP_CONNECTIONS, so that probes always get in.

    The limit includes connections that have not begun their TLS handshake, which the HTTP server does not see yet.
    """

    def __init__(self, listening: socket.socket) -> None:
        super().__init__(fileno=listening.detach())
        self._connections: list[socket.socket] = []

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection and count it until it is closed."""
        connection, address = super().accept()
        self._connections = [c for c in self._connections if c.fileno() != CLOSED] + [connection]
        if len(self._connections) > MAX_HTTP_CONNECTIONS:
            with contextlib.suppress(OSError):  # its peer has left
                self._connections.pop(0).shutdown(socket.SHUT_RDWR)  # its reader sees the end and closes it
        return connection, address


class HttpServer:
    """uvicorn on the server's event loop. The constructor binds the socket, so the port is known before `run`."""

    def __init__(self, app: Starlette, host: str, port: int, context: ssl.SSLContext | None = None) -> None:
        """Bind the socket. context: TLS; None: plain text."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = Door(socket.create_server((host, port), family=family))
        config = uvicorn.Config(
            app, http=H11Protocol, backlog=BACKLOG, lifespan="off", log_config=None, log_level="warning",
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
