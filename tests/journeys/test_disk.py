"""Disks that are full, and disks that fail: a real server on a real small disk, a real client."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import freshet
from freshet.v1 import streams_pb2 as pb
from freshet.v1 import types_pb2
from service.programs.backtest.child import ServerChild
from tests.journeys.conftest import QUICK
from tests.journeys.crash import mutate, trainer_of
from tests.journeys.raw import DEADLINE_S, RawStream, channel_to
from tests.journeys.raw_mux import RawMux, columns
from tests.journeys.scraped import Scraped, get, scrape, scraped_until

LEARNING: dict[str, Any] = {"head_init": 0.3, "hidden": 8}
ROWS = np.cumsum(np.random.default_rng(5).standard_normal((400, 2)), axis=0).astype(np.float32)
MAX_UNDURABLE = 16
OFTEN = {"snapshot_s": 0.2, "checkpoint_chunks": 2, "max_undurable": MAX_UNDURABLE}


class SmallDisk:
    """A file system of a few MiB that can be filled to the last byte, and emptied again."""

    def __init__(self, path: Path) -> None:
        self.path, self._ballast = path, path / "ballast"

    def fill(self) -> None:
        """Leave no room, again and again: what others give back meanwhile is taken too."""
        with self._ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    def empty(self) -> None:
        """Give all that was taken back."""
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A tmpfs of its own. Skips where mounting one is not permitted."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "freshet-test", str(path)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@contextlib.asynccontextmanager
async def a_server(data: Path, log: Path, **settings: object) -> AsyncIterator[ServerChild]:
    child = ServerChild(data, log, settings={**QUICK, **OFTEN, **settings})
    await child.start()
    try:
        yield child
    finally:
        if child.running:
            await child.stop()


async def until_full(stream: RawStream, seq: int, disk: SmallDisk) -> tuple[int, types_pb2.Refused]:
    """Tick from `seq`, taking what room there is, until one is refused because of it: the last tick that was answered,
    and the refusal. (One that is only ahead of the disk is sent again.)"""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            disk.fill()
            answer = await stream.tick(seq, ROWS[seq % len(ROWS)].tolist())
            if answer.HasField("forecast"):
                seq += 1
            elif "the disk is full" in answer.refused.remedy:
                return seq - 1, answer.refused


async def packed_until_full(mux: RawMux) -> types_pb2.Refused:
    """The same by Mux, on a stream of its own that is bound already."""
    seq = 1
    async with asyncio.timeout(DEADLINE_S):
        while True:
            await mux.say(ticks=columns([0], [seq], ROWS[seq : seq + 1]))
            answer = await mux.answer()
            if answer.refused:
                return answer.refused[0].refused
            seq += 1


async def test_on_a_full_disk_forecasts_go_on_to_the_bound_and_all_is_durable_once_there_is_room(disk, tmp_path):
    async with a_server(disk.path / "data", tmp_path / "log") as child, channel_to(child.grpc) as channel:
        async with freshet.connect(child.grpc) as client:
            await client.create_model("m", ["a", "b"], **LEARNING)
            async with RawStream(channel, "m", "s") as stream, RawMux(channel, "m") as mux:
                await mux.bind({0: "packed"})
                for seq in range(1, 60):  # learned from, published, saved
                    assert (await stream.tick(seq, ROWS[seq].tolist())).HasField("forecast")
                    await stream.until_durable(seq)

                disk.fill()
                last, refused = await until_full(stream, 60, disk)
                await stream.until_durable(last - MAX_UNDURABLE)
                durable = stream.durable.seq

                assert refused.reason == types_pb2.Refused.OVERLOADED
                assert "the disk is full" in refused.remedy
                assert last - durable == MAX_UNDURABLE, "forecasts go on up to the bound, and no further"
                status, said = await asyncio.to_thread(get, f"http://{child.http}/readyz")
                assert (status, said) == (503, "not ready: the disk is full\n")
                assert (await asyncio.to_thread(get, f"http://{child.http}/healthz"))[0] == 200
                with pytest.raises(freshet.ResourceExhausted) as caught:
                    await client.create_model("another", ["a"])
                assert caught.value.retry_delay_s
                assert (await packed_until_full(mux)).reason == types_pb2.Refused.OVERLOADED
                seen = await scrape(child.http)
                assert seen.total("freshet_disk_full_total", what="journal") > 0
                assert seen.total("freshet_journal_no_space") == 1
                assert stream.durable.seq == durable, "nothing is acknowledged"

                disk.empty()
                await stream.until_durable(last)  # by itself
                assert (await stream.tick(last + 1, ROWS[0].tolist())).HasField("forecast")
                await stream.until_durable(last + 1)
            await scraped_until(child.http, lambda s: s.total("freshet_snapshot_seconds_count") > 0)
            assert (await asyncio.to_thread(get, f"http://{child.http}/readyz"))[0] == 200
            await client.create_model("another", ["a"])
        child.kill()
        await child.wait()

        await child.start()
        async with channel_to(child.grpc) as again, RawStream(again, "m", "s") as stream:
            assert (stream.welcome.next_seq, stream.welcome.durable_seq) == (last + 2, last + 1)
        assert await child.stop() == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


async def test_snapshots_versions_and_checkpoints_without_room_are_counted_and_come_later(disk, tmp_path):
    data = disk.path / "data"
    data.mkdir()
    (tmp_path / "journal").mkdir()
    (data / "journal").symlink_to(tmp_path / "journal")  # which keeps its room
    async with a_server(data, tmp_path / "log") as child, channel_to(child.grpc) as channel:
        async with freshet.connect(child.grpc) as client:
            await client.create_model("m", ["a", "b"], **LEARNING)

        async def tick_until(true: Any, seq: int) -> int:
            """Tick until the metrics say so; the next seq."""
            async with asyncio.timeout(2 * DEADLINE_S), RawStream(channel, "m", "s") as stream:
                while not true(await scrape(child.http)):
                    disk.fill() if full else None
                    for seq in range(seq, seq + 8):  # noqa: B020  # goes on from where it was
                        assert (await stream.tick(seq, ROWS[seq % len(ROWS)].tolist())).HasField("forecast")
                        await stream.until_durable(seq)
                    seq += 1
            return seq

        full = True
        refused = ("snapshot", "version", "checkpoint")
        seq = await tick_until(
            lambda s: all(s.total("freshet_disk_full_total", what=what) for what in refused), seq=1
        )  # fmt: skip
        assert child.running

        disk.empty()
        full = False
        before = await scrape(child.http)
        grown = ("freshet_snapshot_seconds_count", "freshet_version", "freshet_learner_updates_total")
        await tick_until(lambda s: all(s.total(name) > before.total(name) for name in grown), seq)
        assert (await scrape(child.http)).total("freshet_trainer_restarts_total") == 0
        assert await child.stop() == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


FAILING_SYNC = """
import os
real = os.fdatasync
def fdatasync(fd):
    with open({calls!r}, "a") as calls:
        calls.write("failed\\n" if os.path.exists({broken!r}) else "done\\n")
    if os.path.exists({broken!r}):
        raise OSError(5, "Input/output error")
    real(fd)
os.fdatasync = fdatasync
"""


async def test_after_a_failed_sync_clients_are_told_and_the_server_ends_without_trying_again(tmp_path, monkeypatch):
    calls, broken = tmp_path / "calls", tmp_path / "broken"
    mutate(monkeypatch, tmp_path, FAILING_SYNC.format(calls=str(calls), broken=str(broken)))
    async with a_server(tmp_path / "data", tmp_path / "log") as child, channel_to(child.grpc) as channel:
        async with freshet.connect(child.grpc) as client:
            await client.create_model("m", ["a", "b"], **LEARNING)
        async with RawStream(channel, "m", "s") as stream, RawStream(channel, "m", "idle") as idle:
            await stream.tick(1, ROWS[0].tolist())
            await stream.until_durable(1)

            broken.touch()
            await stream.say(tick=pb.Tick(seq=2, x=ROWS[1]))

            assert (await stream.error()).code() is grpc.StatusCode.UNAVAILABLE
            assert (await idle.error()).code() is grpc.StatusCode.UNAVAILABLE
            assert stream.durable.seq == 1, "tick 2 is not acknowledged"
        assert await asyncio.wait_for(child.wait(), DEADLINE_S) == 1
        assert calls.read_text().split().count("failed") == 1

        broken.unlink()
        await child.start()  # from the log
        async with channel_to(child.grpc) as again, RawStream(again, "m", "s") as stream:
            assert stream.welcome.durable_seq >= 1
            assert stream.welcome.next_seq == stream.welcome.durable_seq + 1
        assert await child.stop() == 0


@contextlib.asynccontextmanager
async def failing(pid: int, file: Path, call: str, trace: Path) -> AsyncIterator[None]:
    """Every such system call of the process on the file fails with EIO, in the kernel; those made are in `trace`."""
    if shutil.which("strace") is None:
        pytest.skip("no strace here, which makes system calls fail: `python3 dev.py test` installs it where it may")
    strace = await asyncio.create_subprocess_exec(
        "strace", "-f", "-p", str(pid), "-P", str(file), "-o", str(trace),
        "-e", f"trace={call}", "-e", f"inject={call}:error=EIO", stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert strace.stderr is not None
    try:
        said = (await asyncio.wait_for(strace.stderr.readline(), DEADLINE_S)).decode()
        while "attached" not in said:  # after a note on what -P has found
            if not said or "not permitted" in said:
                pytest.skip(f"tracing is not permitted here: {said}")
            said = (await asyncio.wait_for(strace.stderr.readline(), DEADLINE_S)).decode()
        yield
    finally:
        if strace.returncode is None:
            strace.terminate()  # which lets the server go on, where it still runs
        await strace.wait()


@pytest.mark.parametrize("call", ["fdatasync", pytest.param("pwrite64", marks=pytest.mark.long)])
async def test_after_an_io_error_of_the_kernel_nothing_is_tried_again_and_nothing_acknowledged_is_lost(tmp_path, call):
    async with a_server(tmp_path / "data", tmp_path / "log") as child, channel_to(child.grpc) as channel:
        async with freshet.connect(child.grpc) as client:
            await client.create_model("m", ["a", "b"], learn=False, **LEARNING)
        async with RawStream(channel, "m", "s") as stream, RawStream(channel, "m", "idle") as idle:
            for seq in range(1, 6):
                await stream.tick(seq, ROWS[seq].tolist())
            await stream.until_durable(5)

            [segment] = (child.data / "journal").glob("*.journal")
            async with failing(child.pid, segment, call, tmp_path / "trace"):
                await stream.say(tick=pb.Tick(seq=6, x=ROWS[6]))

                assert (await stream.error()).code() is grpc.StatusCode.UNAVAILABLE
                assert (await idle.error()).code() is grpc.StatusCode.UNAVAILABLE
                assert await asyncio.wait_for(child.wait(), DEADLINE_S) == 1
            assert stream.durable.seq == 5, "tick 6 is not acknowledged"
        assert (tmp_path / "trace").read_text().count("(INJECTED)") == 1

        await child.start()  # from the log
        async with channel_to(child.grpc) as again, RawStream(again, "m", "s") as stream:
            assert stream.welcome.durable_seq >= 5
            assert stream.welcome.next_seq == stream.welcome.durable_seq + 1
        assert await child.stop() == 0


@pytest.mark.parametrize("file", ["states.db-wal", pytest.param("versions.db-wal", marks=pytest.mark.long)])
async def test_a_database_whose_sync_fails_ends_the_server_and_costs_nothing_that_was_acknowledged(tmp_path, file):
    async with a_server(tmp_path / "data", tmp_path / "log") as child, channel_to(child.grpc) as channel:
        async with freshet.connect(child.grpc) as client:
            await client.create_model("m", ["a", "b"], **LEARNING)
        async with RawStream(channel, "m", "s") as stream:
            seq = 0

            async def go_on() -> None:
                nonlocal seq
                while True:
                    seq += 1
                    await stream.tick(seq, ROWS[seq % len(ROWS)].tolist())
                    await stream.until_durable(seq)

            async with failing(child.pid, child.data / file, "fdatasync", tmp_path / "trace"):
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await go_on()  # until there is a snapshot, or a version, to be saved
                # A write that meets the end of the call leaves gRPC's own INTERNAL of the status (grpc/grpc#36066).
                assert await stream.call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)
                assert await asyncio.wait_for(child.wait(), DEADLINE_S) == 1
            durable = stream.durable.seq
        assert "(INJECTED)" in (tmp_path / "trace").read_text()

        await child.start()
        async with channel_to(child.grpc) as again, RawStream(again, "m", "s") as stream:
            assert stream.welcome.durable_seq >= durable
        assert await child.stop() == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


async def test_a_checkpoint_whose_sync_fails_ends_the_trainer_which_begins_again_and_nobody_notices(tmp_path):
    async with a_server(tmp_path / "data", tmp_path / "log") as child, channel_to(child.grpc) as channel:
        async with freshet.connect(child.grpc) as client:
            await client.create_model("m", ["a", "b"], **LEARNING)
        async with RawStream(channel, "m", "s") as stream:
            seq = 0

            async def tick_until(true: Callable[[Scraped], bool]) -> Scraped:
                nonlocal seq
                while not true(seen := await scrape(child.http)):
                    seq += 1
                    assert (await stream.tick(seq, ROWS[seq % len(ROWS)].tolist())).HasField("forecast")
                    await stream.until_durable(seq)
                return seen

            async with asyncio.timeout(2 * DEADLINE_S):
                trainer = trainer_of(child)
                async with failing(trainer, child.data / "trainer.db-wal", "fdatasync", tmp_path / "trace"):
                    before = await tick_until(lambda s: s.total("freshet_trainer_restarts_total") > 0)
                published = before.total("freshet_version") + 1
                await tick_until(lambda s: s.total("freshet_version") > published)
        assert "(INJECTED)" in (tmp_path / "trace").read_text()
        assert trainer_of(child) != trainer


async def test_readiness_and_health_say_that_the_disk_is_full_while_nothing_is_written_and_recover(disk, tmp_path):
    async with (
        a_server(disk.path / "data", tmp_path / "log", snapshot_s=3600) as child,
        channel_to(child.grpc) as channel,
    ):
        check = health_pb2_grpc.HealthStub(channel).Check

        async def until(code: int, body: str, status: Any) -> None:
            async with asyncio.timeout(DEADLINE_S):
                while await asyncio.to_thread(get, f"http://{child.http}/readyz") != (code, body):
                    await asyncio.sleep(0.05)
                for service in ("", "freshet.v1.Streams"):
                    while (await check(health_pb2.HealthCheckRequest(service=service))).status != status:
                        await asyncio.sleep(0.05)

        await until(200, "ready\n", health_pb2.HealthCheckResponse.SERVING)
        disk.fill()
        await until(503, "not ready: the disk is full\n", health_pb2.HealthCheckResponse.NOT_SERVING)
        assert (await asyncio.to_thread(get, f"http://{child.http}/healthz"))[0] == 200
        disk.empty()
        await until(200, "ready\n", health_pb2.HealthCheckResponse.SERVING)
