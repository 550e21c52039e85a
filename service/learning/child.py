"""Serving's side of one trainer: start the process, send durable chunks, handle its messages, start it again.

The death, hang or divergence of a trainer does not affect serving; what it lost is learned again from the journal.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from service.common.errors import Unavailable
from service.common.limits import is_overdue
from service.journal.writer import Journal, JournalDamaged
from service.learning.deaths import Deaths
from service.learning.feed import Feed
from service.learning.questions import Questions
from service.learning.queues import CheckpointLost
from service.learning.spawned import Spawned
from service.observe.learning_metrics import TrainerMetrics
from service.observe.server_metrics import StorageMetrics
from service.trainer.channel import MessageError
from service.trainer.messages import (
    NOT_THE_RECORDS,
    WEIGHTS_GONE,
    Erase,
    ListErrors,
    ListQuarantine,
    ListQuarantinedStreams,
    Message,
    Reached,
    Restart,
    TrainerSettings,
)
from service.trainer.placing import checkpoint_file
from service.trainer.quarantine import Item
from service.trainer.reports import (
    Answer,
    Erased,
    ErrorTables,
    Passed,
    Problem,
    Progress,
    QuarantinedStreams,
    QuarantineItems,
    Ready,
    Verdict,
)

log = structlog.get_logger("trainer")

BACKOFF_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Owner(Protocol):
    """Serving, as a trainer needs it. Trainers are numbered from 0."""

    def trainer_settings(self, checkpoint: str) -> TrainerSettings:
        """Settings of a process that starts now, with the name of its checkpoint file."""

    async def handle(self, message: Message, trainer: int) -> Message | None:
        """Act on a message of a trainer; returns the answer to send, if any. Called for one message at a time."""

    async def prepare_restart(self, why: str, trainer: int) -> Restart:
        """Where a trainer continues that cannot use its checkpoint."""

    async def skip(self, position: int) -> None:
        """Leave out the chunk at a journal position: the trainer dies of it each time."""


class TrainerClient:
    """Owns one trainer process, and starts it again when it ends."""

    def __init__(
        self,
        number: int,
        owner: Owner,
        journal: Journal,
        metrics: TrainerMetrics,
        storage: StorageMetrics,
        feed: Feed,
        hang_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """feed: of the models that this trainer learns. hang_s: silence after which a process with work is killed."""
        self._number, self._owner, self._journal = number, owner, journal
        self._metrics, self._storage = metrics, storage
        self.feed, self._hang_s, self._clock = feed, hang_s, clock
        self._checkpoint = checkpoint_file(number)
        self._questions = Questions(journal, feed, self)
        self._busy_since: float | None = None  # it has work since then, or has sent its last report then; None: no work
        self._deaths = Deaths()
        self._restart_why = ""  # why the next process cannot use its checkpoint; empty: it can
        self._ended = asyncio.Event()  # there is no process, and the journal is not read for one
        self._ended.set()
        self._process: Spawned | None = None
        self.ready = asyncio.Event()
        self.tried = asyncio.Event()  # the first process is ready, or has ended: serving need not wait longer

    @property
    def pid(self) -> int | None:
        """Id of the running process; None if there is none."""
        return self._process.pid if self._process else None

    # ---- questions

    async def quarantined(
        self, model: int, after: int, limit: int, ids: tuple[int, ...], timeout_s: float
    ) -> tuple[Item, ...]:
        """Items of a model's quarantine with ids above `after`, at most `limit`, only those of `ids` if there are any.

        Raises Unavailable.
        """
        self._check_ready()
        answer = await self._questions.ask(
            lambda number: ListQuarantine(number, model, after, limit, ids), QuarantineItems, timeout_s, model
        )
        return answer.items

    async def quarantined_streams(self, timeout_s: float) -> Mapping[int, tuple[int, ...]]:
        """Numbers of the streams that have labels in a quarantine, by model. Raises Unavailable."""
        self._check_ready()
        answer = await self._questions.ask(
            lambda number: ListQuarantinedStreams(number, self.feed.queues.resume), QuarantinedStreams, timeout_s
        )
        return answer.streams

    async def errors(self, model: int, worst: int, after: int, limit: int, timeout_s: float) -> ErrorTables:
        """The errors of a model and of some of its streams: see `ListErrors`. Raises Unavailable."""
        self._check_ready()
        return await self._questions.ask(
            lambda number: ListErrors(number, model, worst, after, limit), ErrorTables, timeout_s, at_once=True
        )

    async def erase(self, gone: Mapping[int, tuple[int, ...]], timeout_s: float) -> int:
        """Drop quarantined labels of these streams, by model, save, and leave nothing deleted in the file.

        Returns the journal position that the checkpoint contains; 0 if it could not be done. Raises Unavailable.
        """
        self._check_ready()
        answer = await self._questions.ask(
            lambda number: Erase(number, self.feed.queues.resume, gone), Erased, timeout_s
        )
        return answer.position

    def _check_ready(self) -> None:
        if not self.ready.is_set():
            raise Unavailable("trainer", "not running", "it is being started: ask again in a moment", retry_s=1.0)

    # ---- the life of the process

    async def run(self) -> None:
        """Keep a trainer running until cancelled; then stop it, which saves a checkpoint."""
        failures = 0
        while True:
            learned_before = self.feed.learned_chunks
            try:
                await self._run_once()
            finally:
                self._ended.set()
            self.tried.set()
            failures = 0 if self.feed.learned_chunks > learned_before else failures + 1
            self._metrics.restarts.inc()
            pause = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
            log.warning(
                "trainer ended, starting it again", exit=self._exit_code(), again_in_s=pause, file=self._checkpoint
            )
            await asyncio.sleep(pause)

    async def give_up(self, why: str) -> None:
        """Kill the process; the next one restarts from the versions in service. On return the journal is not read."""
        self._restart_why = why
        if self._process:
            self._process.kill()
        await self._ended.wait()

    async def _run_once(self) -> None:
        """Run one process to its end, and decide what its death means for the next."""
        try:
            await self._live()
        finally:
            was_ready = self.ready.is_set()
            self.ready.clear()
            self._questions.fail()
            if self._process:
                await self._process.stop()
        learning = was_ready and self.feed.in_flight and self._exit_code() != NOT_THE_RECORDS
        if not learning or self._restart_why:
            return
        position = self.feed.in_flight[0].chunk.begin
        if self._deaths.died(position):
            if self._exit_code() == WEIGHTS_GONE:  # the chunk is sound, but no trainer can learn it
                self._restart_why = f"the weights that the journal names at position {position} are gone"
            else:
                await self._owner.skip(position)

    def _exit_code(self) -> int | None:
        return self._process.exit_code if self._process else None

    async def _live(self) -> None:
        """Start a process; returns when it has ended, or does not follow the protocol."""
        process = self._process = await Spawned.start()
        self._ended.clear()
        self.feed.queues.process_started()
        process.write(self._owner.trainer_settings(self._checkpoint))
        self._busy_since = self._clock()
        listening, feeding = asyncio.create_task(self._listen(process)), asyncio.create_task(self._feed())
        watching = asyncio.create_task(self._watch(process))
        try:
            await asyncio.wait((listening, feeding), return_when=asyncio.FIRST_COMPLETED)
            if feeding.done() and not listening.done():
                await self._end_of_feed(feeding, process)
            await listening
        except MessageError as error:
            log.error("trainer does not follow the protocol", error=str(error))
        finally:
            for task in (listening, feeding, watching):
                task.cancel()
            await asyncio.gather(listening, feeding, watching, return_exceptions=True)

    async def _end_of_feed(self, feeding: asyncio.Task[None], process: Spawned) -> None:
        """Handle the end of the feed. Raises JournalDamaged: serving cannot continue with such a journal either."""
        try:
            await feeding
        except CheckpointLost as lost:
            self._restart_why = f"{self._checkpoint}: {lost}"
            log.error("the checkpoint does not hold a model", file=self._checkpoint, why=str(lost))
            process.kill()

    async def _watch(self, process: Spawned) -> None:
        """Kill a process that has work and is silent for too long; that counts as a death."""
        while not is_overdue(self._busy_since, self._clock(), self._hang_s):
            await asyncio.sleep(self._hang_s / 10)
        log.error("the trainer hangs: it is killed, and started again", silent_s=self._hang_s, file=self._checkpoint)
        process.kill()

    # ---- its messages

    async def _listen(self, process: Spawned) -> None:
        """Handle the messages of the process until it ends."""
        async for message in process.messages():
            if isinstance(message, Ready) and (why := self._restart_why or self.out_of_reach(message.position)):
                process.write(await self._owner.prepare_restart(why, self._number))
                self._restart_why = ""
                continue  # it sends another Ready, at a position that the journal holds
            self._note(message)
            answer = await self._owner.handle(message, self._number)
            if answer is not None:
                process.write(answer)

    def _note(self, message: Message) -> None:
        """Update what is known of the process from one of its messages."""
        match message:
            case Ready():
                self._start_feed(message)
            case Progress(position, _, seconds, totals):
                self._learned(position, seconds, totals.offset)
            case Passed(position):
                self._learned(position)
            case Verdict():
                self.feed.charge(message.model, message.seconds)
            case Answer():
                self._questions.answer(message)
            case Problem():
                log.warning("trainer has a problem", why=message.why)
                if message.corrupt:
                    self._storage.corrupt.labels("checkpoint").inc()
                if message.full:
                    self._storage.disk_full.labels("checkpoint").inc()

    def _learned(self, position: int, seconds: float = 0.0, offset: int = 0) -> None:
        for chunk in self.feed.learned(position, seconds, offset):
            self._deaths.learned(chunk.begin)
        self._busy_since = self._clock() if self.feed.in_flight else None

    def out_of_reach(self, position: int) -> str:
        """Why learning cannot continue at a journal position; empty if it can."""
        first = self._journal.first_position
        if position >= first:
            return ""
        return f"the checkpoint is lost or too old: it ends at {position}, the journal is kept from {first}"

    def _start_feed(self, message: Ready) -> None:
        """Send chunks from the end of the checkpoint on. Raises JournalDamaged if the journal ends before it."""
        durable = self._journal.durable_position
        if message.position > durable:
            raise JournalDamaged(
                f"the journal ends at position {durable}, before the trainer's checkpoint, "
                f"{message.position}: it is older than {self._checkpoint}. Restore both from the same moment"
            )
        self.feed.restart(message.position, {number: its.offset for number, its in message.models.items()})
        self._busy_since = None
        self.ready.set()
        self.tried.set()

    # ---- its input

    async def _feed(self) -> None:
        """Send durable chunks, as far ahead of what is learned as the feed allows."""
        await self.ready.wait()
        await self.feed.run(self)

    def write(self, *messages: Message) -> None:
        """Send the process messages, without waiting; does nothing once the pipe is closed."""
        assert self._process
        self._process.write(*messages)

    async def drain(self) -> None:
        """Wait until the process has read nearly all that was written. Raises ConnectionError."""
        assert self._process
        if self._busy_since is None:
            self._busy_since = self._clock()
        await self._process.drain()

    def advance(self, position: int) -> None:
        """Let the checkpoint advance if no chunk up to `position` is left for this process."""
        if self.ready.is_set() and not self.feed.in_flight and self.feed.queues.resume >= position:
            self.write(Reached(self.feed.queues.resume))
