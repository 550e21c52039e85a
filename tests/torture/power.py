"""Power cuts: the data directory is on an ext4 image, and the image is copied while the server writes to it.

The copy is the content of a disk after a cut, without data that was only in the memory of the kernel. It is mounted,
its journal is opened as a server opens it, and compared with the acknowledgements of the clients. After some cuts a
real server starts from the copy, its streams resume, and the weights of its trainer are compared with an uninterrupted
fold.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import freshet
from service.programs.backtest.child import ServerChild
from service.trainer.checkpoint import Checkpoints
from tests.journeys import crash
from tests.journeys.crash import trainer_of
from tests.oracles import replay
from tests.torture import verify
from tests.torture.failpoints import injected
from tests.torture.load import FLOW, LAB, Load, Told
from tests.torture.report import Part

IMAGE_BYTES = 64 << 20
NO_FSYNC = "import os\nos.fdatasync = lambda fd: None\n"
MUTANT = "no fsync"
FEW_CUTS = 5
MOST_CUTS = 100  # of the mutant, which usually loses something in the first one


def why_not() -> str:
    """Return why power cuts cannot be tested here; empty if they can."""
    if os.geteuid() != 0:
        return "only root may mount an image"
    if not Path("/dev/loop-control").exists():
        return "there are no loop devices"
    missing = [name for name in ("mkfs.ext4", "mount", "umount") if shutil.which(name) is None]
    return f"{missing[0]} is not installed" if missing else ""


@contextlib.contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    """Mount the file system of the image at a new folder."""
    at.mkdir()
    subprocess.run(["mount", "-o", "loop", image, at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)
        at.rmdir()


@contextlib.contextmanager
def paused(pids: Sequence[int]) -> Iterator[None]:
    """Let processes write nothing inside."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def cut(part: Part, image: Path, folder: Path, load: Load, pids: Sequence[int]) -> dict[str, int]:
    """Cut once: copies what is left to folder/left. Returns the acknowledged durable ticks by stream.

    Nothing awaits here, so the ledgers do not change during the copy, and the server and its trainer (pids) pause: a
    disk after a cut is of one moment, and a copy that takes longer would hold blocks of different moments.
    """
    with paused(pids):
        shutil.copyfile(image, folder / "cut.img")
    part.rounds += 1
    part.acknowledged += load.acknowledged
    with mounted(folder / "cut.img", folder / "cut") as left:
        lost = verify.missing(replay.survivors(left / "data", folder / "survivors"), load)
        shutil.copytree(left / "data", folder / "left")
    shutil.rmtree(folder / "survivors")
    part.hits += 1
    part.hits_of["cut"] += 1
    part.lost += len(lost)
    part.wrong += lost[:3]
    return {told.stream: told.durable for told in load.told}


async def start_from(part: Part, left: Path, durable: dict[str, int], streams: list[Told]) -> None:
    """Start a real server from the files of a cut: each stream resumes after its durable ticks, and the weights equal
    an uninterrupted fold of the journal."""
    async with ServerChild(left, left / "log", settings=crash.BUSY) as server, freshet.connect(server.grpc) as client:
        for told in streams:
            async with client.stream({1: FLOW, 2: LAB}[told.model], told.stream) as stream:
                kept = stream.next_seq - 1
                part.lost += max(0, durable[told.stream] - kept)
                if kept and stream.welcome.state_origin != freshet.StateOrigin.RESUMED:
                    part.wrong.append(f"{told.stream} did not resume: {stream.welcome}")
                await stream.step(told.rows[kept])
        if await server.stop() != 0:
            part.wrong.append(f"the server started after the cut did not drain{server.last_words()}")
    checkpoints = Checkpoints(left / "trainer.db")
    _, models = checkpoints.load(crash.GATE)
    checkpoints.close()
    chunks = list(replay.read(left / "journal"))
    for number, hosted in models.items():
        verify.learning(part, chunks, replay.Files.of(left, number), hosted)
    part.hits_of["a server started from what was left"] += 1


async def cuts(
    folder: Path, times: int, seed: int, code: str = "", start_each: int = 0, until_lost: bool = False
) -> Part:
    """Cut `times` times under load at random moments, of a server that runs `code` first. Start a server after every
    `start_each`-th cut; 0: after none. until_lost: end after the first cut that lost something."""
    rng, part, image = random.Random(seed), Part(), folder / "disk.img"
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    with mounted(image, folder / "disk") as disk, injected(folder / "inject", code):
        async with crash.a_server(disk, snapshot_s=0.3) as server, freshet.connect(server.grpc) as client:
            load = Load(client)
            running = asyncio.create_task(load.run())
            for n in range(times):
                async with asyncio.timeout(3 * crash.DEADLINE_S):
                    await load.until_all_moved(2)
                    for _ in range(rng.randint(1, 100)):
                        await load.next_answer()
                pids = [pid for pid in (server.pid, trainer_of(server)) if pid]
                durable = cut(part, image, folder, load, pids)
                if start_each and n % start_each == 0:
                    await start_from(part, folder / "left", durable, load.told)
                shutil.rmtree(folder / "left")
                if until_lost and part.lost:
                    break
            load.stop()
            await asyncio.wait_for(running, 2 * crash.DEADLINE_S)
    part.summary = f"{part.hits} power cuts, {part.acknowledged} acknowledged before them, {part.lost} lost"
    return part


async def both(folder: Path, times: int, start_each: int = 1) -> Part:
    """Cut the real server, which must lose nothing, and the mutant without fsync, which must lose something."""
    for name in ("sound", "mutant"):
        (folder / name).mkdir()
    part = await cuts(folder / "sound", times, seed=0, start_each=start_each)
    mutant = await cuts(folder / "mutant", MOST_CUTS, seed=1, code=NO_FSYNC, until_lost=True)
    (part.mutants_caught if mutant.lost else part.mutants_survived).append(MUTANT)
    part.numbers["lost by the mutant"] = mutant.lost
    part.summary += f"; without fsync {mutant.lost} of {mutant.acknowledged} in {mutant.hits} cuts"
    return part


def run(folder: Path, quick: bool) -> Part:
    """Run. Quick: 5 cuts and a server after each. Full: 200 cuts and a server after every tenth."""
    reason = why_not()
    if reason:
        return Part(summary=f"no power cuts: {reason}", skipped=True)
    return asyncio.run(both(folder, FEW_CUTS) if quick else both(folder, 200, start_each=10))
