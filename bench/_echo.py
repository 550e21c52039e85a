"""Servers to compare, each a child process: freshet, a bare grpc.aio echo of Streams.Open, freshet of another checkout.

The echo shows what gRPC itself costs, the other checkout what a change has brought.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from freshet.v1 import models_pb2, models_pb2_grpc, streams_pb2, streams_pb2_grpc, types_pb2
from service.programs.backtest.child import ServerChild, addresses

MODEL = "m"


class Echo(streams_pb2_grpc.StreamsServicer):
    """Read a request and write a response of the same size. It shows the cost of grpc.aio itself."""

    async def Open(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # grpc.aio also serves with read and write
        """Echo seq and values until half-close."""
        while (request := await context.read()) is not grpc.aio.EOF:
            tick = request.tick
            forecast = streams_pb2.Forecast(seq=tick.seq, y=tick.x)
            await context.write(streams_pb2.OpenResponse(forecast=forecast))


async def echo() -> None:
    """Run the echo server: print its port, and serve until standard input closes."""
    server = grpc.aio.server()
    streams_pb2_grpc.add_StreamsServicer_to_server(Echo(), server)  # type: ignore[abstract]  # nothing else is called
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(0)


class Target(NamedTuple):
    """A server: its process, and its address as HOST:PORT."""

    pid: int
    address: str

    def connect(self) -> grpc.aio.Channel:
        """Return a connection of its own."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 64 << 20)]
        return grpc.aio.insecure_channel(self.address, options=options)


async def create_model(target: Target) -> None:
    """Create MODEL at a freshet server: one channel, 32 hidden units; it does not learn."""
    async with target.connect() as channel:
        spec = types_pb2.ModelSpec(channels=["v"], hidden=32, learn=False)
        await models_pb2_grpc.ModelsStub(channel).Create(models_pb2.CreateModelRequest(name=MODEL, spec=spec))


@contextlib.asynccontextmanager
async def other(tree: Path, folder: Path) -> AsyncIterator[Target]:
    """Run the freshet server of the checkout `tree`, with this Python and a model, until the block ends.

    Raises RuntimeError if it ends before it is ready; its log is in `folder`.
    """
    folder.mkdir(parents=True)
    words = ["serve", "--with-parent", "--data", folder / "data", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "service.cli", *map(str, words), cwd=tree, stderr=log,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tree), str(tree / "client")))},
            start_new_session=True,  # as ServerChild's: sessions share the processor, whatever runs in them
        )  # fmt: skip
    assert process.stdin
    assert process.stdout
    try:
        ready = None
        async for line in process.stdout:
            if ready := addresses(line.decode().strip()):
                break
        if not ready:
            raise RuntimeError(f"the server of {tree} did not start: {(folder / 'log').read_text()[-2000:]}")
        target = Target(process.pid, ready["grpc"])
        await create_model(target)
        yield target
    finally:
        process.stdin.close()  # which ends it
        await process.wait()


@contextlib.asynccontextmanager
async def pair(folder: Path) -> AsyncIterator[tuple[Target, Target]]:
    """Run freshet, with a model that does not learn, and the echo, until the block ends."""
    async with ServerChild(folder / "data", folder / "log") as child:
        bare = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench._echo", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert bare.stdout
        assert bare.stdin
        ours = Target(child.pid, child.grpc)
        try:
            base = Target(bare.pid, f"127.0.0.1:{int(await bare.stdout.readline())}")
            await create_model(ours)
            yield ours, base
        finally:
            bare.stdin.close()
            await bare.wait()


if __name__ == "__main__":
    asyncio.run(echo())
