"""Whenever the home of a model dies, or a slice, what is learned is what the slices have, once and in one order."""

from __future__ import annotations

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
from tests.cluster.cutting import Cut, until_cut
from tests.cluster.faulty import Faulty
from tests.cluster.test_slices import COUNT, HOME, SHARDS, Place, check_learned, learn, look, place, some_ticks
from tests.oracles import replay
from tests.service.one_process import key

WRITES = ("append", "put", "note", "delete")
REFUSALS = (Unavailable, Exhausted, NotFound, NoSpace, KeyError, AssertionError)  # of a shard without its store
SCALE = 7  # every seventh write in the default run
NUMBERS = [HOME, *(shard_of_slice(HOME, index, SHARDS) for index in range(COUNT))]


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
        cut = Cut(faulty, n, after, WRITES)
        lived, error = await until_cut(a_life(found), cut, REFUSALS)
        assert error is None or after or cut.happened.is_set(), error
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
