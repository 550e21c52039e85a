"""Replies: their headers, and an end to connections whose client does not read."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from service.edge.api.asked import Asked

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
NO_PAGE = "default-src 'none'; frame-ancestors 'none'"
SAFE = {  # of every reply
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Stuck(Exception):
    """The client has taken nothing for too long, and its connection was cut."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply. headers: besides those that every reply has; they win."""

    status: int
    body: bytes
    kind: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


class Sending:
    """Sends what answers one request. write_s: the time that a client may take for each piece.

    started: the status line is sent.
    """

    def __init__(self, asked: Asked, write_s: float) -> None:
        self._asked, self._write_s = asked, write_s
        self.started = False

    async def reply(self, reply: Reply) -> None:
        """Send a whole reply. Raises Stuck."""
        await self.start(reply.status, reply.kind, {"Content-Length": str(len(reply.body)), **reply.headers})
        await self.piece(reply.body)
        await self.end()

    async def start(self, status: int, kind: str, headers: Mapping[str, str]) -> None:
        """Send status and headers."""
        all_headers = {"Cache-Control": "no-store", "Content-Security-Policy": NO_PAGE, **SAFE, **headers}
        if kind:
            all_headers["Content-Type"] = kind
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in all_headers.items()]
        self.started = True
        await self._asked.send({"type": "http.response.start", "status": status, "headers": raw})

    async def piece(self, data: bytes) -> None:
        """Send a piece of the body, once the client has taken enough of those before. Raises Stuck."""
        await self._body(data, more=True)

    async def end(self) -> None:
        """End the body, once the client has taken enough of it. Raises Stuck."""
        await self._body(b"", more=False)

    async def _body(self, data: bytes, *, more: bool) -> None:
        try:
            async with asyncio.timeout(self._write_s):
                await self._asked.send({"type": "http.response.body", "body": data, "more_body": more})
        except TimeoutError:
            self._asked.transport.abort()
            await asyncio.sleep(0)  # until the HTTP server has seen that the connection is lost
            raise Stuck from None
