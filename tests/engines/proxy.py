"""A TCP proxy between a server and its store, in the test's process: passes, stalls, cuts, loses answers, and, for
HTTP, answers 500 after the store has written, or 200 before it has."""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Self

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset
NEVER = itertools.repeat(False)
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.I)
FAILED = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
DONE = b'HTTP/1.1 200 OK\r\netag: "0"\r\ncontent-length: 0\r\n\r\n'


class Proxy:
    """Carries connections to a port of this machine, as its switches say; several may be on."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._flowing = threading.Event()
        self._flowing.set()
        self._cut = False
        self._lock = threading.Lock()
        self._open: set[_Connection] = set()
        self._threads: list[threading.Thread] = []
        self._lost = self._failed = 0  # answers still to lose or to replace
        self._swallowed: Iterator[bool] = NEVER
        self.swallowed = 0  # writes that were confirmed and dropped

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.flow()
        self.cut()
        for thread in self._threads:
            thread.join(30)

    def cut(self) -> None:
        """Reset what is connected, and every new connection, until `flow`."""
        with self._lock:
            self._cut = True
            for connection in self._open:
                connection.cut = True
                _reset(connection.client)
                _reset(connection.there)

    def stall(self, seconds: float | None = None) -> None:
        """Carry nothing, without a word, until `flow`, or for a time."""
        self._flowing.clear()
        if seconds is not None:
            timer = threading.Timer(seconds, self._flowing.set)
            timer.daemon = True
            timer.start()

    def flow(self) -> None:
        """Carry everything again."""
        self._cut = False
        self._flowing.set()

    def lose_answers(self, count: int) -> None:
        """Let the store do what it is asked, and reset the connection in place of its next `count` answers."""
        self._lost = count

    def fail_after_put(self, count: int) -> None:
        """Let the store write, and answer 500 to the next `count` PUT requests."""
        self._failed = count

    def swallow(self, every: int) -> None:
        """Confirm one in `every` PUT requests of an entry of a journal, and drop it; 0: none any more."""
        self._swallowed = itertools.cycle([False] * (every - 1) + [True]) if every else NEVER

    def _spawn(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        thread.start()
        self._threads = [*filter(threading.Thread.is_alive, self._threads), thread]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listening.accept()[0]
                connection = self._connect(client)
                if connection is None:
                    _reset(client)
                    client.close()
                else:
                    self._spawn(self._ask, connection)
                    self._spawn(self._answer, connection)

    def _connect(self, client: socket.socket) -> _Connection | None:
        """Open the way to the store; None while it is cut or the store refuses."""
        with self._lock:
            if self._cut:
                return None
            try:
                there = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return None
            connection = _Connection(client, there)
            self._open.add(connection)
            return connection

    def _ask(self, connection: _Connection) -> None:
        """Carry what the client sends. Ends the connection."""
        with contextlib.suppress(OSError):
            while data := connection.client.recv(1 << 16):
                self._flowing.wait()
                if connection.cut:
                    break
                if data.startswith(b"PUT "):
                    data = _with_head(connection.client, data)
                    connection.put = True
                    if b"/journal/" in data.partition(b"\r\n")[0] and next(self._swallowed):
                        self._confirm(connection.client, data)
                        continue
                connection.there.sendall(data)
        self._end(connection)

    def _answer(self, connection: _Connection) -> None:
        """Carry what the store sends. Ends the connection."""
        with contextlib.suppress(OSError):
            while data := connection.there.recv(1 << 16):
                self._flowing.wait()
                if connection.cut:
                    break
                if self._lost > 0:
                    self._lost -= 1
                    _reset(connection.client)
                    break
                if self._failed > 0 and connection.put:
                    self._failed -= 1
                    connection.client.sendall(FAILED)
                    break
                connection.put = False
                connection.client.sendall(data)
        self._end(connection)

    def _confirm(self, client: socket.socket, data: bytes) -> None:
        """Take the rest of a PUT request and confirm it."""
        head, _, body = data.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        assert length, head
        missing = int(length[1]) - len(body)
        while missing > 0 and (data := client.recv(missing)):
            missing -= len(data)
        self.swallowed += 1
        client.sendall(DONE)

    def _end(self, connection: _Connection) -> None:
        with self._lock:
            self._open.discard(connection)
            for sock in (connection.client, connection.there):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                sock.close()


class _Connection:
    """Two sockets. put: a PUT request has no answer yet. cut: nothing more is carried."""

    def __init__(self, client: socket.socket, there: socket.socket) -> None:
        self.client, self.there, self.put, self.cut = client, there, False, False


def _with_head(client: socket.socket, data: bytes) -> bytes:
    """Return what a client has sent, with at least the head of its request: it may come in pieces."""
    while b"\r\n\r\n" not in data and (more := client.recv(1 << 16)):
        data += more
    return data


def _reset(sock: socket.socket) -> None:
    """End a connection with a reset; a thread that waits on the socket wakes up."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.shutdown(socket.SHUT_RDWR)
