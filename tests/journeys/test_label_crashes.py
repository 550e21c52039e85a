"""Server and trainer are killed while labels and windows come: what was acknowledged is learned once, none is lost.

Three ledgers: what the clients were told, what the journal that is left holds, and what the trainer counted.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import freshet
from service.common.gate import GateSettings
from service.journal.records import Chunk, Label, StreamOpened, Window
from service.programs.backtest.child import ServerChild
from service.trainer.checkpoint import Checkpoints
from tests.journeys import crash
from tests.journeys.crash import kill_trainer, walk
from tests.journeys.scraped import scraped_until
from tests.oracles import replay
from tests.service.histories import digest

REGRESS: dict[str, Any] = {"channels": ["x"], "task": "regress", "targets": ["q"], "hidden": 8, "label_horizon": 5000}
# The anchor stays version 1, so that retention keeps every version and the oracle can replay from the start. Nothing is
# thinned, however much is waiting.
KEEP_ALL = {"anchor_labels": 10**9, "snapshot_s": 0.3, "comfortable_backlog": 10**9}
# A client must not give up before the journey does, however long a killed trainer learns before it acknowledges again.
GIVE_UP_S = 6 * crash.DEADLINE_S
GATE = GateSettings(anchor_labels=10**9, score_every=2)
STEPS = 6

Array = NDArray[np.float32]


def truth(seq: int) -> float:
    """The label of tick `seq`: exact in float32."""
    return float(np.float32(np.sin(seq)))


def archive(number: int) -> tuple[Array, Array]:
    """Window `number` of the archive."""
    rng = np.random.default_rng(number)
    return rng.normal(size=(STEPS, 1)).astype(np.float32), rng.normal(size=(STEPS, 1)).astype(np.float32)


@dataclass
class Told:
    """What the clients were told."""

    labels: Counter[int] = field(default_factory=Counter)  # acknowledged, by seq of the one stream: how often
    windows: int = 0  # windows 1 .. windows are acknowledged
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def progress(self) -> int:
        return self.labels.total() + self.windows


@dataclass
class Journaled:
    """What the journal holds: labels of the one stream by seq, and windows by number."""

    labels: Counter[int] = field(default_factory=Counter)
    windows: Counter[int] = field(default_factory=Counter)

    @classmethod
    def read(cls, chunks: list[Chunk]) -> Journaled:
        """Every value and every row must be what was sent."""
        held, streams = cls(), {}
        for record in (record for chunk in chunks for record in chunk.records):
            match record:
                case StreamOpened(stream=number, id=id):
                    streams[number] = id
                case Label(stream=number, seq=seq, y=y):
                    assert (streams[number], y.tolist()) == ("kiln", [truth(seq)])
                    held.labels[seq] += 1
                case Window(source=source, window_seq=number, x=x, y=y):
                    assert (source, x.tobytes(), y.tobytes()) == ("archive", *(a.tobytes() for a in archive(number)))
                    held.windows[number] += 1
        return held


def check_promises(told: Told, held: Journaled) -> None:
    """Whatever was acknowledged is in the journal; windows once each, in order."""
    missing = set(told.labels) - set(held.labels)
    assert not missing, f"acknowledged and not in the journal: labels of ticks {sorted(missing)}"
    numbers = list(held.windows)
    assert numbers == list(range(1, len(numbers) + 1)), "windows are in order"
    assert len(numbers) >= told.windows, f"acknowledged and not in the journal: windows {len(numbers) + 1}.."
    assert max(held.windows.values(), default=1) == 1, "no window is there twice"


async def kiln(client: freshet.Client, told: Told, ticks: int, rng: random.Random) -> None:
    """A stream that labels two thirds of its ticks, late and out of order."""

    async def label(seq: int) -> None:
        await stream.label(seq, truth(seq))
        told.labels[seq] += 1
        told.moved.set()

    async with client.stream("flow", "kiln", 32, give_up_s=GIVE_UP_S) as stream, asyncio.TaskGroup() as group:
        waiting: list[int] = []
        async for forecast in stream.forecasts(walk(ticks, 1)):
            if forecast.seq % 3:
                waiting.append(forecast.seq)
            while len(waiting) > 20:
                group.create_task(label(waiting.pop(rng.randrange(len(waiting)))))
                await asyncio.sleep(0)
        for seq in waiting:
            group.create_task(label(seq))


async def send_archive(client: freshet.Client, told: Told, windows: int, acknowledge: Any) -> None:
    """Windows, as a program would that is started once."""
    async with client.learn("flow", "archive", acknowledge, in_flight=16, give_up_s=GIVE_UP_S) as learning:
        for number in range(1, windows + 1):
            assert learning.next_window == number
            await learning.window(*archive(number))
            if number % 10 == 0:
                await learning.flush()
                told.windows = number
                told.moved.set()


async def laboratory(client: freshet.Client, told: Told, ticks: int) -> None:
    """Labels for the stream of somebody else: the remaining third, and some that were told before."""
    async with client.learn("flow", "laboratory", in_flight=8, on_refused="keep", give_up_s=GIVE_UP_S) as learning:
        seq = 3
        while seq <= ticks:
            known = len(learning.refused)
            await learning.label("kiln", seq, truth(seq))
            if seq % 9 == 0:
                await learning.label("kiln", seq - 1, truth(seq - 1))
            await learning.flush()
            if len(learning.refused) == known:
                told.labels.update([seq] + [seq - 1] * (seq % 9 == 0))
                told.moved.set()
                seq += 3
            else:  # the stream is not there yet, or lost its last ticks with the server
                assert {error.reason for error in learning.refused} == {freshet.Reason.UNKNOWN_TICK}
                await asyncio.sleep(0.01)


async def checkpoint_with_labels(server: ServerChild) -> None:
    """Wait until labels are learned and saved: the machine may be so busy that the trainer has hardly begun."""
    learned = await scraped_until(server.http, lambda seen: seen.total("freshet_labels_learned_total") > 0)
    position = learned.total("freshet_journal_position_bytes")
    await scraped_until(server.http, lambda seen: seen.total("freshet_checkpoint_position_bytes") >= position)


async def through_kills(
    server: ServerChild,
    folder: Path,
    kills: int,
    ticks: int,
    windows: int,
    seed: int,
    acknowledge: str,
    after_a_save: bool,
) -> Told:
    rng, told = random.Random(seed), Told()
    goal = ticks + windows  # about
    moments = sorted(rng.sample(range(goal // 10, goal * 8 // 10), kills))
    async with freshet.connect(server.grpc) as client, asyncio.TaskGroup() as group:
        await client.create_model("flow", **REGRESS)
        group.create_task(kiln(client, told, ticks, rng))
        group.create_task(send_archive(client, told, windows, acknowledge))
        group.create_task(laboratory(client, told, ticks))
        for number, moment in enumerate(moments):
            while told.progress < moment:
                told.moved.clear()
                await within_minutes(told.moved.wait())
            if after_a_save and not number:
                await checkpoint_with_labels(server)
            kill_trainer(server)
            if number % 3:
                server.kill()
                await server.wait()
                check_promises(told, Journaled.read(replay.survivors(server.data, folder / f"survivors-{number}")))
                await server.start()
    return told


async def learned_all(server: ServerChild) -> None:
    """Wait until the trainer has taken in all that is durable: it answers questions in its turn."""
    async with freshet.connect(server.grpc) as client:
        while True:
            try:
                assert [item async for item in client.quarantine("flow")] == []
                return
            except freshet.Unavailable:  # it is being started again
                await asyncio.sleep(0.1)


async def journey(
    folder: Path,
    kills: int,
    ticks: int,
    windows: int,
    seed: int,
    acknowledge: str = "durable",
    settings: Mapping[str, object] = KEEP_ALL,
    after_a_save: bool = False,
) -> None:
    """after_a_save: kill nobody before there is a checkpoint with labels."""
    async with crash.a_server(folder, **settings) as server:
        kills_at = through_kills(server, folder, kills, ticks, windows, seed, acknowledge, after_a_save)
        told = await within_minutes(kills_at)
        await within_minutes(learned_all(server))
        files = replay.Files.of(server.data)
    chunks = list(replay.read(folder / "data" / "journal"))
    held = Journaled.read(chunks)
    check_promises(told, held)
    assert set(told.labels) == set(range(1, ticks + 1)), "every label was acknowledged in the end"
    assert told.windows == windows
    checkpoints = Checkpoints(folder / "data" / "trainer.db")
    _, models = checkpoints.load(GATE)
    checkpoints.close()
    saved = models[1]
    counts = saved.learner.counts
    assert (counts.windows, counts.learned - STEPS * counts.windows) == (windows, ticks), "each is learned once"
    assert counts.duplicates == held.labels.total() - ticks, "what came again was told apart"
    assert not saved.quarantine.totals
    assert digest(saved) == digest(replay.learned(chunks, files, GATE, saved.offset)), "as if nothing had happened"


async def within_minutes(awaitable: Any) -> Any:
    """The result. The deadline is for what hangs: after a kill, a trainer on a busy machine learns for minutes."""
    return await asyncio.wait_for(awaitable, GIVE_UP_S)


@pytest.mark.parametrize("acknowledge", ["durable", pytest.param("learned", marks=pytest.mark.long)])
async def test_labels_and_windows_are_learned_once_through_kills_of_server_and_trainer(tmp_path, acknowledge):
    await journey(tmp_path, kills=4, ticks=600, windows=200, seed=0, acknowledge=acknowledge)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(1, 3))  # one for each way to acknowledge
async def test_labels_and_windows_are_learned_once_through_many_kills(tmp_path, seed):
    await journey(tmp_path, kills=15, ticks=3000, windows=1000, seed=seed, acknowledge=["durable", "learned"][seed % 2])


LIAR = """
from service.learning.intake import Intake
Intake.reached = lambda self, model, learned: self._journal.offset(model.number)
from service.journal.writer import Journal
Journal.run_ = Journal.run
async def run(self):
    self.pace_s = 0.5
    await self.run_()
Journal.run = run
"""


async def three_journeys(folder: Path, kills: int) -> None:
    """For what must be noticed: the kills of one may all fall where there is nothing to notice."""
    for seed in range(3):
        (folder / str(seed)).mkdir()
        await journey(folder / str(seed), kills=kills, ticks=600, windows=200, seed=seed)


@pytest.mark.long
async def test_a_server_that_acknowledges_before_the_disk_would_be_noticed(tmp_path, monkeypatch):
    """The control of the ledgers above: items are called durable when they are appended, half a second too early."""
    crash.mutate(monkeypatch, tmp_path, LIAR)

    with pytest.raises(ExceptionGroup) as caught:
        await three_journeys(tmp_path, kills=6)

    assert caught.group_contains((AssertionError, freshet.StateLost), match="acknowledged")


FORGETFUL = """
from service.trainer.hosting import HostedModel
unpack = HostedModel.unpack.__func__

def forget(cls, *stored):
    hosted = unpack(cls, *stored)
    hosted.learner.contexts.digests[...] = 0
    return hosted

HostedModel.unpack = classmethod(forget)
"""


@pytest.mark.long
async def test_a_trainer_that_forgets_which_labels_came_when_it_restarts_would_be_noticed(tmp_path, monkeypatch):
    crash.mutate(monkeypatch, tmp_path, FORGETFUL + crash.SAVES_ALWAYS)

    settings = KEEP_ALL | crash.SAVED_ALWAYS
    # Where the kills fall decides which of the two sees it first.
    with pytest.raises(AssertionError, match=r"each is learned once|as if nothing had happened"):
        await journey(tmp_path, kills=4, ticks=600, windows=200, seed=0, settings=settings, after_a_save=True)
