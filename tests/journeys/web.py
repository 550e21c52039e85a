"""Requests over HTTP as any client makes them: byte for byte, and event streams as they come."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from tests.journeys.raw import DEADLINE_S, within


@dataclass(frozen=True)
class Answer:
    """One reply. headers: names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, strictly: NaN and infinities are no JSON."""
        assert self.headers["content-type"] == "application/json", (self.status, self.body)
        return strict(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """What the reply says is wrong."""
        return self.json["error"]


def strict(text: bytes | str) -> Any:
    """Parse JSON and nothing else."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def asked(
    address: str, path: str, token: str | None = None, method: str = "GET", body: bytes | None = None, **headers: str
) -> Answer:
    """Ask and return the reply. headers: with _ for -; they replace what is sent anyway."""
    sent = {} if token is None else {"authorization": f"Bearer {token}"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection(address, timeout=DEADLINE_S)
    try:
        connection.putrequest(method, path, skip_host="host" in sent, skip_accept_encoding=True)
        if body is not None:
            sent.setdefault("content-length", str(len(body)))
        for name, value in sent.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


async def ask(address: str, path: str, token: str | None = None, **how: Any) -> Answer:
    """As `asked`, beside the loop."""
    return await asyncio.to_thread(asked, address, path, token, **how)


async def act(
    address: str, path: str, token: str | None = None, body: Any = None, kind: str = "application/json", **headers: str
) -> Answer:
    """POST a JSON body."""
    sent = b"" if body is None else json.dumps(body).encode()
    return await ask(address, path, token, method="POST", body=sent, content_type=kind, **headers)


class EventStream:
    """One event stream: `async with` opens it and closes it. status, headers: of the reply."""

    def __init__(self, address: str, query: str, token: str | None = None, limit: int = 1 << 16) -> None:
        """query: of /api/v1/watch. limit: bytes that are received and not read yet, about, here and in the kernel."""
        self._address, self._token, self._limit = address, token, limit
        self._line = f"GET /api/v1/watch?{query} HTTP/1.1\r\n"
        self._rest = b""

    async def __aenter__(self) -> Self:
        host, _, port = self._address.rpartition(":")
        own = socket.socket()
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._limit)
        own.setblocking(False)
        await within(asyncio.get_running_loop().sock_connect(own, (host, int(port))))
        self.reader, self.writer = await within(asyncio.open_connection(sock=own, limit=self._limit))
        token = f"Authorization: Bearer {self._token}\r\n" if self._token else ""
        self.writer.write(f"{self._line}Host: {self._address}\r\n{token}\r\n".encode())
        head = (await within(self.reader.readuntil(b"\r\n\r\n"))).decode().split("\r\n")
        self.status = int(head[0].split()[1])
        self.headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.close()

    def deafen(self) -> None:
        """Read nothing any more."""
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]

    async def _piece(self) -> bytes:
        """Return the next chunk; b"" at the end of the reply."""
        size = int(await within(self.reader.readuntil(b"\r\n")), 16)
        return (await within(self.reader.readexactly(size + 2)))[:-2]

    async def next(self) -> tuple[str, Any] | None:
        """Return the next event, name and data; None at the end of the reply. Comments are left out."""
        while True:
            while b"\n\n" not in self._rest:
                if not (piece := await self._piece()):
                    return None
                self._rest += piece
            one, _, self._rest = self._rest.partition(b"\n\n")
            lines = dict(line.split(": ", 1) for line in one.decode().split("\n"))
            if "event" in lines:
                return lines["event"], strict(lines["data"])

    async def until(self, *names: str) -> Any:
        """Return the data of the next event that has one of these names."""
        while (event := await self.next()) is not None:
            if event[0] in names:
                return event[1]
        raise AssertionError(f"the stream ended without {names}")
