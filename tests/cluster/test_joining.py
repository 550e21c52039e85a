"""Events of several nodes in one Watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest

from freshet.v1 import models_pb2
from service.cluster.hosting.joining import joined

DEADLINE_S = 60.0


def event(model: str) -> models_pb2.ModelEvent:
    return models_pb2.ModelEvent(model=model)


class Source:
    """Events that a test adds; None ends them."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.closed = asyncio.Event()

    def add(self, *models: str) -> None:
        for model in models:
            self.queue.put_nowait(event(model))

    async def events(self) -> AsyncGenerator[models_pb2.ModelEvent, None]:
        try:
            while (found := await self.queue.get()) is not None:
                if isinstance(found, Exception):
                    raise found
                yield found
        finally:
            self.closed.set()


class Call:
    """A Watch at another node, as gRPC gives one."""

    def __init__(self, node: Node) -> None:
        self._node, self._events = node, node.source.events()
        self.cancelled = asyncio.Event()

    async def initial_metadata(self) -> None:
        await self._node.accepts.wait()

    def __aiter__(self) -> AsyncGenerator[models_pb2.ModelEvent, None]:
        return self._events

    def cancel(self) -> None:
        self.cancelled.set()


class Node:
    def __init__(self) -> None:
        self.source, self.accepts = Source(), asyncio.Event()
        self.accepts.set()
        self.calls: list[Call] = []

    def watch(self) -> Call:
        self.calls.append(Call(self))
        return self.calls[-1]


class World:
    def __init__(self, *names: str) -> None:
        self.own, self.nodes = Source(), {name: Node() for name in names}

    def joined(self) -> Any:
        return joined(self.own.events(), lambda name: self.nodes[name].watch(), lambda: list(self.nodes), 0.01)


async def take(watched: Any, count: int) -> list[str]:
    async with asyncio.timeout(DEADLINE_S):
        return sorted([(await anext(watched)).model for _ in range(count)])


def lost() -> Exception:
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "gone")


async def test_events_of_all_nodes_come_and_the_calls_end_with_the_block():
    world = World("b", "c")
    async with world.joined() as watched:
        world.own.add("here")
        world.nodes["b"].source.add("there")
        world.nodes["c"].source.add("elsewhere", "again")
        assert await take(watched, 4) == ["again", "elsewhere", "here", "there"]
    assert world.own.closed.is_set()
    assert all(node.calls[0].cancelled.is_set() for node in world.nodes.values())


async def test_the_block_begins_when_the_others_have_accepted_their_calls():
    world = World("b")
    world.nodes["b"].accepts.clear()
    entered = asyncio.Event()

    async def watch() -> None:
        async with world.joined():
            entered.set()

    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(watch())
        while not world.nodes["b"].calls:
            await asyncio.sleep(0)
        assert not entered.is_set()
        world.nodes["b"].accepts.set()
    assert entered.is_set()


async def test_a_node_that_comes_later_and_one_that_comes_back_are_followed():
    world = World("b")
    async with world.joined() as watched:
        world.nodes["b"].source.queue.put_nowait(lost())
        world.nodes["c"] = Node()
        world.nodes["c"].source.add("new")
        world.nodes["b"].source.add("back")
        assert await take(watched, 2) == ["back", "new"]
        assert len(world.nodes["b"].calls) == 2


async def test_the_end_of_the_own_events_ends_all_and_an_error_is_raised():
    world = World("b")
    async with world.joined() as watched:
        world.own.queue.put_nowait(None)
        assert [message async for message in watched] == []
    async with World().joined() as watched:
        pass
    broken = World()
    async with broken.joined() as watched:
        broken.own.queue.put_nowait(ValueError("a test's"))
        with pytest.raises(ValueError, match="a test's"):
            await take(watched, 1)
