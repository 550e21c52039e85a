"""Swaps under load: versions with different answers take turns by promotion. A swap may change only the answer of a
request. The answer must equal, bit for bit, that of the version it names, which the journal has at that tick.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np

import freshet
from model.network import Network
from model.spec import ModelSpec
from service.engine.export import pack_weights
from service.journal.records import Promote
from tests.journeys import crash
from tests.journeys.crash import Array, walk
from tests.oracles import replay
from tests.torture import verify
from tests.torture.load import FLOW, IN_FLIGHT, ROWS, Told
from tests.torture.report import Part

SPEC: dict[str, Any] = {"channels": ["x"], "hidden": 8, "learn": False}
VERSIONS, STREAMS = 3, 3
APART = 1e-3  # answers of two versions differ by more on most ticks
TICKS = 200  # number of ticks compared


def weights(seed: int) -> bytes:
    """Return the weights of another version: the first weights of the spec plus noise."""
    network = Network(ModelSpec.from_mapping(SPEC))
    flat = network.init_params()
    flat += np.random.default_rng(seed).normal(0, 0.3, flat.shape).astype(np.float32)
    return pack_weights(network, network.weights(flat).flat)


class Streams:
    """Streams that run through all swaps, at the pace of the swaps."""

    def __init__(self) -> None:
        self.told = [Told(1, f"pump-{n}", walk(ROWS, n)) for n in range(STREAMS)]
        self._stopping = False
        self._answered, self._swapped = asyncio.Event(), asyncio.Event()
        self._allowed = IN_FLIGHT  # ticks that each stream may send

    def stop(self) -> None:
        self._stopping = True
        self._swapped.set()

    def allow(self, ticks: int) -> None:
        """Let each stream send `ticks` more ticks."""
        self._allowed += ticks
        self._swapped.set()

    async def until_some(self, answers: int) -> None:
        """Wait for `answers` more answers over all streams."""
        wanted = sum(len(told.answers) for told in self.told) + answers
        while sum(len(told.answers) for told in self.told) < wanted:
            self._answered.clear()
            await self._answered.wait()

    async def _rows(self, told: Told) -> AsyncIterator[Array]:
        for n, row in enumerate(told.rows):
            while n >= self._allowed and not self._stopping:
                self._swapped.clear()
                await self._swapped.wait()
            if self._stopping:
                return
            yield row

    async def run(self, client: freshet.Client, told: Told) -> None:
        async with client.stream(FLOW, told.stream, IN_FLIGHT) as stream:
            async for forecast in stream.forecasts(self._rows(told)):
                told.note(forecast.seq, forecast.version, forecast.y)
                self._answered.set()
            await stream.durable()
            assert not stream.reconnects, f"a swap cut {told.stream}"


async def swap(client: freshet.Client, streams: Streams, times: int) -> None:
    """Promote one version after the other while ticks are in flight."""
    for number in range(2, VERSIONS + 1):
        assert (await client.import_version(FLOW, weights(number))).number == number
    for version in itertools.islice(itertools.cycle(range(VERSIONS, 0, -1)), times):
        streams.allow(8)
        promoted = asyncio.create_task(client.promote(FLOW, version))
        await streams.until_some(4)
        await promoted
    streams.stop()


def apart(serving: replay.Serving, told: Told) -> float:
    """Return the median difference of the two closest versions over the last ticks of a stream.

    The answers of two versions to a single tick may agree by chance.
    """
    x = told.rows[max(0, len(told.answers) - TICKS) : len(told.answers)]
    state = np.repeat(serving._states[1], len(x), axis=0)
    answers = []
    for serving.version in range(1, VERSIONS + 1):
        [y] = serving._graph().run(["y"], {"x": x, "u": np.zeros((len(x), 0), np.float32), "state": state})
        answers.append(y)
    return min(float(np.median(np.abs(a - b))) for a, b in itertools.combinations(answers, 2))


async def rounds(folder: Path, times: int) -> Part:
    """Swap `times` times under load, then compare every answer with the oracle."""
    part, streams = Part(rounds=times), Streams()
    async with crash.a_server(folder) as server, freshet.connect(server.grpc) as client:
        await client.create_model(FLOW, **SPEC)
        async with asyncio.TaskGroup() as group:  # any failed request ends the group
            for told in streams.told:
                group.create_task(streams.run(client, told))
            group.create_task(swap(client, streams, times))
        files = replay.Files.of(server.data)
    chunks = list(replay.read(folder / "data" / "journal"))
    verify.answers(part, chunks, {1: files}, streams.told)
    part.hits = sum(isinstance(record, Promote) for chunk in chunks for record in chunk.records)
    part.hits_of["promote"] = part.hits
    part.acknowledged = sum(len(told.answers) for told in streams.told)
    part.numbers["least difference between versions"] = least = apart(replay.served(chunks, files), streams.told[0])
    if least <= APART:
        part.wrong.append(f"two versions differ by {least:.1e} only: a wrong version would go unnoticed")
    answered = {version for told in streams.told for version, _ in told.answers.values()}
    if answered != set(range(1, VERSIONS + 1)):
        part.wrong.append(f"only versions {sorted(answered)} answered")
    part.summary = f"{part.hits} swaps, {part.acknowledged} ticks, each answered by the version that it names"
    return part


def run(folder: Path, quick: bool) -> Part:
    """Run. Quick: 50 swaps. Full: 1,000."""
    return asyncio.run(rounds(folder, 50 if quick else 1000))
