"""One HTTP request as it was asked: path and query decoded, body bounded. Errors name the field and the remedy."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

from starlette.types import Receive, Scope, Send

from service.common.documents import DocumentError, json_value
from service.common.errors import Invalid, shown
from service.common.limits import MAX_BODY_BYTES, MAX_TARGET_BYTES, REQUEST_S
from service.edge.http import TRANSPORT

MAX_FIELDS = 32  # of a query
WHOLE = re.compile(r"[0-9]{1,18}")
UTF_8 = "percent-encode it as UTF-8"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. target: path and query as they were sent. path: its decoded segments, after the first slash.

    peer: HOST:PORT, for logs; client: the same as a pair.
    """

    scope: Scope
    receive: Receive
    send: Send
    method: str
    target: str
    path: tuple[str, ...]
    headers: Mapping[str, str]
    client: Any

    @classmethod
    def of(cls, scope: Scope, receive: Receive, send: Send) -> Asked:
        """Read a request's line and headers. Raises Invalid for a path that is too long or no UTF-8."""
        raw, query = scope["raw_path"], scope["query_string"]
        if (size := len(raw) + len(query)) > MAX_TARGET_BYTES:
            raise Invalid("path", f"{size} bytes", f"give at most {MAX_TARGET_BYTES} bytes, with its query")
        target = (raw + b"?" + query if query else raw).decode("latin-1")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])}
        return cls(scope, receive, send, scope["method"], target, segments(raw), headers, scope["client"])

    @property
    def peer(self) -> str:
        """The client's address, HOST:PORT."""
        return f"{self.client[0]}:{self.client[1]}" if self.client else ""

    @property
    def authorization(self) -> str | None:
        """The header of this name."""
        return self.headers.get("authorization")

    @property
    def transport(self) -> Any:
        """The connection's asyncio transport."""
        return self.scope["state"][TRANSPORT]

    def query(self, known: Iterable[str]) -> Query:
        """Return the query. known: the names that it may have. Raises Invalid."""
        return Query(self.scope["query_string"], frozenset(known))

    async def document(self, known: Iterable[str]) -> dict[str, Any]:
        """Return the body, a JSON object; empty for none. known: the names that it may have.

        Raises Invalid, also for a body beyond MAX_BODY_BYTES or one that does not come within REQUEST_S.
        """
        body = await self._body()
        try:
            value = json_value(body.decode()) if body.strip() else {}
        except (UnicodeDecodeError, DocumentError) as error:
            raise Invalid("body", shown(str(error)), "send a JSON object, or nothing") from error
        if not isinstance(value, dict):
            raise Invalid("body", type(value).__name__, "send a JSON object, or nothing")
        if unknown := value.keys() - set(known):
            raise Invalid(min(unknown), "(there)", f"no such field; known are {', '.join(known) or 'none'}")
        return value

    async def _body(self) -> bytes:
        body, more = b"", True
        try:
            async with asyncio.timeout(REQUEST_S):
                while more:
                    message = await self.receive()
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > MAX_BODY_BYTES:
                        raise Invalid("body", f"{len(body)} bytes", f"send at most {MAX_BODY_BYTES} bytes")
        except TimeoutError:
            raise Invalid("body", "incomplete", f"send the request within {REQUEST_S:g} s") from None
        return body

    async def left(self) -> None:
        """Wait until the client has closed the connection."""
        while (await self.receive())["type"] != "http.disconnect":
            pass


class Query:
    """The fields of a query, each read by name. Every method raises Invalid, naming the field and what it may be."""

    def __init__(self, raw: bytes, known: frozenset[str]) -> None:
        self._fields: dict[str, list[str]] = {}
        try:
            pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
        except UnicodeDecodeError as error:
            raise Invalid("query", "no UTF-8", UTF_8) from error
        except ValueError as error:
            raise Invalid("query", "too long", f"give at most {MAX_FIELDS} fields") from error
        for name, value in pairs:
            if name not in known:
                raise Invalid(name, value, f"no such field; known are {', '.join(sorted(known)) or 'none'}")
            self._fields.setdefault(name, []).append(value)

    def text(self, name: str, default: str = "") -> str:
        """Return a field's value."""
        values = self._fields.get(name, [default])
        if len(values) > 1:
            raise Invalid(name, f"{len(values)} times", "give it once")
        return values[0]

    def texts(self, name: str) -> tuple[str, ...]:
        """Return the values of a field that may be repeated."""
        return tuple(self._fields.get(name, ()))

    def whole(self, name: str, default: int, most: int, least: int = 1) -> int:
        """Return a whole number from `least` to `most`."""
        return whole(name, self.text(name, str(default)), most, least)


def whole(name: str, text: str, most: int = 2**53, least: int = 1) -> int:
    """Return the whole number that a text says. Raises Invalid unless it is from `least` to `most`."""
    if not WHOLE.fullmatch(text) or not least <= int(text) <= most:
        raise Invalid(name, text, f"give a whole number from {least} to {most}")
    return int(text)


def segments(raw: bytes) -> tuple[str, ...]:
    """Return the decoded segments of a path. A slash that is percent-encoded stays in its segment. Raises Invalid."""
    try:
        return tuple(unquote_to_bytes(part).decode() for part in raw.split(b"/")[1:])
    except UnicodeDecodeError as error:
        raise Invalid("path", raw.decode("latin-1"), UTF_8) from error
