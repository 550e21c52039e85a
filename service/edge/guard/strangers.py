"""Close connections that send much before any of their calls is admitted.

gRPC buffers a block of headers until it ends, and has no setting against one that never ends. The sockets belong to
gRPC, so they are found among the process's descriptors and shut down there. Linux only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import struct
import sys
import time
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote

import structlog
from prometheus_client import Counter

from service.common.limits import MAX_STRANGER_BYTES

log = structlog.get_logger("door")

LOOK_S = 0.1  # between two measurements of this process's memory
GROWN_BYTES = 8 << 20  # of growth since the last sweep that make one due
SWEEP_S = 10.0  # between two sweeps, at most
GRACE = 5  # looks over the limit in a row; the event loop turns between two looks
AT_ONCE = 16  # times the limit: a connection beyond it is closed without grace
MAPPED = "::ffff:"  # prefix of an IPv4 peer of an IPv6 socket; gRPC writes such a peer as ipv4
BYTES_RECEIVED = struct.Struct("=128xQ")  # of Linux's tcp_info, from 4.1 on


class Peer(NamedTuple):
    """The other end of a connection."""

    host: str
    port: int

    @classmethod
    def of(cls, text: str) -> Peer:
        """Parse a peer as gRPC writes it: ipv4:127.0.0.1:5000, ipv6:%5B::1%5D:5000."""
        host, _, port = unquote(text).partition(":")[2].rpartition(":")
        return cls(host.strip("[]").partition("%")[0], int(port) if port.isdecimal() else 0)


class Strangers:
    """Closes connections that have sent more than `most` bytes before any of their calls was admitted.

    GRACE looks in a row must find a connection over the limit: a good client's first call may bring a full window of
    data before the event loop admits it. A connection over AT_ONCE times the limit is closed at once.
    """

    def __init__(self, closed: Counter, most: int = MAX_STRANGER_BYTES) -> None:
        self._closed, self._most = closed, most
        self._known: set[Peer] = set()
        self._suspects: dict[Peer, int] = {}  # → looks in a row that found the peer over `most`

    def admit(self, peer: str) -> None:
        """Note that a call of this peer was admitted. peer: as gRPC writes it."""
        self._known.add(Peer.of(peer))

    async def run(self, port: int) -> None:
        """Watch the connections to a port until cancelled. Does nothing but wait where the system is not Linux."""
        if not sys.platform.startswith("linux"):
            await asyncio.Event().wait()
        held, swept = resident(), time.monotonic()
        while True:
            await asyncio.sleep(LOOK_S)
            now = resident()
            if self._suspects or now - held > GROWN_BYTES or time.monotonic() - swept > SWEEP_S:
                known = frozenset(self._known)
                alive = await asyncio.to_thread(self.sweep, port, known)
                self._known -= known - alive
                held, swept = now, time.monotonic()
            held = min(held, now)

    def sweep(self, port: int, known: frozenset[Peer]) -> set[Peer]:
        """Close connections that have sent too much. Returns the peers of all connections to the port. Thread-safe."""
        alive: set[Peer] = set()
        before, self._suspects = self._suspects, {}
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # closed in the meantime
                if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                    continue
                with socket.socket(fileno=os.dup(int(name))) as connection:  # gRPC may close and reuse the number
                    self._look_at(connection, port, known, alive, before)
        return alive

    def _look_at(
        self,
        connection: socket.socket,
        port: int,
        known: frozenset[Peer],
        alive: set[Peer],
        suspects: Mapping[Peer, int],
    ) -> None:
        if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.type != socket.SOCK_STREAM:
            return
        if connection.getsockname()[1] != port:
            return
        host, peer_port = connection.getpeername()[:2]  # OSError for the listening socket
        peer = Peer(host.partition("%")[0].removeprefix(MAPPED), peer_port)
        alive.add(peer)
        if peer in known:
            return
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_RECEIVED.size)
        [received] = BYTES_RECEIVED.unpack(info)
        if received <= self._most:
            return
        looks = self._suspects[peer] = suspects.get(peer, 0) + 1
        if looks >= GRACE or received > AT_ONCE * self._most:
            del self._suspects[peer]
            connection.shutdown(socket.SHUT_RDWR)
            self._closed.inc()
            log.warning("connection closed: it sent much before any call was admitted", peer=peer.host, bytes=received)


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
