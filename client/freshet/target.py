"""The server's address: checks, loopback or not, and the proxy that gRPC would use."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from freshet.arguments import invalid
from freshet.errors import InvalidArgument

# gRPC resolves these by itself and they are not parsed here; dns: is followed by an address.
SCHEMES = re.compile(r"(unix|unix-abstract|vsock|xds|google-c2p|passthrough|ipv4|ipv6):")
ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\[\]@,]+):([0-9]{1,6})")
# In gRPC's order; it reads only lower-case names.
PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
NO_PROXY_VARIABLES = ("no_grpc_proxy", "no_proxy")


class Address(NamedTuple):
    """A host (IPv6 without brackets) and a port."""

    host: str
    port: int


class Proxy(NamedTuple):
    """A proxy's URL, without user and password, and the environment variable that names it."""

    variable: str
    url: str


def targets_of(target: object) -> tuple[str, ...]:
    """Return the targets of a client, each once: one, several in a text with commas between them, or a sequence.

    Raises InvalidArgument as `check_target`, and for an empty sequence.
    """
    if isinstance(target, str) and "," in target and not SCHEMES.match(target):
        parts: Sequence[object] = [one.strip() for one in target.split(",")]
    elif isinstance(target, str) or not isinstance(target, Sequence):
        parts = [target]
    else:
        parts = target
    if not parts:
        raise invalid("target", target, 'give at least one "HOST:PORT"')
    for one in parts:
        check_target(one)
        if "," in str(one) and not SCHEMES.match(str(one)):
            raise invalid("target", target, 'give each "HOST:PORT" as an item of its own')
    return tuple(dict.fromkeys(map(str, parts)))


def name_of(target: str) -> Address | None:
    """Return host and port of "dns:…", whose addresses are nodes of their own; None for other forms.

    A target that names the DNS server to ask is left to gRPC, and so is an IP address.
    """
    found = re.fullmatch(r"dns:(?:///)?([^/].*)", target)
    address = address_of(found[1]) if found else None
    return address if address and _ip(address.host) is None else None


def joined(host: str, port: int) -> str:
    """Return "host:port", with brackets around IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_target(target: object) -> None:
    """Raise InvalidArgument for a target that is neither "host:port" nor in one of gRPC's own forms."""
    if not isinstance(target, str) or not target:
        raise invalid("target", target, 'give "HOST:PORT", e.g. "127.0.0.1:8300"')
    if SCHEMES.match(target):
        return
    if "://" in target and not target.startswith("dns:"):
        raise _url(target)
    for one in target.split(","):  # every one of several addresses is checked, because a token may go to each
        if (address := address_of(one)) is None:
            raise invalid("target", target, _remedy(one.removeprefix("dns:").lstrip("/")))
        if not 0 < address.port <= 65535:
            raise invalid("target", target, "give a port from 1 to 65535")


def _url(target: str) -> InvalidArgument:
    """Return the refusal of a URL, with the address in it as remedy."""
    scheme, _, rest = target.partition("://")
    host = rest.rpartition("@")[2].partition("/")[0]
    example = f'"{host}"' if address_of(host) else f'"{host or "HOST"}:PORT"'
    remedy = f"give HOST:PORT without {scheme}://, as in {example}"
    return invalid("target", target, remedy + (", and tls=True" if scheme.lower() == "https" else ""))


def _remedy(target: str) -> str:
    host, colon, port = target.rpartition(":")
    if target.count(":") > 1 and not target.startswith("["):
        return f'give HOST:PORT with IPv6 in brackets, e.g. "[{target}]:8300"'
    if not colon or (target.startswith("[") and target.endswith("]")):
        return f'give HOST:PORT, e.g. "{target.strip() or "HOST"}:8300": the port is missing'
    if not host:
        return f'give HOST:PORT, e.g. "127.0.0.1:{port}": the host is missing'
    return f'give HOST:PORT, e.g. "{host.strip()}:8300"'


def address_of(target: str) -> Address | None:
    """Return host and port of "host:port", "[IPv6]:port" or "dns:…"; None for other forms."""
    found = ADDRESS.fullmatch(target) or ADDRESS.fullmatch(re.sub(r"^dns:(//[^/]*/)?", "", target))
    return Address(found[1].strip("[]"), int(found[2])) if found else None


def is_local(target: str) -> bool:
    """Whether a gRPC target surely stays on this machine. Names other than localhost are not resolved: False."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    address = target.rpartition("/")[2]  # dns:///HOST:PORT
    for scheme in ("ipv4:", "ipv6:", "dns:"):
        address = address.removeprefix(scheme)
    return all(_is_loopback(one) for one in address.split(","))


def _is_loopback(address: str) -> bool:
    host = address.rpartition("]")[0].lstrip("[") if address.startswith("[") else address
    if host.count(":") == 1:
        host = host.partition(":")[0]
    return is_local_host(host)


def is_local_host(host: str) -> bool:
    """Whether a host, without a port, is surely this machine's loopback."""
    ip = _ip(host)
    return host.lower() == "localhost" or (ip is not None and ip.is_loopback)


def has_no_proxy(host: str) -> bool:
    """Whether the host is never reached through a proxy: loopback, or 0.0.0.0 or ::."""
    ip = _ip(host)
    return is_local_host(host) or (ip is not None and ip.is_unspecified)


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    return (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip


def proxy_of(host: str) -> Proxy | None:
    """Return the proxy that gRPC uses for a remote host, by the current environment; None without one."""
    variable = next((name for name in PROXY_VARIABLES if os.environ.get(name)), None)
    if variable is None or _excepted(host):
        return None
    url = os.environ[variable]
    parts = urlsplit(url if "://" in url else f"//{url}")
    return Proxy(variable, f"{parts.scheme or 'http'}://{parts.netloc.rpartition('@')[2]}")


def _excepted(host: str) -> bool:
    """Whether the environment excludes the host from proxies, as gRPC reads it."""
    entries = next((os.environ[name] for name in NO_PROXY_VARIABLES if os.environ.get(name)), "")
    return any(_matches(host, entry.strip()) for entry in entries.split(",") if entry.strip())


def _matches(host: str, entry: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return host.lower().endswith(entry.lower())
