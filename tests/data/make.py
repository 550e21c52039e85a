"""`python -m tests.data.make NAME`: put a backup made by today's code, and what comes of it, into tests/data/NAME.

It has rows in every table and every kind of record: streams, late labels, windows, a quarantine, a reset, a stream that
was put, versions that were promoted and returned to, a pause, a deleted model; some of it behind the last snapshot.
What was made for a release is never made again: every later version must open it (tests/journeys/test_formats.py).
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import lzma
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import freshet
from service.datadir.backup import backup
from service.datadir.restore import restore
from service.programs.backtest.child import ServerChild

HERE = Path(__file__).parent
BACKUP, ANSWERS = "backup.tar.xz", "answers.json"
FLOW: dict[str, Any] = {
    "channels": ["x", "y"],
    "horizon": 2,
    "hidden": 4,
    "head_init": 0.3,
}  # answers that the states matter for
GRADE: dict[str, Any] = {
    "channels": ["a"], "task": "regress", "targets": ["q"], "cell": "gru", "hidden": 4, "label_horizon": 20
}  # fmt: skip
LEARNING = {"publish_s": 0.2, "publish_labels": 10**9, "checkpoint_chunks": 8, "keep_versions": 1, "snapshot_s": 3600}
STILL = {"publish_s": 3600, "publish_labels": 10**9, "snapshot_s": 3600}  # answers come from what was there


def rows(n: int, width: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(n, width): waves with noise."""
    rng, t = np.random.default_rng(seed), np.arange(n)[:, None]
    return (np.sin(t / 5 + np.arange(width)) + rng.normal(0, 0.1, (n, width))).astype(np.float32)


async def first_life(client: freshet.Client) -> None:
    """Everything there is, before the last snapshot."""
    for name, spec in (("flow", FLOW), ("grade", GRADE), ("gone", FLOW)):
        await client.create_model(name, **spec)
    for number in range(2):
        async with client.stream("flow", f"pump-{number}") as stream:
            async for _ in stream.forecasts(rows(60, 2, number), max_staleness=32):
                pass
            await stream.wait_judged(60)
    await client.promote("flow", 1)
    await client.pause("flow")
    await client.resume("flow")
    async with client.stream("flow", "pump-1") as stream:
        await stream.reset()
        await stream.step([1.0, 2.0])
    async with client.stream("grade", "kiln") as stream:
        for seq, row in enumerate(rows(40, 1, 7), 1):
            await stream.step(row)
            if seq > 10:
                await stream.label(seq - 10, [float(row[0])])
        await stream.label(30, [99.0])  # another value for the same tick: into the quarantine
        await stream.durable()
    async with client.learn("grade", source="archive") as learn:
        await learn.window(rows(16, 1, 3), rows(16, 1, 4))
        await learn.flush()
    copy = await client.get_stream("flow", "pump-0", with_state=True)
    await client.put_stream(dataclasses.replace(copy, stream="copy"))
    await client.delete_model("gone")


async def second_life(client: freshet.Client) -> None:
    """What stays behind the last snapshot."""
    async with client.stream("flow", "pump-0") as stream:
        for row in rows(20, 2, 9):
            await stream.step(row)
        await stream.wait_judged(stream.next_seq - 1)
    await client.rollback("flow", 1)
    async with client.stream("grade", "kiln") as stream:
        await stream.step([0.5])
        await stream.durable()


async def answers(client: freshet.Client) -> dict[str, Any]:
    """What the next ticks of every stream are answered, and what is known of the models."""
    told: dict[str, Any] = {}
    for model, id, width in (("flow", "pump-0", 2), ("flow", "pump-1", 2), ("flow", "copy", 2), ("grade", "kiln", 1)):
        async with client.stream(model, id) as stream:
            first = stream.next_seq
            got = [await stream.step(row) for row in rows(8, width, 11)]
            told[f"{model} {id}"] = {
                "next_seq": first, "versions": [f.version for f in got], "y": [f.y.tolist() for f in got]
            }  # fmt: skip
    for model in ("flow", "grade"):
        told[f"{model} versions"] = [version.number for version in await client.versions(model)]
        told[f"{model} quarantine"] = [item.reason async for item in client.quarantine(model)]
    return told


async def make(folder: Path) -> None:
    """Write the two files."""
    with tempfile.TemporaryDirectory() as place:
        data, log = Path(place) / "data", Path(place) / "log"
        for life in (first_life, second_life):
            server = ServerChild(data, log, settings=LEARNING)
            await server.start()
            async with freshet.connect(server.grpc) as client:
                await life(client)
            if life is first_life:
                await server.stop()
            else:
                server.kill()
                await server.wait()
        tar = Path(place) / "backup.tar"
        backup(data, tar, 0.0, lambda size: lambda written: None)
        folder.mkdir(exist_ok=True)
        (folder / BACKUP).write_bytes(lzma.compress(tar.read_bytes(), preset=9 | lzma.PRESET_EXTREME))
        told = await answered(folder, Path(place) / "again")
        lines = (f" {json.dumps(name)}: {json.dumps(value)}" for name, value in told.items())
        (folder / ANSWERS).write_text("{\n" + ",\n".join(lines) + "\n}\n")


async def answered(folder: Path, place: Path) -> dict[str, Any]:
    """What a server on the restored backup answers."""
    place.mkdir()
    (place / "backup.tar").write_bytes(lzma.decompress((folder / BACKUP).read_bytes()))
    restore(place / "backup.tar", place / "data", lambda size: lambda written: None)
    server = ServerChild(place / "data", place / "log", settings=STILL)
    async with server, freshet.connect(server.grpc) as client:
        return await answers(client)


if __name__ == "__main__":
    asyncio.run(make(HERE / sys.argv[1]))
