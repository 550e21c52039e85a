"""A hostile peer in a process of its own: python -m tests.torture.abuse TARGET SEED

It reads lines with the name of an attack, a tab and a duration in seconds. After each it writes the number of messages
that it has sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc

from tests.torture.decoders import decoders
from tests.torture.mutate import Mutator

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
END_HEADERS = 4
FRAME_BYTES = 16384  # the largest frame unless its reader allows more
AT_ONCE = 1000  # messages of a flood on one connection
CONNECTIONS = 4  # at the same time
PATIENCE_S = 2.0  # wait for a server that does not answer
STREAMING = (
    ("/freshet.v1.Streams/Open", "Open"), ("/freshet.v1.Streams/Mux", "Mux"), ("/freshet.v1.Training/Learn", "Learn"),
)  # fmt: skip
UNARY = (("/freshet.v1.Models/Create", "Create"), ("/freshet.v1.Streams/Put", "Put"))


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return an HTTP/2 frame (RFC 9113, 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def field(name: bytes, value: bytes) -> bytes:
    """Return a literal header field without indexing (RFC 7541, 6.2.2)."""
    return b"\0" + _text(name) + _text(value)


def indexed(name: bytes, value: bytes) -> bytes:
    """Return a literal header field that the reader adds to its table (RFC 7541, 6.2.1)."""
    return b"\x40" + _text(name) + _text(value)


def again(place: int) -> bytes:
    """Return an indexed header field; 0 is the newest entry of the table (RFC 7541, 6.1), 64 the oldest possible."""
    return bytes((0x80 + 62 + place,))


def _text(value: bytes) -> bytes:
    n = len(value)
    if n < 127:
        return bytes((n,)) + value
    n, length = n - 127, b"\x7f"
    while n >= 128:
        length, n = length + bytes((n % 128 + 128,)), n // 128
    return length + bytes((n,)) + value


REQUEST = b"".join(
    field(name, value)
    for name, value in (
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/freshet.v1.Streams/Open"), (b":authority", b"x"),
        (b"content-type", b"application/grpc"), (b"te", b"trailers"),
    )
)  # fmt: skip
SHORT = b"\x83\x86"  # :method POST and :scheme http, from the static table


def request(path: bytes, *more: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """Return the headers of a call that add to the table, and the same headers indexed, one byte each."""
    fields = (
        (b":path", path), (b":authority", b"x"), (b"content-type", b"application/grpc"), (b"te", b"trailers"), *more,
    )  # fmt: skip
    last = len(fields) - 1
    first = SHORT + b"".join(indexed(*pair) for pair in fields)
    return first, SHORT + b"".join(again(last - at) for at in range(len(fields)))


HELLO = PREFACE + frame(SETTINGS, 0, 0)


class Attacks:
    """Attacks on one connection each. Raises OSError where the server closes it, which it may do."""

    def __init__(self, target: str, rng: random.Random, folder: Path) -> None:
        self._target, self._rng = target, rng
        self._sound = {name: decoder.sound for name, decoder in decoders(folder).items()}
        self._mutator = Mutator(rng)
        self.sent = 0  # messages, frames, or bursts of bytes
        self.all: dict[str, Callable[[], Awaitable[None]]] = {
            "random bytes": self.random_bytes, "malformed frames": self.malformed_frames,
            "rapid reset": self.rapid_reset, "settings and pings": self.settings_and_pings,
            "huge headers": self.huge_headers, "endless continuation": self.endless_continuation,
            "indexed headers": self.indexed_headers, "slow loris": self.slow_loris,
            "mutated messages": self.mutated_messages,
        }  # fmt: skip

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Callable[[bytes], Awaitable[None]]]:
        """Open a connection and yield the function that sends on it. Replies are discarded."""
        host, _, port = self._target.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        reading = asyncio.create_task(self._throw_away(reader))

        async def send(data: bytes) -> None:
            writer.write(data)
            await asyncio.wait_for(writer.drain(), PATIENCE_S)
            self.sent += 1

        try:
            yield send
        finally:
            writer.transport.abort()
            reading.cancel()

    async def _throw_away(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while await reader.read(1 << 16):
                pass

    async def random_bytes(self) -> None:
        async with self._connection() as send:
            await send(self._rng.choice((b"", PREFACE, HELLO)) + self._rng.randbytes(self._rng.randrange(1, 4096)))

    async def malformed_frames(self) -> None:
        async with self._connection() as send:
            await send(HELLO)
            for _ in range(50):
                kind, flags, stream = self._rng.randrange(12), self._rng.randrange(256), self._rng.randrange(9)
                data = frame(kind, flags, stream, self._rng.randbytes(self._rng.choice((0, 1, 4, 5, 6, 8, 40))))
                await send(self._mutator.mutated(data) if self._rng.random() < 0.3 else data)

    async def rapid_reset(self) -> None:
        """CVE-2023-44487: requests cancelled immediately."""
        async with self._connection() as send:
            await send(HELLO)
            for stream in range(1, 2 * AT_ONCE, 2):
                await send(frame(HEADERS, END_HEADERS, stream, REQUEST) + frame(RST_STREAM, 0, stream, bytes(4)))

    async def settings_and_pings(self) -> None:
        async with self._connection() as send:
            await send(HELLO)
            for _ in range(AT_ONCE):
                await send(frame(SETTINGS, 0, 0, bytes((0, 4)) + self._rng.randbytes(4)) + frame(PING, 0, 0, bytes(8)))

    async def huge_headers(self) -> None:
        """Send a megabyte of headers in one header block."""
        block = REQUEST + field(b"x", bytes(1 << 20))
        parts = [block[at : at + FRAME_BYTES] for at in range(0, len(block), FRAME_BYTES)]
        async with self._connection() as send:
            await send(HELLO + frame(HEADERS, 0, 1, parts[0]))
            for n, part in enumerate(parts[1:], 2):
                await send(frame(CONTINUATION, END_HEADERS * (n == len(parts)), 1, part))

    async def endless_continuation(self) -> None:
        """CVE-2024-27316 and similar: a header block that does not end."""
        part = field(b"x", b"y" * 100) * 100
        async with self._connection() as send:
            await send(HELLO + frame(HEADERS, 0, 1, REQUEST))
            for _ in range(AT_ONCE):
                await send(frame(CONTINUATION, 0, 1, part))

    async def indexed_headers(self) -> None:
        """Calls without a request; each header is one byte that expands to hundreds (similar to CVE-2016-6581)."""
        async with self._connection() as send:
            path = self._rng.choice(UNARY + STREAMING)[0].encode()
            first, brief = request(path, (b"x", b"y"))
            await send(HELLO + frame(HEADERS, END_HEADERS, 1, first))
            for stream in range(3, 6 * AT_ONCE, 2):
                await send(frame(HEADERS, END_HEADERS, stream, brief + again(0) * 200))

    async def slow_loris(self) -> None:
        """Send a greeting byte by byte on 50 connections at the same time."""

        async def slow() -> None:
            async with self._connection() as send:
                for at in range(len(HELLO)):
                    await send(HELLO[at : at + 1])
                    await asyncio.sleep(0.02)

        await asyncio.gather(*(slow() for _ in range(50)))

    async def mutated_messages(self) -> None:
        """Valid gRPC calls of every kind with mutated messages, each until the server ends it."""
        async with grpc.aio.insecure_channel(self._target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            for _ in range(20):
                method, kind = self._rng.choice(STREAMING)
                call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(method)(timeout=PATIENCE_S)
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await call.write(self._sound[kind][0])
                    for _ in range(20):
                        await call.write(self._mutator.mutated_message(self._rng.choice(self._sound[kind])))
                        self.sent += 1
                call.cancel()
                method, kind = self._rng.choice(UNARY)
                with contextlib.suppress(grpc.aio.AioRpcError):
                    message = self._mutator.mutated_message(self._rng.choice(self._sound[kind]))
                    ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
                    await ask(message, timeout=PATIENCE_S)
                self.sent += 1


async def attack(act: Callable[[], Awaitable[None]], seconds: float) -> None:
    """Run the attack on several connections at the same time for `seconds`."""
    end = asyncio.get_running_loop().time() + seconds

    async def again() -> None:
        while asyncio.get_running_loop().time() < end:
            with contextlib.suppress(OSError):  # TimeoutError too
                await act()
            await asyncio.sleep(0)

    await asyncio.gather(*(again() for _ in range(CONNECTIONS)))


async def main(target: str, seed: int) -> None:
    """Run the attacks that stdin names."""
    with tempfile.TemporaryDirectory() as folder:
        attacks = Attacks(target, random.Random(seed), Path(folder))
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        name, seconds = line.split("\t")
        before = attacks.sent
        await attack(attacks.all[name], float(seconds))
        print(attacks.sent - before, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
