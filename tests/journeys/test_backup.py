"""`freshet backup` and `freshet restore` by command, beside a real server under load, and killed half-way."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import freshet
from service.programs.backtest.child import ServerChild
from tests.journeys import crash, preloaded
from tests.journeys.crash import SMALL, Ledger, walk, within
from tests.oracles import replay

LOAD_S = 6 * crash.DEADLINE_S  # for streams while commands run and servers start, beside other work
CLI = "from service.cli.main import main; main()"
INTERRUPTED = (
    """
import os, signal
from service.datadir import archive
archive._copy = lambda *arguments: os.kill(os.getpid(), signal.SIGINT)
"""
    + CLI
)


async def command(*arguments: object, code: str = CLI) -> tuple[int, str]:
    """The command's exit code, and all that it printed. code: what runs it."""
    if code == CLI:
        process = await preloaded.command(*arguments, merged=True)
    else:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, *map(str, arguments),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
    output, _ = await within(process.communicate())
    return process.returncode or 0, output.decode()


# Forks a process for each step of a command: of copying a file, of giving the result its name. It is killed there; what
# the directory of the result holds then is printed.
KILLED = """
import os, signal, sys
from pathlib import Path
from service.cli.main import main
from service.datadir import archive, backup, restore

def counted(step, last):
    def call(*arguments):
        steps.append(step)
        if len(steps) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*arguments)
    return call

folder, steps = Path(sys.argv.pop()), []
for last in range(1, 99):
    pid = os.fork()
    if not pid:
        archive._copy, Path.rename = counted(archive._copy, last), counted(Path.rename, last)
        main()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(status, *sorted(path.name for path in folder.iterdir()), flush=True)
    if status != -signal.SIGKILL:
        break
"""


@pytest.mark.long
async def test_backups_under_load_hold_all_that_was_durable_and_go_on_as_the_server_did(tmp_path):
    ledgers, enough = [Ledger(f"pump-{n}", walk(5000, n)) for n in range(3)], asyncio.Event()
    promised: list[dict[str, int]] = []
    async with crash.a_server(tmp_path, snapshot_s=0.05) as server, freshet.connect(server.grpc) as client:
        await client.create_model("flow", **SMALL)
        async with asyncio.TaskGroup() as group:
            load = [group.create_task(one_stream(client, ledger, enough)) for ledger in ledgers]
            for _ in range(2):
                async with asyncio.timeout(crash.DEADLINE_S):
                    for ledger in ledgers:  # something of each stream must be on disk
                        while not ledger.durable:
                            ledger.moved.clear()
                            await ledger.moved.wait()
                promised.append({ledger.stream: ledger.durable for ledger in ledgers})
                out = tmp_path / f"{len(promised)}.tar"
                code, said = await command("backup", "--data", server.data, "--out", out)
                assert code == 0, said
                assert not any(task.done() for task in load)
            enough.set()

    data = tmp_path / "restored" / "data"
    data.parent.mkdir()
    code, said = await command("restore", out, "--data", data)
    assert code == 0, said
    assert f"start it with: freshet serve --data {data}" in said
    code, said = await command("replay", data, "--from", data / "trainer.db")
    assert code == 0, said  # from the checkpoint on, learning gives the weights of each version that was published
    await goes_on(data, ledgers, promised[-1])


async def one_stream(client: freshet.Client, ledger: Ledger, enough: asyncio.Event) -> None:
    async def rows() -> AsyncIterator[crash.Array]:
        for row in ledger.sent:
            if enough.is_set():
                return
            yield row
        await enough.wait()  # faster than the backups, which find an open stream all the same

    async with client.stream("flow", ledger.stream, 16, give_up_s=LOAD_S) as stream, asyncio.timeout(LOAD_S):
        async for forecast in stream.forecasts(rows(), max_staleness=32):
            ledger.note(stream, forecast)
            ledger.moved.set()


async def goes_on(data: Path, ledgers: list[Ledger], durable: dict[str, int]) -> None:
    """Start a server on what was restored, and send each stream's next tick. An oracle that reads the journal left by
    then answers as the first server did up to where the streams resumed, and as the second one behind it."""
    resumed: dict[str, freshet.Forecast] = {}
    child = ServerChild(data, data.parent / "log", settings=crash.BUSY)  # which keeps every version for the oracle
    async with child as server, freshet.connect(server.grpc) as client:
        for ledger in ledgers:
            async with client.stream("flow", ledger.stream) as stream:
                seq = stream.welcome.next_seq
                assert seq > durable[ledger.stream] > 0
                assert stream.welcome.state_origin == freshet.StateOrigin.RESUMED
                resumed[ledger.stream] = await within(stream.step(ledger.sent[seq - 1]))
    expected = replay.served(list(replay.read(data / "journal")), replay.Files.of(data)).answers
    for ledger in ledgers:
        last = resumed[ledger.stream]
        for forecast in [*(ledger.answers[seq] for seq in range(1, last.seq)), last]:
            told = expected[ledger.stream, forecast.seq]
            assert (forecast.version, forecast.y.tobytes()) == (told.version, told.y.tobytes())


@pytest.mark.long
async def test_killed_at_any_step_neither_command_leaves_anything_half(tmp_path):
    async with crash.a_server(tmp_path) as server, freshet.connect(server.grpc) as client:
        await client.create_model("flow", **SMALL)
        async with client.stream("flow", "pump") as stream:
            for row in walk(100, 1):
                await within(stream.step(row))
            await within(stream.durable())
        out = tmp_path / "out" / "b.tar"
        out.parent.mkdir()
        _, said = await command("backup", "--data", server.data, "--out", out, out.parent, code=KILLED)
    *killed, whole = [line for line in said.splitlines() if line[0] in "-0123456789"]
    assert whole == "0 b.tar", said
    assert len(killed) > 5
    assert set(killed) == {"-9 .b.tar.part"}, said

    data = tmp_path / "new" / "data"
    data.parent.mkdir()
    _, said = await command("restore", out, "--data", data, data.parent, code=KILLED)
    *killed, whole = [line for line in said.splitlines() if line[0] in "-0123456789"]
    assert whole == "0 data", said
    assert len(killed) > 3
    assert set(killed) == {"-9 .data.part"}
    async with (
        ServerChild(data, data.parent / "log") as server,
        freshet.connect(server.grpc) as client,
        client.stream("flow", "pump") as stream,
    ):
        assert stream.welcome.next_seq == 101


async def test_what_cannot_be_backed_up_is_told_and_an_interrupted_backup_leaves_nothing(tmp_path):
    code, said = await command("backup", "--data", tmp_path / "nothing", "--out", tmp_path / "b.tar")
    assert code == 2
    assert "nothing: holds no states.db; give the directory that freshet serve --data was given" in said
    async with crash.a_server(tmp_path):
        pass
    code, said = await command("backup", "--data", tmp_path / "data", "--out", tmp_path / "b.tar", code=INTERRUPTED)
    assert (code, said.strip()) == (130, "freshet: interrupted; nothing was written")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "log"]


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_backups_of_a_server_that_is_killed_again_and_again_are_whole_and_lose_nothing_that_was_durable(tmp_path):
    ledgers, enough = [Ledger(f"pump-{n}", walk(20_000, n)) for n in range(3)], asyncio.Event()
    promised: list[dict[str, int]] = []
    async with crash.a_server(tmp_path, snapshot_s=0.1) as server, freshet.connect(server.grpc) as client:
        await client.create_model("flow", **SMALL)

        async def backups() -> None:
            while not enough.is_set():
                promised.append({ledger.stream: ledger.durable for ledger in ledgers})
                out = tmp_path / f"{len(promised)}.tar"
                code, said = await command("backup", "--data", server.data, "--out", out)
                assert code == 0, said

        async with asyncio.TaskGroup() as group:
            for ledger in ledgers:
                group.create_task(one_stream(client, ledger, enough))
            group.create_task(backups())
            for kill in range(1, 4):
                async with asyncio.timeout(LOAD_S):
                    while len(promised) < 2 * kill or len(ledgers[0].answers) < 100 * kill:
                        await asyncio.sleep(0.02)
                server.kill()
                await server.wait()
                await server.start()
            enough.set()
    for number, durable in enumerate(promised, 1):
        data = tmp_path / str(number)
        code, said = await command("restore", tmp_path / f"{number}.tar", "--data", data)
        assert code == 0, said
        kept = replay.last_seqs(list(replay.read(data / "journal")))
        assert {stream: seq for stream, seq in durable.items() if kept.get(stream, 0) < seq} == {}
