"""Power cuts: the data directory is on an ext4 image, and the image is copied while the server writes to it.

The copy is what a disk would hold after a cut: what the kernel only had in memory is not in it. It is mounted, its
journal opened as a server would, and compared with what clients had been told until then.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import freshet
from tests.journeys import crash
from tests.oracles import replay
from tests.torture import verify
from tests.torture.failpoints import injected
from tests.torture.load import Load
from tests.torture.report import Part

IMAGE_BYTES = 64 << 20
NO_FSYNC = "import os\nos.fdatasync = lambda fd: None\n"
MUTANT = "no fsync"
FEW_CUTS = 5


def why_not() -> str:
    """Why there can be no power cuts here; empty where there can."""
    if os.geteuid() != 0:
        return "only root may mount an image"
    if not Path("/dev/loop-control").exists():
        return "there are no loop devices"
    missing = [name for name in ("mkfs.ext4", "mount", "umount") if shutil.which(name) is None]
    return f"{missing[0]} is not installed" if missing else ""


@contextlib.contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    """The image's file system, at a folder that is made for it."""
    at.mkdir()
    subprocess.run(["mount", "-o", "loop", image, at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)
        at.rmdir()


def cut(part: Part, image: Path, folder: Path, load: Load) -> None:
    """One cut. Nothing awaits here, so that the ledgers stay as they were when the copy began."""
    shutil.copyfile(image, folder / "cut.img")
    part.rounds += 1
    part.acknowledged += load.acknowledged
    with mounted(folder / "cut.img", folder / "cut") as left:
        lost = verify.missing(replay.survivors(left / "data", folder / "survivors"), load)
    shutil.rmtree(folder / "survivors")
    part.hits += 1
    part.hits_of["cut"] += 1
    part.lost += len(lost)
    part.wrong += lost[:3]


async def cuts(folder: Path, times: int, seed: int, code: str = "") -> Part:
    """So many cuts under load, at random moments, of a server that runs this code first."""
    rng, part, image = random.Random(seed), Part(), folder / "disk.img"
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    with mounted(image, folder / "disk") as disk, injected(folder / "inject", code):
        async with crash.a_server(disk, snapshot_s=0.3) as server, freshet.connect(server.grpc) as client:
            load = Load(client)
            running = asyncio.create_task(load.run())
            for _ in range(times):
                async with asyncio.timeout(3 * crash.DEADLINE_S):
                    await load.until_all_moved(2)
                    for _ in range(rng.randint(1, 100)):
                        await load.next_answer()
                cut(part, image, folder, load)
            load.stop()
            await asyncio.wait_for(running, 2 * crash.DEADLINE_S)
    part.summary = f"{part.hits} power cuts, {part.acknowledged} acknowledged before them, {part.lost} lost"
    return part


async def both(folder: Path, times: int) -> Part:
    """The server as it is, which must lose nothing; and the mutant without fsync, which must lose."""
    for name in ("sound", "mutant"):
        (folder / name).mkdir()
    part = await cuts(folder / "sound", times, seed=0)
    mutant = await cuts(folder / "mutant", FEW_CUTS, seed=1, code=NO_FSYNC)
    (part.mutants_caught if mutant.lost else part.mutants_survived).append(MUTANT)
    part.numbers["lost by the mutant"] = mutant.lost
    part.summary += f"; without fsync {mutant.lost} of {mutant.acknowledged} in {mutant.hits} cuts"
    return part


def run(folder: Path, quick: bool) -> Part:
    """Quick: 5 cuts; full: 200."""
    reason = why_not()
    if reason:
        return Part(summary=f"no power cuts: {reason}", skipped=True)
    return asyncio.run(both(folder, FEW_CUTS if quick else 200))
