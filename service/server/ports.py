"""Addresses to listen on, and the process's limit of file descriptors."""

from __future__ import annotations

import resource
import socket
import sys
from dataclasses import dataclass

from service.common.addresses import split_address


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a started server listens, HOST:PORT, and the process id of its first trainer (0: none runs)."""

    grpc: str
    http: str
    trainer_pid: int


def at_port(address: str, port: int) -> str:
    """Return HOST:PORT with the port that the system has picked."""
    return f"{address.rpartition(':')[0]}:{port}"


def check_free(name: str, address: str) -> None:
    """Raise OSError naming the setting if the address cannot be bound. (gRPC's own error does not give the reason.)"""
    host, port = split_address(name, address)
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise OSError(f"{name} = {address}: {reason}; choose another address, or stop what listens there") from error


def most_descriptors() -> int:
    """Raise the limit of file descriptors to what the system allows, and return it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most if most != resource.RLIM_INFINITY else sys.maxsize
