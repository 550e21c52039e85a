"""Measure the cost of TLS, client certificates and tokens: four servers from plain text to all three, in turns.

Single: a tick and its forecast, one in flight, on an open stream. Packed: Streams.Mux with one tick of each of 1,024
streams per message. Opening: a stream on an existing connection, and a connection with its first stream. CPU is the
server's, all threads; time is the client's, its Python included. The models do not learn, because learning runs in
another process that TLS does not affect. Ratios are medians over rounds of the ratios within one round.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import grpc

from bench._costs import cpu_s
from bench._drives import PACKED_STREAMS, drive, drive_packed
from bench.report import Row, finish, parser
from freshet.v1 import models_pb2, models_pb2_grpc, streams_pb2, streams_pb2_grpc, types_pb2
from service.access.grants import token_digest
from service.programs.backtest.child import ServerChild
from tests.client.certificates import Authority

ROUNDS, MESSAGES, PACKED_MESSAGES, OPENINGS, CONNECTIONS = 80, 100, 10, 10, 4  # short turns: a busy machine drifts
TOKEN = "a-token-for-a-bench"
MODEL = "m"


@dataclass(frozen=True)
class Door:
    """One of the servers, and how a client connects to it."""

    name: str
    child: ServerChild
    credentials: grpc.ChannelCredentials | None
    metadata: tuple[tuple[str, str], ...]

    def connect(self) -> grpc.aio.Channel:
        """Return a new connection."""
        options: list[tuple[str, int | str]] = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", 64 << 20),
        ]
        if self.credentials is None:
            return grpc.aio.insecure_channel(self.child.grpc, options=options)
        options.append(("grpc.ssl_target_name_override", "localhost"))
        return grpc.aio.secure_channel(self.child.grpc, self.credentials, options=options)

    async def open(self, channel: grpc.aio.Channel, stream: str) -> Any:
        """Open a stream and wait for its welcome."""
        call: Any = streams_pb2_grpc.StreamsStub(channel).Open(metadata=self.metadata)
        await call.write(streams_pb2.OpenRequest(hello=streams_pb2.Hello(model=MODEL, stream=stream)))
        if not (await call.read()).HasField("welcome"):
            raise RuntimeError("the server sent no welcome")
        return call


@contextlib.asynccontextmanager
async def doors(folder: Path) -> AsyncIterator[list[Door]]:
    """Run four servers, each with its model."""
    authority = Authority(folder)
    (cert, key), (own_cert, own_key) = authority.sign("server"), authority.sign("client")
    access = folder / "access.toml"
    access.write_text(f'[[token]]\nsha256 = "{token_digest(TOKEN)}"\ntenant = "acme"\nrole = "admin"\n')
    tls: dict[str, object] = {"tls_cert": cert, "tls_key": key}
    bearer = (("authorization", f"Bearer {TOKEN}"),)
    ca = authority.pem.read_bytes()
    trusting = grpc.ssl_channel_credentials(ca)
    known = grpc.ssl_channel_credentials(ca, own_key.read_bytes(), own_cert.read_bytes())
    kinds: list[tuple[str, dict[str, object], grpc.ChannelCredentials | None, tuple[tuple[str, str], ...]]] = [
        ("plain text", {}, None, ()),
        ("TLS", tls, trusting, ()),
        ("TLS + token", tls | {"access": access}, trusting, bearer),
        ("mTLS + token", tls | {"access": access, "tls_client_ca": authority.pem}, known, bearer),
    ]
    async with contextlib.AsyncExitStack() as stack:
        made = []
        for number, (name, settings, credentials, metadata) in enumerate(kinds):
            child = ServerChild(folder / f"data{number}", folder / f"log{number}", settings=settings)
            door = Door(name, await stack.enter_async_context(child), credentials, metadata)
            async with door.connect() as channel:
                spec = types_pb2.ModelSpec(channels=["v"], hidden=32, learn=False)
                request = models_pb2.CreateModelRequest(name=MODEL, spec=spec)
                await models_pb2_grpc.ModelsStub(channel).Create(request, metadata=metadata)
            made.append(door)
        yield made


class Bench:
    """The measurements on one server; each method runs one round and returns seconds by metric."""

    def __init__(self, door: Door, stack: contextlib.AsyncExitStack) -> None:
        self._door, self._stack, self._ticks, self._messages, self._opened = door, stack, 0, 0, 0

    async def begin(self) -> None:
        """Open the connection and the streams that stay open."""
        self._channel = await self._stack.enter_async_context(self._door.connect())
        self._stream = await self._door.open(self._channel, "single")
        self._mux = streams_pb2_grpc.StreamsStub(self._channel).Mux(metadata=self._door.metadata)
        bind = [streams_pb2.Bind(handle=i, stream=f"s{i}") for i in range(PACKED_STREAMS)]
        await self._mux.write(streams_pb2.MuxRequest(model=MODEL, bind=bind))
        await self._mux.read()

    async def single(self) -> dict[str, float]:
        """Send ticks, one in flight."""
        work = drive(self._stream, self._ticks + 1, MESSAGES, 1, durable=True)
        self._ticks += MESSAGES
        return await self._timed(work, MESSAGES, "message")

    async def packed(self) -> dict[str, float]:
        """Send messages of many ticks."""
        work = drive_packed(self._mux, PACKED_STREAMS, self._messages + 1, PACKED_MESSAGES)
        self._messages += PACKED_MESSAGES
        return await self._timed(work, PACKED_MESSAGES, "packed message")

    async def opening(self) -> dict[str, float]:
        """Open streams one after another on the existing connection, each until its welcome."""

        async def work() -> None:
            for _ in range(OPENINGS):
                self._opened += 1
                (await self._door.open(self._channel, f"o{self._opened}")).cancel()

        return await self._timed(work(), OPENINGS, "stream opened")

    async def connecting(self) -> dict[str, float]:
        """Open connections, each with a stream."""

        async def work() -> None:
            for _ in range(CONNECTIONS):
                self._opened += 1
                async with self._door.connect() as channel:
                    await self._door.open(channel, f"o{self._opened}")

        return await self._timed(work(), CONNECTIONS, "connection with a stream")

    async def _timed(self, work: Awaitable[None], n: int, of: str) -> dict[str, float]:
        cpu, wall = cpu_s(self._door.child.pid), time.perf_counter()
        await work
        took = time.perf_counter() - wall
        return {f"{of}, server CPU": (cpu_s(self._door.child.pid) - cpu) / n, f"{of}, time": took / n}


async def measure(rounds: int) -> list[Row]:
    """Return the rows of one run: medians, and ratios to plain text within each round."""
    seen: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        async with doors(Path(name)) as made, contextlib.AsyncExitStack() as stack:
            benches = {door.name: Bench(door, stack) for door in made}
            for bench in benches.values():
                await bench.begin()
            for r in range(rounds + 1):
                for kind in (Bench.single, Bench.packed, Bench.opening, Bench.connecting):
                    for door, costs in (await _turn(benches, kind, r)).items():
                        for case, value in costs.items():
                            by_door = seen.setdefault(case, {name: [] for name in benches})
                            by_door[door] += [value] * (r > 0)  # the first round warms up
    rows = []
    for case, by_door in seen.items():
        plain, *others = by_door
        rows.append(Row(case, plain, median(by_door[plain]), "s"))
        for door in others:
            ratio = median(a / b for a, b in zip(by_door[door], by_door[plain], strict=True))
            rows += [Row(case, door, median(by_door[door]), "s"), Row(case, f"{door}, over {plain}", ratio, "ratio")]
    return rows


async def _turn(
    benches: dict[str, Bench], kind: Callable[[Bench], Awaitable[dict[str, float]]], r: int
) -> dict[str, dict[str, float]]:
    """Run one round of one kind. In 8 rounds, every server has each place and follows each other one equally often."""
    names = list(benches)
    order = names[r % len(names) :] + names[: r % len(names)]
    return {name: await kind(benches[name]) for name in (order if r // len(names) % 2 else order[::-1])}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print the rows."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=ROUNDS, metavar="N")
    arguments = options.parse_args(argv)
    return finish(asyncio.run(measure(arguments.rounds)), arguments.json)


if __name__ == "__main__":
    sys.exit(main())
