"""Serving's side of one trainer: starts the process, feeds it durable chunks, passes on what it says, starts it again.

The trainer's death, hang or divergence never touches serving; what it lost it learns again from the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from service.common.config import ServeConfig
from service.common.errors import Unavailable
from service.common.limits import is_overdue
from service.journal.skips import Deaths
from service.journal.writer import Commit, Journal, JournalDamaged
from service.learning.feed import Feed
from service.learning.queues import CheckpointLost
from service.observe.logs import forward_stream
from service.observe.metrics import Metrics
from service.trainer.messages import NOT_THE_RECORDS, WEIGHTS_GONE, Decoder, Message, MessageError

log = structlog.get_logger("trainer")

READ_BYTES = 1 << 20
BACKOFF_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
STOP_S = 5.0

# One BLAS thread: more would take the cores that serving answers on.
ENVIRONMENT = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class TrainerClient:
    """Owns one trainer process. `handle` gets each verdict, progress report and question, one at a time, in order."""

    def __init__(
        self,
        config: ServeConfig,
        journal: Journal,
        metrics: Metrics,
        handle: Callable[[Message], Awaitable[Message | None]],
        census: Callable[[], dict[str, Any]],
        begin_anew: Callable[[str], Awaitable[dict[str, Any]]],
        skip: Callable[[int], Awaitable[None]],
        feed: Feed,
        checkpoint: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """census: which models there are (see `Serving.census`), asked at each start of the process. begin_anew: what
        it begins with where it cannot go on from its checkpoint, given the reason. skip: told the
        position of a chunk that the process has died of as often as it may. feed: of the models that it learns.
        checkpoint: its file in the data directory."""
        self._config, self._journal, self._metrics, self._handle = config, journal, metrics, handle
        self._census, self._begin_anew, self._skip, self._clock = census, begin_anew, skip, clock
        self.feed, self._checkpoint = feed, checkpoint
        self._owes: float | None = None  # since when the process has something to do, or last said something
        self._deaths = Deaths()
        self._anew = ""  # why the next process must not go on from its checkpoint
        self._ended = asyncio.Event()  # no process is there, and nothing is read for one
        self._ended.set()
        self._process: asyncio.subprocess.Process | None = None
        self._said: asyncio.Task[None] | None = None  # logs its standard error
        self.ready = asyncio.Event()
        self._asked: dict[int, asyncio.Future[Message]] = {}  # by number of the question
        self._asks = 0
        self.tried = asyncio.Event()  # the first process is ready, or has failed: serving need not wait any longer
        journal.on_commit.append(self._committed)

    @property
    def pid(self) -> int | None:
        """The process that runs now."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def ask(self, kind: str, timeout_s: float, model: int | None, **head: Any) -> Message:
        """The process's answer to a question, given when it has taken in all that is durable now of the model; None: of
        all its models.

        Raises Unavailable where none comes in time, or the process is not there.
        """
        if not self.ready.is_set():
            raise Unavailable("trainer", "not running", "it is being started: ask again in a moment", retry_s=1.0)
        self._asks += 1
        number = self._asks
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        position = self._journal.durable_position
        try:
            async with asyncio.timeout(timeout_s):
                while self._sent_to(model) < position and not answer.done():
                    self.feed.sent.clear()
                    await self.feed.sent.wait()
                about = {"model": model} if model is not None else {"resume": self.feed.queues.resume}
                self.write(Message(kind, {"ask": number, **about, **head}))
                return await answer
        except TimeoutError:
            why = f"no answer in {timeout_s:g} s"
            raise Unavailable("trainer", why, "it has much to learn, or hangs: ask again", retry_s=5.0) from None
        finally:
            del self._asked[number]

    def _sent_to(self, model: int | None) -> int:
        """The position up to which all chunks of the model, or of all its models, were sent."""
        return self.feed.queues.resume if model is None else self.feed.queues.sent_to(model)

    async def quarantined_streams(self, timeout_s: float) -> dict[int, list[int]]:
        """Numbers of the streams that have labels in a quarantine, by model. Raises Unavailable."""
        answer = await self.ask("list_quarantined", timeout_s, None)
        return {int(model): streams for model, streams in answer.head["streams"].items()}

    async def erase(self, gone: dict[int, list[int]], timeout_s: float) -> int:
        """Take the labels of these streams, by model, out of quarantine, save, and leave nothing in the file of what
        was deleted; the journal position that it contains, 0 where there was no room. Raises Unavailable."""
        answer = await self.ask("erase", timeout_s, None, gone={str(model): streams for model, streams in gone.items()})
        return int(answer.head["position"])

    async def give_up(self, why: str) -> None:
        """End the process; the next one begins anew. On return nobody reads the journal for it."""
        self._anew = why
        if self.pid and self._process:
            self._process.kill()
        await self._ended.wait()

    async def run(self) -> None:
        """Keep a trainer running until cancelled; then let it leave a checkpoint, within STOP_S."""
        failures = 0
        while True:
            learned_before = self.feed.learned_chunks
            try:
                await self._one_life()
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

    async def _one_life(self) -> None:
        """One life of the process, and what its death says of the journal."""
        try:
            await self._live()
        finally:
            was_ready = self.ready.is_set()
            self.ready.clear()
            self._fail_asked()
            await self._stop()
            await self._heard_out()
        learning = was_ready and self.feed.in_flight and self._exit_code() != NOT_THE_RECORDS
        if not learning or self._anew:
            return
        position = self.feed.in_flight[0].chunk.begin
        if self._deaths.died(position):
            if self._exit_code() == WEIGHTS_GONE:  # nothing is wrong with the record, and it never gets further
                self._anew = f"the weights that the journal names at position {position} are gone"
            else:
                await self._skip(position)

    def _fail_asked(self) -> None:
        """Whoever waits for an answer of this process will not get it."""
        for answer in self._asked.values():
            if not answer.done():
                why = "it is being started again: ask in a moment"
                answer.set_exception(Unavailable("trainer", "ended", why, retry_s=1.0))
        self.feed.sent.set()

    def _exit_code(self) -> int | None:
        return self._process.returncode if self._process else None

    async def _live(self) -> None:
        """One life of the process: returns when it has ended."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "service.trainer.process",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **ENVIRONMENT},
            start_new_session=True,  # Ctrl-C is for serving, which then stops its trainer in order
        )  # fmt: skip
        self._ended.clear()
        assert self._process.stderr
        self._said = asyncio.create_task(forward_stream(self._process.stderr, "trainer", pid=self._process.pid))
        assert self._process.stdin
        assert self._process.stdout
        self.feed.queues.begin()
        self.write(Message("settings", self._settings()))
        self._owes = self._clock()
        listening, feeding = asyncio.create_task(self._listen()), asyncio.create_task(self._feed())
        watching = asyncio.create_task(self._watch(self._process))
        try:
            await asyncio.wait((listening, feeding), return_when=asyncio.FIRST_COMPLETED)
            if feeding.done() and not listening.done():
                await self._fed(feeding)
            await listening
        except MessageError as error:
            log.error("trainer does not speak the protocol", error=str(error))
        finally:
            for task in (listening, feeding, watching):
                task.cancel()
            await asyncio.gather(listening, feeding, watching, return_exceptions=True)

    async def _fed(self, feeding: asyncio.Task[None]) -> None:
        """Nothing more is sent to the process. A journal that cannot be read is serving's problem too: it goes up."""
        try:
            await feeding
        except CheckpointLost as lost:
            self._anew = f"{self._checkpoint}: {lost}"
            log.error("the checkpoint does not hold a model", file=self._checkpoint, why=str(lost))
            assert self._process
            self._process.kill()

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Kill a process that has something to do and has said nothing for too long; that counts as a death."""
        allowed = self._config.trainer_hang_s
        while not is_overdue(self._owes, self._clock(), allowed):
            await asyncio.sleep(allowed / 10)
        log.error("the trainer hangs: it is killed, and started again", silent_s=allowed, file=self._checkpoint)
        process.kill()

    async def _listen(self) -> None:
        """Take in what the process says until it ends."""
        assert self._process
        assert self._process.stdout
        decoder = Decoder()
        while data := await self._process.stdout.read(READ_BYTES):
            for message in decoder.feed(data):
                if message.kind == "ready" and (why := self._anew or self.out_of_reach(message.head["position"])):
                    self.write(Message("begin", await self._begin_anew(why)))
                    self._anew = ""
                    continue  # it will be ready again, at a position that is there
                if message.kind == "ready":
                    self._begin_at(**message.head)
                    self.ready.set()
                    self.tried.set()
                elif message.kind in ("progress", "passed"):
                    head = message.head
                    learned = self.feed.learned(head["position"], head.get("seconds", 0.0), head.get("offset", 0))
                    if learned is not None:
                        self._deaths.learned(learned.begin)
                    self._owes = self._clock() if self.feed.in_flight else None
                elif message.kind == "verdict":
                    self.feed.judged(message.head["model"], message.head["seconds"])
                elif message.kind in ("quarantine", "quarantined", "erased"):
                    waiting = self._asked.get(message.head["ask"])
                    if waiting is not None and not waiting.done():
                        waiting.set_result(message)
                elif message.kind == "problem":
                    log.warning("trainer has a problem", why=message.head["why"])
                    if message.head.get("corrupt"):
                        self._metrics.corrupt.labels("checkpoint").inc()
                    if message.head.get("full"):
                        self._metrics.disk_full.labels("checkpoint").inc()
                answer = await self._handle(message)
                if answer is not None:
                    self.write(answer)

    def out_of_reach(self, position: int) -> str:
        """Why nothing can be learned from there on; empty: it can."""
        first = self._journal.first_position
        if position >= first:
            return ""
        return f"the checkpoint is lost or too old: it ends at {position}, the journal is kept from {first}"

    def _begin_at(self, position: int, models: Sequence[Mapping[str, int]]) -> None:
        if position > self._journal.durable_position:
            raise JournalDamaged(
                f"the journal ends at position {self._journal.durable_position}, before the trainer's checkpoint, "
                f"{position}: it is older than {self._checkpoint}. Restore both from the same moment"
            )
        self.feed.restart(position, {facts["model"]: facts["offset"] for facts in models})
        self._owes = None

    async def _feed(self) -> None:
        """Send durable chunks, as far ahead of what is learned as is allowed."""
        await self.ready.wait()
        await self.feed.run(self)

    async def drain(self) -> None:
        """Wait until the process has taken in nearly all that was written. Raises ConnectionError."""
        assert self._process
        assert self._process.stdin
        if self._owes is None:
            self._owes = self._clock()
        await self._process.stdin.drain()

    def reached(self, position: int) -> None:
        """Where nothing up to `position` is left to learn for the process, its checkpoint moves on to it."""
        if self.ready.is_set() and not self.feed.in_flight and self.feed.queues.resume >= position:
            self.write(Message("reached", {"position": self.feed.queues.resume}))

    def write(self, message: Message) -> None:
        """Send the process a message, as far as it still listens; never waits."""
        assert self._process
        assert self._process.stdin
        if not self._process.stdin.is_closing():
            self._process.stdin.write(message.encode())

    def _committed(self, commit: Commit) -> None:
        self.feed.more.set()

    def _settings(self) -> dict[str, Any]:
        config, gate = self._config, self._config.gate
        return {
            "data": str(Path(config.data).resolve()),
            "checkpoint": self._checkpoint,
            "nice": config.trainer_nice,
            "publish_labels": config.publish_labels,
            "publish_s": config.publish_s,
            "checkpoint_chunks": config.checkpoint_chunks,
            "trainer_memory_bytes": config.trainer_memory_bytes,
            **self._census(),
            "gate": {name: getattr(gate, name) for name in type(gate).__dataclass_fields__},
        }

    async def _heard_out(self) -> None:
        """Log what the process that has ended wrote to its standard error last; its own children may hold that open."""
        said, self._said = self._said, None
        if said is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(said, STOP_S)

    async def _stop(self) -> None:
        """Ask the process to leave; kill it if it does not in time."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        self.write(Message("stop"))
        if process.stdin:
            process.stdin.close()
        try:
            # Its last words must be read, or a full pipe keeps it from leaving.
            assert process.stdout
            async with asyncio.timeout(STOP_S):
                await asyncio.gather(process.stdout.read(), process.wait())
        except TimeoutError:
            process.kill()
            await process.wait()
