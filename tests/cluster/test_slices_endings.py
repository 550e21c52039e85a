"""Whenever the home of a model dies, or a slice, what is learned is what the slices have, once and in one order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from service.cluster.slices.names import shard_of_slice
from service.cluster.store.directory import Directory
from service.cluster.store.seam import Store
from service.common.errors import Exhausted, NotFound, Unavailable
from service.storage.disk import NoSpace
from tests.cluster.faulty import Faulty
from tests.cluster.test_slices import COUNT, HOME, SHARDS, Place, check_learned, learn, look, place, some_ticks
from tests.oracles import replay
from tests.service.one_process import key

REFUSALS = (Unavailable, Exhausted, NotFound, NoSpace, KeyError, AssertionError)  # of a shard without its store
SCALE = 7  # every seventh write in the default run
NUMBERS = [HOME, *(shard_of_slice(HOME, index, SHARDS) for index in range(COUNT))]


class Cut:
    """Cuts a shard off from the store at its write number `n`: before it is done, or after."""

    def __init__(self, store: Faulty, n: int, after: bool) -> None:
        self._store, self._left, self._after = store, n, after
        self.happened, self._loop = asyncio.Event(), asyncio.get_running_loop()
        store.before = self._look

    def _look(self, operation: str) -> None:
        self._left -= operation in ("append", "put", "note", "delete")
        if self._left < 0 and not self.happened.is_set():
            if self._after and self._left == -1:
                self._store.errors_after[operation] = 1
                return
            self._store.down = lambda operation: True
            self._loop.call_soon_threadsafe(self.happened.set)


async def a_life(found: Sequence[Place]) -> None:
    """The model is made, served and learned; versions go forth and back."""
    home, *slices = found
    rng = np.random.default_rng(1)
    await home.world.model()
    for index, each in enumerate(slices):
        await each.slicing.ensure(key("flow"), index)
    for n in range(3):
        await some_ticks(slices, rng, 12)
        await learn(found)
        if n == 1:
            await home.world.control.roll_back(key("flow"), 1)
            await look(found)
    await home.world.snapshot()
    await home.world.keeper.make_image()


async def cut_short(
    stack: contextlib.AsyncExitStack, store: Store, folder: Path, dies: int, n: int, after: bool
) -> tuple[list[Place], bool]:
    """Let the shard NUMBERS[dies] die at write `n` of its life; return the shards, and whether it had fewer."""
    async with contextlib.AsyncExitStack() as dying:
        faulty = Faulty(store)
        found = []
        for at, number in enumerate(NUMBERS):
            mine, its = (dying, faulty) if at == dies else (stack, store)
            found.append(await mine.enter_async_context(place(its, folder / f"{at}", number)))
        cut = Cut(faulty, n, after)
        life = asyncio.create_task(a_life(found))
        happened = asyncio.create_task(cut.happened.wait())
        await asyncio.wait([life, happened], return_when=asyncio.FIRST_COMPLETED)
        for task in (life, happened):
            task.cancel()
        await asyncio.wait([life, happened])
        if not life.cancelled() and (error := life.exception()):
            assert isinstance(error, REFUSALS), error
            assert after or cut.happened.is_set(), error
        lived = not life.cancelled() and life.exception() is None and not cut.happened.is_set()
    return found, lived


@pytest.mark.parametrize("after", [False, True], ids=["before it is written", "after it is written"])
@pytest.mark.parametrize("dies", [0, 1], ids=["the home", "a slice"])
async def test_a_shard_may_die_at_any_write(tmp_path, dies, after):
    n = happened = 0
    while True:
        folder = tmp_path / str(n)
        folder.mkdir()
        store = Directory(f"file://{folder / 'store'}", folder / "store")
        async with contextlib.AsyncExitStack() as stack:
            found, lived = await cut_short(stack, store, folder, dies, n, after)
            if lived:
                break
            happened += 1
            again = place(store, folder / "again", NUMBERS[dies], "127.0.0.1:50052")
            found[dies] = await stack.enter_async_context(again)
            home, *slices = found
            await home.world.model()
            for index, each in enumerate(slices):
                await each.slicing.ensure(key("flow"), index)
            await some_ticks(slices, np.random.default_rng(n), 12)
            await learn(found)
            await learn(found)
            check_learned(store, home)
            assert [each.model.champion for each in slices] == [home.model.champion] * COUNT
            versions = [replay.Files.of(each.world.opened.folder).onnx for each in found]
            assert all(own[n] == versions[0][n] for own in versions[1:] for n in own if n in versions[0])
        n += SCALE
    assert happened > 20 / SCALE
