"""The two sides of a bidirectional call: one task reads and answers, another reports progress. Either may end it."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from service.edge.writing import Writing
from service.serving.ticks import Fenced


class Duplex(Protocol):
    """A call with two sides that share one `Writing`."""

    context: Any
    writing: Writing

    async def serve(self) -> None:
        """Answer messages until the half-close. Raises Fenced when another call owns the streams."""
        ...

    async def report_progress(self) -> None:
        """Report progress. Returns when the server must end the call."""
        ...

    async def leave(self) -> None:
        """Report why the server ends the call, and end it."""
        ...

    def end(self) -> None:
        """Release everything that the call holds."""
        ...


async def both_sides(call: Duplex) -> None:
    """Run both sides until one ends, then cancel the other and release what the call holds."""
    reading = asyncio.create_task(call.serve())
    tasks = reading, asyncio.create_task(call.report_progress())
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        if reading not in done:
            await call.writing.stop(reading)
            await call.leave()
    except Fenced:
        await call.leave()
    finally:
        call.end()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
