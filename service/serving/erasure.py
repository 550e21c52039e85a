"""Erasing what was deleted: from the journal, states.db, versions.db and trainer.db, and so from backups to come.

The journal is chained by checksums, and learning and recovery are folds over it, so nothing inside it is changed.
Instead all of it up to now is dropped once nothing needs it, as retention drops segments: a new segment begins, a
snapshot and a checkpoint of the trainer are made that contain all before it, and the segments before it go. The
databases are scrubbed and written anew. That it is owed is recorded in a file first, so that a server that is killed on
the way does it after its next start.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import structlog

from service.access.audit import OK, Audit
from service.common.errors import ServiceError, Unavailable
from service.serving.ticks import Serving
from service.storage.disk import NoSpace, needing_space, sync_directory
from service.storage.states import States
from service.streams.sessions import ServedModel
from service.streams.table import ABSENT

log = structlog.get_logger("erasure")

OWED = "erase-owed.json"  # in the data directory: numbers of the models in which something is to be erased
SET_ASIDE = ("*.damaged-*", "quarantine-*/**/*")  # what start-up, and `freshet journal repair`, move out of the way
ANSWER_S = 20.0  # for the trainer to learn what waits, and to write its file anew
WAIT_S = 60.0  # that a caller waits at most
AGAIN_S, LONGEST_AGAIN_S = 1.0, 60.0  # after tries that could not be finished, doubling
EVERY_MODEL = 0  # no model has this number


class Trainer(Protocol):
    """The trainer's part. Both raise Unavailable."""

    async def quarantined_streams(self, timeout_s: float) -> Mapping[int, tuple[int, ...]]:
        """Numbers of streams that have labels in a quarantine, by model."""

    async def erase(self, gone: Mapping[int, tuple[int, ...]], timeout_s: float) -> int:
        """Drop those of these streams, save, and write the file anew; the journal position that it contains."""


class Erasure:
    """Erases, one time after the other; several callers share one. `run` does what is owed."""

    def __init__(
        self,
        data: Path,
        serving: Serving,
        states: States,
        save: Callable[[], Awaitable[None]],
        trainer: Trainer,
        audit: Audit,
    ) -> None:
        """save: make a snapshot of the streams; raises NoSpace. Reads what is owed. Raises OSError."""
        self._data, self._serving, self._states, self._save = data, serving, states, save
        self._trainer, self._audit = trainer, audit
        self._owed = _read(data / OWED)
        self._recording, self._asked = asyncio.Lock(), asyncio.Event()
        self._requests = int(bool(self._owed))
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._why = ""  # the last try could not be finished
        if self._owed:
            self._asked.set()

    async def owe(self, model: int) -> None:
        """Record that something of a model is to be erased, before it is deleted: durable on return.

        Raises NoSpace, OSError.
        """
        self._owed.add(model)
        await self._record()

    async def _record(self) -> None:
        """Make the file say what is owed now."""
        async with self._recording:
            await asyncio.to_thread(_write, self._data / OWED, sorted(self._owed))

    async def erased(self, model: int) -> list[str]:
        """Wait until all that was deleted of a model before is erased; files that remain, by name.

        Raises Unavailable where that takes too long: it goes on nevertheless. NoSpace, OSError.
        """
        self._requests += 1
        number = self._requests
        await self.owe(model)  # again: a pass that began before the deletion may have ended since
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((number, future))
        self._asked.set()
        try:
            async with asyncio.timeout(WAIT_S):
                await future
        except TimeoutError:
            remedy = "it is recorded and goes on: ask again"
            raise Unavailable("erase", self._why or "under way", remedy, retry_s=5.0) from None
        remains = {path for pattern in SET_ASIDE for path in self._data.glob(pattern) if path.is_file()}
        return sorted(str(path.relative_to(self._data)) for path in remains)

    async def run(self) -> None:
        """Do what is owed, again until it is done. Until cancelled."""
        tries = 0
        while True:
            await self._asked.wait()
            self._asked.clear()
            upto = self._requests
            try:
                await self._erase(set(self._owed), upto)
            except (ServiceError, NoSpace, OSError) as error:
                if str(error) != self._why:
                    log.warning("not erased yet", why=str(error))
                self._why = str(error)
                await asyncio.sleep(min(LONGEST_AGAIN_S, AGAIN_S * 2.0**tries))
                tries = min(tries + 1, 30)
                self._asked.set()
            else:
                self._why, tries = "", 0
                self._finished(upto)

    def _finished(self, upto: int) -> None:
        waiting, self._waiting = self._waiting, []
        for number, future in waiting:
            if number > upto:
                self._waiting.append((number, future))
            elif not future.done():
                future.set_result(None)

    async def _erase(self, owed: set[int], upto: int) -> None:
        """Once through, for requests up to number `upto`. Raises Unavailable, NoSpace, OSError."""
        serving, journal = self._serving, self._serving.journal
        begin = await journal.begin_segment()
        await journal.flush()  # what was written before it is known to be durable then
        for number in set(serving.models) & (owed if EVERY_MODEL not in owed else set(serving.models)):
            if model := serving.models.get(number):  # or it was deleted meanwhile
                await self._forget_answers(model)
        await self._save()
        await self._erase_learned()
        await asyncio.to_thread(self._states.compact)
        if owed - serving.models.keys():  # of a stream, versions hold nothing
            await asyncio.to_thread(serving.versions.compact)
        await journal.retain(begin, 0, 0.0, serving.wall())
        if journal.first_position < begin:
            raise Unavailable("journal", "being read", "it is dropped after that: ask again", retry_s=5.0)
        if self._requests == upto:  # or a model may be owed again
            self._owed -= owed
        await self._record()
        self._audit.act("erase", OK, by="server", models=len(owed), position=begin)
        log.info("erased", models=len(owed), journal_from=begin)

    async def _forget_answers(self, model: ServedModel) -> None:
        """Remove from the log of answers those of streams that are gone; the next snapshot writes all of it anew."""
        gone = await self._gone(model, model.log.streams())
        model.forget_answers(gone)

    async def _erase_learned(self) -> None:
        """Let the trainer learn what waits and erase its part. Raises Unavailable."""
        begin = self._serving.journal.durable_position
        gone = {}
        for number, streams in (await self._trainer.quarantined_streams(ANSWER_S)).items():
            if model := self._serving.models.get(number):
                gone[number] = tuple(await self._gone(model, streams))
        position = await self._trainer.erase(gone, ANSWER_S)
        if position < begin:
            why = f"it has learned up to {position} of {begin}"
            raise Unavailable("trainer", why, "it is asked again", retry_s=5.0)

    async def _gone(self, model: ServedModel, numbers: Iterable[int]) -> list[int]:
        """Which of these streams the model has no longer."""
        asked = np.array(sorted(set(numbers)), np.uint32)
        absent = set(asked[model.table.rows_of(asked) == ABSENT].tolist())
        stored = await asyncio.to_thread(self._states.by_number, model.number, sorted(absent))
        return sorted(absent - {row.stream for row in stored} | absent & model.deleted_numbers())


def _read(path: Path) -> set[int]:
    """What is owed; a file that is damaged, whose model numbers are lost, still says that something is."""
    try:
        return set(map(int, json.loads(path.read_text())))
    except FileNotFoundError:
        return set()
    except (ValueError, TypeError):
        return {EVERY_MODEL}


def _write(path: Path, owed: Sequence[int]) -> None:
    """Make it what is owed, durable on return."""
    if not owed:
        path.unlink(missing_ok=True)
    else:
        unfinished = path.with_suffix(".tmp")
        with needing_space(str(path)):
            fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w") as file:
                json.dump(owed, file)
                file.flush()
                os.fsync(file.fileno())
        unfinished.rename(path)
    sync_directory(path.parent)
