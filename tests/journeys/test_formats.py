"""Upgrade: what every release has written opens in this one, and goes on; what a newer one wrote is refused by name."""

from __future__ import annotations

import asyncio
import json
import lzma
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import freshet
from service.console.failures import ServerFailed
from service.datadir.formats import FORMATS
from service.datadir.restore import restore
from service.programs.backtest.child import ServerChild
from tests.data import make
from tests.journeys.crash import DEADLINE_S

RELEASES = sorted(path.name for path in make.HERE.glob("format-*"))


@pytest.mark.parametrize("release", RELEASES)
async def test_a_data_directory_of_a_released_format_opens_and_answers_as_it_did(tmp_path, release):
    recorded = json.loads((make.HERE / release / make.ANSWERS).read_text())

    told = await make.answered(make.HERE / release, tmp_path / "again")

    assert told.keys() == recorded.keys()
    for name, expected in recorded.items():
        if isinstance(expected, dict):
            found = told[name]
            assert (found["next_seq"], found["versions"]) == (expected["next_seq"], expected["versions"])
            # Bit for bit where the libraries are the same; else float32 rounding over eight steps of values around 1.
            np.testing.assert_allclose(found["y"], expected["y"], rtol=0, atol=2e-6)
        else:
            assert told[name] == expected


@pytest.mark.parametrize("release", RELEASES)
async def test_a_data_directory_of_a_released_format_goes_on_learning(tmp_path, release):
    data = unpacked(release, tmp_path)
    settings = {"publish_s": 0.1, "publish_labels": 8}
    async with ServerChild(data, tmp_path / "log", settings=settings) as server, freshet.connect(server.grpc) as client:
        last = (await client.versions("flow"))[0].number
        async with client.stream("flow", "pump-1") as stream, asyncio.timeout(DEADLINE_S):
            async for _ in stream.forecasts(make.rows(320, 2, 5), max_staleness=32):  # more than the cool-down
                pass
            await stream.wait_judged(stream.next_seq - 1)
        assert (await client.versions("flow"))[0].number > last


def test_todays_formats_are_among_those_that_are_kept_for_ever(tmp_path):
    data = unpacked(RELEASES[-1], tmp_path)
    assert {name: user_version(data / name) for name in FORMATS} == FORMATS, (
        "a format has changed: make sure that the former one still opens, then add today's with tests.data.make"
    )


async def test_a_server_does_not_start_beside_a_newer_trainers_file_and_changes_nothing(tmp_path):
    name, data = "trainer.db", unpacked(RELEASES[-1], tmp_path)
    with closing(sqlite3.connect(data / name)) as sql:
        sql.execute(f"PRAGMA user_version = {FORMATS[name] + 1}")
    before = contents(data)

    with pytest.raises(ServerFailed) as refused:
        await ServerChild(data, tmp_path / "log").start()

    assert contents(data) == before
    assert "exit code 2" in str(refused.value)
    assert (
        f"{data / name}: written by a newer version of freshet, in database format {FORMATS[name] + 1}; this one reads "
        f"format {FORMATS[name]}. Nothing was changed: start the version that wrote it, or restore a backup that was "
        "made before"
    ) in str(refused.value)


def unpacked(release: str, folder: Path) -> Path:
    """The data directory of a release."""
    (folder / "release.tar").write_bytes(lzma.decompress((make.HERE / release / make.BACKUP).read_bytes()))
    restore(folder / "release.tar", folder / "data", lambda size: lambda written: None)
    return folder / "data"


def user_version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as sql:
        return int(sql.execute("PRAGMA user_version").fetchone()[0])


def contents(data: Path) -> dict[str, bytes]:
    """All files with something in them: SQLite leaves empty ones beside a database that was looked at."""
    found = {str(path): path.read_bytes() for path in data.rglob("*") if path.is_file() and path.stat().st_size}
    return {name: held for name, held in found.items() if not name.endswith("-shm")}
