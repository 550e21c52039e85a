"""Events of all nodes in one call: those of this node, and a Watch at each other one for as long as it lives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import grpc
import structlog

from service.edge.parts import EventMessages

log = structlog.get_logger("cluster")

QUEUE = 64  # events; a full one holds the nodes up, which then drop their oldest
OPEN_S = 1.0  # for which the call waits for the other nodes at its start
LOOK_S = 1.0  # between two looks for nodes that have come, or whose call has ended


@contextlib.asynccontextmanager
async def joined(
    own: EventMessages, watch: Callable[[str], Any], addresses: Callable[[], Iterable[str]], look_s: float = LOOK_S
) -> AsyncIterator[EventMessages]:
    """Yield the events of this node and of the others, until `own` ends.

    watch: opens a call at the node of an address. addresses: of the other nodes that are alive now. Events of a node
    between the end of a call and the next one are missed.
    """
    queue: asyncio.Queue[Any] = asyncio.Queue(QUEUE)
    watches = _Watches(watch, queue)
    tasks = [asyncio.create_task(_pump(own, queue), name="own events")]
    try:
        watches.follow(addresses())
        await watches.opened()
        tasks.append(asyncio.create_task(_keep(watches, addresses, look_s), name="other nodes' events"))
        yield _until_none(queue)
    finally:
        await _end([*tasks, *watches.tasks.values()])
        await own.aclose()


class _Watches:
    """A call at each other node. tasks: by address."""

    def __init__(self, watch: Callable[[str], Any], queue: asyncio.Queue[Any]) -> None:
        self._watch, self._queue = watch, queue
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._open: dict[str, asyncio.Event] = {}

    def follow(self, addresses: Iterable[str]) -> None:
        """Open a call at each of these nodes that has none."""
        for address in addresses:
            if address not in self.tasks or self.tasks[address].done():
                self._open[address] = asyncio.Event()
                self.tasks[address] = asyncio.create_task(self._run(address), name=f"events of {address}")

    async def opened(self) -> None:
        """Wait until each node has accepted its call, or failed; at most OPEN_S."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(OPEN_S):
                for event in list(self._open.values()):
                    await event.wait()

    async def _run(self, address: str) -> None:
        call = self._watch(address)
        try:
            await call.initial_metadata()
            self._open[address].set()
            async for message in call:
                await self._queue.put(message)
        except grpc.aio.AioRpcError as error:
            log.info("a node sends no events", node=address, why=error.details())
        finally:
            self._open[address].set()
            call.cancel()


async def _keep(watches: _Watches, addresses: Callable[[], Iterable[str]], look_s: float) -> None:
    while True:
        await asyncio.sleep(look_s)
        watches.follow(addresses())


async def _pump(own: EventMessages, queue: asyncio.Queue[Any]) -> None:
    try:
        async for message in own:
            await queue.put(message)
    except Exception as error:  # the reader raises it
        await queue.put(error)
    else:
        await queue.put(None)


async def _until_none(queue: asyncio.Queue[Any]) -> EventMessages:
    while (message := await queue.get()) is not None:
        if isinstance(message, Exception):
            raise message
        yield message


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
