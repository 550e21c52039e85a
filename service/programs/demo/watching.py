"""What is noticed of the server while the demo runs: drifts, and the version in service at the change."""

from __future__ import annotations

import asyncio
import contextlib

import freshet
from freshet import EventKind
from service.console.remote import Remote
from service.programs.demo.closing import MODEL

FIRST = 1  # version of a new model
PATIENCE_S = 30.0  # for the export of one version, which takes milliseconds


class Moment:
    """The change half-way: row `at` of each stream is the first that differs. For one event loop."""

    def __init__(self, at: int) -> None:
        self.at, self.row = at, 0
        self.weights = b""  # of the version in service at the change; empty: not known
        self._drifts: list[int] = []
        self._version = self._at_change = FIRST  # in service, as far as reported
        self._began, self._exported = asyncio.Event(), asyncio.Event()

    @property
    def drifts(self) -> tuple[int, ...]:
        """Rows after the change, of the stream that is farthest, at which the server reported a drift."""
        return tuple(row - self.at for row in self._drifts if row >= self.at)

    def taken(self, row: int) -> None:
        """Note that the forecast made at a row has come."""
        self.row = max(self.row, row)
        if row >= self.at - 1 and not self._began.is_set():
            self._at_change = self._version  # not the one that serves when it is exported: that may have learned more
            self._began.set()

    async def watch(self, target: Remote) -> None:
        """Collect drifts and the weights until cancelled."""
        async with target.connect() as client:
            await asyncio.gather(self._export(client), self._collect(client))

    async def settled(self) -> None:
        """Wait until the weights are there, or PATIENCE_S: without them the report has fewer numbers."""
        if self._began.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._exported.wait(), PATIENCE_S)

    async def _export(self, client: freshet.Client) -> None:
        await self._began.wait()
        try:
            self.weights = (await client.export(MODEL, self._at_change)).weights
        except freshet.FreshetError:
            pass
        finally:
            self._exported.set()

    async def _collect(self, client: freshet.Client) -> None:
        async for event in client.watch(""):  # of every model: ours does not exist yet when this begins
            if event.model != MODEL:
                continue
            if event.kind == EventKind.DRIFTED:
                self._drifts.append(self.row)
            elif event.kind in (EventKind.PUBLISHED, EventKind.ROLLED_BACK):
                self._version = event.version
