"""Clients that run until they are stopped, and the ledgers of what the server told each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import freshet
from tests.journeys.crash import SMALL, Array, walk

FLOW, LAB = "flow", "lab"  # models 1 and 2: one learns from its ticks, one from labels and windows
REGRESS: dict[str, Any] = {
    "channels": ["x"], "task": "regress", "targets": ["q"], "hidden": 4, "window": 12, "label_horizon": 200,
    "learning_rate": 1e-3,
}  # fmt: skip
ROWS = 50_000
IN_FLIGHT = 16
LEAD = 24  # ticks that a stream may be ahead of the stream that waits for verdicts
BURST = 8  # ticks between two rounds of labels
WINDOW = 8  # ticks
ENOUGH = 80  # acknowledged for each fault, so that there is something to compare


@dataclass
class Told:
    """The ticks and the answers of the client of one stream. Nothing here is read from the files of the server."""

    model: int
    stream: str
    rows: Array
    answers: dict[int, tuple[int, bytes]] = field(default_factory=dict)  # seq → version, forecast
    durable: int = 0  # the highest seq reported as durable
    # Ticks that a killed server may have answered whose records did not survive: sent again.
    redone: set[int] = field(default_factory=set)
    void: int = 0  # answers of `redone` that had come before the kill

    def note(self, seq: int, version: int, y: Array) -> None:
        assert seq == len(self.answers) + 1, f"{self.stream}: answer {seq} after {len(self.answers)}"
        self.answers[seq] = version, np.ascontiguousarray(y, np.float32).tobytes()

    def killed(self, kept: int) -> None:
        """Note that the server was killed and that the surviving journal holds ticks up to `kept`."""
        self.void += max(0, len(self.answers) - kept)
        self.redone |= set(range(kept + 1, max(kept, len(self.answers)) + IN_FLIGHT + 1))


class Load:
    """Streams by Open and Mux of a model that learns from ticks; a stream, labels and windows of one that does not.

    One stream waits for verdicts, so learning sets its pace; the others keep up with it.
    """

    def __init__(self, client: freshet.Client) -> None:
        self._client = client
        self.open = [Told(1, f"open-{n}", walk(ROWS, n)) for n in range(2)]
        self.mux = [Told(1, f"mux-{n}", walk(ROWS, 10 + n)) for n in range(2)]
        self.lab = Told(2, "bench", walk(ROWS, 20))
        self.labels: set[int] = set()  # seqs of ticks of the lab stream with an acknowledged label
        self.windows = 0  # acknowledged
        self.moved = asyncio.Event()  # set at each answer
        self._stopping = False

    @property
    def told(self) -> list[Told]:
        return [*self.open, *self.mux, self.lab]

    @property
    def acknowledged(self) -> int:
        """Return the number of acknowledged ticks, labels and windows."""
        return sum(told.durable for told in self.told) + len(self.labels) + self.windows

    def stop(self) -> None:
        """Let every client end once everything that it sent is durable."""
        self._stopping = True
        self.moved.set()

    async def run(self) -> None:
        await self._client.create_model(FLOW, **SMALL)
        await self._client.create_model(LAB, **REGRESS)
        async with asyncio.TaskGroup() as group:
            for told in self.open:
                group.create_task(self._open(told))
            group.create_task(self._mux())
            group.create_task(self._lab())

    async def until_all_moved(self, answers: int) -> None:
        """Wait until each stream has `answers` more answers."""
        wanted = {told.stream: len(told.answers) + answers for told in self.told}
        while any(len(told.answers) < wanted[told.stream] for told in self.told):
            await self.next_answer()

    async def until_enough(self, faults: int, most_void: float = 1.0) -> None:
        """Wait until ENOUGH is acknowledged for each fault, and at most half of `most_void` of all answers are void.

        A slow disk or a busy machine may have left only a few between two kills, most of them not durable.
        """
        while self.acknowledged < ENOUGH * faults or self._void() > most_void / 2:
            await self.next_answer()

    def _void(self) -> float:
        return sum(told.void for told in self.told) / max(1, sum(len(told.answers) for told in self.told))

    async def next_answer(self) -> None:
        """Wait until any stream has one more answer, or all are stopped. Every waiter may clear the event."""
        self.moved.clear()
        await self.moved.wait()

    async def _open(self, told: Told) -> None:
        waits = told is self.open[0]
        async with self._client.stream(FLOW, told.stream, IN_FLIGHT) as stream:
            source = self._rows(told) if not waits else self._until_stopped(told)
            async for forecast in stream.forecasts(source, max_staleness=24 if waits else None):
                assert not forecast.lost
                told.note(forecast.seq, forecast.version, forecast.y)
                told.durable = max(told.durable, stream.durable_seq)
                self.moved.set()
            await stream.durable()
            told.durable = stream.durable_seq
            if waits:
                await stream.wait_judged(len(told.answers))

    async def _until_stopped(self, told: Told) -> AsyncIterator[Array]:
        for row in told.rows:
            if self._stopping:
                return
            yield row

    async def _rows(self, told: Told) -> AsyncIterator[Array]:
        n = 0
        while await self._abreast(n):
            yield told.rows[n]
            n += 1

    async def _abreast(self, n: int) -> bool:
        """Wait until the stream that waits for verdicts is close to tick n. Returns False to stop."""
        while n > len(self.open[0].answers) + LEAD and not self._stopping:
            await self.next_answer()
        return not self._stopping

    async def _mux(self) -> None:
        ids = [told.stream for told in self.mux]
        n = 0
        async with self._client.mux(FLOW) as mux:
            while await self._abreast(n):
                packed = await mux.step(ids, np.stack([told.rows[n] for told in self.mux]))
                assert not packed.refused, packed.refused
                assert not packed.lost
                for i, told in enumerate(self.mux):
                    told.note(int(packed.seq[i]), int(packed.version[i]), packed.y[i])
                self.moved.set()
                n += 1

    async def _lab(self) -> None:
        told, n = self.lab, 0
        async with (
            self._client.stream(LAB, told.stream, IN_FLIGHT) as stream,
            self._client.learn(LAB, source="torture") as learning,
        ):
            while await self._abreast(n):
                for row in told.rows[n : n + BURST]:
                    forecast = await stream.step(row)
                    told.note(forecast.seq, forecast.version, forecast.y)
                    self.moved.set()
                await stream.durable()
                told.durable = stream.durable_seq
                await self._label(stream, learning, range(n + 1, n + BURST + 1))
                n += BURST

    async def _label(self, stream: freshet.Stream, learning: Any, seqs: range) -> None:
        """Send a label for each tick by both methods, and a window. Returns when everything is acknowledged."""
        x = self.lab.rows
        for seq in seqs[::2]:
            await learning.label(self.lab.stream, seq, float(x[seq - 1, 0]) * 2)
        rows = x[seqs[0] - 1 : seqs[0] - 1 + WINDOW]
        await learning.window(rows, rows[:, 0] * 2)
        await asyncio.gather(*(stream.label(seq, float(x[seq - 1, 0]) * 2) for seq in seqs[1::2]))
        self.labels |= set(seqs[1::2])
        await learning.flush()
        self.labels |= set(seqs[::2])
        self.windows += 1
