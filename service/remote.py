"""A running server as the command line names it: where it is, who asks, and whom to trust."""

from __future__ import annotations

import socket
import ssl
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.config import split_address
from service.errors import Invalid

if TYPE_CHECKING:
    import freshet

SYSTEM = "system"  # in the place of a CA's file: whom this machine trusts
LISTENING_S = 2.0  # longest wait for a connection


@dataclass(frozen=True, slots=True)
class Remote:
    """`url`: HOST:PORT of its gRPC port. ca: TLS, trusting this PEM file's authorities; cert, key: who asks (mTLS)."""

    url: str
    token: str | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    def __str__(self) -> str:
        return self.url

    def connect(self) -> freshet.Client:
        """A client of it, not yet open. Raises Invalid for no address; freshet.InvalidArgument for what it refuses."""
        import freshet

        try:
            split_address("url", self.url)
        except ValueError as error:
            raise Invalid("url", self.url, "give HOST:PORT, e.g. 127.0.0.1:8300") from error
        tls = None
        if self.ca or self.cert or self.key:
            tls = freshet.Tls(ca=None if self.ca in (None, SYSTEM) else self.ca, cert=self.cert, key=self.key)
        return freshet.connect(self.url, token=self.token, tls=tls)

    def listens(self) -> bool:
        """Whether something takes connections there, whatever it says on them."""
        try:
            socket.create_connection(split_address("url", self.url), LISTENING_S).close()
        except (OSError, ValueError):
            return False
        return True

    def page(self, http: str, path: str) -> str:
        """The URL of a page at its HTTP port, HOST:PORT."""
        return f"{'https' if self.ca else 'http'}://{http}/{path}"

    def fetch(self, page: str, timeout_s: float) -> tuple[int, str]:
        """Status and body of a GET. Raises OSError, which urllib's HTTPError is."""
        context = ssl.create_default_context(cafile=None if self.ca == SYSTEM else self.ca) if self.ca else None
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        request = urllib.request.Request(page, headers=headers)
        with urllib.request.urlopen(request, timeout=timeout_s, context=context) as answer:
            return answer.status, answer.read().decode()
