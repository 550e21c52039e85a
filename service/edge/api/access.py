"""Who may ask over HTTP: the host and the site that a browser names, and the token, as for gRPC."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from service.access.grants import Access, Grant
from service.common.errors import Forbidden
from service.edge.api.asked import Asked
from service.edge.api.failures import Misdirected
from service.edge.api.sending import JSON
from service.edge.guard.security import Security, check_role, check_sees_all

LOCAL = "localhost"
OWN_SITE = {"same-origin", "none"}  # values of Sec-Fetch-Site; none: a person has typed the address
ANY_TOKEN = ""  # in place of a gRPC method: every caller that is admitted
SEES_ALL = "/metrics"  # in place of a gRPC method: a caller that may read the metrics of all tenants


class Entry:
    """The checks before a request is answered."""

    def __init__(self, security: Security, access: Callable[[], Access], host: str) -> None:
        """access: returns the rules in force. host: the one that the server listens on, as its operator wrote it."""
        self._security, self._access, self._host = security, access, host

    def check_host(self, asked: Asked) -> None:
        """Raise Misdirected for a foreign name of an open server, on which another site's page could call it.

        A page of attacker.example may let its name resolve to 127.0.0.1 (DNS rebinding); the header still has the name.
        """
        if self._access().open:
            host = host_of(asked.headers.get("host", ""))
            if not (is_address(host) or host in (LOCAL, self._host) or host.endswith(f".{LOCAL}")):
                remedy = "a server without an access file answers to its IP address and to localhost: use one of them"
                raise Misdirected("host", host or "(none)", remedy)

    def check_site(self, asked: Asked) -> None:
        """Raise Forbidden for a request that the page of another site makes. Browsers say so; others need not."""
        if (site := asked.headers.get("sec-fetch-site", "none")) not in OWN_SITE:
            raise Forbidden("sec-fetch-site", site, "only pages of this server may call it from a browser")

    def check_act(self, asked: Asked) -> None:
        """Raise Forbidden for an act that another site's page could cause: a form, or a script of another origin."""
        kind = asked.headers.get("content-type", "")
        if kind.partition(";")[0].strip().lower() != JSON:
            raise Forbidden("content-type", kind or "(none)", f"send `Content-Type: {JSON}`, also with an empty body")
        origin = asked.headers.get("origin")
        if origin is not None and not is_own(origin, asked.headers.get("host", "")):
            raise Forbidden("origin", origin, "only pages of this server may act: leave it out, or call from one")

    @asynccontextmanager
    async def admitted(self, asked: Asked, method: str) -> AsyncIterator[Grant]:
        """Admit the task to what the gRPC method allows, ANY_TOKEN or SEES_ALL. Raises Unauthenticated, Forbidden."""

        def check(grant: Grant) -> None:
            if method == SEES_ALL:
                check_sees_all(grant)
            elif method != ANY_TOKEN:
                check_role(grant, method)

        path = asked.target.partition("?")[0]
        async with self._security.admitted(asked.authorization, check, path, asked.peer) as grant:
            yield grant


def host_of(header: str) -> str:
    """Return the host of a Host header, in lower case, without its port and brackets."""
    try:
        return (urlsplit(f"//{header}").hostname or "").rstrip(".")
    except ValueError:  # brackets that do not match
        return ""


def is_address(host: str) -> bool:
    """Whether a host is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_own(origin: str, host: str) -> bool:
    """Whether an origin is that of the host that the request names. The scheme is not compared: a proxy may add TLS."""
    try:
        return bool(host) and urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False
