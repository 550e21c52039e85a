"""The two sides of a bidi call: one task reads and answers, one tells progress; either may end the call."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from service.edge.writing import Writing
from service.serving.ticks import Fenced


class Duplex(Protocol):
    """A call with two sides, and one way back that they share."""

    context: Any
    writing: Writing

    async def serve(self) -> None:
        """Answer messages until the half-close. Raises Fenced when the call owns nothing any more."""
        ...

    async def tell_progress(self) -> None:
        """Tell progress; returns when the server must end the call."""
        ...

    async def leave(self) -> None:
        """Say why the server ends the call, and end it."""
        ...

    def end(self) -> None:
        """Leave nothing of the call behind."""
        ...


async def both_sides(call: Duplex) -> None:
    """Run both sides until one ends; whatever that was, nothing of the call is left behind."""
    reading = asyncio.create_task(call.serve())
    tasks = reading, asyncio.create_task(call.tell_progress())
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
