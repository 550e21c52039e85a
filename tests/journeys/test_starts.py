"""Starts on a damaged data directory: each is refused in one sentence with a remedy, or repaired and logged."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import freshet
from service.console.failures import ServerFailed
from service.programs.backtest.child import ServerChild
from tests.journeys.scraped import scrape

TICKS = 5


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of a drained server with one model and one stream, to be copied."""
    folder = tmp_path_factory.mktemp("made")

    async def make() -> None:
        async with ServerChild(folder / "data", folder / "log") as child:
            await tick(child, 1)

    asyncio.run(make())
    return folder / "data"


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data"))


async def tick(child: ServerChild, first: int) -> None:
    async with freshet.connect(child.grpc) as client:
        if first == 1:
            await client.create_model("m", ["a"], hidden=4)
        async with client.stream("m", "s") as stream:
            assert stream.next_seq == first
            for n in range(TICKS):
                await stream.step([float(n)])


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link(path: Path) -> None:
    elsewhere = path.with_name(f"{path.name}.elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def file(path: Path) -> None:
    shutil.rmtree(path)
    path.touch()


FAULTS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "states.db a directory": ("states.db", directory, "states.db: a directory, in place of a file"),
    "versions.db a link": ("versions.db", link, "versions.db: a link, in place of a file"),
    "trainer.db a pipe": ("trainer.db", pipe, "trainer.db: not a plain file, in place of a file"),
    "trainer.lock a link": ("trainer.lock", link, "trainer.lock: a link, in place of a file"),
    "journal/lock a link": ("journal/lock", link, "lock: a link, in place of a file"),
    "journal a file": ("journal", file, "journal: not a directory, where the journal belongs"),
    "journal gone": ("journal", shutil.rmtree, "the journal ends at position 0, before the snapshot"),
    "data a file": ("", file, "not a directory: move it away"),
    "versions.db gone": ("versions.db", Path.unlink, "versions.db: missing, and no other file has the weights"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_damaged_data_directory_is_refused_in_one_sentence(data, tmp_path, fault):
    name, spoil, said = FAULTS[fault]
    spoil(data / name)
    child = ServerChild(data, tmp_path / "log")

    for _ in range(2 if "gone" in fault else 1):  # the first start must not hide from the second that a file is missing
        (tmp_path / "log").unlink(missing_ok=True)
        with pytest.raises(ServerFailed, match="exit code 2"):
            await child.start()
        log = (tmp_path / "log").read_text()
        assert said in log
        assert "Traceback" not in log


async def test_a_lock_that_is_a_link_does_not_change_its_target(data, tmp_path):
    (data / "journal" / "lock").unlink()
    (tmp_path / "precious").write_text("precious")
    (data / "journal" / "lock").symlink_to(tmp_path / "precious")

    with pytest.raises(ServerFailed):
        await ServerChild(data, tmp_path / "log").start()

    assert (tmp_path / "precious").read_text() == "precious"


async def test_a_missing_states_db_is_recomputed_and_counted(data, tmp_path):
    (data / "states.db").unlink()

    async with ServerChild(data, tmp_path / "log") as child:
        await tick(child, TICKS + 1)
        assert (await scrape(child.http)).total("freshet_states_rebuilt_total") == 1

    assert "recomputed from the journal" in (tmp_path / "log").read_text()
    async with ServerChild(data, tmp_path / "log") as child:
        assert (await scrape(child.http)).total("freshet_states_rebuilt_total") == 0


async def test_files_readable_by_others_are_made_private_and_logged_once(data, tmp_path):
    others = 0o077
    for path in (data, *data.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    before = os.umask(0)  # the server sets its own
    try:
        async with ServerChild(data, tmp_path / "log", settings={"snapshot_s": 0.1}) as child:
            await tick(child, TICKS + 1)
            found = [path for path in (data, *data.rglob("*")) if stat.S_IMODE(path.lstat().st_mode) & others]
    finally:
        os.umask(before)

    assert found == []
    assert (tmp_path / "log").read_text().count("other users could read what clients sent") == 1


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A full file system of 2 MiB. Skips where mounting is not permitted."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "freshet-test", str(path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here")
    with (path / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(bytes(4096))
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.parametrize("pages", [0, 4, 12, 20])
async def test_a_first_start_on_a_full_disk_is_refused_and_the_next_one_succeeds(full, tmp_path, pages):
    os.truncate(full / "ballast", (full / "ballast").stat().st_size - 4096 * pages)
    child = ServerChild(full / "data", tmp_path / "log")

    with pytest.raises(ServerFailed, match="exit code 2"):
        await child.start()
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "orrupt" not in log
    assert "damaged" not in log
    assert "No space left" in log or "make room, and start again" in log

    (full / "ballast").unlink()
    async with child:
        await tick(child, 1)
    assert not list((full / "data").glob("*.damaged-*"))


async def test_on_a_full_disk_a_trainer_that_cannot_start_delays_neither_clients_nor_the_end(full, tmp_path):
    os.truncate(full / "ballast", (full / "ballast").stat().st_size - 4096 * 40)
    child = ServerChild(full / "data", tmp_path / "log")

    await child.start()
    await child.stop(grace_s=10.0)

    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "damaged" not in log


async def test_a_read_only_directory_is_refused_in_one_sentence(full, data, tmp_path):
    (full / "ballast").unlink()
    shutil.copytree(data, full / "data")
    subprocess.run(["mount", "-o", "remount,ro", str(full)], check=True)

    for name, said in (("data", "cannot be written"), ("new", "cannot be created (Read-only file system)")):
        with pytest.raises(ServerFailed, match="exit code 2"):
            await ServerChild(full / name, tmp_path / f"{name}.log").start()
        log = (tmp_path / f"{name}.log").read_text()
        assert said in log
        assert "Traceback" not in log
