"""Erasing deleted data from the journal, states.db, versions.db and trainer.db, and so from later backups.

The journal is chained by checksums, and learning and recovery are folds over it, so no part of it is rewritten. Instead
all of it up to now is dropped, as retention drops segments: a new segment begins, a snapshot and a trainer checkpoint
are made that contain everything before it, and the older segments are deleted. The databases are scrubbed and
rewritten. The debt is recorded in a file first, so that a server that is killed meanwhile pays it after its next start.
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
from service.common.errors import Invalid, ServiceError, Unavailable
from service.journal.writer import Journal
from service.serving.catalog import Catalog
from service.storage.directory import OWED_FILE
from service.storage.disk import NoSpace, needing_space, sync_directory
from service.storage.states import States
from service.storage.versions import Versions
from service.streams.served import ServedModel
from service.streams.table import ABSENT

log = structlog.get_logger("erasure")

SET_ASIDE = ("*.damaged-*", "quarantine-*/**/*")  # files set aside at start and by `freshet journal repair`
ANSWER_S = 20.0  # for the trainer to learn what waits and to rewrite its file
WAIT_S = 60.0  # the longest wait of a caller
AGAIN_S, LONGEST_AGAIN_S = 1.0, 60.0  # after failed attempts, doubling
EVERY_MODEL = 0  # no model has this number


class Trainer(Protocol):
    """The trainers, as erasing needs them. Both methods raise Unavailable."""

    async def quarantined_streams(self, timeout_s: float) -> Mapping[int, tuple[int, ...]]:
        """Return the numbers of streams that have labels in a quarantine, by model."""

    async def erase(self, gone: Mapping[int, tuple[int, ...]], timeout_s: float) -> int:
        """Drop the labels of these streams, save, and rewrite the file. Returns the journal position it contains."""


class Elsewhere(Protocol):
    """Copies of the data outside of the data directory. Both methods raise Unavailable, NoSpace."""

    async def owe(self, models: Sequence[int]) -> None:
        """Record there, in place of what was recorded before, of which models data must be erased. Durable on
        return."""

    async def erase(self, position: int) -> None:
        """Erase there all that is before this journal position, and in databases what is no longer in those of the
        data directory."""


class Erasure:
    """Erases what is owed, one pass at a time; callers that wait share a pass. `run` is the worker."""

    def __init__(
        self,
        data: Path,
        catalog: Catalog,
        journal: Journal,
        versions: Versions,
        states: States,
        save: Callable[[], Awaitable[None]],
        trainer: Trainer,
        audit: Audit,
        wall: Callable[[], float],
        elsewhere: Elsewhere | None = None,
    ) -> None:
        """Read what is owed. save: make a snapshot of the streams, raises NoSpace; wall: seconds since 1970; elsewhere:
        None if the data directory is the only copy.

        Raises OSError.
        """
        self._data, self._catalog, self._journal = data, catalog, journal
        self._versions, self._states, self._save, self._wall = versions, states, save, wall
        self._trainer, self._audit, self._elsewhere = trainer, audit, elsewhere
        self._owed = _read(data / OWED_FILE)
        self._recording, self._asked = asyncio.Lock(), asyncio.Event()
        self._requests = int(bool(self._owed))
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._why = ""  # the last attempt failed; empty: it did not
        if self._owed:
            self._asked.set()

    async def owe(self, model: int) -> None:
        """Record that data of a model must be erased, before it is deleted. Durable on return.

        Raises NoSpace, OSError.
        """
        self._owed.add(model)
        await self._record()

    async def _record(self) -> None:
        """Write the debt to its file, and elsewhere."""
        async with self._recording:
            owed = sorted(self._owed)
            await asyncio.to_thread(_write, self._data / OWED_FILE, owed)
            if self._elsewhere:
                await self._elsewhere.owe(owed)

    async def erased(self, model: int) -> list[str]:
        """Wait until everything deleted of a model so far is erased. Returns the files that remain, by name.

        Raises Unavailable if that takes too long; erasing continues. NoSpace, OSError.
        """
        self._requests += 1
        number = self._requests
        await self.owe(model)  # again: a pass from before the deletion may have paid the debt
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((number, future))
        self._asked.set()
        try:
            async with asyncio.timeout(WAIT_S):
                await future
        except TimeoutError:
            remedy = "it is recorded and continues: ask again"
            raise Unavailable("erase", self._why or "under way", remedy, retry_s=5.0) from None
        remains = {path for pattern in SET_ASIDE for path in self._data.glob(pattern) if path.is_file()}
        return sorted(str(path.relative_to(self._data)) for path in remains)

    async def run(self) -> None:
        """Erase what is owed, with retries, until cancelled."""
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
        """Run one pass, for requests up to number `upto`. Raises Unavailable, NoSpace, OSError."""
        models, journal = self._catalog.models, self._journal
        begin = await journal.begin_segment()
        await journal.flush()  # makes everything before `begin` durable
        for number in set(models) & (owed if EVERY_MODEL not in owed else set(models)):
            if model := models.get(number):  # otherwise it was deleted meanwhile
                await self._forget_answers(model)
        await self._save()
        await self._erase_learned()
        await asyncio.to_thread(self._states.compact)
        if owed - models.keys():  # versions hold no data of streams
            await asyncio.to_thread(self._versions.compact)
        await journal.retain(begin, 0, 0.0, self._wall())
        if journal.first_position < begin:
            raise Unavailable("journal", "being read", "it is dropped after that: ask again", retry_s=5.0)
        if self._elsewhere:
            await self._elsewhere.erase(begin)
        if self._requests == upto:  # otherwise a model may be owed again
            self._owed -= owed
        await self._record()
        self._audit.act("erase", OK, by="server", models=len(owed), position=begin)
        log.info("erased", models=len(owed), journal_from=begin)

    async def _forget_answers(self, model: ServedModel) -> None:
        """Remove the answers of deleted streams from the log; the next snapshot writes all of it."""
        gone = await self._gone(model, model.log.streams())
        model.saving.forget_answers(gone)

    async def _erase_learned(self) -> None:
        """Have the trainers learn what waits, then erase their part. Raises Unavailable."""
        begin = self._journal.durable_position
        gone = {}
        for number, streams in (await self._trainer.quarantined_streams(ANSWER_S)).items():
            if model := self._catalog.models.get(number):
                gone[number] = tuple(await self._gone(self._catalog.source_of(model), streams))
        position = await self._trainer.erase(gone, ANSWER_S)
        if position < begin:
            why = f"it has learned up to {position} of {begin}"
            raise Unavailable("trainer", why, "it is asked again", retry_s=5.0)

    async def _gone(self, model: ServedModel, numbers: Iterable[int]) -> list[int]:
        """Return those of these streams that the model no longer has."""
        asked = np.array(sorted(set(numbers)), np.uint32)
        absent = set(asked[model.table.rows_of(asked) == ABSENT].tolist())
        stored = await asyncio.to_thread(self._states.by_number, model.number, sorted(absent))
        return sorted(absent - {row.stream for row in stored} | absent & model.saving.deleted_numbers())


def check_erasable(model: ServedModel) -> None:
    """Raise Invalid for a model in slices: its data is in the journals of several shards, which are not erased together
    yet."""
    if model.slices.count or model.slices.part:
        remedy = "the data of a model in slices cannot be erased yet: delete it without that"
        raise Invalid("erase", True, remedy)


def _read(path: Path) -> set[int]:
    """Return what is owed. A damaged file has lost the model numbers: then every model is."""
    try:
        return set(map(int, json.loads(path.read_text())))
    except FileNotFoundError:
        return set()
    except (ValueError, TypeError):
        return {EVERY_MODEL}


def _write(path: Path, owed: Sequence[int]) -> None:
    """Write what is owed, durable on return; no file if nothing is."""
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
