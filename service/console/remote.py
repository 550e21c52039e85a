"""Access to a running server from the command line: address, token, certificates."""

from __future__ import annotations

import os
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from service.common.addresses import split_address
from service.common.errors import Invalid

if TYPE_CHECKING:
    import freshet

SYSTEM = "system"  # instead of a CA file: the authorities that this machine trusts
# Remedies for a failed connection, by `Unavailable.problem`, in terms of the command line.
REMEDIES = {
    "refused": "start one with `freshet serve`, or name it with --url",
    "silent": "is --url right, and does a firewall let this through?",
    "unreachable": "check --url and the network",
    "unresolved": "check the spelling of --url and this machine's DNS, or give the IP address",
    "tls": f"does it use TLS? Give --ca FILE with the authority that signed its certificate, or --ca {SYSTEM}",
    "plain": "leave out --ca, --cert and --key, or give the server a certificate",
    "http": "give its gRPC port with --url, 8300 by default",
    "untrusted": "give --ca FILE with the authority that signed its certificate, PEM",
    "name": "give --url with a name in its certificate",
    "certificate": "give --cert FILE and --key FILE, as issued by the operator",
    "files": "give PEM files with --ca, --cert and --key",
    "closed": "is it a freshet server, does it use TLS (--ca), or require a certificate (--cert, --key)?",
}
# Environment variables of urllib, by the scheme of a page; also in upper case.
PAGE_PROXIES = ("{}_proxy", "all_proxy")


@dataclass(frozen=True, slots=True)
class Remote:
    """A server. url: HOST:PORT of its gRPC port, of several nodes with commas between them, or dns:///NAME:PORT.

    ca: use TLS and trust this PEM file; cert, key: of the client.
    """

    url: str
    token: str | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    def __str__(self) -> str:
        return self.url

    def connect(self) -> freshet.Client:
        """Return a client, not yet open. Raises Invalid for a bad address, freshet.InvalidArgument for bad files."""
        import freshet
        from freshet.target import name_of, targets_of

        try:
            for one in targets_of(self.url):
                if name_of(one) is None:
                    split_address("url", one)
        except freshet.InvalidArgument as error:
            raise Invalid("url", self.url, error.remedy) from error
        except ValueError as error:
            raise Invalid("url", self.url, "give HOST:PORT, e.g. 127.0.0.1:8300") from error
        tls = None
        if self.ca or self.cert or self.key:
            tls = freshet.Tls(ca=None if self.ca in (None, SYSTEM) else self.ca, cert=self.cert, key=self.key)
        return freshet.connect(self.url, token=self.token, tls=tls)

    def unavailable(self, error: freshet.Unavailable) -> str:
        """Return one line about a server that did not answer: the problem, and the option that solves it."""
        remedy = REMEDIES.get(error.problem, error.remedy)
        if not error.found:
            return f"no working server on {self} ({error}): {REMEDIES['refused']}"
        return f"no working server on {self}: {error.found}; {remedy}"

    def page(self, http: str, path: str) -> str:
        """Return the URL of a page at the server's HTTP port, HOST:PORT."""
        return f"{'https' if self.ca else 'http'}://{http}/{path}"

    def fetch(self, page: str, timeout_s: float) -> tuple[int, str]:
        """Return status and body of a GET. Raises OSError, which includes urllib's HTTPError."""
        context = ssl.create_default_context(cafile=None if self.ca == SYSTEM else self.ca) if self.ca else None
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return fetch(urllib.request.Request(page, headers=headers), timeout_s, context)


def fetch(request: urllib.request.Request, timeout_s: float, context: ssl.SSLContext | None = None) -> tuple[int, str]:
    """Return status and body of a request; requests to this machine never use a proxy.

    Raises OSError, which includes urllib's HTTPError and names the proxy if one was used.
    """
    proxy = _proxy(request)
    handlers: list[urllib.request.BaseHandler] = [] if proxy else [urllib.request.ProxyHandler({})]
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=timeout_s) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError:
        raise
    except OSError as error:
        if not proxy:
            raise
        host = urlsplit(request.full_url).hostname
        remedy = f"to reach it without a proxy, add {host} to no_proxy"
        raise OSError(f"no connection through the proxy that {proxy} names ({error}); {remedy}") from error


def _proxy(request: urllib.request.Request) -> str:
    """Return the variable that names a proxy for the request; empty for none."""
    from freshet.target import has_no_proxy

    parts = urlsplit(request.full_url)
    host = parts.hostname or ""
    if has_no_proxy(host) or urllib.request.proxy_bypass(host):
        return ""
    names = [form.format(parts.scheme) for form in PAGE_PROXIES]
    return next((name for name in (*names, *map(str.upper, names)) if os.environ.get(name)), "")
