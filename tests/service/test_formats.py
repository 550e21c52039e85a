"""Data of another version of freshet is refused, naming file, format and remedy, before anything is changed."""

from __future__ import annotations

import shutil
import sqlite3
import struct
import zlib
from contextlib import closing

import pytest

from service.datadir.formats import FORMATS, check_formats
from service.journal.segments import HEADER, JournalFormat
from service.server.config import ServeConfig
from service.server.server import Server
from service.storage.database import DatabaseCorrupt, DatabaseRefused
from tests.service.one_process import world


@pytest.fixture
async def data(tmp_path):
    async with world(tmp_path / "data") as live:
        await live.model()
        await live.start_trainer()
    return tmp_path / "data"


def set_format(path, number, application_id=None):
    with closing(sqlite3.connect(path)) as sql:
        sql.execute(f"PRAGMA user_version = {number}")
        if application_id is not None:
            sql.execute(f"PRAGMA application_id = {application_id}")


def start(data):
    return Server(ServeConfig(data=data, listen="127.0.0.1:0", http="127.0.0.1:0"))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("change", "says"), [
    (+1, "written by a newer version of freshet, in database format {0}; this one reads format {1}. Nothing was "
         "changed: start the version that wrote it, or restore a backup that was made before"),
    (-1, "written by an older version of freshet, in database format {0}; this one reads format {1}. Nothing was "
         "changed: start the version that wrote it"),
    (+300, "not the freshet database that belongs there (application_id 0x46526573, database format {0})"),
])  # fmt: skip
async def test_each_database_of_another_format_is_named_with_both_formats_and_the_remedy(data, name, change, says):
    set_format(data / name, FORMATS[name] + change)
    with pytest.raises(DatabaseRefused) as refused:
        start(data)
    assert f"{data / name}: {says.format(FORMATS[name] + change, FORMATS[name])}" in str(refused.value)


async def test_without_the_check_a_server_would_start_beside_a_newer_trainers_file(data, monkeypatch):
    set_format(data / "trainer.db", FORMATS["trainer.db"] + 1)
    monkeypatch.setattr("service.server.components.check_formats", lambda data: None)
    server = start(data)
    await server.stop([])


async def test_a_strangers_database_and_two_that_were_exchanged_are_refused(data):
    set_format(data / "states.db", 1, application_id=7)
    with pytest.raises(DatabaseRefused, match=r"states\.db: not the freshet database .*application_id 0x7"):
        check_formats(data)
    shutil.copy(data / "trainer.db", data / "states.db")
    with pytest.raises(DatabaseRefused, match=r"states\.db: not the freshet database that belongs there"):
        check_formats(data)


async def test_a_missing_or_unreadable_database_is_left_to_its_opener(data, tmp_path):
    check_formats(tmp_path)
    (data / "trainer.db").write_bytes(b"no database at all" * 100)
    check_formats(data)


async def test_a_database_whose_schema_is_no_text_any_more_is_called_corrupt_by_name(data):
    damaged = (data / "states.db").read_bytes().replace(b"CREATE TABLE", b"CREATE \xdfABLE")
    (data / "states.db").write_bytes(damaged)
    with pytest.raises(DatabaseCorrupt, match=r"states\.db: .*Restore it from a copy"):
        start(data)


async def test_a_newer_journal_is_named_with_both_formats_and_the_remedy(data):
    (segment,) = (data / "journal").glob("*.journal")
    written = bytearray(segment.read_bytes())
    struct.pack_into("<H", written, 8, 2)
    struct.pack_into("<I", written, HEADER.size - 4, zlib.crc32(written[: HEADER.size - 4]))
    segment.write_bytes(written)
    with pytest.raises(JournalFormat) as refused:
        start(data)
    says = "written in journal format 2, this version of freshet reads format 1; start the version that wrote it"
    assert f"{segment}: {says}" in str(refused.value)
    assert segment.read_bytes() == written
