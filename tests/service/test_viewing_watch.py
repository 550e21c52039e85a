"""Watching a model of a running server: who shares a look, what a viewer gets, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.common.errors import Exhausted, Invalid, NotFound, Unavailable
from service.streams.served import ServedModel
from service.streams.session import Session
from service.viewing import looks, scene, seen
from service.viewing.channels import DELETED_REASON, LEAVES
from service.viewing.encoding import event
from service.viewing.looks import Viewing
from service.viewing.seen import VIEWER_QUEUE, Ended, Subject, Viewer
from tests.service.one_process import World, key, world

DEADLINE_S = 60.0


class Watched:
    """A world with one model and stream, and a viewing whose looks a test lets happen."""

    def __init__(self, world: World) -> None:
        self.world, self.seen = world, world.server.seen()
        self._steps = asyncio.Semaphore(0)
        self.now = 0.0
        self.viewing = Viewing(lambda: self.now, lambda: 1e9 + self.now, self._pause)
        world.clock, world.wall = (lambda: self.now), (lambda: 1e9 + self.now)

    async def _pause(self, seconds: float) -> None:
        await self._steps.acquire()

    def release(self) -> None:
        """Let the channel's own loop go on once."""
        self._steps.release()

    async def look(self, seconds: float = 0.25) -> None:
        """Let each channel look once more, and wait until it has."""
        self.now += seconds
        for channel in self.viewing.channels:
            await channel.look()

    async def ticks(self, model: ServedModel, session: Session, n: int, seed: int = 0) -> np.ndarray[Any, Any]:
        """Send the next n ticks of a random walk."""
        x = np.cumsum(np.random.default_rng(seed + session.last_seq).normal(size=n)).astype(np.float32)
        for value in x.tolist():
            await self.world.tick(model, session, value)
        return x


@contextlib.asynccontextmanager
async def watched(data: Path) -> AsyncIterator[Watched]:
    async with world(data) as made:
        yield Watched(made)


def read(message: bytes) -> tuple[str, dict[str, Any]]:
    """Return name and data of an event."""
    head, _, rest = message.partition(b"\n")
    return head.removeprefix(b"event: ").decode(), json.loads(rest.removeprefix(b"data: "))


def several(messages: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Return name and data of each of several events."""
    return [read(message) for message in messages.removesuffix(b"\n\n").split(b"\n\n")]


async def drained(viewer: Viewer) -> list[tuple[str, dict[str, Any]]]:
    """Return what a viewer has waiting."""
    return several(await viewer.next()) if viewer.waiting else []


async def all_of(viewer: Viewer) -> list[tuple[str, dict[str, Any]]]:
    """Return all events up to the end of the view."""
    found = []
    async with asyncio.timeout(DEADLINE_S):
        with contextlib.suppress(Ended):
            while True:
                found += several(await viewer.next())
    return found


def of(name: str, events: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    return [data for its, data in events if its == name]


async def test_a_viewer_is_greeted_with_what_there_is_and_then_gets_what_is_new(tmp_path: Path) -> None:
    async with watched(tmp_path) as w:
        model = await w.world.model(horizon=3)
        session = w.world.open(model, "a")
        x = await w.ticks(model, session, 20)
        async with w.viewing.watch(w.seen, model, Subject(), sees_all=True) as viewer:
            first = await drained(viewer)
            assert [name for name, _ in first][:3] == ["hello", "events", "block"]
            hello, block = first[0][1], first[2][1]
            assert (hello["streams"], hello["ghost"]) == (["a"], {"version": 1})
            assert hello["model"]["name"] == model.name
            assert of("events", first)[0]["events"][0]["kind"] == "created"
            assert block["restart"]
            assert block["seq"] == list(range(1, 21))
            np.testing.assert_allclose(block["truth"], x, rtol=1e-5)
            assert [name for name, _ in first].count("state") == 1

            await w.ticks(model, session, 2)
            await w.look()
            (new,) = of("block", await drained(viewer))
            assert (new["restart"], new["seq"], new["next"]["seq"]) == (False, [21, 22], 22)
            assert None not in new["ghost"][1:], "the ghost forecast tick 22 at tick 21"
            await w.look()
            assert not of("block", await drained(viewer)), "nothing has ticked"


async def test_nothing_is_computed_without_a_viewer_and_two_of_one_subject_share_a_look(tmp_path: Path) -> None:
    async with watched(tmp_path) as w:
        model = await w.world.model()
        session = w.world.open(model, "a")
        await w.ticks(model, session, 3)
        listeners = len(w.seen.events.listeners)
        await w.look()
        assert (w.viewing.looks, w.viewing.channels, w.viewing.nbytes) == (0, [], 0)

        async with (
            w.viewing.watch(w.seen, model, Subject(("a",)), True) as one,
            w.viewing.watch(w.seen, model, Subject(("a",)), True) as two,
        ):
            (channel,) = w.viewing.channels
            await drained(one), await drained(two)
            before = channel.looks
            await w.ticks(model, session, 1)
            await w.look()
            assert channel.looks == before + 1
            messages = zip(one._queue, two._queue, strict=True)
            assert all(first is second for first, second in messages), "each was encoded once"
            assert await one.next() == await two.next() != b""
        assert w.viewing.channels == []
        assert (len(w.seen.events.listeners), len(w.viewing.ghosts), w.viewing.viewers) == (listeners, 0, 0)


async def test_a_viewer_that_does_not_read_loses_the_oldest_and_then_gets_whole_blocks(tmp_path: Path) -> None:
    async with watched(tmp_path) as w:
        model = await w.world.model()
        session = w.world.open(model, "a")
        await w.ticks(model, session, 3)
        subject = Subject(("a",), show=frozenset({"ticks"}))
        async with (
            w.viewing.watch(w.seen, model, subject, True) as slow,
            w.viewing.watch(w.seen, model, subject, True) as fast,
        ):
            got = []
            for _ in range(VIEWER_QUEUE + 5):
                await w.ticks(model, session, 1)
                await w.look()
                got += of("block", await drained(fast))
            assert [seq for block in got for seq in block["seq"]] == list(range(1, VIEWER_QUEUE + 9))
            assert slow.waiting == VIEWER_QUEUE
            events = await drained(slow)
            assert events[0][0] == "dropped"
            assert events[0][1]["count"] > 0
            assert not any(block["restart"] for block in of("block", events)), "nothing is computed for who reads not"
            await w.look()
            (whole,) = of("block", await drained(slow))
            assert whole["restart"]
            assert whole["seq"] == list(range(1, VIEWER_QUEUE + 9))
            await w.look()
            assert not of("block", await drained(slow)) + of("block", await drained(fast))


async def test_a_queue_drops_its_oldest_and_says_how_many() -> None:
    viewer = Viewer()
    for n in range(VIEWER_QUEUE + 3):
        viewer.put(b"%d" % n)
    kept = b"".join(b"%d" % n for n in range(3, VIEWER_QUEUE + 3))
    assert await viewer.next() == event("dropped", {"count": 3}) + kept
    assert await viewer.next(0.0) == b""
    viewer.end("over")
    assert read(await viewer.next()) == ("bye", {"reason": "over"})
    with pytest.raises(Ended, match="over"):
        await viewer.next()


async def test_a_waiting_viewer_is_woken() -> None:
    viewer = Viewer()
    waiting = asyncio.create_task(viewer.next())
    await asyncio.sleep(0)
    viewer.put(event("a", {}))
    assert await asyncio.wait_for(waiting, DEADLINE_S) == event("a", {})


async def test_the_deletion_of_the_model_ends_its_viewers(tmp_path: Path) -> None:
    async with watched(tmp_path) as w:
        model = await w.world.model()
        await w.ticks(model, w.world.open(model, "a"), 3)
        async with w.viewing.watch(w.seen, model, Subject(), True) as viewer:
            await drained(viewer)
            await w.world.control.delete(key("flow"))
            assert (await all_of(viewer))[-1] == ("bye", {"reason": DELETED_REASON})
            with pytest.raises(NotFound, match="deleted"):
                w.viewing.model(w.seen, model)
            with pytest.raises(NotFound, match="deleted"):
                async with w.viewing.watch(w.seen, model, Subject(), True):
                    pass
        assert not [s for s in w.world.server.registry.text().decode().splitlines() if 'model="flow"' in s]


async def test_a_server_that_leaves_ends_all_views_and_admits_no_other(tmp_path: Path) -> None:
    async with watched(tmp_path) as w:
        model = await w.world.model()
        async with w.viewing.watch(w.seen, model, Subject(), True) as viewer:
            w.viewing.close()
            assert (await all_of(viewer))[-1] == ("bye", {"reason": LEAVES})
            with pytest.raises(Unavailable):
                async with w.viewing.watch(w.seen, model, Subject(), True):
                    pass


async def test_a_channel_stays_open_for_who_joins_while_its_last_viewer_leaves(tmp_path: Path) -> None:
    async with watched(tmp_path) as w:
        model = await w.world.model()
        await w.ticks(model, w.world.open(model, "a"), 3)
        joined, leave = asyncio.Event(), asyncio.Event()

        async def second() -> list[tuple[str, dict[str, Any]]]:
            async with w.viewing.watch(w.seen, model, Subject(("a",)), True) as viewer:
                joined.set()
                await leave.wait()
                return await drained(viewer)

        async with w.viewing.watch(w.seen, model, Subject(("a",)), True):
            (channel,) = w.viewing.channels
            other = asyncio.create_task(second())
            while not channel.coming:
                await asyncio.sleep(0)
        await asyncio.wait_for(joined.wait(), DEADLINE_S)
        assert w.viewing.channels == [channel]
        await w.ticks(model, model.session("a"), 1)
        await w.look()
        leave.set()
        assert of("block", await other)[-1]["seq"] == [4]
        assert (w.viewing.channels, len(w.viewing.ghosts)) == ([], 0)


async def test_a_shard_that_leaves_ends_the_views_of_its_models(tmp_path: Path) -> None:
    async with watched(tmp_path) as w:
        model = await w.world.model()
        async with w.viewing.watch(w.seen, model, Subject(), True) as viewer:
            w.world.server.leave(3, "another:1")
            await w.look()
            assert (await all_of(viewer))[-1] == ("bye", {"reason": LEAVES})


async def test_there_are_at_most_so_many_viewers_and_a_place_becomes_free_again(tmp_path: Path) -> None:
    async with watched(tmp_path) as w:
        model = await w.world.model()
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(seen.MAX_VIEWERS):
                await stack.enter_async_context(w.viewing.watch(w.seen, model, Subject(), True))
            with pytest.raises(Exhausted) as refused:
                await stack.enter_async_context(w.viewing.watch(w.seen, model, Subject(), True))
            assert refused.value.retry_s
        async with w.viewing.watch(w.seen, model, Subject(), True):
            assert w.viewing.viewers == 1


@pytest.mark.parametrize(
    ("subject", "error", "field"),
    [
        (Subject(("nobody",)), NotFound, "stream"),
        (Subject(target="y"), Invalid, "target"),
        (Subject(step=0), Invalid, "step"),
        (Subject(step=2), Invalid, "step"),
        (Subject(("a",), ghost="9"), NotFound, "ghost"),
        (Subject(ghost="x"), Invalid, "ghost"),
        (Subject(ghost="²"), Invalid, "ghost"),
        (Subject(show=frozenset({"all"})), Invalid, "show"),
        (Subject(tuple("abcdefghi")), Invalid, "stream"),
    ],
)
async def test_a_wrong_subject_is_refused_by_name_and_leaves_nothing(
    tmp_path: Path, subject: Subject, error: type[Exception], field: str
) -> None:
    async with watched(tmp_path) as w:
        model = await w.world.model()
        await w.ticks(model, w.world.open(model, "a"), 3)
        with pytest.raises(error) as refused:
            async with w.viewing.watch(w.seen, model, subject, True):
                pass
        assert getattr(refused.value, "field", "") == field
        assert (w.viewing.viewers, w.viewing.channels, len(w.viewing.ghosts)) == (0, [], 0)


async def test_samples_are_taken_each_second_and_kept_for_a_while_after_the_last_viewer(tmp_path: Path) -> None:
    async with watched(tmp_path) as w:
        model = await w.world.model()
        session = w.world.open(model, "a")
        subject = Subject(("a",), show=frozenset({"samples"}))
        async with w.viewing.watch(w.seen, model, subject, True) as viewer:
            await drained(viewer)
            await w.ticks(model, session, 7)
            for _ in range(4):
                await w.look()
            (sample,) = of("sample", await drained(viewer))
            assert (sample["seconds"], sample["ticks_per_s"]) == (1, 7)
            assert sample["refused"] == 0
        w.now += 1
        async with w.viewing.watch(w.seen, model, subject, False) as viewer:
            (hello,) = of("hello", await drained(viewer))
            assert len(hello["history"]) == 2
            assert {sample["refused"] for sample in hello["history"]} == {None}, "it may not see the process"
        w.now += looks.KEPT_S
        w.viewing.forget_samples()
        async with w.viewing.watch(w.seen, model, subject, True) as viewer:
            (hello,) = of("hello", await drained(viewer))
            assert hello["history"] == []


async def test_the_memory_of_a_channel_is_bounded(tmp_path: Path) -> None:
    async with watched(tmp_path) as w:
        model = await w.world.model(horizon=2)
        session = w.world.open(model, "a")
        async with w.viewing.watch(w.seen, model, Subject(("a",)), True) as viewer:
            sizes = []
            for n in range(24):
                await w.ticks(model, session, 100, seed=n)
                await w.look()
                await drained(viewer)
                sizes.append(w.viewing.nbytes)
            assert len(set(sizes[12:])) == 1
            assert sizes[0] < sizes[-1]


async def test_the_first_stream_of_a_model_without_any_is_shown_when_it_comes(tmp_path: Path) -> None:
    async with watched(tmp_path) as w:
        model = await w.world.model()
        async with w.viewing.watch(w.seen, model, Subject(), True) as viewer:
            assert of("hello", await drained(viewer))[0]["streams"] == []
            await w.ticks(model, w.world.open(model, "late"), 3)
            await w.look()
            events = await drained(viewer)
            assert of("hello", events)[0]["streams"] == ["late"]
            assert of("block", events)[0]["seq"] == [1, 2, 3]


async def test_of_a_model_whose_streams_are_all_on_disk_the_first_is_shown(tmp_path: Path) -> None:
    async with watched(tmp_path) as w:
        model = await w.world.model()
        for id in ("b", "a"):
            await w.ticks(model, w.world.open(model, id), 5)
        await w.world.snapshot()
        model.judge(w.world.server.journal.offset(model.number))
        for row in [*model.table.by_id.values()]:
            model.table.remove(row)
        async with w.viewing.watch(w.seen, model, Subject(), True) as viewer:
            events = await drained(viewer)
            assert of("hello", events)[0]["streams"] == ["a"]
            assert of("block", events)[0]["seq"] == [1, 2, 3, 4, 5]


async def test_a_stream_that_is_not_in_memory_is_read_and_a_deleted_one_stays_as_it_was(tmp_path: Path) -> None:
    async with watched(tmp_path) as w:
        model = await w.world.model()
        session = w.world.open(model, "a")
        await w.ticks(model, session, 5)
        async with w.viewing.watch(w.seen, model, Subject(("a",)), True) as viewer:
            await drained(viewer)
            w.world.serving.opening.delete(model, "a")
            await w.look()
            assert not of("block", await drained(viewer))
            again = w.world.open(model, "a")
            await w.ticks(model, again, 2)
            await w.look()
            (block,) = of("block", await drained(viewer))
            assert block["restart"]
            assert block["seq"] == [1, 2]


async def test_the_loop_of_a_channel_looks_until_the_last_viewer_leaves(tmp_path: Path) -> None:
    async with watched(tmp_path) as w:
        model = await w.world.model()
        await w.ticks(model, w.world.open(model, "a"), 1)
        async with w.viewing.watch(w.seen, model, Subject(("a",)), True) as viewer:
            await drained(viewer)
            await w.ticks(model, model.session("a"), 1)
            w.release()
            assert of("block", several(await asyncio.wait_for(viewer.next(), DEADLINE_S)))


async def test_a_look_that_fails_ends_its_viewers_and_not_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watched(tmp_path) as w:
        model = await w.world.model()
        await w.ticks(model, w.world.open(model, "a"), 1)
        async with w.viewing.watch(w.seen, model, Subject(("a",)), True) as viewer:
            monkeypatch.setattr(scene.Scene, "copy", lambda *_: 1 / 0)
            w.release()
            assert "failed" in (await all_of(viewer))[-1][1]["reason"]
        assert w.viewing.channels == []
