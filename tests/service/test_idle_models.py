"""Idle models cost nothing: instructions and rows of periodic work are counted, not timed."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import Any

from tests.service.one_process import World, world

FEW, MANY = 2, 40


class Steps:
    """Counts bytecode instructions of our own files, in all threads."""

    def __init__(self) -> None:
        self.count = 0
        self.by_place: dict[tuple[str, str], int] = {}

    def trace(self, frame: FrameType, event: str, arg: object) -> Any:
        code = frame.f_code
        if "/service/" not in code.co_filename and "/model/" not in code.co_filename:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            self.count += 1
            place = code.co_filename.rpartition("/")[2], code.co_qualname
            self.by_place[place] = self.by_place.get(place, 0) + 1
        return self.trace


@contextmanager
def counted() -> Iterator[Steps]:
    """Count the instructions inside the block, on the loop and in threads."""
    steps = Steps()
    before = sys.gettrace()
    with ThreadPoolExecutor(1) as threads:  # existing threads would not be traced
        asyncio.get_running_loop().set_default_executor(threads)
        threading.settrace(steps.trace)
        sys.settrace(steps.trace)
        try:
            yield steps
        finally:
            sys.settrace(before)
            threading.settrace(None)
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))


async def settled(live: World, idle: int) -> Any:
    """A world with this many idle models, each with one stream that has ticked, and an active one; all saved twice."""
    for n in range(idle):
        model = await live.model(f"idle-{n}")
        await live.tick(model, live.open(model, "pump"), 1.0)
    model = await live.model("live")
    session = live.open(model, "pump")
    for x in (0.1, 0.4, 0.3, 0.2):
        await live.tick(model, session, x)
        await live.learn()
        assert live.trainer is not None
        live.trainer.save()
        await live.learn()
        await live.snapshot()
    return model, session


async def costs(tmp_path: Any, idle: int) -> dict[str, Steps]:
    """Return the cost of each periodic task with this many idle models beside the active one."""
    taken = {}
    async with world(tmp_path / str(idle), max_models=1000, checkpoint_chunks=1000) as live:
        model, session = await settled(live, idle)
        assert live.trainer is not None
        with counted() as taken["tick"]:
            await live.tick(model, session, 0.7)
            await live.server.journal.flush()
        with counted() as taken["learn"]:
            await live.learn()
        rows = live.trainer.checkpoints._database._connection.total_changes
        with counted() as taken["checkpoint"]:
            live.trainer.save()
        taken["rows of a checkpoint"] = Steps()
        taken["rows of a checkpoint"].count = live.trainer.checkpoints._database._connection.total_changes - rows
        with counted() as taken["saved"]:
            await live.learn()
        await live.tick(model, session, 0.2)
        rows = live.server.states._database._connection.total_changes
        with counted() as taken["snapshot"]:
            await live.snapshot()
        taken["rows of a snapshot"] = Steps()
        taken["rows of a snapshot"].count = live.server.states._database._connection.total_changes - rows
        with counted() as taken["open a stream"]:
            live.open(model, "another")
        with counted() as taken["create a model"]:
            await live.model("one-more")
        with counted() as taken["waiting"]:
            live.trainer.patience()
            live.trainer.verdicts.give(end_reached=True)
    return taken


WHAT = (
    "tick", "learn", "checkpoint", "rows of a checkpoint", "saved", "snapshot", "rows of a snapshot", "open a stream",
    "create a model", "waiting",
)  # fmt: skip


async def test_what_comes_again_and_again_costs_no_more_with_many_idle_models_than_with_few(tmp_path):
    few, many = await costs(tmp_path, FEW), await costs(tmp_path, MANY)

    more = {}
    for what in WHAT:
        before, after = few[what], many[what]
        if after.count > 1.05 * before.count + 10:  # a growing dictionary may take another step
            grew = {p: (before.by_place.get(p, 0), n) for p, n in after.by_place.items()}
            grew = {p: (a, b) for p, (a, b) in grew.items() if b > 1.05 * a + 5}
            more[what] = before.count, after.count, grew
    assert not more
