"""A backup is one moment of a data directory that goes on changing; only a whole one is restored, as it was."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import re
import shutil
import sqlite3
import subprocess
import tarfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from service.cli.backup import MIB, _progress
from service.datadir import backup as backups
from service.datadir.archive import ArchiveRefused, Head, Writer
from service.datadir.backup import BackupRefused, backup
from service.datadir.restore import RestoreRefused, restore
from service.datadir.staging import InUse, staging
from service.journal.segments import JournalDamaged
from service.storage.database import DatabaseRefused
from service.storage.disk import NoSpace
from tests.conftest import seeds
from tests.service.histories import digest
from tests.service.one_process import World, key, world
from tests.service.test_journal_retention import NOTHING, SMALL, checkpoint, long_history
from tests.service.test_recovery import recovered, seen, some_history


def untold(size: int) -> Callable[[int], None]:
    return lambda written: None


def restored(archive: Path, data: Path) -> Path:
    restore(archive, data, untold)
    return data


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A backup of a small history, in many segments."""

    async def live() -> Path:
        folder = tmp_path_factory.mktemp("whole")
        async with world(folder / "data", **SMALL) as live:
            await some_history(live, np.random.default_rng(5), 40, snapshots=True)
            model = await live.model("flow")
            session = live.open(model, "pump")
            for n in range(80):
                await live.ticks(model, [(session, float(n))] * 8)
                await live.server.journal.flush()
            await checkpoint(live)
            assert backup(folder / "data", folder / "whole.tar", 1.0, untold).segments > 2
        return folder / "whole.tar"

    return asyncio.run(live())


# ---- one moment


@seeds(2)
async def test_what_is_restored_serves_and_learns_as_the_server_it_was_taken_from(tmp_path, seed):
    async with world(tmp_path / "data", **SMALL, **NOTHING) as live:
        await long_history(live, np.random.default_rng(seed))
        backup(tmp_path / "data", tmp_path / "b.tar", 1.0, untold)
        serves = seen(live)
        await live.learn()
        learned = {n: digest(hosted) for n, hosted in live.trainer.models.items()}

    first = restored(tmp_path / "b.tar", tmp_path / "first")
    assert sorted(files(first)) == sorted(name for name in files(tmp_path / "data") if not name.endswith("lock"))
    assert await recovered(first) == serves
    async with world(restored(tmp_path / "b.tar", tmp_path / "second"), **SMALL) as other:
        await other.learn()
        assert {n: digest(hosted) for n, hosted in other.trainer.models.items()} == learned


async def test_a_stopped_servers_directory_is_backed_up_too_and_stays_as_it_was(tmp_path):
    async with world(tmp_path / "data", **SMALL) as live:
        await long_history(live, np.random.default_rng(1))
        serves = seen(live)
    before = files(tmp_path / "data")

    backup(tmp_path / "data", tmp_path / "b.tar", 1.0, untold)

    after = files(tmp_path / "data")
    assert {name: after[name] for name in before} == before
    assert await recovered(restored(tmp_path / "b.tar", tmp_path / "new")) == serves


async def in_between(
    live: World, out: Path, name: str, happens: Callable[[], Coroutine[Any, Any, object]], monkeypatch, path: str = ""
) -> None:
    """Take a backup in a thread; at its first call of a function of its own (with such a path), something happens to
    the server first."""
    loop, happened = asyncio.get_running_loop(), False
    original = getattr(backups, name)

    def hooked(*arguments):
        nonlocal happened
        if not happened and path in str(arguments[0]):
            happened = True
            asyncio.run_coroutine_threadsafe(happens(), loop).result(60)
        return original(*arguments)

    monkeypatch.setattr(backups, name, hooked)
    await asyncio.to_thread(backup, Path(live.server.config.data), out, 1.0, untold)
    assert happened


async def starts_as(archive: Path, data: Path, serves: object) -> bool:
    """Whether a server starts from the backup, and serves what it should."""
    try:
        return await recovered(restored(archive, data)) == serves
    except Exception:
        return False


@pytest.mark.parametrize("is_mutant", [False, True], ids=["held open", "read by name"])
async def test_segments_that_retention_deletes_meanwhile_are_in_it_all_the_same(tmp_path, monkeypatch, is_mutant):
    if is_mutant:
        monkeypatch.setattr(backups.OpenSegment, "open", lambda self: self.path.open("rb"))
    async with world(tmp_path / "data", **SMALL, **NOTHING) as live:
        rng = np.random.default_rng(2)
        await long_history(live, rng)
        while len([*(tmp_path / "data" / "journal").glob("*")]) < 4:  # so that retention finds something
            await some_history(live, rng, 30, snapshots=False)
            await live.server.journal.flush()
        serves, first = seen(live), live.server.journal.first_position

        async def retention() -> None:
            await checkpoint(live)
            await live.snapshot()
            assert live.server.journal.first_position > first

        try:
            await in_between(live, tmp_path / "b.tar", "copy_database", retention, monkeypatch)
        except FileNotFoundError:
            assert is_mutant
            return
    assert not is_mutant
    assert await starts_as(tmp_path / "b.tar", tmp_path / "new", serves)


@pytest.mark.parametrize("is_mutant", [False, True], ids=["looked at again", "not looked at again"])
async def test_a_snapshot_while_it_looks_takes_no_version_away_that_it_needs(tmp_path, monkeypatch, is_mutant):
    async with world(tmp_path / "data", keep_versions=1) as live:
        model = await live.model()
        session = live.open(model, "pump")

        async def versions_and_snapshots() -> None:
            for seed in range(4):
                await live.publish(model, seed)
                await live.tick(model, session, float(seed))
                await checkpoint(live)
                await live.snapshot()

        await versions_and_snapshots()
        await live.tick(model, session, 1.0)
        await live.server.journal.flush()
        if is_mutant:
            monkeypatch.setattr(backups, "_positions", lambda data: mock.ANY)
        await in_between(live, tmp_path / "b.tar", "_models", versions_and_snapshots, monkeypatch)
        serves = seen(live)
    assert await starts_as(tmp_path / "b.tar", tmp_path / "new", serves) != is_mutant


@pytest.mark.parametrize("is_mutant", [False, True], ids=["looked at again", "not looked at again"])
async def test_a_model_that_is_deleted_while_it_looks_is_not_in_it_by_half(tmp_path, monkeypatch, is_mutant):
    if is_mutant:
        monkeypatch.setattr(backups, "_models", lambda path, connection: set())
    async with world(tmp_path / "data") as live:
        model = await live.model()
        await live.tick(model, live.open(model, "pump"), 1.0)
        await live.snapshot()

        async def deleted() -> None:
            await live.control.delete(key("flow"))

        await in_between(live, tmp_path / "b.tar", "_hold", deleted, monkeypatch, "versions.db")
    assert await starts_as(tmp_path / "b.tar", tmp_path / "new", {}) != is_mutant


def test_where_nothing_ever_holds_still_it_gives_up_and_says_what_to_do(tmp_path, whole, monkeypatch):
    data = restored(whole, tmp_path / "data")
    looks = iter(range(10**6))
    monkeypatch.setattr(backups, "_positions", lambda data: {"states.db": next(looks)})
    with pytest.raises(BackupRefused, match="raise snapshot_s, or stop the server"):
        backup(data, tmp_path / "b.tar", 1.0, untold)
    assert next(looks) == backups.TRIES
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


# ---- what is restored


def built(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    """A tar of these members."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for info, data in members:
            info.size = info.size or len(data)
            tar.addfile(info, io.BytesIO(data + bytes(max(0, min(info.size, 4096) - len(data)))))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info


HEAD = (member("head.json"), json.dumps({"format": 1, "created": 1, "position": 0}).encode())
HOSTILE = {
    "a name that leads elsewhere": ([HEAD, (member("../evil"), b"x")], "'../evil', which is not part of a backup"),
    "an absolute name": ([HEAD, (member("/tmp/evil"), b"x")], "'/tmp/evil', which is not part of a backup"),
    "a segment elsewhere": ([HEAD, (member("journal/../../evil.journal"), b"x")], "which is not part of a backup"),
    "a symbolic link": ([HEAD, (member("states.db", tarfile.SYMTYPE, link="/etc/passwd"), b"")], "not a plain file"),
    "a hard link": ([HEAD, (member("states.db", tarfile.LNKTYPE, link="head.json"), b"")], "not a plain file"),
    "a device": ([HEAD, (member("states.db", tarfile.CHRTYPE), b"")], "not a plain file"),
    "a directory": ([HEAD, (member("journal", tarfile.DIRTYPE), b"")], "not a plain file"),
    "a sparse file": ([HEAD, (member("states.db", tarfile.GNUTYPE_SPARSE), b"")], "not a plain file"),
    "extended headers": ([(member("x", tarfile.XHDTYPE), b"30 size=99999999999999999999\n")], "not a plain file"),
    "a name twice": ([HEAD, (member("states.db"), b"x"), (member("states.db"), b"y")], "states.db twice"),
    "another tar": ([(member("readme"), b"hello")], "is not a backup of freshet"),
    "a head that is no JSON": ([(member("head.json"), b"[" * 100_000)], "head.json is damaged"),
    "a head of a time that no clock shows": (
        [(member("head.json"), b'{"format": 1, "created": 1e99, "position": 0}')],
        "head.json is damaged",
    ),
    "a head of a time after all others": (
        [(member("head.json"), b'{"format": 1, "created": 99999999999999999999, "position": 0}')],
        "head.json is damaged",
    ),
    "a head without a format": ([(member("head.json"), b"{}")], "head.json is damaged"),
    "no manifest": ([HEAD, (member("states.db"), b"x")], "ends before its manifest: it is cut off"),
    "a manifest of nothing": ([HEAD, (member("manifest.json"), b"{}")], "holds no states.db"),
    "a manifest that is a list": (
        [HEAD, (member("states.db"), b"x"), (member("manifest.json"), b"[]")],
        "not as it was",
    ),
    "a newer format": (
        [(member("head.json"), b'{"format": 2, "new": 1}')],
        "backup format 2, this version of freshet reads format 1; restore it with the version that wrote it",
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_is_refused_and_nothing_is_written(tmp_path, what):
    members, says = HOSTILE[what]
    archive = built(tmp_path / "b.tar", *members)
    (tmp_path / "in").mkdir()

    with pytest.raises((ArchiveRefused, RestoreRefused)) as refused:
        restore(archive, tmp_path / "in" / "data", untold)

    assert f"{archive}: " in str(refused.value)
    assert says in str(refused.value)
    assert files(tmp_path) == {"b.tar": archive.read_bytes()}


@pytest.mark.parametrize("data", [b"", b"PK\3\4", bytes(10_240), b"\x1f\x8b" + bytes(2000), b"x" * 5000])
def test_what_is_no_tar_is_refused(tmp_path, data):
    (tmp_path / "b.tar").write_bytes(data)
    with pytest.raises(ArchiveRefused, match=r"b\.tar: "):
        restore(tmp_path / "b.tar", tmp_path / "data", untold)


@pytest.mark.parametrize("size", [10**6, 2**40, 2**62])
def test_a_member_larger_than_the_archive_is_refused_before_a_byte_of_it_is_written(tmp_path, size):
    info = member("states.db", size=size)
    archive = tmp_path / "b.tar"
    archive.write_bytes(
        built(tmp_path / "head.tar", HEAD).read_bytes()[:1024] + info.tobuf(tarfile.GNU_FORMAT) + b"x" * 999
    )
    with pytest.raises(ArchiveRefused, match=f"states.db has {size} bytes, more than are left in the file"):
        restore(archive, tmp_path / "data", untold)


def test_an_archive_for_which_there_is_no_room_is_refused_before_anything_is_written(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: mock.Mock(free=1000))
    with pytest.raises(NoSpace, match="the disk has room for 1000"):
        restore(whole, tmp_path / "data", untold)
    assert not list(tmp_path.iterdir())


def placed(archive: Path) -> list[tuple[str, int, int]]:
    """Name, and where its header begins and its bytes end, of each member."""
    with tarfile.open(archive) as tar:
        return [(m.name, m.offset, m.offset_data + m.size) for m in tar]


@pytest.mark.parametrize("is_mutant", [False, True], ids=["compared", "not compared"])
def test_a_changed_byte_is_found_and_its_file_named(tmp_path, whole, monkeypatch, is_mutant):
    if is_mutant:
        monkeypatch.setattr("service.datadir.archive._Reader._compare", lambda self, manifest, found: None)
    rng, accepted, named = np.random.default_rng(0), 0, 0
    for name, begin, end in placed(whole):
        for at in [begin, *rng.integers(begin + 512, end, 2).tolist()]:
            data = bytearray(whole.read_bytes())
            data[at] ^= 1 << int(rng.integers(8))
            (tmp_path / "b.tar").write_bytes(data)
            try:
                restore(tmp_path / "b.tar", tmp_path / f"data-{at}", untold)
                accepted += 1
            except (ArchiveRefused, RestoreRefused, DatabaseRefused, JournalDamaged) as error:
                named += name in str(error)
    assert (accepted > 0) == is_mutant
    assert is_mutant or named >= 2 * (len(placed(whole)) - 2), "all but head and manifest"


def test_a_backup_that_was_cut_off_is_refused_wherever_it_was(tmp_path, whole):
    data, end = whole.read_bytes(), placed(whole)[-1][2]
    for cut in np.linspace(0, end - 1, 40).astype(int).tolist():
        (tmp_path / "b.tar").write_bytes(data[:cut])
        with pytest.raises(ArchiveRefused, match=r"b\.tar: "):
            restore(tmp_path / "b.tar", tmp_path / "data", untold)
    assert not (tmp_path / "data").exists()


def rebuilt(folder: Path, out: Path, position: int) -> Path:
    """A backup of a directory's files as they are, with a manifest that is right."""
    with out.open("wb") as file:
        writer = Writer(file, Head(1, position))
        for path in (*sorted(folder.glob("*.db")), *sorted(folder.glob("journal/*.journal"))):
            with path.open("rb") as source:
                writer.add(str(path.relative_to(folder)), path.stat().st_size, source, lambda written: None)
        writer.close()
    return out


def begin_at_0(states: Path, first: Path) -> None:
    """The snapshot needs the journal from its start, which is gone."""
    with sqlite3.connect(states) as sql:
        sql.execute("UPDATE snapshot SET position = 0")
    sql.close()
    first.unlink()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda data: sorted(data.glob("journal/*"))[-1].unlink(), "restore both from the same moment"),
        (lambda data: [path.unlink() for path in data.glob("journal/*")], "restore both from the same moment"),
        (lambda data: sorted(data.glob("journal/*"))[1].unlink(), "does not continue the segment before it"),
        (lambda data: begin_at_0(data / "states.db", sorted(data.glob("journal/*"))[0]), "and should hold 0 to"),
        (lambda data: (data / "states.db").unlink(), "holds no states.db"),
        (lambda data: (data / "versions.db").write_bytes(b"x" * 9000), "a database in it is damaged"),
        (lambda data: data.joinpath("journal", f"{9**18:020d}.journal").write_bytes(b"x"), "header is cut off"),
    ],
)
def test_files_that_do_not_belong_together_are_refused_although_each_is_as_it_was_written(tmp_path, whole, spoil, says):
    data = restored(whole, tmp_path / "spoilt")
    position = restore(whole, tmp_path / "again", untold).head.position
    spoil(data)
    with pytest.raises(RestoreRefused) as refused:
        restore(rebuilt(data, tmp_path / "b.tar", position), tmp_path / "new", untold)
    assert says in str(refused.value)
    assert not (tmp_path / "new").exists()


def test_whatever_is_in_its_files_an_archive_is_restored_or_refused_and_never_half(tmp_path, whole):
    data, rng = restored(whole, tmp_path / "data"), np.random.default_rng(3)
    position = restore(whole, tmp_path / "again", untold).head.position
    paths, refusals = sorted(path for path in data.rglob("*") if path.is_file()), 0
    for n in range(60):
        path = paths[n % len(paths)]
        intact = bytearray(path.read_bytes())
        spoilt = intact.copy()
        for at in rng.integers(0, min(len(spoilt), 4096 * (1 + n % 3)), 1 + n % 20):
            spoilt[at] = rng.integers(256)
        path.write_bytes(spoilt)
        new = tmp_path / f"new-{n}"
        try:
            restore(rebuilt(data, tmp_path / "b.tar", position), new, untold)
        except (RestoreRefused, DatabaseRefused, JournalDamaged):
            assert not new.exists()
            refusals += 1
        path.write_bytes(intact)
    assert refusals > 20


# ---- where it goes


def test_without_a_terminal_it_tells_how_far_it_is_in_plain_lines(capsys):
    with _progress("backup") as total:
        told = total(20 * MIB + 5)
        for _ in range(41):
            told(MIB // 2)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"backup: MiB {n} of 20" for n in range(2, 21, 2)]


def test_on_a_terminal_it_shows_a_bar(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(shown, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", shown)
    with _progress("restore") as total:
        told = total(3 * MIB)
        for _ in range(3):
            told(MIB)
    assert "restore" in shown.getvalue()
    assert "3/3" in shown.getvalue()


def test_a_directory_that_holds_something_is_left_alone(tmp_path, whole):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine").write_text("kept")
    with pytest.raises(RestoreRefused, match="is not empty; give a new directory"):
        restore(whole, tmp_path / "data", untold)
    assert files(tmp_path) == {"data/mine": b"kept"}


def test_an_empty_directory_is_filled(tmp_path, whole):
    (tmp_path / "data").mkdir()
    restore(whole, tmp_path / "data", untold)
    assert (tmp_path / "data" / "states.db").is_file()


def test_the_directory_may_be_the_present_one(tmp_path, whole, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path / "data")
    restore(whole, Path(), untold)
    assert (tmp_path / "data" / "states.db").is_file()
    monkeypatch.chdir(tmp_path / "data")
    backup(Path(), Path("..") / "b.tar", 1.0, untold)
    assert (tmp_path / "b.tar").is_file()


def test_a_backup_is_the_owners_alone_and_replaces_nothing(tmp_path, whole):
    assert whole.stat().st_mode & 0o777 == 0o600
    data = restored(whole, tmp_path / "data")
    assert data.stat().st_mode & 0o777 == 0o700
    (tmp_path / "b.tar").write_bytes(b"an older one")
    with pytest.raises(BackupRefused, match=r"b\.tar: exists"):
        backup(data, tmp_path / "b.tar", 1.0, untold)
    assert (tmp_path / "b.tar").read_bytes() == b"an older one"


def test_a_directory_without_data_and_a_damaged_one_are_refused(tmp_path, whole):
    with pytest.raises(BackupRefused, match=r"holds no states\.db; give the directory"):
        backup(tmp_path, tmp_path / "b.tar", 1.0, untold)
    data = restored(whole, tmp_path / "data")
    segment = sorted((data / "journal").glob("*.journal"))[1]
    damaged = bytearray(segment.read_bytes())
    damaged[100] ^= 1
    segment.write_bytes(damaged)
    with pytest.raises(JournalDamaged, match=segment.name):
        backup(data, tmp_path / "b.tar", 1.0, untold)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("at", [0, 4096])
@pytest.mark.parametrize("name", ["states.db", "versions.db", "trainer.db"])
def test_a_database_that_sqlite_finds_corrupt_is_not_backed_up_and_is_named(tmp_path, whole, name, at):
    data = restored(whole, tmp_path / "data")
    with (data / name).open("r+b") as file:
        file.seek(at)
        file.write(b"x" * 8192)
    with pytest.raises((DatabaseRefused, sqlite3.DatabaseError), match=re.escape(str(data / name))):
        backup(data, tmp_path / "b.tar", 1.0, untold)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.fixture(params=[1, 9, 24, 40])
def small(request, tmp_path):
    """A disk with room for so many pages of 4 KiB. Skips where mounting one is not permitted."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={4096 * request.param}", "freshet-test", folder]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_becomes_full_meanwhile_is_told_and_nothing_is_left_on_it(tmp_path, whole, small, monkeypatch):
    data = restored(whole, tmp_path / "data")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: mock.Mock(free=10**12))
    for attempt in (
        lambda: backup(data, small / "b.tar", 1.0, untold),
        lambda: restore(whole, small / "data", untold),
    ):
        with pytest.raises((NoSpace, OSError)) as refused:
            attempt()
        error = refused.value
        assert isinstance(error, NoSpace) or (isinstance(error, OSError) and error.errno == errno.ENOSPC)
        assert not list(small.iterdir())


def test_two_that_make_the_same_do_not_meet(tmp_path, whole):
    with staging(tmp_path / "data"), pytest.raises(InUse, match="wait for it"):
        restore(whole, tmp_path / "data", untold)
    restore(whole, tmp_path / "data", untold)


def test_what_a_killed_one_has_left_goes_with_the_next(tmp_path, whole):
    left = tmp_path / ".data.part"
    (left / "journal").mkdir(parents=True)
    (left / "states.db").write_bytes(b"half")
    restore(whole, tmp_path / "data", untold)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert os.listdir(tmp_path / "data" / "journal")
