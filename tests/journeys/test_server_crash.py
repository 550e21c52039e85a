"""The server is killed under its clients: streams resume by themselves, nothing is lost, doubled or reordered.

Two ledgers that know nothing of each other: what the client was told, and what an oracle reads from the files left.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path

import pytest

import freshet
from service.programs.backtest.child import ServerChild
from tests.journeys import crash
from tests.journeys.crash import SMALL, Ledger, follow, kill_trainer, walk, within
from tests.journeys.scraped import scrape
from tests.oracles import replay

STREAMS = 3
FOLLOW_S = 6 * crash.DEADLINE_S  # for a stream that hangs: 20 restarts alone took two minutes on a slow machine
IN_FLIGHT = 32
# The anchor stays version 1, so that retention keeps every version and the oracle can replay from the start. However
# slow the disk, a kill may redo this many ticks of a stream and no more.
KEEP_ALL = {"anchor_labels": 10**9, "snapshot_s": 0.3, "max_undurable": 16}


async def kill_and_restart(server: ServerChild, ledgers: list[Ledger], copy: Path) -> None:
    """kill -9; what the clients were told is durable must be in the files; start again at the same address."""
    server.kill()
    await server.wait()
    check_promises(server, ledgers, copy)
    await server.start()


def check_promises(server: ServerChild, ledgers: list[Ledger], copy: Path) -> None:
    """What was called durable before the kill is in the journal that is left."""
    promised = {ledger.stream: ledger.durable for ledger in ledgers}
    kept = replay.last_seqs(replay.survivors(server.data, copy))
    missing = {stream: seq for stream, seq in promised.items() if kept.get(stream, 0) < seq}
    assert not missing, f"called durable and not in the journal: {missing}, which holds {kept}"


async def stream_through_kills(server: ServerChild, folder: Path, kills: int, ticks: int, seed: int) -> list[Ledger]:
    """Streams of a model that learns, sent by the SDK; kills after random numbers of answers, at times of both."""
    rng = random.Random(seed)
    ledgers = [Ledger(f"pump-{n}", walk(ticks, n)) for n in range(STREAMS)]
    moments = sorted(rng.sample(range(STREAMS * ticks // 10, STREAMS * ticks * 9 // 10), kills))
    moved = asyncio.Event()
    async with freshet.connect(server.grpc) as client, asyncio.TaskGroup() as group:
        await client.create_model("flow", **SMALL)
        for ledger, staleness in zip(ledgers, (None, 24, 64), strict=True):
            slowest = None if staleness == 24 else ledgers[1]  # or the others would have ended before the last kill
            group.create_task(one_stream(client, ledger, moved, staleness, slowest))
        for number, moment in enumerate(moments):
            while sum(len(ledger.answers) for ledger in ledgers) < moment:
                moved.clear()
                await within(moved.wait())
            if number % 3 == 2:
                kill_trainer(server)
            await kill_and_restart(server, ledgers, folder / f"survivors-{number}")
    return ledgers


async def one_stream(
    client: freshet.Client, ledger: Ledger, moved: asyncio.Event, max_staleness: int | None, beside: Ledger | None
) -> None:
    """beside: keep abreast of this one, without a bound on staleness."""
    async with client.stream("flow", ledger.stream, IN_FLIGHT) as stream:
        async with asyncio.timeout(FOLLOW_S):
            await follow(stream, ledger, moved, max_staleness, beside)
        await within(stream.durable())
        await within(stream.wait_judged(len(ledger.sent)))


def check_answers(ledgers: list[Ledger], data: Path, files: replay.Files) -> None:
    """Every tick is in the journal once, with the values that were sent, and was answered what the oracle answers."""
    expected = replay.served(list(replay.read(data / "journal")), files).answers
    assert set(expected) == {(ledger.stream, seq) for ledger in ledgers for seq in range(1, len(ledger.sent) + 1)}
    compared = differ = 0
    for ledger in ledgers:
        assert list(ledger.answers) == list(range(1, len(ledger.sent) + 1))
        for seq, forecast in ledger.answers.items():
            told = expected[ledger.stream, seq]
            assert told.x.tobytes() == ledger.sent[seq - 1].tobytes()
            if seq in ledger.redone:
                continue
            assert not forecast.lost
            # Bit-equal: onnxruntime gives the same bits for batches of 1 to 64 rows with these graphs.
            got = forecast.version, forecast.y.tobytes()
            if got != (told.version, told.y.tobytes()):
                assert seq in ledger.perhaps_redone(IN_FLIGHT), f"{ledger.stream}, tick {seq}"
                assert forecast.version <= told.version, "the first answer is of before the kill"
                differ += 1
            compared += 1
    assert differ <= 0.02 * len(expected), "seldom does an answer wait in the SDK while the server is killed"
    assert compared > 0.8 * len(expected), "a kill may redo what was not durable, which is little"


async def journey(folder: Path, kills: int, ticks: int, seed: int) -> None:
    async with crash.a_server(folder, **KEEP_ALL) as server:
        ledgers = await stream_through_kills(server, folder, kills, ticks, seed)
        files = replay.Files.of(server.data)
        seen = await scrape(server.http)
        assert seen.total("freshet_version") > kills, "versions were published all along"
        messages = seen.total("grpc_server_msg_received_total", grpc_method="Open")
        assert seen.total("freshet_ticks_total") > messages > 0, "a kill meets messages of several ticks"
    resumed = [len(ledger.resumed_at) for ledger in ledgers]
    assert min(resumed) >= kills // 3, f"streams were caught in the middle {resumed} times in {kills} kills"
    check_answers(ledgers, folder / "data", files)


async def test_streams_resume_through_six_kills_of_the_server_and_are_answered_what_the_journal_says(tmp_path):
    await journey(tmp_path, kills=6, ticks=500, seed=0)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_streams_resume_through_twenty_kills_of_the_server(tmp_path):
    await journey(tmp_path, kills=20, ticks=2000, seed=1)  # `dev.py torture` kills a thousand times


async def test_an_idle_stream_and_a_model_made_just_before_a_kill_are_still_there(tmp_path):
    async with crash.a_server(tmp_path) as server, freshet.connect(server.grpc) as client:
        await client.create_model("flow", **SMALL)
        async with client.stream("flow", "pump") as stream:
            first = await within(stream.step([1.0]))
            await within(stream.durable())
            server.kill()
            await server.wait()
            await server.start()

            assert (await client.get_model("flow")).champion == first.version
            assert (await within(stream.step([2.0]))).seq == 2
            assert stream.welcome.next_seq == 2


# A disk that hangs at the first commit with ticks; and a server that calls a tick durable when it is appended.
HANGING_DISK = """
import threading
from service.journal.log import SegmentLog
from service.journal.writer import Journal
write = Journal._write
SegmentLog.stages_quickly = lambda self, size: False

def hang(self, batch, staged):
    if any(len(chunk.ticks()[1]) for chunk in batch):
        threading.Event().wait()
    return write(self, batch, staged)

Journal._write = hang
"""
LIAR = """
from service.streams.served import ServedModel
advance = ServedModel.advance_one

def lie(self, row, seq, *rest):
    judged = advance(self, row, seq, *rest)
    self.table.durable_seq[row] = seq
    self.owners.wake([row])
    return judged

ServedModel.advance_one = lie
"""


@pytest.mark.long
@pytest.mark.parametrize("mutant", [HANGING_DISK, HANGING_DISK + LIAR], ids=["honest", "lying"])
async def test_a_server_that_calls_ticks_durable_too_early_would_be_noticed(tmp_path, monkeypatch, mutant):
    """The control of the ledgers above."""
    lying = LIAR in mutant
    crash.mutate(monkeypatch, tmp_path, mutant)
    ledger = Ledger("pump", walk(40, 1))
    async with crash.a_server(tmp_path) as server, freshet.connect(server.grpc) as client:
        await client.create_model("flow", **SMALL)
        stream = client.stream("flow", "pump", close_s=0.1)
        await stream.__aenter__()
        for row in ledger.sent:
            ledger.note(stream, await within(stream.step(row)))
        if lying:
            await within(stream.durable())
        ledger.durable = stream.durable_seq
        assert ledger.durable == (40 if lying else 0)
        with pytest.raises(freshet.Unavailable) if not lying else contextlib.nullcontext():
            await stream.aclose()
        server.kill()
        await server.wait()

        with pytest.raises(AssertionError, match="called durable") if lying else contextlib.nullcontext():
            check_promises(server, [ledger], tmp_path / "survivors")
