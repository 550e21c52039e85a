"""Addresses as people write them: HOST:PORT."""

from __future__ import annotations

import ipaddress


def split_address(name: str, address: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT. Raises ValueError naming the setting."""
    host, _, port = address.rpartition(":")
    bare = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if not host or bare or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{name} = {address!r}: give HOST:PORT, e.g. 127.0.0.1:8300 or [::1]:8300")
    return host.strip("[]"), int(port)


def is_local(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
