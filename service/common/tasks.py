"""Coroutines that run side by side, and their end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any


async def end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait for each, the last one first. Errors are dropped: the caller has logged what had ended."""
    for task in reversed(tasks):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


async def together(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all side by side until all have returned. The first error, or a cancellation, cancels the rest and is raised.

    Unlike asyncio.TaskGroup it raises the error itself, not a group.
    """
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
