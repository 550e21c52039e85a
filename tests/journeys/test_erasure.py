"""Erase what was deleted: afterwards no file of the data directory, and no backup, holds the stream's id or values."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import freshet
from freshet.v1 import streams_pb2
from freshet.v1.streams_pb2_grpc import StreamsStub
from service.programs.backtest.child import ServerChild
from service.storage.directory import OWED_FILE
from tests.journeys import crash, preloaded
from tests.journeys.credentials import Entry, bearer, written
from tests.journeys.raw import DEADLINE_S, channel_to
from tests.journeys.test_models_cli import Shell

CUSTOMER = "customer-4711-jane-doe"
MARK = 31_415.927  # in each of the customer's values, so that their bytes can be looked for
ROWS = 120
SPEC: dict[str, Any] = {"channels": ["x", "y"], "hidden": 8}


def values(seed: int) -> np.ndarray:
    """(ROWS, 2) float32: a walk beside distinct values that are found by their bytes."""
    x = np.empty((ROWS, 2), np.float32)
    x[:, 0] = crash.walk(ROWS, seed)[:, 0]
    x[:, 1] = np.float32(MARK) + np.arange(ROWS, dtype=np.float32)
    return x


def files(data: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(data.rglob("*")):
        if path.is_file():
            with contextlib.suppress(FileNotFoundError):  # the server has removed it meanwhile
                yield str(path.relative_to(data)), path.read_bytes()


def found(data: Path, x: np.ndarray, id: str = CUSTOMER) -> set[str]:
    """Files that hold the id, or the bytes of one of the values."""
    wanted = [id.encode(), *(v.tobytes() for v in x[:, 1]), *(row.tobytes() for row in x)]
    return {name for name, content in files(data) for needle in wanted if needle in content}


async def told(client: freshet.Client, model: str, id: str, x: np.ndarray) -> None:
    """Send the rows, and wait until they are judged."""
    async with client.stream(model, id) as stream:
        for row in x:
            await stream.step(row)
        await stream.wait_judged(ROWS - 1)


@contextlib.asynccontextmanager
async def a_server(folder: Path, **settings: object) -> AsyncIterator[ServerChild]:
    async with crash.a_server(folder, snapshot_s=0.2, **settings) as child:
        yield child


async def until_everywhere(client: freshet.Client, model: str, data: Path, x: np.ndarray) -> None:
    """Wait until the journal, the snapshot and the checkpoint hold the customer's data: else nothing is proven.

    Another stream of the model continues meanwhile: a checkpoint is due after a number of commits, and the customer's
    ticks may have been in few.
    """
    async with asyncio.timeout(DEADLINE_S), client.stream(model, "beside") as stream:
        while not {"states.db", "trainer.db"} <= {name.partition("-wal")[0] for name in found(data, x)}:
            await stream.step([0.0, 0.0])
    assert any(name.startswith("journal/") for name in found(data, x))


async def backup_of(child: ServerChild, folder: Path, name: str) -> bytes:
    process = await preloaded.command("backup", "--data", child.data, "--out", folder / name, merged=True)
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return (folder / name).read_bytes()


async def test_after_an_erase_no_file_and_no_later_backup_holds_the_stream_and_others_go_on(tmp_path):
    theirs, others = values(1), values(2) + np.float32(50_000)
    async with a_server(tmp_path) as server, freshet.connect(server.grpc) as client:
        await client.create_model("flow", **SPEC)
        await told(client, "flow", CUSTOMER, theirs)
        await told(client, "flow", "someone-else", others)
        await until_everywhere(client, "flow", server.data, theirs)

        run = Shell(server.grpc, tmp_path, "streams")
        assert await run("delete", "flow", CUSTOMER, "--erase", "--yes") == f"stream {CUSTOMER} of flow: erased\n"

        assert found(server.data, theirs) == set()
        backup = await backup_of(server, tmp_path, "later.backup")
        assert CUSTOMER.encode() not in backup
        assert not [v for v in theirs[:, 1] if v.tobytes() in backup]
        assert not (server.data / OWED_FILE).exists()

        async with client.stream("flow", "someone-else") as stream:  # the others have lost nothing
            assert stream.next_seq == ROWS + 1
            await stream.step(others[-1])
            await stream.wait_judged(ROWS)
        server.kill()
        await server.wait()
        await server.start()
        async with client.stream("flow", "someone-else") as stream:
            assert stream.next_seq == ROWS + 2
        assert found(server.data, theirs) == set()


async def test_it_also_erases_streams_that_were_deleted_before_and_may_be_repeated(tmp_path):
    theirs = values(3)
    async with a_server(tmp_path) as server, freshet.connect(server.grpc) as client:
        await client.create_model("flow", **SPEC)
        await told(client, "flow", CUSTOMER, theirs)
        await until_everywhere(client, "flow", server.data, theirs)
        await client.delete_stream("flow", CUSTOMER)
        assert found(server.data, theirs)

        assert await client.delete_stream("flow", CUSTOMER, erase=True) == []
        assert found(server.data, theirs) == set()
        assert await client.delete_stream("flow", CUSTOMER, erase=True) == []
        with pytest.raises(freshet.NotFound):
            await client.delete_stream("flow", CUSTOMER)


async def test_quarantined_labels_of_the_stream_are_erased_and_those_of_others_stay(tmp_path):
    spec: dict[str, Any] = {
        "channels": ["x"],
        "task": "regress",
        "targets": ["q"],
        "hidden": 4,
        "label_range": [0.0, 1.0],
    }
    absurd, other = np.float32(27_182.818), np.float32(16_180.339)
    async with a_server(tmp_path) as server, freshet.connect(server.grpc) as client:
        await client.create_model("lab", **spec)
        for id, y in ((CUSTOMER, absurd), ("someone-else", other)):
            async with client.stream("lab", id) as stream:
                await stream.step([1.0])
                await stream.label(1, [float(y)])
        async with asyncio.timeout(DEADLINE_S):
            while len([item async for item in client.quarantine("lab")]) < 2:
                await asyncio.sleep(0.05)
        assert absurd.tobytes() in b"".join(content for _, content in files(server.data))

        await client.delete_stream("lab", CUSTOMER, erase=True)
        everything = b"".join(content for _, content in files(server.data))
        assert absurd.tobytes() not in everything
        assert other.tobytes() in everything
        assert [item.stream async for item in client.quarantine("lab")] == ["someone-else"]


async def test_after_a_model_is_erased_nothing_of_it_is_left_and_another_goes_on(tmp_path):
    theirs = values(4)
    async with a_server(tmp_path) as server, freshet.connect(server.grpc) as client:
        await client.create_model("janes-model", **SPEC)
        await client.create_model("other", **SPEC)
        await told(client, "janes-model", CUSTOMER, theirs)
        await told(client, "other", "someone-else", values(5) + np.float32(50_000))
        await until_everywhere(client, "janes-model", server.data, theirs)

        assert (
            await Shell(server.grpc, tmp_path)("delete", "janes-model", "--erase", "--yes") == "janes-model: erased\n"
        )

        assert found(server.data, theirs) == set()
        assert found(server.data, theirs, "janes-model") == set()
        assert [model.name for model in await client.list_models()] == ["other"]
        await client.delete_model("janes-model", erase=True)


async def test_what_is_owed_when_a_server_is_killed_is_erased_after_its_next_start(tmp_path, monkeypatch):
    theirs = values(6)
    crash.mutate(monkeypatch, tmp_path, DIES.format(once=str(tmp_path / "died")))
    async with a_server(tmp_path) as server:
        async with freshet.connect(server.grpc) as client:
            await client.create_model("flow", **SPEC)
            await told(client, "flow", CUSTOMER, theirs)
            await until_everywhere(client, "flow", server.data, theirs)
            erase = asyncio.create_task(client.delete_stream("flow", CUSTOMER, erase=True))
            await server.wait()
            erase.cancel()
            await asyncio.gather(erase, return_exceptions=True)
        assert (server.data / OWED_FILE).exists()
        assert found(server.data, theirs)

        await server.start()
        async with asyncio.timeout(DEADLINE_S):
            while (server.data / OWED_FILE).exists():
                await asyncio.sleep(0.05)
        assert found(server.data, theirs) == set()


# The server dies once its snapshot is without the stream, and before anything else is erased.
DIES = r"""
import os, sys
if "serve" in sys.orig_argv:
    import service.serving.erasure as erasure
    was = erasure.Erasure._erase_learned
    async def dies(self):
        if not os.path.exists({once!r}):
            open({once!r}, "w").close()
            os.kill(os.getpid(), 9)
        await was(self)
    erasure.Erasure._erase_learned = dies
"""


async def test_a_lost_trainer_db_after_an_erase_begins_again_from_the_version_that_serves(tmp_path):
    theirs = values(7)
    async with a_server(tmp_path) as server, freshet.connect(server.grpc) as client:
        await client.create_model("flow", **SPEC)
        await told(client, "flow", CUSTOMER, theirs)
        await client.delete_stream("flow", CUSTOMER, erase=True)
        assert await server.stop() == 0
        for path in server.data.glob("trainer.db*"):
            path.unlink()
        await server.start()
        before = (await client.get_model("flow")).champion
        await told(client, "flow", "someone-else", values(8) + np.float32(50_000))
        assert (await client.get_model("flow")).champion > before
        assert found(server.data, theirs) == set()


async def test_files_that_were_set_aside_as_damaged_are_named(tmp_path):
    async with a_server(tmp_path) as server, freshet.connect(server.grpc) as client:
        await client.create_model("flow", **SPEC)
        (server.data / "trainer.db.damaged-1").write_bytes(CUSTOMER.encode())
        repaired = server.data / "quarantine-20260101T000000" / "journal"
        repaired.mkdir(parents=True)
        (repaired / "0.segment").write_bytes(CUSTOMER.encode())
        assert await client.delete_stream("flow", CUSTOMER, erase=True) == [
            "quarantine-20260101T000000/journal/0.segment", "trainer.db.damaged-1",
        ]  # fmt: skip


async def test_erasing_needs_an_administrator(tmp_path):
    tokens = [Entry("trains", "acme", "train"), Entry("runs", "acme", "admin")]
    (tmp_path / "access.toml").write_text(written(*tokens))
    async with a_server(tmp_path, access=tmp_path / "access.toml") as server:
        async with freshet.connect(server.grpc, token="runs") as client:
            await client.create_model("flow", **SPEC)
            await told(client, "flow", "pump", values(9))
        async with channel_to(server.grpc) as channel:
            request = streams_pb2.DeleteStreamRequest(model="flow", stream="pump", erase=True)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await StreamsStub(channel).Delete(request, metadata=bearer("trains"), timeout=DEADLINE_S)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
            found_still = streams_pb2.GetStreamRequest(model="flow", stream="pump")
            await StreamsStub(channel).Get(found_still, metadata=bearer("trains"), timeout=DEADLINE_S)


# Each without one of the things that erasing does: the search above must find what that leaves behind.
WITHOUT = {
    "the journal": "import service.journal.writer as j\nasync def no(self): return 0\nj.Journal.begin_segment = no",
    "the answers": "import service.streams.saving as s\ns.Saving.forget_answers = lambda self, gone: None",
    "the snapshot's free pages": "import service.storage.states as s\ns.States.compact = lambda self: None",
    "the trainer's free pages": "import service.trainer.checkpoint as c\nc.Checkpoints.compact = lambda self: None",
}
LEFT = {
    "the journal": "journal/",
    "the answers": "states.db",
    "the snapshot's free pages": "states.db",
    "the trainer's free pages": "trainer.db",
}


@pytest.mark.long
@pytest.mark.parametrize("without", WITHOUT)
async def test_an_erase_that_leaves_one_thing_out_is_seen(tmp_path, monkeypatch, without):
    code = "import sys\nif 'serve' in sys.orig_argv or 'service.trainer.process' in sys.orig_argv:\n    "
    crash.mutate(monkeypatch, tmp_path, code + WITHOUT[without].replace("\n", "\n    "))
    theirs = values(10)
    async with a_server(tmp_path) as server, freshet.connect(server.grpc) as client:
        await client.create_model("flow", **SPEC)
        await told(client, "flow", CUSTOMER, theirs)
        await until_everywhere(client, "flow", server.data, theirs)
        await client.delete_stream("flow", CUSTOMER, erase=True)
        assert {name for name in found(server.data, theirs) if name.startswith(LEFT[without])}
